"""``past.metrics.expression_summary``: a row a set of genes, with intervals over donors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy.metrics._bootstrap import bootstrap_groups
from pastpy.metrics._columns import column_scores, silence_as_zero, varies
from pastpy.metrics._expression import SCORES, aligned, group_labels, group_scores
from pastpy.metrics._gene_sets import gene_list

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

__all__ = ["expression_summary"]

#: Scores that a constant or missing prediction does not have.
CORRELATIONS = ("pearson", "spearman")


def expression_summary(
    predicted: pd.DataFrame,
    measured: pd.DataFrame,
    groups: pd.Series | Mapping[Any, str],
    *,
    gene_sets: Mapping[str, Sequence[str]] | None = None,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean agreement over sets of genes, and over units, with intervals over donors.

    Parameters
    ----------
    predicted, measured
        Frames (units × genes) of log1p expression with the same index.
    groups
        Donor (or section) of every unit.
    gene_sets
        Name → genes, for example :func:`pastpy.metrics.gene_sets` of the training data; by default all genes of both
        frames. Genes that are not in both are not scored, and counted as such.
    n_boot, confidence, seed
        Of the intervals: Student's over 3–7 groups, a bootstrap of them from 8 on.

    Returns
    -------
    Frame with one row a set: ``n_genes`` in the set, ``n_scored`` with a correlation in some group, ``n_groups``,
    ``share_predicted`` (of the measured values of the scored genes), and the mean over genes, then groups, of
    ``pearson``, ``spearman``, ``mse``, ``auroc`` (over units, gene by gene) and of
    ``unit_pearson``, ``unit_spearman`` (over genes, unit by unit), each with ``_lower`` and ``_upper`` (NaN with fewer
    than three groups). Where the measurement varies but the prediction is missing or constant, the correlation counts
    as 0, so that silence on whole genes or units raises no mean of correlations; NaN where there is none at all. Errors
    (``mse``) and ``auroc`` are of what is predicted alone: silence on what is hard does improve them, as it does
    correlations over the units that are left; read them with ``share_predicted``.

    Raises
    ------
    ValueError
        If the frames share no unit, a unit has no group, or a set names a gene twice.
    TypeError
        If the genes of a set are one text.

    Examples
    --------
    >>> import pastpy as past
    >>> import numpy as np, pandas as pd
    >>> measured = pd.DataFrame(np.random.default_rng(0).random((20, 3)), columns=list("abc"))
    >>> found = past.metrics.expression_summary(measured, measured, pd.Series(["P1"] * 10 + ["P2"] * 10))
    >>> float(found.loc["all genes", "pearson"].round(3))
    1.0
    """
    import pandas as pd

    p, m = aligned(predicted, measured, None)
    by_group = group_labels(groups, p.index)
    by_gene = group_scores(p, m, groups)
    scored = by_gene["reason"] == ""
    measured_varies = np.concatenate([varies(m.to_numpy()[by_group == g]) for g in np.unique(by_group)])
    for s in CORRELATIONS:
        by_gene[s] = silence_as_zero(by_gene[s].to_numpy(), measured_varies)
    rows = {}
    for name, genes in (gene_sets or {"all genes": list(p.columns)}).items():
        names = gene_list(genes)
        known = [g for g in names if g in p.columns]
        in_set = by_gene["gene"].isin(known)
        row: dict[str, Any] = {
            "n_genes": len(names),
            "n_scored": int(by_gene.loc[in_set & scored, "gene"].nunique()),
            "n_groups": int(by_gene.loc[in_set, "group"].nunique()),
            "share_predicted": _share_predicted(p[known].to_numpy(), m[known].to_numpy()),
        }
        values = {s: by_gene[in_set].groupby("group")[s].mean().to_numpy() for s in SCORES}
        turned = m[known].to_numpy().T
        units = column_scores(p[known].to_numpy().T, turned)
        for s in CORRELATIONS:
            per_unit = pd.Series(silence_as_zero(units[s], varies(turned)), index=p.index)
            values[f"unit_{s}"] = per_unit.groupby(by_group).mean().to_numpy()
        for s, per_group in values.items():
            mean, lower, upper = bootstrap_groups(
                np.asarray(per_group, dtype=float)[:, None], n_boot=n_boot, confidence=confidence, seed=seed
            )
            row |= {s: float(mean[0]), f"{s}_lower": float(lower[0]), f"{s}_upper": float(upper[0])}
        rows[name] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("gene_set")


def _share_predicted(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Share of the measured values that there is a prediction of; NaN where nothing was measured."""
    known = ~np.isnan(measured)
    return float((~np.isnan(predicted))[known].mean()) if known.any() else float("nan")
