"""``past.bench.nested_intervals``: how often intervals hold what was measured on tissue that had no part in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy.bench._folds import FitPredict, arrange, fresh_fold
from pastpy.bench._loso import checked, choose_genes, training_mean
from pastpy.metrics._bootstrap import bootstrap_groups
from pastpy.metrics._conformal import (
    IntervalCalibration,
    calibrate_intervals,
    conformal_intervals,
    interval_coverage,
)
from pastpy.metrics._gene_sets import log_normalised

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from pandas import DataFrame, Series
    from spatialdata import SpatialData

    from pastpy.bench._folds import Fold

__all__ = ["IntervalResult", "coverage_histogram", "nested_intervals", "width_ratio"]

#: What an interval is compared with.
REFERENCE = "conformal interval of the same level around the training mean of the gene"


@dataclass(frozen=True)
class IntervalResult:
    """Coverage of nested conformal intervals.

    Attributes
    ----------
    genes
        A row a held-out section and gene: ``fold``, ``section``, ``donor``, ``gene``, ``coverage``, ``zeros``,
        ``mean_width``, ``reference_width`` (of the interval around the gene's training mean, calibrated on and cut at
        zero for the same units), ``n``, ``share_predicted``, the share of measured units that the method predicts.
    sections
        Section → mean coverage over genes.
    facts
        Plain values: level, overall coverage with its interval over donors (sections, within a patient), abstention,
        ``share_predicted``;
        ``width_ratio``: width over that around the training mean, so 1 for a method that says no more than that.

    Examples
    --------
    >>> import pastpy as past
    >>> found = past.bench.nested_intervals(sections, method, donors=donors)  # doctest: +SKIP
    >>> found.genes.groupby("gene")["coverage"].mean()  # doctest: +SKIP
    """

    genes: DataFrame
    sections: Mapping[str, float]
    facts: Mapping[str, Any]


def nested_intervals(
    sections: Mapping[str, SpatialData],
    method: FitPredict,
    *,
    donors: Mapping[str, Any] | Series | None = None,
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
    image_key: str | None = None,
    seed: int = 0,
) -> IntervalResult:
    """Measure the coverage of conformal intervals: calibrated inside the training sections, judged outside.

    For each fold, the method is fitted again and again without some of the training donors (sections, within a
    patient); its errors there set the width of the intervals around its predictions of the held-out sections. What a
    prediction is worth is told by the same kind of interval around the training mean of the gene. A unit that the
    method leaves NaN counts, inside and outside, as if it had predicted that mean. Inner folds are named after their
    fold and part (``"P1 inner 0"``), so that a model can be kept for each.

    Parameters
    ----------
    sections, donors, hold_out, within_patient, folds, table_key, layer, genes, n_genes, min_detected, image_key
        As in :func:`pastpy.bench.run_loso`.
    method
        The method, as for :func:`pastpy.bench.run_loso`.
    inner_folds
        At most so many parts of the training donors (sections); each is left out once.
    level
        Nominal level.
    max_ratio
        Abstain where an interval is not narrower than this part of the interval around the training mean.
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

    donor_of, names, own, tables = arrange(
        sections,
        donors,
        hold_out=hold_out,
        within_patient=within_patient,
        folds=folds,
        table_key=table_key,
        layer=layer,
    )
    unit_of = {s: s if within_patient else donor_of[s] for s in tables}
    genes_of = {
        name: choose_genes(name, tables, train, test, genes, n_genes, min_detected, layer)
        for name, (train, test) in names.items()
    }
    rows = []
    for name, (train, test) in names.items():
        opened = partial(
            fresh_fold, sections=own, genes=genes_of[name], donors=donor_of, table_key=table_key, layer=layer,
            image_key=image_key,
        )  # fmt: skip
        both_ways = partial(_predictions, method, opened, tables, genes_of[name], layer)
        parts = _parts(train, unit_of, inner_folds, seed)
        inner = [both_ways(f"{name} inner {i}", *part)[:2] for i, part in enumerate(parts)]
        truth = {s: log_normalised(tables[s], genes_of[name], layer=layer) for s in (*train, *test)}
        calibrations = [
            _calibrated({s: f for part in inner for s, f in part[i].items()}, truth, unit_of, level, within_patient)
            for i in range(2)
        ]
        found, plain, said = both_ways(name, train, test)
        for section in test:
            judged, reference = (
                _judged(frames[section], truth[section], calibration, level)
                for frames, calibration in zip((found, plain), calibrations, strict=True)
            )
            judged["reference_width"] = reference["mean_width"]
            known = truth[section].notna()
            judged["share_predicted"] = (said[section] & known).sum() / known.sum()
            rows.append(
                judged.reset_index().assign(fold=name, section=section, donor=donor_of[section], unit=unit_of[section])
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


def width_ratio(genes: DataFrame) -> Series:
    """Width over that of the interval around the training mean, of the rows of :attr:`IntervalResult.genes`.

    NaN where the latter has no width, so that nothing can be narrower.
    """
    return genes["mean_width"] / genes["reference_width"].where(genes["reference_width"] > 0)


def _parts(
    train: list[str], unit_of: Mapping[str, str], inner_folds: int, seed: int
) -> list[tuple[list[str], list[str]]]:
    """Training sections split again: (fitted on, left out), no donor (section, within a patient) on both sides."""
    units = np.unique([unit_of[s] for s in train])
    if len(units) < 2:
        raise ValueError(f"intervals need two donors (or sections) in training, got {units.tolist()}")
    part = np.arange(len(units)) % min(inner_folds, len(units))
    part_of = dict(zip(np.random.default_rng(seed).permutation(units).tolist(), part.tolist(), strict=True))
    left_out = [[s for s in train if part_of[unit_of[s]] == p] for p in np.unique(part)]
    return [([s for s in train if s not in held], held) for held in left_out]


def _predictions(
    method: FitPredict,
    opened: Callable[..., Fold],
    tables: Mapping[str, AnnData],
    genes: list[str],
    layer: str | None,
    name: str,
    train: list[str],
    test: list[str],
) -> tuple[dict[str, DataFrame], dict[str, DataFrame], dict[str, DataFrame]]:
    """What a method predicts of the sections ``test``, the training mean of the same units, and where it predicts."""
    units = {s: tables[s].obs_names for s in test}
    found = checked("method", name, units, genes, method(opened(name, train=train, test=test)))
    mean = training_mean({s: tables[s] for s in train}, genes, layer=layer)
    # of a unit that is left out, the method knows no more than the training sections tell
    return (
        {s: frame.fillna(mean) for s, frame in found.items()},
        {s: (frame.fillna(0.0) * 0.0).add(mean) for s, frame in found.items()},
        {s: frame.notna() for s, frame in found.items()},
    )


def _calibrated(
    predicted: Mapping[str, DataFrame],
    truth: Mapping[str, DataFrame],
    unit_of: Mapping[str, str],
    level: float,
    within_patient: bool,
) -> IntervalCalibration:
    import pandas as pd

    named = {s: _named(frame, s) for s, frame in predicted.items()}
    return calibrate_intervals(
        pd.concat(list(named.values())),
        pd.concat([_named(truth[s], s) for s in named]),
        pd.Series({unit: unit_of[s] for s, frame in named.items() for unit in frame.index}),
        levels=(level,),
        within_patient=within_patient,
    )


def _judged(predicted: DataFrame, measured: DataFrame, calibration: IntervalCalibration, level: float) -> DataFrame:
    """Coverage and width of the intervals around predictions of one section, a row a gene."""
    import pandas as pd

    lower, upper = conformal_intervals(predicted, calibration, level=level)
    one = pd.Series("all", index=measured.index)
    found = interval_coverage(measured, lower, upper, one, n_boot=1)
    return found.drop(columns=["coverage_lower", "coverage_upper"])


def _named(frame: DataFrame, section: str) -> DataFrame:
    return frame.set_axis([f"{section}/{unit}" for unit in frame.index], axis=0)


def _result(table: DataFrame, level: float, max_ratio: float, within_patient: bool) -> IntervalResult:
    by_unit = table.groupby("unit", sort=False)["coverage"].mean()
    mean, low, high = bootstrap_groups(by_unit.to_numpy()[:, None])
    ratio = width_ratio(table)
    useful = ratio < max_ratio
    facts = {
        "level": level,
        "coverage": float(mean[0]),
        "coverage_lower": float(low[0]),
        "coverage_upper": float(high[0]),
        "share_of_genes_between_87_and_93": float(table["coverage"].between(0.87, 0.93).mean()),
        "mean_width": float(table["mean_width"].mean()),
        "width_ratio": float(ratio.mean()),
        "share_predicted": float(table["share_predicted"].mean()),
        "units_left_out": "scored as the gene's mean over the training units",
        "reference": REFERENCE,
        "abstained": float(1 - useful.mean()),
        "coverage_where_kept": float(table.loc[useful, "coverage"].mean()) if useful.any() else float("nan"),
        "max_ratio": max_ratio,
        "within_patient": within_patient,
        "n_held_out": len(by_unit),
    }
    sections = table.groupby("section", sort=False)["coverage"].mean().to_dict()
    return IntervalResult(table.drop(columns="unit"), {str(s): float(c) for s, c in sections.items()}, facts)
