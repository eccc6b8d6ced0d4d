"""Scores of columns: correlation, detection and count deviance, with a reason where there is no score."""

from __future__ import annotations

import numpy as np

__all__ = [
    "CONSTANT_MEASURED",
    "CONSTANT_PREDICTED",
    "FEW",
    "auroc",
    "column_scores",
    "is_constant",
    "nb_deviance",
    "nb_theta",
    "pearson",
    "silence_as_zero",
    "varies",
]

#: Units needed for a correlation.
MIN_UNITS = 3
FEW = f"fewer than {MIN_UNITS} units"
CONSTANT_MEASURED = "constant in measured"
CONSTANT_PREDICTED = "constant in predicted"
#: Bounds of the inverse dispersion: beyond them the negative binomial is degenerate or a Poisson.
THETA_RANGE = (1e-2, 1e4)


def is_constant(values: np.ndarray) -> np.ndarray:
    """Whether values differ by no more than rounding makes them, along the first axis.

    Parameters
    ----------
    values
        Finite float (n, ...), n at least 1.
    """
    # relative, so that small values may vary and large constants do not; a few thousand times the float64 precision
    return np.ptp(values, axis=0) <= 1e-12 * np.abs(values).max(axis=0)


def pearson(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation of two vectors; NaN with fewer than three values or a constant one.

    Parameters
    ----------
    x, y
        Finite float (n,).
    """
    if len(x) < MIN_UNITS:
        return float("nan")
    if is_constant(x) or is_constant(y):
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(np.clip(x @ y / (np.sqrt(x @ x) * np.sqrt(y @ y)), -1.0, 1.0))


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive unit scores above a negative one, ties counted half; NaN if there is only one kind.

    Parameters
    ----------
    score
        Finite float (n,).
    positive
        bool (n,).

    References
    ----------
    Hanley & McNeil, Radiology 143:29 (1982), doi:10.1148/radiology.143.1.7063747.
    """
    from scipy.stats import rankdata

    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return float("nan")
    above = rankdata(score)[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * n_negative))


def column_scores(predicted: np.ndarray, measured: np.ndarray) -> dict[str, np.ndarray]:
    """Score every column; rows with NaN in either are left out, column by column.

    Parameters
    ----------
    predicted, measured
        float (n, k).

    Returns
    -------
    Arrays (k,): ``pearson``, ``spearman``, ``mse``, ``auroc`` (of ``measured > 0``), ``n``, and ``reason``, which is
    empty where the correlations are defined.
    """
    from scipy.stats import rankdata

    n_columns = predicted.shape[1]
    out = {name: np.full(n_columns, np.nan) for name in ("pearson", "spearman", "mse", "auroc")}
    n, reason = np.zeros(n_columns, dtype=np.int64), np.full(n_columns, "", dtype=object)
    both = np.isfinite(predicted) & np.isfinite(measured)
    for j in range(n_columns):
        x, y = predicted[both[:, j], j], measured[both[:, j], j]
        n[j], reason[j] = len(x), _reason(x, y)
        if not len(x):
            continue
        out["mse"][j] = np.mean((x - y) ** 2)
        out["auroc"][j] = auroc(x, y > 0)
        if not reason[j]:
            out["pearson"][j] = pearson(x, y)
            out["spearman"][j] = pearson(rankdata(x), rankdata(y))
    return {**out, "n": n, "reason": reason}


def varies(values: np.ndarray) -> np.ndarray:
    """Which columns have enough known values for a correlation, and not all the same, bool (k,).

    Parameters
    ----------
    values
        float (n, k); NaN where unknown.
    """
    known = (column[np.isfinite(column)] for column in values.T)
    return np.array([not _reason(v, v) for v in known], dtype=bool)


def silence_as_zero(correlation: np.ndarray, measured_varies: np.ndarray) -> np.ndarray:
    """Correlations with 0 where only the prediction is to blame that there is none.

    Where no column has one, nothing is made up: there was nothing to be silent on selectively.

    Parameters
    ----------
    correlation
        float (k,); NaN where there is none.
    measured_varies
        bool (k,): the measurement allows a correlation, as :func:`varies` tells or a reason that blames the prediction.
    """
    if not np.isfinite(correlation).any():
        return correlation
    return np.where(np.isnan(correlation) & measured_varies, 0.0, correlation)


def nb_theta(counts: np.ndarray, mu: np.ndarray) -> np.ndarray:
    """Inverse dispersion of every column by the method of moments, float (k,), within 0.01–10,000.

    Parameters
    ----------
    counts
        float (n, k); NaN where unknown.
    mu
        float (n, k), expected counts.
    """
    known = np.isfinite(counts) & np.isfinite(mu)
    y, m = np.where(known, counts, 0.0), np.where(known, mu, 0.0)
    excess = ((y - m) ** 2 - y).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = (m**2).sum(axis=0) / excess
    # no more spread than counting gives: a Poisson
    return np.clip(np.where(excess > 0, theta, THETA_RANGE[1]), *THETA_RANGE)


def nb_deviance(counts: np.ndarray, mu: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Unit deviance of negative binomial counts, float (n, k), for a variance of mu + mu²/theta.

    Parameters
    ----------
    counts
        float (n, k), non-negative.
    mu
        float (n, k), positive; where infinite, the deviance is too.
    theta
        float (k,), positive.

    References
    ----------
    McCullagh & Nelder, Generalized Linear Models, 2nd ed. (1989), doi:10.1007/978-1-4899-3242-6.
    """
    from scipy.special import xlogy

    with np.errstate(invalid="ignore", divide="ignore"):
        deviance = 2 * (xlogy(counts, counts / mu) - (counts + theta) * np.log((counts + theta) / (mu + theta)))
    # the formula takes one infinity from another there
    return np.where(np.isposinf(mu), np.inf, deviance)


def _reason(x: np.ndarray, y: np.ndarray) -> str:
    if len(x) < MIN_UNITS:
        return FEW
    if is_constant(y):
        return CONSTANT_MEASURED
    return CONSTANT_PREDICTED if is_constant(x) else ""
