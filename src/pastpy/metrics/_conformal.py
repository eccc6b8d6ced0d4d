"""Conformal prediction intervals: as wide as the errors on donors (or sections) that the model had not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy.metrics._bootstrap import bootstrap_groups
from pastpy.metrics._expression import aligned, group_labels

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["IntervalCalibration", "calibrate_intervals", "conformal_intervals", "interval_coverage"]

#: Levels at which half-widths are kept.
LEVELS = (0.5, 0.8, 0.9, 0.95)
#: Units from which on a group counts as much as any other; fewer do not tell how far its errors reach.
FULL_GROUP = 30
#: Groups below which intervals are said to be too narrow where groups differ.
FEW_GROUPS = 10


@dataclass(frozen=True)
class IntervalCalibration:
    """Half-widths of intervals for every gene, from errors on held-out groups.

    Attributes
    ----------
    genes
        Names of the genes.
    levels
        Nominal levels, rising.
    half_widths
        float64 (levels, genes): in log1p expression, or in units of the predictive sd if ``scaled``; infinite where
        there were too few errors for the level, NaN for genes without any.
    reference_widths
        float64 (levels, genes): width of the interval of the same kind around the mean of the *measured* values, what
        one would say without a prediction.
    scaled
        Whether half-widths multiply a predictive standard deviation.
    groups
        The held-out groups.
    n
        int64 (genes,): errors used.
    statement
        What the intervals hold for.

    Examples
    --------
    >>> import pastpy as past
    >>> import pandas as pd
    >>> y = pd.DataFrame({"ERBB2": [1.0, 2.0, 3.0, 4.0]})
    >>> calibration = past.metrics.calibrate_intervals(y, y + 0.5, pd.Series(list("aabb")), levels=(0.5,))
    >>> float(past.metrics.IntervalCalibration.from_dict(calibration.to_dict()).half_widths[0, 0])
    0.5
    """

    genes: tuple[str, ...]
    levels: tuple[float, ...]
    half_widths: np.ndarray
    reference_widths: np.ndarray
    scaled: bool
    groups: tuple[str, ...]
    n: np.ndarray
    statement: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a model card; an infinite or unknown half-width is ``None``."""
        return {
            "genes": list(self.genes),
            "levels": list(self.levels),
            "half_widths": [[float(v) if np.isfinite(v) else None for v in row] for row in self.half_widths],
            "reference_widths": [[float(v) if np.isfinite(v) else None for v in row] for row in self.reference_widths],
            "scaled": self.scaled,
            "groups": list(self.groups),
            "n": self.n.tolist(),
            "statement": self.statement,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IntervalCalibration:
        """The calibration that :meth:`to_dict` described; ``None`` becomes infinite where there were errors, else NaN.

        Raises
        ------
        ValueError
            If an entry is missing, or lengths do not fit.
        """
        missing = [name for name in cls.__dataclass_fields__ if name not in values]
        if missing:
            raise ValueError(f"the calibration lacks {missing}; make it with pastpy.metrics.calibrate_intervals")
        n = np.asarray(values["n"], dtype=np.int64)
        unknown = np.where(n > 0, np.inf, np.nan)
        half, reference = (
            np.array(
                [[u if v is None else v for v, u in zip(row, unknown, strict=True)] for row in values[name]], float
            )
            for name in ("half_widths", "reference_widths")
        )
        genes, levels = tuple(map(str, values["genes"])), tuple(map(float, values["levels"]))
        if half.shape != (len(levels), len(genes)) or reference.shape != half.shape:
            raise ValueError(f"half-widths have shape {half.shape}, expected {(len(levels), len(genes))}")
        groups = tuple(map(str, values["groups"]))
        return cls(genes, levels, half, reference, bool(values["scaled"]), groups, n, str(values["statement"]))

    def row(self, level: float) -> int:
        """Position of a level.

        Raises
        ------
        ValueError
            If there are no half-widths at this level.
        """
        if level not in self.levels:
            raise ValueError(f"level={level!r} was not calibrated; the levels are {list(self.levels)}")
        return self.levels.index(level)


def calibrate_intervals(
    predicted: pd.DataFrame,
    measured: pd.DataFrame,
    groups: pd.Series | Mapping[Any, str],
    *,
    sd: pd.DataFrame | None = None,
    levels: Sequence[float] = LEVELS,
    within_patient: bool = False,
) -> IntervalCalibration:
    """Learn how wide intervals must be from the errors on groups that the model had not seen.

    Parameters
    ----------
    predicted, measured
        Frames (units × genes) of log1p expression. Every unit's prediction must come from a model that was fitted
        without its group.
    groups
        Donor (section, within a patient) of every unit. Each counts the same, so that one large donor does not set the
        width; one with fewer than 30 units of a gene counts in proportion, so that a handful does not either.
    sd
        Predictive standard deviations (units × genes), positive; widths then follow them.
    levels
        Nominal levels, between 0 and 1.
    within_patient
        The groups are sections of one patient: the intervals hold for further sections of it, and say so.

    Returns
    -------
    Half-widths by split conformal prediction, gene by gene.

    Raises
    ------
    ValueError
        If a unit has no group, there are fewer than two groups, a level is not between 0 and 1, or a standard deviation
        is not positive.

    Notes
    -----
    The half-width is a quantile of the absolute errors, their distributions pooled over groups (CDF pooling of Dunn et
    al.), at level · (1 + 1/n), n being the effective number of errors, (Σw)² / Σw² of their weights w. With groups of
    one size and units that are exchangeable across groups, this is split conformal prediction and its guarantee. Where
    groups differ, coverage of a new group's units nears the level only as groups become many: errors whose shift from
    donor to donor had 1.75 times the standard deviation of those within covered 82 % of a nominal 90 % with 2 donors,
    84 % with 3, 86 % with 5, 88 % with 10, 89 % with 18. Drawing one unit a group (their single subsampling) keeps a
    guarantee with any number of groups, but is infinite at 90 % with fewer than nine.

    References
    ----------
    Papadopoulos et al., ECML 2002, doi:10.1007/3-540-36755-1_29 (inductive conformal regression); Dunn, Wasserman &
    Ramdas, JASA 118:2491 (2023), doi:10.1080/01621459.2022.2060112 (units within groups); Boström, COPA 2022, PMLR
    179:24 (the package crepes).

    Examples
    --------
    >>> import pastpy as past
    >>> import numpy as np, pandas as pd
    >>> y = pd.DataFrame({"ERBB2": np.random.default_rng(0).normal(3, 1, 400)})
    >>> calibration = past.metrics.calibrate_intervals(y * 0 + 3, y, pd.Series(["P1", "P2"] * 200))
    >>> float(calibration.half_widths[calibration.row(0.9), 0].round(1))
    1.5
    """
    wrong = [level for level in levels if not 0 < level < 1]
    if wrong:
        raise ValueError(f"levels are shares between 0 and 1, such as 0.9 for 90 %, got {wrong}")
    p, m = aligned(predicted, measured, None)
    names, group = np.unique(group_labels(groups, p.index), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"intervals need errors on at least two groups, got {names.tolist()}")
    residual = (m - p).to_numpy()
    scale = np.ones_like(residual)
    if sd is not None:
        scale = sd.loc[p.index, p.columns].to_numpy(dtype=float)
        if (scale[np.isfinite(residual)] <= 0).any():
            raise ValueError("sd must be positive where there is a prediction")
    half, reference, n = _half_widths(residual, scale, m.to_numpy(), group, levels)
    kind = "further sections of the same patient" if within_patient else "units of a new donor"
    statement = f"intervals hold for {kind}, averaged over units, from errors on {len(names)} left-out groups"
    if len(names) < FEW_GROUPS:
        statement += "; so few cover less than the nominal level where groups differ"
    return IntervalCalibration(
        tuple(map(str, p.columns)), tuple(levels), half, reference, sd is not None, tuple(names.tolist()), n, statement
    )


def conformal_intervals(
    predicted: pd.DataFrame, calibration: IntervalCalibration, *, level: float = 0.9, sd: pd.DataFrame | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lower and upper end of the interval of every value, cut at zero expression.

    Parameters
    ----------
    predicted
        Frame (units × genes) of log1p expression.
    calibration
        For the same model and unit.
    level
        One of the calibrated levels.
    sd
        Predictive standard deviations, if the calibration is of scaled errors.

    Returns
    -------
    Two frames like ``predicted``; NaN for genes without calibration.

    Raises
    ------
    ValueError
        If the level was not calibrated, or ``sd`` is missing or not wanted.

    Examples
    --------
    >>> import pastpy as past
    >>> import numpy as np, pandas as pd
    >>> y = pd.DataFrame({"ERBB2": np.random.default_rng(0).normal(3, 1, 400)})
    >>> calibration = past.metrics.calibrate_intervals(y * 0 + 3, y, pd.Series(["P1", "P2"] * 200))
    >>> lower, upper = past.metrics.conformal_intervals(pd.DataFrame({"ERBB2": [1.0]}), calibration)
    >>> float(lower.iloc[0, 0])
    0.0
    """
    import pandas as pd

    if calibration.scaled != (sd is not None):
        raise ValueError(
            "the calibration is of errors in units of the predictive sd; pass sd="
            if calibration.scaled
            else "the calibration is of plain errors; leave sd= out"
        )
    half = pd.Series(calibration.half_widths[calibration.row(level)], index=list(calibration.genes))
    width = half.reindex(predicted.columns).to_numpy()
    if sd is not None:
        width = width * sd.loc[predicted.index, predicted.columns].to_numpy(dtype=float)
    centre = predicted.to_numpy(dtype=float)
    lower, upper = np.maximum(centre - width, 0.0), np.maximum(centre + width, 0.0)
    return tuple(pd.DataFrame(v, index=predicted.index, columns=predicted.columns) for v in (lower, upper))  # type: ignore[return-value]


def interval_coverage(
    measured: pd.DataFrame,
    lower: pd.DataFrame,
    upper: pd.DataFrame,
    groups: pd.Series | Mapping[Any, str],
    *,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """How often intervals hold what was measured, gene by gene.

    Parameters
    ----------
    measured, lower, upper
        Frames (units × genes); values with NaN in any are left out.
    groups
        Donor or section of every unit; coverage is averaged over them, with an interval (Student's over 3–7, a
        bootstrap from 8 on).
    n_boot, confidence, seed
        Of that interval.

    Returns
    -------
    Row a gene: ``coverage``, ``coverage_lower``, ``coverage_upper``, ``zeros`` (share of measured zeros: where it nears
    the level, no interval that reaches zero can cover less), ``mean_width``, ``n``.

    Raises
    ------
    ValueError
        If a unit has no group.

    Examples
    --------
    >>> import pastpy as past
    >>> import pandas as pd
    >>> y = pd.DataFrame({"ERBB2": [1.0, 2.0, 9.0, 2.0]})
    >>> past.metrics.interval_coverage(y, y * 0, y * 0 + 3, pd.Series(list("aabb")))["coverage"].tolist()
    [0.75]
    """
    import pandas as pd

    y, low = aligned(measured, lower, None)
    high = upper.loc[y.index, y.columns].to_numpy(dtype=float)
    known = np.isfinite(y.to_numpy()) & np.isfinite(low.to_numpy()) & ~np.isnan(high)
    inside = np.where(known, (y.to_numpy() >= low.to_numpy() - 1e-9) & (y.to_numpy() <= high + 1e-9), np.nan)
    labels = group_labels(groups, y.index)
    per_group = pd.DataFrame(inside, index=y.index).groupby(labels).mean().to_numpy()
    mean, bottom, top = bootstrap_groups(per_group, n_boot=n_boot, confidence=confidence, seed=seed)
    n = known.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        zeros = (known & (y.to_numpy() == 0)).sum(axis=0) / n
        width = np.where(known, high - low.to_numpy(), 0.0).sum(axis=0) / n
    return pd.DataFrame(
        {
            "coverage": mean, "coverage_lower": bottom, "coverage_upper": top, "zeros": zeros, "mean_width": width,
            "n": n,
        },
        index=pd.Index(y.columns, name="gene"),
    )  # fmt: skip


def _half_widths(
    residual: np.ndarray, scale: np.ndarray, truth: np.ndarray, group: np.ndarray, levels: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half-widths and widths without a prediction, float (levels, genes), and the errors behind them."""
    level = np.asarray(levels, dtype=float)
    half, reference = (np.full((len(level), residual.shape[1]), np.nan) for _ in range(2))
    known = np.isfinite(residual) & np.isfinite(scale)
    n = known.sum(axis=0)
    for gene in np.flatnonzero(n):
        at = known[:, gene]
        half[:, gene] = _half_width(residual[at, gene] / scale[at, gene], group[at], level)
        mean = _levelled(truth[at, gene], group[at]).mean()
        alone = _half_width(truth[at, gene] - mean, group[at], level)
        # as intervals around predictions are: cut at zero expression
        reference[:, gene] = alone + np.minimum(alone, mean)
    return half, reference, n


def _half_width(errors: np.ndarray, group: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Half-width at every level, float (levels,), by crepes from errors of groups that count the same."""
    from crepes import ConformalRegressor

    weight = 1 / np.maximum(np.bincount(group), FULL_GROUP)[group]
    # errors that there effectively are (Kish); the value to come is one more, as large as can be
    effective = weight.sum() ** 2 / (weight**2).sum()
    pooled = _levelled(np.abs(errors), group)
    regressor, n = ConformalRegressor().fit(pooled), len(pooled)
    half = np.full(len(level), np.inf)
    for i, one in enumerate(level):
        beyond = 1 - one * (1 + 1 / effective)
        if beyond < -1e-9:
            continue  # no finite width can promise the level
        # crepes takes the repeated errors for so many; of them the share that may lie beyond stays what it is. Its
        # rounding must not ask for one error more.
        confidence = 1 - (n * beyond + 1 + 1e-6) / (n + 1)
        half[i] = regressor.predict_int(np.zeros(1), confidence=confidence)[0][1]
    return half


def _levelled(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Values of every group, evenly spaced in its order, as many of each; of a group of few in proportion."""
    sizes = np.bincount(group)
    share = np.minimum(sizes, FULL_GROUP) / min(sizes.max(), FULL_GROUP)
    parts = []
    for one in np.flatnonzero(sizes):
        own, count = np.sort(values[group == one]), max(1, round(sizes.max() * share[one]))
        parts.append(own[((np.arange(count) + 0.5) * len(own) / count).astype(int)])
    return np.concatenate(parts)
