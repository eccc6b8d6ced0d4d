"""Distance of tissue from what a model was trained on, in feature space, calibrated on training groups left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["FeatureReference", "Shift", "distance_shift", "feature_distance", "feature_reference", "feature_shift"]

#: Levels at which the distances of left-out training units are kept.
LEVELS: np.ndarray = np.r_[np.arange(0.0, 0.9, 0.05), np.arange(0.9, 1.0, 0.01), 0.995, 0.999].round(4)


@dataclass(frozen=True)
class FeatureReference:
    """The features that a model was trained on: centre, spread, and how far left-out training units lie.

    Attributes
    ----------
    mean
        float64 (d,).
    covariance
        float64 (d, d), shrunk towards a multiple of the identity.
    quantiles
        float64 (levels,): quantiles, at :data:`LEVELS`, of the distance of training units to a reference made without
        their group; every group weighs the same.
    shares
        float64 (groups,): of each left-out group, the share of units beyond the 95 % quantile of the *other* groups'
        left-out distances: what unseen tissue of the training's kind looks like.
    groups
        Names of the groups.
    n
        Units it was made from.

    Examples
    --------
    >>> import numpy as np, pastpy as past
    >>> x = np.random.default_rng(0).normal(size=(40, 2))
    >>> reference = past.metrics.feature_reference(x, np.repeat(["a", "b"], 20))
    >>> past.metrics.FeatureReference.from_dict(reference.to_dict()).n
    40
    """

    mean: np.ndarray
    covariance: np.ndarray
    quantiles: np.ndarray
    shares: np.ndarray
    groups: tuple[str, ...]
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a model card; the covariance as its upper triangle."""
        return {
            "feature_mean": self.mean.tolist(),
            "feature_covariance": self.covariance[np.triu_indices(len(self.mean))].tolist(),
            "distance_levels": LEVELS.tolist(),
            "distance_quantiles": self.quantiles.tolist(),
            "group_shares": self.shares.tolist(),
            "groups": list(self.groups),
            "n": self.n,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureReference:
        """The reference that :meth:`to_dict` described.

        Raises
        ------
        ValueError
            If an entry is missing, lengths do not fit, or the levels are other ones.
        """
        entries = ("feature_mean", "feature_covariance", "distance_levels", "distance_quantiles", "group_shares")
        missing = [name for name in (*entries, "groups", "n") if name not in values]
        if missing:
            raise ValueError(f"the feature reference lacks {missing}; make it with pastpy.metrics.feature_reference")
        mean = np.asarray(values["feature_mean"], dtype=float)
        d = len(mean)
        triangle = np.asarray(values["feature_covariance"], dtype=float)
        levels, quantiles = (np.asarray(values[k], dtype=float) for k in ("distance_levels", "distance_quantiles"))
        if (
            triangle.shape != (d * (d + 1) // 2,)
            or not np.array_equal(levels, LEVELS)
            or quantiles.shape != levels.shape
        ):
            raise ValueError("the feature reference does not fit this release: other lengths or levels; make it anew")
        covariance = np.zeros((d, d))
        covariance[np.triu_indices(d)] = triangle
        covariance += np.triu(covariance, 1).T
        shares = np.asarray(values["group_shares"], dtype=float)
        return cls(mean, covariance, quantiles, shares, tuple(map(str, values["groups"])), int(values["n"]))


@dataclass(frozen=True)
class Shift:
    """How far a set of units lies from the training data.

    Attributes
    ----------
    share_beyond
        Share of units farther than 95 % of left-out training units; about 0.05 for tissue like the training's.
    limit
        The share from which on the tissue counts as far.
    percentile
        Median over units of the percentile (0–100) of their distance among left-out training units.
    n
        Units with features.

    Examples
    --------
    >>> import pastpy as past
    >>> past.metrics.Shift(share_beyond=0.4, limit=0.2, percentile=93.0, n=100).far
    True
    """

    share_beyond: float
    limit: float
    percentile: float
    n: int

    @property
    def far(self) -> bool:
        """Whether more units lie beyond than in any tissue of the training's kind."""
        return bool(self.share_beyond > self.limit)

    @property
    def message(self) -> str:
        """One sentence for a warning."""
        verdict = "far from" if self.far else "like"
        return (
            f"this tissue looks {verdict} what the model was trained on: {self.share_beyond:.0%} of its {self.n} "
            "units look stranger to it than 19 of 20 training units that were held out (in tissue of the training's "
            f"kind at most {self.limit:.0%} do)"
        )


def feature_reference(features: np.ndarray, groups: np.ndarray) -> FeatureReference:
    """Describe the pooled features of the training units.

    Distances of units to a reference that was fitted on them are too small, the more so the more features there are;
    so each group's distances are taken to a reference made from the other groups.

    Parameters
    ----------
    features
        float (n, d); rows with NaN are left out.
    groups
        (n,) donor or section of every unit, at least two different ones.

    Raises
    ------
    ValueError
        If there are fewer than two groups, or one has a single unit.

    References
    ----------
    Ledoit & Wolf, J Multivariate Analysis 88:365 (2004), doi:10.1016/S0047-259X(03)00096-4 (covariance). Lee et al.,
    NeurIPS 2018, arXiv:1807.03888 (Mahalanobis distance for unfamiliar inputs).

    Examples
    --------
    >>> import numpy as np, pastpy as past
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> reference = past.metrics.feature_reference(x, np.repeat(["a", "b"], 100))
    >>> past.metrics.feature_shift(x + 9.0, reference).far
    True
    """
    features, groups = np.asarray(features, dtype=float), np.asarray(groups).astype(str)
    if features.ndim != 2 or len(features) != len(groups):
        raise ValueError(f"features must be (n, d) with a group a row, got {features.shape} and {groups.shape}")
    known = np.isfinite(features).all(axis=1)
    features, groups = features[known], groups[known]
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2 or sizes.min() < 2:
        raise ValueError(f"at least two groups of two units are needed to calibrate, got sizes {sizes.tolist()}")
    left_out = {}
    for name in names:
        mean, covariance = _moments(features[groups != name])
        left_out[name] = _distance(features[groups == name], mean, covariance)
    shares = []
    for name in names:
        limit = _pooled_quantiles([d for other, d in left_out.items() if other != name], np.array([0.95]))[0]
        shares.append(float((left_out[name] > limit).mean()))
    mean, covariance = _moments(features)
    quantiles = _pooled_quantiles(list(left_out.values()), LEVELS)
    return FeatureReference(mean, covariance, quantiles, np.array(shares), tuple(names.tolist()), len(features))


def feature_distance(features: np.ndarray, reference: FeatureReference) -> np.ndarray:
    """Mahalanobis distance of every row to the reference, float64 (n,); NaN where a feature is NaN.

    Raises
    ------
    ValueError
        If the number of features is another one.

    Examples
    --------
    >>> import numpy as np, pastpy as past
    >>> x = np.random.default_rng(0).normal(size=(40, 2))
    >>> reference = past.metrics.feature_reference(x, np.repeat(["a", "b"], 20))
    >>> float(past.metrics.feature_distance(reference.mean[None], reference)[0])
    0.0
    """
    features = np.asarray(features, dtype=float)
    if features.ndim != 2 or features.shape[1] != len(reference.mean):
        raise ValueError(f"features have shape {features.shape}; the reference has {len(reference.mean)} features")
    return _distance(features, reference.mean, reference.covariance)


def feature_shift(features: np.ndarray, reference: FeatureReference, *, margin: float = 0.1) -> Shift:
    """Judge whether more units lie far out than in tissue of the training's kind.

    Parameters
    ----------
    features
        float (n, d), pooled as for the reference.
    reference
        Of the training data.
    margin
        The limit is the highest share that a left-out training group had, plus this.

    Raises
    ------
    ValueError
        If no row is without NaN, or the number of features is another one.

    Examples
    --------
    >>> import numpy as np, pastpy as past
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> past.metrics.feature_shift(x, past.metrics.feature_reference(x, np.repeat(["a", "b"], 100))).far
    False
    """
    return distance_shift(feature_distance(features, reference), reference, margin=margin)


def distance_shift(distance: np.ndarray, reference: FeatureReference, *, margin: float = 0.1) -> Shift:
    """As :func:`feature_shift`, from what :func:`feature_distance` gave.

    Parameters
    ----------
    distance
        float (n,), NaN where a unit has no features.
    reference
        Of the training data.
    margin
        The limit is the highest share that a left-out training group had, plus this.

    Raises
    ------
    ValueError
        If all are NaN.

    Examples
    --------
    >>> import numpy as np, pastpy as past
    >>> x = np.random.default_rng(0).normal(size=(40, 2))
    >>> reference = past.metrics.feature_reference(x, np.repeat(["a", "b"], 20))
    >>> past.metrics.distance_shift(np.zeros(3), reference).far
    False
    """
    distance = distance[np.isfinite(distance)]
    if not len(distance):
        raise ValueError("no unit has features: all rows hold NaN")
    beyond = reference.quantiles[np.searchsorted(LEVELS, 0.95)]
    percentile = 100 * np.interp(distance, reference.quantiles, LEVELS)
    limit = min(float(reference.shares.max()) + margin, 1.0 - 1e-9)
    return Shift(float((distance > beyond).mean()), limit, float(np.median(percentile)), len(distance))


def _moments(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.covariance import ledoit_wolf

    # shrinkage pulls all variances together, so it is done on a common scale
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > 1e-12 * max(scale.max(), 1e-300), scale, max(scale.max(), 1.0))
    covariance = ledoit_wolf((features - centre) / scale, assume_centered=True)[0]
    # features without any spread would make every other value infinitely far
    covariance[np.diag_indices_from(covariance)] += 1e-6
    return centre, covariance * scale[:, None] * scale


def _distance(features: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    from scipy.linalg import cholesky, solve_triangular

    out = np.full(len(features), np.nan)
    known = np.isfinite(features).all(axis=1)
    scale = np.sqrt(np.diag(covariance))
    factor = cholesky(covariance / (scale[:, None] * scale), lower=True)
    z = solve_triangular(factor, ((features[known] - mean) / scale).T, lower=True)
    out[known] = np.sqrt((z**2).sum(axis=0))
    return out


def _pooled_quantiles(parts: list[np.ndarray], levels: np.ndarray) -> np.ndarray:
    """Quantiles of all parts together, every part with the same weight."""
    values = np.concatenate(parts)
    weight = np.concatenate([np.full(len(p), 1 / (len(p) * len(parts))) for p in parts])
    order = np.argsort(values)
    middle = np.cumsum(weight[order]) - weight[order] / 2
    return np.interp(levels, middle, values[order])
