"""``past.bench.nested_intervals``: how often intervals hold what was measured on tissue that had no part in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy import _elements
from pastpy.bench._folds import FitPredict, Fold, blind, make_folds, refuse_shared_units
from pastpy.bench._loso import checked, choose_genes
from pastpy.metrics._bootstrap import bootstrap_groups
from pastpy.metrics._conformal import calibrate_intervals, conformal_intervals, interval_coverage
from pastpy.metrics._gene_sets import log_normalised

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["IntervalResult", "coverage_histogram", "nested_intervals"]


@dataclass(frozen=True)
class IntervalResult:
    """Coverage of nested conformal intervals.

    Attributes
    ----------
    genes
        A row a held-out section and gene: ``fold``, ``section``, ``donor``, ``gene``, ``coverage``, ``zeros``,
        ``mean_width``, ``reference_width`` (of the interval without a prediction), ``n``.
    sections
        Section → mean coverage over genes.
    facts
        Plain values: level, overall coverage with its interval over donors (sections, within a patient), abstention.

    Examples
    --------
    >>> found = nested_intervals(sections, method, donors=donors)  # doctest: +SKIP
    >>> found.genes.groupby("gene")["coverage"].mean()  # doctest: +SKIP
    """

    genes: DataFrame
    sections: Mapping[str, float]
    facts: Mapping[str, Any]


def nested_intervals(
    sections: Mapping[str, SpatialData],
    method: FitPredict,
    *,
    donors: Mapping[str, str] | None = None,
    hold_out: Literal["section", "donor"] = "donor",
    within_patient: bool = False,
    folds: Sequence[tuple[Sequence[str], Sequence[str]]] | None = None,
    inner_folds: int = 5,
    level: float = 0.9,
    max_ratio: float = 0.95,
    table_key: str | None = None,
    layer: str | None = None,
    genes: Sequence[str] | None = None,
    n_genes: int = 250,
    min_detected: float = 0.1,
    seed: int = 0,
) -> IntervalResult:
    """Measure the coverage of conformal intervals: calibrated inside the training sections, judged outside.

    For each fold, the method is fitted again and again without some of the training donors (sections, within a
    patient); its errors there set the width of the intervals around its predictions of the held-out sections.

    Parameters
    ----------
    sections, donors, hold_out, within_patient, folds, table_key, layer, genes, n_genes, min_detected
        As in :func:`pastpy.bench.run_loso`.
    method
        The method, as for :func:`pastpy.bench.run_loso`.
    inner_folds
        At most so many parts of the training donors (sections); each is left out once.
    level
        Nominal level.
    max_ratio
        Abstain where an interval is not narrower than this part of the interval without a prediction.
    seed
        Seed of the assignment of donors to parts.

    Returns
    -------
    Coverage per section and gene, and overall.

    Raises
    ------
    ValueError
        If a donor stands on both sides without ``within_patient``, or a fold has a single training donor.

    References
    ----------
    Vovk, Cross-conformal predictors, Ann Math Artif Intell 74:9 (2015), doi:10.1007/s10472-013-9368-4.

    Examples
    --------
    >>> import pastpy as past
    >>> past.bench.nested_intervals(sections, past.bench.gene_mean, donors=donors).facts["coverage"]  # doctest: +SKIP
    """
    import pandas as pd

    names = make_folds(sections, donors, hold_out=hold_out, within_patient=within_patient, folds=folds)
    donor_of = {s: str(d) for s, d in (donors or {}).items()}
    tables = {name: _elements.table_of(sdata, table_key) for name, sdata in sections.items()}
    refuse_shared_units(tables, layer=layer)
    unit_of = {s: s if within_patient else donor_of[s] for s in tables}
    rows = []
    for name, (train, test) in names.items():
        chosen = choose_genes(name, tables, train, test, genes, n_genes, min_detected, layer)

        def fold_of(label: str, fit: list[str], held: list[str], chosen: list[str] = chosen) -> Fold:
            return Fold(
                label, {s: sections[s] for s in fit}, {s: blind(sections[s]) for s in held}, chosen,
                {s: donor_of[s] for s in fit}, table_key, layer,
            )  # fmt: skip

        errors = _inner_predictions(train, unit_of, inner_folds, seed, partial(fold_of, f"{name} inner"), method)
        inner = {s: _named(frame, s) for s, frame in errors.items()}
        truth = pd.concat([_named(log_normalised(tables[s], chosen, layer=layer), s) for s in inner])
        predicted = pd.concat(list(inner.values()))
        calibration = calibrate_intervals(
            predicted,
            truth,
            pd.Series({unit: unit_of[s] for s, frame in inner.items() for unit in frame.index}),
            levels=(level,),
            within_patient=within_patient,
            seed=seed,
        )
        outer = fold_of(name, train, test)
        for section, frame in checked("method", outer, method(outer)).items():
            lower, upper = conformal_intervals(frame, calibration, level=level)
            measured = log_normalised(tables[section], chosen, layer=layer)
            one = pd.Series(section, index=measured.index)
            found = interval_coverage(measured, lower, upper, one, n_boot=1)
            found = found.drop(columns=["coverage_lower", "coverage_upper"])
            found["reference_width"] = calibration.reference_widths[0]
            rows.append(
                found.reset_index().assign(fold=name, section=section, donor=donor_of[section], unit=unit_of[section])
            )
    table = pd.concat(rows, ignore_index=True)
    return _result(table, level, max_ratio, within_patient)


def coverage_histogram(found: IntervalResult, ax: Axes) -> None:
    """Draw how the coverage of genes in held-out sections is spread about the nominal level."""
    level = found.facts["level"]
    ax.hist(found.genes["coverage"].dropna().to_numpy(), bins=np.linspace(0.5, 1, 41).tolist(), color="#0072B2")
    ax.axvline(level, color="black")
    ax.set_xlabel(f"coverage of a gene in a held-out section (nominal {level:.0%})")
    ax.set_ylabel("genes × sections")


def _inner_predictions(
    train: list[str],
    unit_of: Mapping[str, str],
    inner_folds: int,
    seed: int,
    fold_of: Any,
    method: FitPredict,
) -> dict[str, DataFrame]:
    """Predictions of every training section by a method that was fitted without its donor."""
    units = np.unique([unit_of[s] for s in train])
    if len(units) < 2:
        raise ValueError(f"intervals need two donors (or sections) in training, got {units.tolist()}")
    part = np.arange(len(units)) % min(inner_folds, len(units))
    part_of = dict(zip(np.random.default_rng(seed).permutation(units).tolist(), part.tolist(), strict=True))
    out: dict[str, DataFrame] = {}
    for p in np.unique(part):
        held = [s for s in train if part_of[unit_of[s]] == p]
        fold = fold_of([s for s in train if s not in held], held)
        out |= checked("method", fold, method(fold))
    return out


def _named(frame: DataFrame, section: str) -> DataFrame:
    return frame.set_axis([f"{section}/{unit}" for unit in frame.index], axis=0)


def _result(table: DataFrame, level: float, max_ratio: float, within_patient: bool) -> IntervalResult:
    by_unit = table.groupby("unit", sort=False)["coverage"].mean()
    mean, low, high = bootstrap_groups(by_unit.to_numpy()[:, None])
    ratio = table["mean_width"] / table["reference_width"]
    useful = ratio < max_ratio
    facts = {
        "level": level,
        "coverage": float(mean[0]),
        "coverage_lower": float(low[0]),
        "coverage_upper": float(high[0]),
        "share_of_genes_between_87_and_93": float(table["coverage"].between(0.87, 0.93).mean()),
        "mean_width": float(table["mean_width"].mean()),
        "width_ratio": float(ratio.mean()),
        "abstained": float(1 - useful.mean()),
        "coverage_where_kept": float(table.loc[useful, "coverage"].mean()) if useful.any() else float("nan"),
        "max_ratio": max_ratio,
        "within_patient": within_patient,
        "n_held_out": len(by_unit),
    }
    sections = table.groupby("section", sort=False)["coverage"].mean().to_dict()
    return IntervalResult(table.drop(columns="unit"), {str(s): float(c) for s, c in sections.items()}, facts)
