"""``past.bench.run_loso``: leave sections or donors out, score any method on the same genes and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy import _keys
from pastpy.bench._folds import FitPredict, arrange, fresh_fold
from pastpy.metrics._bootstrap import bootstrap_groups
from pastpy.metrics._ceiling import noise_ceiling
from pastpy.metrics._columns import CONSTANT_PREDICTED, silence_as_zero
from pastpy.metrics._expression import expression
from pastpy.metrics._gene_sets import log_normalised, spatially_variable, variable_genes

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame, Index, Series
    from scipy.sparse import csr_matrix
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
        A row a method, section and gene: the columns of :func:`pastpy.metrics.expression`, ``donor``, ``fold`` and
        ``share_predicted``, the share of measured units that the method predicts. The others are scored as if it had
        predicted the gene's mean over the training units.
    genes
        Fold → genes, chosen on its training sections.
    spatial_genes
        Fold → those with the highest Moran's I on its training sections.
    predictions
        Method → section → frame of what the method returned, NaN where it says nothing.
    measured
        Section → frame of log1p counts per 10,000.
    facts
        How the folds were made: plain values.

    Examples
    --------
    >>> import pastpy as past
    >>> result = past.bench.run_loso(sections, methods, donors=donors)  # doctest: +SKIP
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
        Columns: the sections, ``mean``, ``lower``, ``upper``, ``best_<n>``, ``spatial`` (spatially variable genes),
        ``n_scored``, the genes with a score, averaged over sections, and ``share_predicted``, the share of units that
        the method predicts. A gene that a method leaves out or predicts as constant has a correlation, or a similarity
        of maps, of 0 here, and a unit that it leaves out counts as the gene's training mean, so that silence on hard
        ones raises no mean; NaN where all are constant, and in sections with fewer than three units.
        """
        import pandas as pd

        group = "section" if self.facts["within_patient"] else "donor"
        rows = {}
        for method, scored in self.scores.groupby("method", sort=False):
            said = scored.groupby("section", sort=False)
            scores = silence_scored(scored, value)
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
                f"best_{n_best}": float(best.mean()), "spatial": float(pd.Series(in_space, dtype=float).mean()),
                "n_scored": float(said[value].count().mean()),
                "share_predicted": float(said["share_predicted"].mean().mean()),
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


@dataclass(frozen=True)
class _Truth:
    """What was measured in a held-out section; read before a method runs, and shown to none.

    Attributes
    ----------
    measured
        Frame (units × genes of the fold) on the scale that is scored.
    ceiling
        Noise ceiling, float (genes,).
    counts, depth
        Raw counts (units × genes), and of all genes of a unit, float (units,).
    where
        Frame (units × 2) of positions for maps, if these are scored.
    """

    measured: DataFrame
    ceiling: np.ndarray
    counts: csr_matrix
    depth: np.ndarray
    where: DataFrame | None


