"""``past.bench.predictable_genes``: which genes of a model one may trust, and how far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pastpy.bench._intervals import width_ratio
from pastpy.bench._loso import CEILING, silence_scored
from pastpy.bench._report import markdown
from pastpy.metrics._bootstrap import bootstrap_groups

if TYPE_CHECKING:
    from pandas import DataFrame

    from pastpy.bench._intervals import IntervalResult
    from pastpy.bench._loso import LosoResult

__all__ = ["predictable_genes", "predictable_genes_markdown"]

#: Held-out donors (sections) that a gene must be scored in to be trusted: an interval over two means little.
MIN_GROUPS = 3


def predictable_genes(
    result: LosoResult,
    method: str,
    *,
    intervals: IntervalResult | None = None,
    min_r: float = 0.2,
    confidence: float = 0.95,
    seed: int = 0,
) -> DataFrame:
    """Card of the genes that a method predicts on tissue it has not seen.

    Parameters
    ----------
    result
        Of :func:`pastpy.bench.run_loso`.
    method
        Which of its methods.
    intervals
        Of :func:`pastpy.bench.nested_intervals` with the same method; adds coverage and width.
    min_r
        Pearson r that a gene must reach to be of use.
    confidence
        Of the interval over donors (over sections, within a patient).
    seed
        Seed of its resamples.

    Returns
    -------
    A row a gene, best lower end first: ``pearson``, ``lower``, ``upper`` over held-out groups, ``n_groups``;
    ``ceiling`` that counting noise sets and ``share_of_ceiling``; ``trust``: "yes" if the lower end reaches ``min_r``,
    "no" if the mean does not, else "unsure" (also with fewer than three groups); with ``intervals``: ``coverage`` and
    ``width_ratio`` (width over that of the interval around the training mean). ``attrs["statement"]`` says what the
    figures hold for. As in :meth:`pastpy.bench.LosoResult.table`, r is 0 in a group where the method says nothing of
    the gene.

    Raises
    ------
    KeyError
        If the result has no such method.

    Examples
    --------
    >>> import pastpy as past
    >>> card = past.bench.predictable_genes(result, "backbone ridge")  # doctest: +SKIP
    >>> card.index[card["trust"] == "yes"].tolist()  # doctest: +SKIP
    """
    import pandas as pd

    known = [m for m in result.scores["method"].unique() if m != CEILING]
    if method not in known:
        raise KeyError(f"no method {method!r} in this result; it has {known}")
    group = "section" if result.facts["within_patient"] else "donor"
    scores = silence_scored(result.scores[result.scores["method"] == method], "pearson")
    per_group = scores.pivot_table(index=group, columns="gene", values="pearson", aggfunc="mean", dropna=False)
    mean, lower, upper = bootstrap_groups(per_group.to_numpy(dtype=float), confidence=confidence, seed=seed)
    ceiling = result.scores[result.scores["method"] == CEILING].groupby("gene")["pearson"].mean()
    card = pd.DataFrame(
        {"pearson": mean, "lower": lower, "upper": upper, "n_groups": np.isfinite(per_group).sum(axis=0).to_numpy()},
        index=pd.Index(per_group.columns, name="gene"),
    )
    card["ceiling"] = ceiling.reindex(card.index)
    card["share_of_ceiling"] = card["pearson"] / card["ceiling"].where(card["ceiling"] > 0)
    sure = (card["lower"] >= min_r) & (card["n_groups"] >= MIN_GROUPS)
    card["trust"] = np.select([sure, ~(card["pearson"] >= min_r)], ["yes", "no"], "unsure")
    if intervals is not None:
        by_gene = intervals.genes.assign(ratio=width_ratio(intervals.genes))
        by_gene = by_gene.groupby("gene")[["coverage", "ratio"]].mean().reindex(card.index)
        card["coverage"], card["width_ratio"] = by_gene["coverage"], by_gene["ratio"]
    card = card.sort_values(["lower", "pearson"], ascending=False, kind="stable")
    card.attrs["statement"] = f"{method}; {result.facts['statement']}; a gene is trusted from r = {min_r:g}"
    return card


def predictable_genes_markdown(card: DataFrame, *, n: int = 30) -> str:
    """The card as Markdown: how many genes may be trusted, and the best of them.

    Parameters
    ----------
    card
        Of :func:`predictable_genes`.
    n
        Genes to list.

    Examples
    --------
    >>> import pastpy as past
    >>> import pandas as pd
    >>> card = pd.DataFrame({"pearson": [0.5], "trust": ["yes"]}, index=pd.Index(["ERBB2"], name="gene"))
    >>> print(past.bench.predictable_genes_markdown(card).splitlines()[0])
    Trusted: 1 of 1 genes; unsure: 0; not predictable: 0.
    """
    count = card["trust"].value_counts()
    head = (
        f"Trusted: {count.get('yes', 0)} of {len(card)} genes; unsure: {count.get('unsure', 0)}; not predictable: "
        f"{count.get('no', 0)}."
    )
    statement = card.attrs.get("statement")
    return "\n\n".join(part for part in (head, statement and f"*{statement}*", markdown(card.head(n))) if part)
