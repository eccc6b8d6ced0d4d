"""What single cells of a small panel say of genes that the panel lacks, as spots show them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pastpy.train.data import Section, SingleCells

__all__ = ["Coexpression", "coexpression", "log_profiles", "or_infinite"]

#: Programs of the single cells: components of their panel's log expression.
PROGRAMS = 4
#: A gene of the panel counted in a smaller share of the spots says nothing there.
LEAST_DETECTION = 0.02
#: A gene is inferred where an estimate of it correlates at least so much with its counts in sections that are left out.
LEAST_R = 0.15
#: Cells with fewer counts have no profile.
LEAST_COUNTS = 10
#: Penalty of the regression that tells types by the panel, as a share of a standardised gene's sum of squares.
TYPE_PENALTY = 0.01


@dataclass(frozen=True)
class Coexpression:
    """A linear map from the log expression of a panel to that of other genes.

    Attributes
    ----------
    genes
        Names of the genes that are inferred, none of them in the panel.
    weights
        float32 (panel, genes): times log1p of counts per 10,000 over the panel, in the panel's order, what is to be
        expected of the genes, but for a constant and a factor of each gene.
    by_types
        Whether proportions of cell types had a part in it.
    """

    genes: list[str]
    weights: np.ndarray
    by_types: bool


@dataclass(frozen=True)
class _Estimate:
    """One way to tell the other genes: r over sections left out (genes,), and weights (panel, genes)."""

    r: np.ndarray
    weights: np.ndarray


def coexpression(
    sections: list[Section], cells: SingleCells, panel: Sequence[str], vocabulary: Sequence[str]
) -> Coexpression:
    """Learn which other genes go with what single cells differ in.

    A gene that no single cell was measured for gets the kinds of cells that it goes with in spots. Two estimates of
    that are added, each weighted, gene by gene, by its r over sections left out.

    *Programs* come from single cells, where types lie apart as they never do in a spot; how much of each a spot has is
    read from its counts of the panel, and every other gene is regressed on that, all within sections.

    *Types*, where each spot's proportions of them are known (deconvolution against a reference) and those of the single
    cells too: what a spot has of a gene per 10,000 counts is divided among types by non-negative least squares, and the
    panel tells the type of a cell. Rare types are told badly by proportions, and what goes to a type that no single
    cell has is lost.

    Parameters
    ----------
    sections
        Spots to learn from.
    cells
        Single cells.
    panel
        Genes of which the expression will be known.
    vocabulary
        Genes to choose from.

    Raises
    ------
    KeyError
        If a section has proportions of other types than the first.

    References
    ----------
    Andersson et al., Commun Biol 3:565 (2020), doi:10.1038/s42003-020-01247-y: proportions.
    """
    from pastpy.train.card import log_counts
    from pastpy.train.loop import aligned_counts, detected_share

    known = set(cells.genes)
    detected = detected_share(sections, list(panel))
    used = np.array([g in known for g in panel]) & (detected >= LEAST_DETECTION)
    names = [g for g, use in zip(panel, used, strict=True) if use]
    others = [g for g in vocabulary if g not in set(panel) | known]
    counts = aligned_counts(cells.counts, cells.genes, list(panel))
    enough = counts.sum(axis=1) >= LEAST_COUNTS
    profiles = log_profiles(counts[enough])[:, used]
    expression = [log_counts(s, others) for s in sections]

    estimates = [_by_programs([log_counts(s, names) for s in sections], expression, profiles)]
    proportions = [s.proportions for s in sections if s.proportions is not None]
    if cells.types is not None and len(proportions) == len(sections):
        types = proportions[0].columns
        shares = [of_spots[types].to_numpy() for of_spots in proportions]
        is_type = cells.types[enough][:, None] == types.to_numpy()
        estimates.append(_by_types(shares, expression, profiles, is_type.astype(float)))
    r = np.maximum([e.r for e in estimates], 0)
    kept = np.flatnonzero(r.max(axis=0) >= LEAST_R)
    weights = np.zeros((len(panel), len(kept)), dtype=np.float32)
    for each, trust in zip(estimates, r, strict=True):
        of_kept = each.weights[:, kept]
        weights[used] += of_kept / or_infinite((profiles @ of_kept).std(axis=0)) * trust[kept]
    return Coexpression([others[i] for i in kept], weights, len(estimates) > 1)


def log_profiles(counts: np.ndarray) -> np.ndarray:
    """log1p of counts per 10,000 of each cell's, (cells, genes); 0 for a cell without."""
    total = counts.sum(axis=1, keepdims=True)
    return np.log1p(counts / np.where(total > 0, total, 1) * _keys.TARGET_SUM)