def run_loso(
    sections: Mapping[str, SpatialData],
    methods: Mapping[str, FitPredict],
    *,
    donors: Mapping[str, Any] | Series | None = None,
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
    image_key: str | None = None,
    title: str = "",
    seed: int = 0,
) -> LosoResult:
    """Leave one section (or donor) out: every method is fitted on the others and scored on it.

    A method is a function of a :class:`~pastpy.bench.Fold`: it may fit on ``fold.train`` (SpatialData with counts)
    and returns ``{section: DataFrame}`` for the sections of ``fold.test``, whose expression has been removed: units of
    the scored table in rows (``obs_names``), ``fold.genes`` in columns, log1p expression. A model that predicts cells
    returns ``bench.to_spots(cells, spots).to_df()``. A model trained beforehand for each fold is looked up by
    ``fold.name``, or by the names in ``fold.train``. Every method gets copies of its own, and what it is scored on was
    read before. A unit that it leaves NaN is scored as if it had predicted the gene's mean over the training units.

    Parameters
    ----------
    sections
        Name → SpatialData with an image and a table of raw counts.
    methods
        Name → method; see :func:`pastpy.bench.baselines` for the ones that belong in every table.
    donors
        Section → donor (a dict or Series). Needed: an unknown donor could stand on both sides.
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
    image_key
        Image that methods see of held-out sections; by default every one that can be an H&E: three or four channels,
        none of them a gene, and not written by pastpy.
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
        units, a table of a training object holds held-out ones, names of units or genes are not unique, or a method
        returns other sections, units or genes than asked for.
    TypeError
        If a method returns something else than frames of sections.
    KeyError
        If a table cannot be found.

    Examples
    --------
    >>> import pastpy as past
    >>> result = past.bench.run_loso(sections, past.bench.baselines(), donors=donors)  # doctest: +SKIP
    >>> result.table()["mean"]  # doctest: +SKIP
    """
    import pandas as pd

    donor_of, names, own, tables = arrange(
        sections,
        donors,
        hold_out=hold_out,
        within_patient=within_patient,
        folds=folds,
        table_key=table_key,
        layer=layer,
    )
    genes_of: dict[str, list[str]] = {}
    spatial_of: dict[str, list[str]] = {}
    mean_of: dict[str, Series] = {}
    truth_of: dict[str, dict[str, _Truth]] = {}
    for name, (train, test) in names.items():
        chosen = genes_of[name] = choose_genes(name, tables, train, test, genes, n_genes, min_detected, layer)
        training = {s: tables[s] for s in train}
        spatial_of[name] = _spatial(training, chosen, n_spatial, layer)
        mean_of[name] = training_mean(training, chosen, layer=layer, target_sum=target_sum)
        truth_of[name] = {s: _truth(tables[s], chosen, layer, target_sum, maps, seed) for s in test}
    predictions: dict[str, dict[str, DataFrame]] = {method: {} for method in methods}
    measured: dict[str, DataFrame] = {}
    rows: list[DataFrame] = []
    for name, (train, test) in names.items():
        units = {s: tables[s].obs_names for s in test}
        open_fold = partial(
            fresh_fold, name, own, train, test, genes=genes_of[name], donors=donor_of, table_key=table_key,
            layer=layer, target_sum=target_sum, image_key=image_key,
        )  # fmt: skip
        found = {
            method: checked(method, name, units, genes_of[name], fit_predict(open_fold()))
            for method, fit_predict in methods.items()
        }
        for section, truth in truth_of[name].items():
            measured[section] = truth.measured
            marks = {"fold": name, "section": section, "donor": donor_of[section]}
            rows.append(pd.DataFrame({"method": CEILING, **marks, "gene": genes_of[name], "pearson": truth.ceiling}))
            for method, frames in found.items():
                predictions[method][section] = frames[section]
                scores = _score(frames[section], truth, mean_of[name], target_sum)
                rows.append(scores.reset_index().assign(method=method, **marks))
    facts = {
        "title": title,
        "hold_out": "given folds" if folds is not None else hold_out,
        "within_patient": within_patient,
        "statement": _statement(within_patient),
        "folds": {name: {"train": train, "test": test} for name, (train, test) in names.items()},
        "n_genes": n_genes if genes is None else len(genes),
        "min_detected": min_detected if genes is None else "given",
        "target": "log1p of raw counts" if target_sum is None else f"log1p of counts per {target_sum:,.0f}",
        "units_left_out": "scored as the gene's mean over the training units",
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


def training_mean(
    training: Mapping[str, AnnData],
    genes: list[str],
    *,
    layer: str | None = None,
    target_sum: float | None = _keys.TARGET_SUM,
) -> Series:
    """Mean of every gene over the units of the training sections, on the scale that is scored."""
    import pandas as pd

    return pd.concat(
        [log_normalised(table, genes, layer=layer, target_sum=target_sum) for table in training.values()]
    ).mean()


def checked(
    method: str, fold: str, units: Mapping[str, Index], genes: list[str], frames: Mapping[str, DataFrame]
) -> dict[str, DataFrame]:
    """A method's predictions in the order of the held-out units and the fold's genes.

    Parameters
    ----------
    method, fold
        Names, for messages.
    units
        Held-out section → names of its units. Not from the fold, which the method may have changed.
    genes
        Genes of the fold.
    frames
        What the method returned.

    Raises
    ------
    ValueError
        If a section, unit or gene is missing or stands twice, or there is an infinite value.
    TypeError
        If the method returned something else than frames of sections.
    """
    if not isinstance(frames, Mapping):
        raise TypeError(
            f"method {method!r} returned {type(frames).__name__} for fold {fold!r}; return a dict of a DataFrame "
            "(units × genes) for every held-out section"
        )
    out = {}
    for section, names in units.items():
        if section not in frames:
            raise ValueError(f"method {method!r} returned no prediction for section {section!r} of fold {fold!r}")
        frame = _frame(method, section, frames[section])
        absent, missing = names.difference(frame.index), [g for g in genes if g not in frame.columns]
        if len(absent) or missing:
            raise ValueError(
                f"method {method!r}, section {section!r}: the prediction lacks {len(absent)} units "
                f"({absent[:3].tolist()}) and {len(missing)} genes ({missing[:3]}); "
                "return NaN where nothing can be said"
            )
        out[section] = frame.loc[names, genes].astype(np.float64)
        if np.isinf(out[section].to_numpy()).any():
            raise ValueError(f"method {method!r}, section {section!r}: the prediction has infinite values")
    return out


def _frame(method: str, section: str, frame: object) -> DataFrame:
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"method {method!r}, section {section!r}: the prediction is {type(frame).__name__}; return a DataFrame "
            "with the held-out obs_names as index and the genes of the fold as columns"
        )
    for what, names in (("unit", frame.index), ("gene", frame.columns)):
        if not names.is_unique:
            raise ValueError(
                f"method {method!r}, section {section!r}: the prediction has a {what} twice, "
                f"{names[names.duplicated()][0]!r}; return each once"
            )
    return frame


