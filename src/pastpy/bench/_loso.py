"""``past.bench.run_loso``: leave sections or donors out, score any method on the same genes and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy import _elements, _keys
from pastpy.bench._folds import FitPredict, Fold, blind, make_folds, refuse_shared_units
from pastpy.metrics._bootstrap import bootstrap_groups
from pastpy.metrics._ceiling import noise_ceiling
from pastpy.metrics._columns import CONSTANT_MEASURED
from pastpy.metrics._expression import expression
from pastpy.metrics._gene_sets import log_normalised, spatially_variable, variable_genes

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame, Series
    from spatialdata import SpatialData

__all__ = ["LosoResult", "run_loso"]

#: Row of the noise ceiling in tables.
CEILING = "noise ceiling"


@dataclass(frozen=True)
class LosoResult:
    """Scores of every method, held-out section and gene.

    Attributes
    ----------
    scores
        A row a method, section and gene: the columns of :func:`pastpy.metrics.expression`, and ``donor``, ``fold``.
    genes
        Fold → genes, chosen on its training sections.
    spatial_genes
        Fold → those with the highest Moran's I on its training sections.
    predictions
        Method → section → frame of what was scored.
    measured
        Section → frame of log1p counts per 10,000.
    facts
        How the folds were made: plain values.

    Examples
    --------
    >>> result = run_loso(sections, methods, donors=donors)  # doctest: +SKIP
    >>> result.table()  # doctest: +SKIP
    >>> result.write("loso.json")  # doctest: +SKIP
    """

    scores: DataFrame
    genes: Mapping[str, list[str]]
    spatial_genes: Mapping[str, list[str]]
    predictions: Mapping[str, Mapping[str, DataFrame]]
    measured: Mapping[str, DataFrame]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def table(self, *, value: str = "pearson", n_best: int = 50, confidence: float = 0.95, seed: int = 0) -> DataFrame:
        """One row a method: mean over genes in each section, over sections with an interval, and of the best genes.

        Parameters
        ----------
        value
            Score to average.
        n_best
            Genes with the best score in a section, as the field reports it: chosen on what is scored, so flattering.
        confidence, seed
            Of the interval, which resamples donors (sections, within a patient).

        Returns
        -------
        Columns: the sections, ``mean``, ``lower``, ``upper``, ``best_<n>``, ``spatial`` (spatially variable genes) and
        ``n_scored``, the genes with a score, averaged over sections. A gene that a method leaves out or predicts as
        constant has a correlation of 0 here, so that silence on hard genes raises no mean; NaN where all are.
        """
        import pandas as pd

        group = "section" if self.facts["within_patient"] else "donor"
        rows = {}
        for method, scored in self.scores.groupby("method", sort=False):
            n_scored = scored.groupby("section", sort=False)[value].count()
            scores = _silence_scored(scored, value)
            by_section = scores.groupby("section", sort=False)[value]
            mean = by_section.mean()
            per_group = scores.groupby([group, "section"], sort=False)[value].mean().groupby(level=0, sort=False).mean()
            centre, lower, upper = bootstrap_groups(per_group.to_numpy()[:, None], confidence=confidence, seed=seed)
            best = by_section.apply(lambda v: _best(v, n_best, value).mean())
            in_space = [
                s.loc[s["gene"].isin(self.spatial_genes[str(f)]), value].mean()
                for (f, _), s in scores.groupby(["fold", "section"], sort=False)
            ]
            rows[str(method)] = {
                **mean.to_dict(), "mean": float(centre[0]), "lower": float(lower[0]), "upper": float(upper[0]),
                f"best_{n_best}": float(best.mean()), "spatial": float(np.mean(in_space)),
                "n_scored": float(n_scored.mean()),
            }  # fmt: skip
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def summary(self) -> dict[str, Any]:
        """Plain values for JSON: facts, the table of every score, genes of every fold."""
        values = [v for v in ("pearson", "spearman", "mse", "auroc", "nb_d2", "ssim") if v in self.scores]
        tables = {v: _plain(self.table(value=v)) for v in values}
        return {**self.facts, "scores": tables, "genes": {f: list(g) for f, g in self.genes.items()}}

    def write(self, path: str | Path) -> list[Path]:
        """Write ``path`` (JSON), and beside it the scores of every gene (CSV) and a picture (PNG).

        Returns
        -------
        The three files.

        Raises
        ------
        FileNotFoundError
            If the folder does not exist.
        """
        from pastpy.bench._report import bars, write_report

        over = "sections" if self.facts["within_patient"] else "donors"
        return write_report(
            path, self.summary(), self.scores, lambda ax: bars(self.table(), ax, label="Pearson r", over=over)
        )


def run_loso(
    sections: Mapping[str, SpatialData],
    methods: Mapping[str, FitPredict],
    *,
    donors: Mapping[str, str] | None = None,
    hold_out: Literal["section", "donor"] = "section",
    within_patient: bool = False,
    folds: Sequence[tuple[Sequence[str], Sequence[str]]] | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    genes: Sequence[str] | None = None,
    n_genes: int = 250,
    n_spatial: int = 50,
    min_detected: float = 0.1,
    target_sum: float | None = _keys.TARGET_SUM,
    maps: bool = False,
    title: str = "",
    seed: int = 0,
) -> LosoResult:
    """Leave one section (or donor) out: every method is fitted on the others and scored on it.

    A method is a function of a :class:`~pastpy.bench.Fold`: it may fit on ``fold.train`` (SpatialData with counts)
    and returns ``{section: DataFrame}`` for the sections of ``fold.test``, whose expression has been removed: units of
    the scored table in rows (``obs_names``), ``fold.genes`` in columns, log1p expression. A model that predicts cells
    returns ``bench.to_spots(cells, spots).to_df()``. A model trained beforehand for each fold is looked up by
    ``fold.name``, or by the names in ``fold.train``.

    Parameters
    ----------
    sections
        Name → SpatialData with an image and a table of raw counts.
    methods
        Name → method; see :func:`pastpy.bench.baselines` for the ones that belong in every table.
    donors
        Section → donor. Needed: an unknown donor could stand on both sides.
    hold_out
        Leave out ``"section"`` or ``"donor"``.
    within_patient
        Allow a donor's sections on both sides, and label the result so.
    folds
        Given folds, (training sections, held-out sections) each, instead of ``hold_out``.
    table_key
        Table to score; the default table of each object if ``None``.
    layer
        Layer with raw counts; ``None`` means ``X``.
    genes
        A published list of genes to score; by default they are chosen on the training sections of each fold:
    n_genes, min_detected
        the most variable genes of the training units that are detected in more than this share of them.
    n_spatial
        Of these, so many with the highest Moran's I on the training sections are reported apart.
    target_sum
        Depth of the target, log1p of counts per ``target_sum``; ``None`` is log1p of raw counts.
    maps
        Also score the similarity of maps and Moran's I.
    title
        What the result calls itself.
    seed
        Seed of the noise ceiling.

    Returns
    -------
    Scores of all methods, and of the noise ceiling as a row of its own.

    Raises
    ------
    ValueError
        If a donor stands on both sides without ``within_patient``, donors are unknown, two sections hold the same
        units, or a method returns other sections, units or genes than asked for.
    KeyError
        If a table cannot be found.

    Examples
    --------
    >>> import pastpy as past
    >>> result = past.bench.run_loso(sections, past.bench.baselines(), donors=donors)  # doctest: +SKIP
    >>> result.table()["mean"]  # doctest: +SKIP
    """
    import pandas as pd

    names = make_folds(sections, donors, hold_out=hold_out, within_patient=within_patient, folds=folds)
    donor_of = {s: str(d) for s, d in (donors or {}).items()}
    tables = {name: _elements.table_of(sdata, table_key) for name, sdata in sections.items()}
    refuse_shared_units(tables, layer=layer)
    genes_of: dict[str, list[str]] = {}
    spatial_of: dict[str, list[str]] = {}
    predictions: dict[str, dict[str, DataFrame]] = {method: {} for method in methods}
    measured: dict[str, DataFrame] = {}
    rows: list[DataFrame] = []
    for name, (train, test) in names.items():
        chosen = choose_genes(name, tables, train, test, genes, n_genes, min_detected, layer)
        fold = Fold(
            name=name,
            train={s: sections[s] for s in train},
            test={s: blind(sections[s]) for s in test},
            genes=chosen,
            donors={s: donor_of[s] for s in train},
            table_key=table_key,
            layer=layer,
            target_sum=target_sum,
        )
        genes_of[name] = fold.genes
        spatial_of[name] = _spatial({s: tables[s] for s in train}, fold.genes, n_spatial, layer)
        found = {method: checked(method, fold, fit_predict(fold)) for method, fit_predict in methods.items()}
        for section in test:
            measured[section] = log_normalised(tables[section], fold.genes, layer=layer, target_sum=target_sum)
            marks = {"fold": name, "section": section, "donor": donor_of[section]}
            ceiling = noise_ceiling(tables[section], genes=fold.genes, layer=layer, target_sum=target_sum, seed=seed)
            rows.append(
                pd.DataFrame({"method": CEILING, **marks, "gene": fold.genes, "pearson": ceiling["ceiling"].to_numpy()})
            )
            for method, frames in found.items():
                predictions[method][section] = frames[section]
                scores = _score(frames[section], measured[section], tables[section], fold, maps)
                rows.append(scores.reset_index().assign(method=method, **marks))
    facts = {
        "title": title,
        "hold_out": "given folds" if folds is not None else hold_out,
        "within_patient": within_patient,
        "statement": _statement(within_patient),
        "folds": {name: {"train": train, "test": test} for name, (train, test) in names.items()},
        "n_genes": n_genes,
        "min_detected": min_detected,
        "target": "log1p of raw counts" if target_sum is None else f"log1p of counts per {target_sum:,.0f}",
        "genes_chosen": "given" if genes is not None else "on the training sections of each fold",
    }
    scores = pd.concat(rows, ignore_index=True)
    order = [*methods, CEILING]
    scores = scores.iloc[np.argsort(scores["method"].map(order.index).to_numpy(), kind="stable")]
    first = ["method", "fold", "section", "donor", "gene"]
    scores = scores[first + [c for c in scores.columns if c not in first]].reset_index(drop=True)
    return LosoResult(scores, genes_of, spatial_of, predictions, measured, facts)


def choose_genes(
    name: str,
    tables: Mapping[str, AnnData],
    train: list[str],
    test: list[str],
    genes: Sequence[str] | None,
    n_genes: int,
    min_detected: float,
    layer: str | None,
) -> list[str]:
    """Genes to score in a fold: the given ones, or the most variable of its training sections.

    Raises
    ------
    ValueError
        If a given gene is not in every section, or the sections share none.
    """
    # a gene that the held-out table does not list was not measured there: only names of it are used
    everywhere = set.intersection(*(set(tables[s].var_names) for s in (*train, *test)))
    if genes is not None:
        absent = [g for g in genes if g not in everywhere]
        if absent:
            raise ValueError(f"fold {name!r}: {len(absent)} of the given genes are not in every section: {absent[:5]}")
        return list(genes)
    training = {s: tables[s] for s in train}
    ranked = variable_genes(training, n=tables[train[0]].n_vars, min_detected=min_detected, layer=layer)
    chosen = [g for g in ranked if g in everywhere][:n_genes]
    if not chosen:
        raise ValueError(f"fold {name!r}: the held-out sections list none of the training genes; use one naming")
    return chosen


def _spatial(training: Mapping[str, AnnData], genes: list[str], n: int, layer: str | None) -> list[str]:
    if any(_keys.SPATIAL not in table.obsm for table in training.values()):
        return []
    return spatially_variable(training, genes, n=n, layer=layer)


def checked(method: str, fold: Fold, frames: Mapping[str, DataFrame]) -> dict[str, DataFrame]:
    """A method's predictions in the order of the held-out units and the fold's genes.

    Raises
    ------
    ValueError
        If a section, unit or gene is missing, or there is an infinite value.
    """
    out = {}
    for section, table in fold.tables("test").items():
        if section not in frames:
            raise ValueError(f"method {method!r} returned no prediction for section {section!r} of fold {fold.name!r}")
        frame = frames[section]
        units, genes = table.obs_names.difference(frame.index), [g for g in fold.genes if g not in frame.columns]
        if len(units) or genes:
            raise ValueError(
                f"method {method!r}, section {section!r}: the prediction lacks {len(units)} units "
                f"({units[:3].tolist()}) and {len(genes)} genes ({genes[:3]}); return NaN where nothing can be said"
            )
        out[section] = frame.loc[table.obs_names, fold.genes].astype(np.float64)
        if np.isinf(out[section].to_numpy()).any():
            raise ValueError(f"method {method!r}, section {section!r}: the prediction has infinite values")
    return out


def _score(predicted: DataFrame, measured: DataFrame, table: AnnData, fold: Fold, maps: bool) -> DataFrame:
    import pandas as pd
    from scipy.sparse import csr_matrix

    where = raw = depth = None
    if maps:
        where = pd.DataFrame(np.asarray(table.obsm[_keys.SPATIAL], dtype=float), index=table.obs_names)
    if fold.target_sum is None:  # the deviance needs a share of the depth, which raw counts do not give
        return expression(predicted, measured, coordinates=where)
    counts = csr_matrix(table.X if fold.layer is None else table.layers[fold.layer])
    raw = pd.DataFrame(
        counts[:, table.var_names.get_indexer(fold.genes)].toarray().astype(float), table.obs_names, fold.genes
    )
    depth = pd.Series(np.asarray(counts.sum(axis=1), dtype=float).ravel(), index=table.obs_names)
    return expression(predicted, measured, counts=raw, depth=depth, target_sum=fold.target_sum, coordinates=where)


def _best(scores: Series, n: int, value: str) -> Series:
    return scores.nsmallest(n) if value in ("mse", "nb_deviance") else scores.nlargest(n)


def _silence_scored(scores: DataFrame, value: str) -> DataFrame:
    """Scores with a correlation of 0 where only the method is to blame that there is none."""
    if value not in ("pearson", "spearman") or not scores[value].notna().any():
        return scores
    silent = scores["reason"].notna() & ~scores["reason"].isin(["", CONSTANT_MEASURED])
    return scores.assign(**{value: scores[value].mask(silent, 0.0)})


def _statement(within_patient: bool) -> str:
    if within_patient:
        return "within patient: training and held-out sections are of the same donor, which flatters every method"
    return "held-out donors: no donor is in training and test"


def _plain(table: DataFrame) -> dict[str, dict[str, float | None]]:
    rows = table.to_dict("index")
    return {str(m): {str(k): None if v != v else round(float(v), 4) for k, v in row.items()} for m, row in rows.items()}