def _by_programs(panel: list[np.ndarray], expression: list[np.ndarray], profiles: np.ndarray) -> _Estimate:
    """Other genes regressed on the single cells' programs, as far as a spot's counts of the panel tell these."""
    programs = np.linalg.svd(_standardised(profiles), full_matrices=False)[2][:PROGRAMS].T
    scores = [_standardised(of_spots) @ programs for of_spots in panel]
    values = [_standardised(of_spots) for of_spots in expression]

    def fit(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.linalg.lstsq(x, y, rcond=None)[0]

    of_panel = programs / or_infinite(profiles.std(axis=0))[:, None]
    effect = fit(np.concatenate(scores), np.concatenate(values))
    return _Estimate(_r_left_out(scores, values, values, fit), of_panel @ effect)


def _by_types(
    shares: list[np.ndarray], expression: list[np.ndarray], profiles: np.ndarray, is_type: np.ndarray
) -> _Estimate:
    """Other genes in spots divided among types of cells, which the panel tells apart."""
    known = [np.isfinite(x).all(axis=1) & np.isfinite(y).all(axis=1) for x, y in zip(shares, expression, strict=True)]
    shares, expression = ([part[use] for part, use in zip(parts, known, strict=True)] for parts in (shares, expression))
    relative = [np.expm1(of_spots) for of_spots in expression]
    standardised, spread = _standardised(profiles), or_infinite(profiles.std(axis=0))
    penalty = TYPE_PENALTY * len(profiles) * np.eye(profiles.shape[1])
    told = np.linalg.solve(standardised.T @ standardised + penalty, standardised.T @ (is_type - is_type.mean(axis=0)))
    by_type = _non_negative(np.concatenate(shares), np.concatenate(relative))
    mean = by_type.mean(axis=0)
    log_by_type = np.log1p(by_type / np.where(mean > 0, mean, 1))
    r = _r_left_out(shares, relative, [_standardised(of_spots) for of_spots in expression], _non_negative)
    return _Estimate(r, told / spread[:, None] @ log_by_type)


def _non_negative(shares: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(types, genes), none below 0, that make the most of values (spots, genes) from shares (spots, types)."""
    from scipy.optimize import nnls

    found = np.zeros((shares.shape[1], values.shape[1]))
    for gene, column in enumerate(values.T):
        found[:, gene] = nnls(shares, column)[0]
    return found


def _r_left_out(
    x: list[np.ndarray],
    y: list[np.ndarray],
    standardised: list[np.ndarray],
    fit: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
    """Pearson r of every gene over each section, learnt from the others, averaged; of one section over itself."""
    found = []
    for left_out, values in enumerate(standardised):
        rest = [i for i in range(len(x)) if i != left_out] or [left_out]
        effect = fit(np.concatenate([x[i] for i in rest]), np.concatenate([y[i] for i in rest]))
        found.append((_standardised(x[left_out] @ effect) * values).mean(axis=0))
    return np.mean(found, axis=0)


def or_infinite(std: np.ndarray) -> np.ndarray:
    """Standard deviations to divide by: what does not vary becomes 0."""
    return np.where(std > 0, std, np.inf)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Columns in their standard deviations around their means; 0 where they do not vary, and in rows without counts."""
    values = values - np.nanmean(values, axis=0)
    return np.nan_to_num(values / or_infinite(np.nanstd(values, axis=0)))