def _truth(
    table: AnnData, genes: list[str], layer: str | None, target_sum: float | None, maps: bool, seed: int
) -> _Truth:
    import pandas as pd
    from scipy.sparse import csr_matrix

    counts = csr_matrix(table.X if layer is None else table.layers[layer])
    where = np.asarray(table.obsm[_keys.SPATIAL], dtype=float) if maps else None
    ceiling = noise_ceiling(table, genes=genes, layer=layer, target_sum=target_sum, seed=seed)
    return _Truth(
        measured=log_normalised(table, genes, layer=layer, target_sum=target_sum),
        ceiling=ceiling["ceiling"].to_numpy(),
        counts=counts[:, table.var_names.get_indexer(genes)],
        depth=np.asarray(counts.sum(axis=1), dtype=float).ravel(),
        where=None if where is None else pd.DataFrame(where, index=table.obs_names),
    )


def _score(predicted: DataFrame, truth: _Truth, mean: Series, target_sum: float | None) -> DataFrame:
    import pandas as pd

    known = truth.measured.notna()
    # silence is no gain: of a unit that is left out, the method knows no more than the training sections tell
    filled = predicted.fillna(mean).where(known)
    counts: dict[str, Any] = {}
    if target_sum is not None:  # the deviance needs a share of the depth, which raw counts do not give
        units, genes = truth.measured.index, truth.measured.columns
        counts = {
            "counts": pd.DataFrame(truth.counts.toarray().astype(float), units, genes),
            "depth": pd.Series(truth.depth, index=units),
            "target_sum": target_sum,
        }
    scores = expression(filled, truth.measured, coordinates=truth.where, **counts)
    return scores.assign(share_predicted=(predicted.notna() & known).sum() / known.sum())


def _best(scores: Series, n: int, value: str) -> Series:
    return scores.nsmallest(n) if value in ("mse", "nb_deviance") else scores.nlargest(n)


def silence_scored(scores: DataFrame, value: str) -> DataFrame:
    """Scores with a correlation, or similarity of maps, of 0 where only the method is to blame that there is none."""
    if value not in ("pearson", "spearman", "ssim"):
        return scores
    blamed = (scores["reason"] == CONSTANT_PREDICTED).to_numpy()
    return scores.assign(**{value: silence_as_zero(scores[value].to_numpy(dtype=float), blamed)})


def _statement(within_patient: bool) -> str:
    if within_patient:
        return "within patient: training and held-out sections are of the same donor, which flatters every method"
    return "held-out donors: no donor is in training and test"


def _plain(table: DataFrame) -> dict[str, dict[str, float | None]]:
    rows = table.to_dict("index")
    return {str(m): {str(k): None if v != v else round(float(v), 4) for k, v in row.items()} for m, row in rows.items()}
