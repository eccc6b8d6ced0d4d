"""Noise ceiling: what a perfect prediction of the true abundance would score against noisy counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy.metrics._columns import column_scores
from pastpy.metrics._gene_sets import gene_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

__all__ = ["noise_ceiling"]


def noise_ceiling(
    table: AnnData,
    *,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    depth: float | None = None,
    target_sum: float | None = _keys.TARGET_SUM,
    n_splits: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """Highest Pearson correlation that counting noise allows, for every gene.

    The molecules of every unit are dealt at random to two halves (binomial thinning, which makes independent Poisson
    counts of Poisson counts); each half is normalised by its own depth; their correlation over units, raised to the
    full depth by the Spearman–Brown formula 2r / (1 + r), is the reliability of the measurement, and its square root
    the correlation of the measurement with what it measures. Spread beyond Poisson counts as signal.

    The formula is exact for sums, not for their logarithm. Tests hold it to 0.03 on simulated units of
    5,000 counts each and to 0.08 on those of 600; where depths differ widely, or a gene has few counts, it can be off
    by more, and is too high then.

    Parameters
    ----------
    table
        Raw counts, units × genes; the depth of a unit is that of all genes.
    genes
        Genes to report; all by default.
    layer
        Layer with raw counts; ``None`` means ``X``.
    depth
        Thin the counts to this median depth first, to match a shallower measurement.
    target_sum
        Depth of the normalisation before log1p; ``None`` takes log1p of raw counts.
    n_splits
        Deals to average the correlation of the halves over.
    seed
        Seed of the deals.

    Returns
    -------
    Frame with one row a gene: ``reliability`` (0 where the halves do not agree), ``ceiling``, ``n`` (units) and
    ``reason``, why there is none, else empty.

    Raises
    ------
    ValueError
        If values are not counts, a gene is named twice, ``n_splits`` is below 1, or ``depth`` is not below the median
        depth.
    KeyError
        If a gene is not in the table.

    References
    ----------
    Spearman, Brit J Psychol 3:271 (1910); Brown, ibid. 296: the formula, doi:10.1111/j.2044-8295.1910.tb00206.x.
    Neufeld et al., Biostatistics 25:270 (2023), doi:10.1093/biostatistics/kxac047: thinning of counts.

    Examples
    --------
    >>> import pastpy as past
    >>> ceiling = past.metrics.noise_ceiling(past.datasets.breast_st()["spots"], genes=["ERBB2", "KRT8"], n_splits=2)
    >>> bool((ceiling["ceiling"] < 1).all())
    True
    """
    import pandas as pd
    from scipy.sparse import csr_matrix

    if n_splits < 1:
        raise ValueError(f"n_splits must be at least 1, got {n_splits!r}")
    if not table.var_names.is_unique:
        raise ValueError("the table has a gene twice; make its names unique with table.var_names_make_unique()")
    names = list(table.var_names) if genes is None else gene_list(genes)
    absent = [g for g in names if g not in table.var_names]
    if absent:
        raise KeyError(f"{len(absent)} genes are not in the table, e.g. {absent[:5]}")
    counts = csr_matrix(table.X if layer is None else table.layers[layer])
    if (counts.data < 0).any() or (counts.data != np.round(counts.data)).any():
        raise ValueError("the noise ceiling needs raw counts (non-negative integers); pass layer= with the counts")
    total = np.asarray(counts.sum(axis=1)).ravel().astype(np.int64)
    y = counts[:, table.var_names.get_indexer(names)].toarray().astype(np.int64)
    rest = total - y.sum(axis=1)
    rng = np.random.default_rng(seed)
    if depth is not None:
        share = depth / float(np.median(total))
        if not 0 < share <= 1:
            raise ValueError(f"depth={depth!r} must be positive and at most the median depth, {np.median(total):g}")
        y, rest = rng.binomial(y, share), rng.binomial(rest, share)
    found = [_halves(y, rest, rng, target_sum) for _ in range(n_splits)]
    r = np.stack([f["pearson"] for f in found])
    known = np.isfinite(r).any(axis=0)
    mean = np.full(len(names), np.nan)
    mean[known] = np.nanmean(r[:, known], axis=0)
    reliability = np.clip(2 * mean / (1 + mean), 0.0, 1.0)
    return pd.DataFrame(
        {
            "reliability": reliability,
            "ceiling": np.sqrt(reliability),
            "n": found[0]["n"],
            "reason": np.where(known, "", found[0]["reason"]),
        },
        index=pd.Index(names, name="gene"),
    )


def _halves(
    y: np.ndarray, rest: np.ndarray, rng: np.random.Generator, target_sum: float | None
) -> dict[str, np.ndarray]:
    """Scores of one half of the molecules against the other."""
    half, half_rest = rng.binomial(y, 0.5), rng.binomial(rest, 0.5)
    logs = []
    for part, other in ((half, half_rest), (y - half, rest - half_rest)):
        total = part.sum(axis=1) + other
        with np.errstate(invalid="ignore", divide="ignore"):
            scale = np.ones(len(total)) if target_sum is None else target_sum / total
            # a half without any molecule says nothing of the unit
            logs.append(np.where(total[:, None] > 0, np.log1p(part * scale[:, None]), np.nan))
    return column_scores(*logs)
