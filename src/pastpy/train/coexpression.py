"""What single cells of a small panel say of genes that the panel lacks, as spots show them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_matrix

    from pastpy.train.data import Section

__all__ = ["Coexpression", "coexpression"]

#: Programs of the single cells: components of their panel's log expression.
PROGRAMS = 8
#: A gene of the panel counted in a smaller share of the spots says nothing there.
LEAST_DETECTION = 0.02
#: A gene is inferred where, over sections that are left out, it correlates at least so much with what the panel says.
LEAST_R = 0.15
#: Cells with fewer counts have no profile.
LEAST_COUNTS = 10


@dataclass(frozen=True)
class Coexpression:
    """A linear map from the log expression of a panel to that of other genes.

    Attributes
    ----------
    genes
        Names of the genes that are inferred, none of them in the panel.
    weights
        float32 (panel, genes): times log1p of counts per 10,000 over the panel, in the panel's order, what is to be
        expected of the genes, but for a constant, in standard deviations over spots.
    """

    genes: list[str]
    weights: np.ndarray


def coexpression(
    sections: list[Section], cells: tuple[csr_matrix, list[str]], panel: Sequence[str], vocabulary: Sequence[str]
) -> Coexpression:
    """Learn which other genes go with the programs of single cells.

    Programs come from single cells, where types lie apart as they never do in a spot; how much of each a spot has is
    read from its counts of the panel, and every other gene is regressed on that, all within sections. So a gene that
    no single cell was measured for gets the kinds of cells that it goes with.

    Parameters
    ----------
    sections
        Spots to learn from.
    cells
        Raw counts of single cells, (n, genes), and their genes.
    panel
        Genes of which the expression will be known.
    vocabulary
        Genes to choose from.
    """
    from pastpy.train.card import log_counts
    from pastpy.train.loop import detected_share

    known = set(cells[1])
    detected = detected_share(sections, list(panel))
    used = np.array([g in known for g in panel]) & (detected >= LEAST_DETECTION)
    names = [g for g, use in zip(panel, used, strict=True) if use]
    others = [g for g in vocabulary if g not in set(panel) | known]
    of_cells = _cell_profiles(cells, list(panel))[:, used]
    programs = np.linalg.svd(_standardised(of_cells), full_matrices=False)[2][:PROGRAMS].T

    scores = [_standardised(log_counts(s, names)) @ programs for s in sections]
    values = [_standardised(log_counts(s, others)) for s in sections]
    r = np.mean([_r_left_out(scores, values, i) for i in range(len(sections))], axis=0)
    kept = np.flatnonzero(r >= LEAST_R)
    effect = np.linalg.lstsq(np.concatenate(scores), np.concatenate(values)[:, kept], rcond=None)[0]
    weights = np.zeros((len(panel), len(kept)), dtype=np.float32)
    weights[used] = (programs / _or_infinite(of_cells.std(axis=0))[:, None]) @ effect
    return Coexpression([others[i] for i in kept], weights)


def _cell_profiles(cells: tuple[csr_matrix, list[str]], panel: list[str]) -> np.ndarray:
    """log1p of counts per 10,000 over the panel, (n, panel), of the cells that have counts enough."""
    from pastpy.train.loop import aligned_counts

    counts = aligned_counts(cells[0], cells[1], panel)
    counts = counts[counts.sum(axis=1) >= LEAST_COUNTS]
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * _keys.TARGET_SUM)


def _or_infinite(std: np.ndarray) -> np.ndarray:
    """Standard deviations to divide by: what does not vary becomes 0."""
    return np.where(std > 0, std, np.inf)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Columns in their standard deviations around their means; 0 where they do not vary, and in rows without counts."""
    values = values - np.nanmean(values, axis=0)
    return np.nan_to_num(values / _or_infinite(np.nanstd(values, axis=0)))


def _r_left_out(scores: list[np.ndarray], values: list[np.ndarray], left_out: int) -> np.ndarray:
    """Pearson r of every gene over one section, learnt from the others."""
    rest = [i for i in range(len(scores)) if i != left_out] or [left_out]
    x, y = (np.concatenate([part[i] for i in rest]) for part in (scores, values))
    predicted = _standardised(scores[left_out] @ np.linalg.lstsq(x, y, rcond=None)[0])
    return (predicted * values[left_out]).mean(axis=0)
