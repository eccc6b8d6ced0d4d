"""Agreement beyond genes: cell-type proportions of spots, and finding the matching transcriptome."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pastpy.metrics._columns import column_scores, silence_as_zero, varies

if TYPE_CHECKING:
    import pandas as pd
    from pandas import DataFrame

__all__ = ["deconvolution_agreement", "retrieval_recall"]


def deconvolution_agreement(predicted: pd.DataFrame, reference: pd.DataFrame) -> DataFrame:
    """Compare predicted cell-type proportions of spots with a reference.

    Parameters
    ----------
    predicted, reference
        Frames (spots × cell types), non-negative; rows are scaled to sum to 1. Spots of both are compared, rows with
        NaN or without any cell left out. A type that only one of them has is 0 in the other.

    Returns
    -------
    A row a type: ``pearson``, ``spearman``, ``rmse``, ``mean_predicted``, ``mean_reference``, ``n``; and the row
    ``"all types"``: means of these, in which the correlation of a type that only the reference varies in is 0, and
    ``jensen_shannon``, the divergence of the two mixtures in bits (0–1), averaged over spots.

    Raises
    ------
    ValueError
        If no spot or fewer than two types are shared, a spot or type stands twice, or a proportion is negative.

    References
    ----------
    Lin, IEEE Trans Inf Theory 37:145 (1991), doi:10.1109/18.61115 (divergence). Li et al., Nat Methods 19:662 (2022),
    doi:10.1038/s41592-022-01480-9 (use on spots).

    Examples
    --------
    >>> import pastpy as past
    >>> import pandas as pd
    >>> p = pd.DataFrame({"tumour": [0.2, 0.5, 0.9], "stroma": [0.8, 0.5, 0.1]})
    >>> float(past.bench.deconvolution_agreement(p, p).loc["all types", "jensen_shannon"])
    0.0
    """
    import pandas as pd

    frames = {"predicted": predicted, "reference": reference}
    for name, frame in frames.items():
        if not frame.index.is_unique or not frame.columns.is_unique:
            raise ValueError(f"{name} has a spot or a cell type twice; make its index and columns unique")
    units = predicted.index.intersection(reference.index, sort=False)
    n_shared = len(predicted.columns.intersection(reference.columns))
    if not len(units) or n_shared < 2:
        raise ValueError(f"{len(units)} spots and {n_shared} cell types are shared; one spot and two types are needed")
    types = predicted.columns.union(reference.columns, sort=False)
    pair = []
    for name, frame in frames.items():
        values = frame.loc[units].reindex(columns=types, fill_value=0.0).to_numpy(dtype=float)
        if (values < 0).any():
            raise ValueError(f"{name} has negative proportions")
        total = values.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            pair.append(np.where(total > 0, values / total, np.nan))
    known = np.isfinite(pair[0]).all(axis=1) & np.isfinite(pair[1]).all(axis=1)
    p, r = pair[0][known], pair[1][known]
    scores = column_scores(p, r)
    out = pd.DataFrame(
        {
            "pearson": scores["pearson"], "spearman": scores["spearman"], "rmse": np.sqrt(scores["mse"]),
            "mean_predicted": p.mean(axis=0), "mean_reference": r.mean(axis=0), "n": scores["n"],
        },
        index=pd.Index(types, name="cell_type"),
    )  # fmt: skip
    counted = {s: silence_as_zero(scores[s], varies(r)) for s in ("pearson", "spearman")}
    out.loc["all types"] = out.assign(**counted).mean()
    out["jensen_shannon"] = np.nan
    out.loc["all types", "jensen_shannon"] = float(_divergence(p, r).mean())
    return out


def _divergence(p: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence of the mixtures in each row, in bits, float (n,)."""
    from scipy.special import rel_entr

    middle = (p + r) / 2
    bits = (rel_entr(p, middle) + rel_entr(r, middle)).sum(axis=1) / (2 * np.log(2))
    # of equal mixtures, rounding leaves a little less than 0
    return np.clip(bits, 0.0, 1.0)


def retrieval_recall(
    query: np.ndarray,
    reference: np.ndarray,
    *,
    k: Sequence[int] = (1, 5, 10, 50),
    groups: np.ndarray | None = None,
    n_permutations: int = 200,
    seed: int = 0,
) -> DataFrame:
    """How often the row that belongs to a query is among its k nearest, by cosine similarity.

    Parameters
    ----------
    query, reference
        float (n, d), row i of one belongs to row i of the other; rows with NaN in either are left out. Columns that are
        on another scale should be standardised before.
    k
        Numbers of neighbours.
    groups
        (n,) section of every row: a query then searches its own section only.
    n_permutations
        Random pairings for the p-value.
    seed
        Seed of these.

    Returns
    -------
    A row a ``k``: ``recall``, ``chance`` (exact, k over the rows searched), ``p_value`` (share of random pairings that
    do at least as well, counting the observed one), ``median_rank`` of the match (1 is best), ``n``. Ties rank halfway.

    Raises
    ------
    ValueError
        If shapes differ, or there is no row.

    Examples
    --------
    >>> import pastpy as past
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(20, 5))
    >>> past.bench.retrieval_recall(x, x, k=(1,))["recall"].tolist()
    [1.0]
    """
    import pandas as pd
    from scipy.stats import rankdata

    query, reference = np.asarray(query, dtype=float), np.asarray(reference, dtype=float)
    if query.shape != reference.shape or query.ndim != 2:
        raise ValueError(f"query {query.shape} and reference {reference.shape} must be paired rows of one length")
    known = np.isfinite(query).all(axis=1) & np.isfinite(reference).all(axis=1)
    labels = (
        np.zeros(len(query), dtype=int) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    )
    if not known.any():
        raise ValueError("no row has both a query and a reference without NaN")
    rng = np.random.default_rng(seed)
    true_rank, chance_rank, sizes = [], [], []
    for g in np.unique(labels[known]):
        at = np.flatnonzero(known & (labels == g))
        similar = _unit(query[at]) @ _unit(reference[at]).T
        rank = rankdata(-similar, axis=1)
        true_rank.append(np.diag(rank))
        pairing = np.stack([rng.permutation(len(at)) for _ in range(n_permutations)])
        chance_rank.append(rank[np.arange(len(at)), pairing])
        sizes.append(np.full(len(at), len(at)))
    found, random, size = np.concatenate(true_rank), np.concatenate(chance_rank, axis=1), np.concatenate(sizes)
    rows = {}
    for n in k:
        recall, null = (found <= n).mean(), (random <= n).mean(axis=1)
        rows[int(n)] = {
            "recall": float(recall),
            "chance": float(np.minimum(n / size, 1).mean()),
            "p_value": float((1 + (null >= recall).sum()) / (1 + n_permutations)),
            "median_rank": float(np.median(found)),
            "n": len(found),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("k")


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
