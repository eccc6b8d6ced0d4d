"""Intervals by resampling groups (donors), the unit in which tissue is independent."""

from __future__ import annotations

import numpy as np

__all__ = ["bootstrap_groups"]


def bootstrap_groups(
    values: np.ndarray, *, n_boot: int = 1000, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over groups and its percentile interval, expanded for few groups.

    A plain percentile interval is too narrow with few groups; its tails are moved out so that its length is that of a
    Student interval (Hesterberg 2015, section 5.3).

    Parameters
    ----------
    values
        float (groups, k): one score a group; NaN where a group has none, and left out.
    n_boot
        Resamples.
    confidence
        Nominal coverage.
    seed
        Seed of the resamples.

    Returns
    -------
    mean, lower, upper
        float (k,); NaN without any score, and NaN limits with fewer than two groups that have one.

    Raises
    ------
    ValueError
        If ``confidence`` is not between 0 and 1, or ``n_boot`` is not positive.

    References
    ----------
    Hesterberg, The American Statistician 69:371 (2015), doi:10.1080/00031305.2015.1089789.

    Examples
    --------
    >>> import numpy as np
    >>> mean, lower, upper = bootstrap_groups(np.array([[0.2], [0.3], [0.4]]))
    >>> bool(lower[0] < mean[0] < upper[0])
    True
    """
    from scipy.stats import norm, t

    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    if n_boot < 1:
        raise ValueError(f"n_boot must be at least 1, got {n_boot!r}")
    values = np.asarray(values, dtype=float)
    known = np.isfinite(values)
    n = known.sum(axis=0)
    filled = np.where(known, values, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / n
    lower, upper = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(values), np.full(len(values), 1 / max(len(values), 1)), size=n_boot).astype(float)
    enough = np.flatnonzero(n > 1)
    if not len(enough):
        return mean, lower, upper
    with np.errstate(invalid="ignore", divide="ignore"):
        drawn = (weights @ filled[:, enough]) / (weights @ known[:, enough])
    for count in np.unique(n[enough]):
        at = np.flatnonzero(n[enough] == count)
        tail = norm.cdf(np.sqrt(count / (count - 1)) * t.ppf((1 - confidence) / 2, count - 1))
        limits = np.nanquantile(drawn[:, at], [tail, 1 - tail], axis=0)
        lower[enough[at]], upper[enough[at]] = limits
    return mean, lower, upper
