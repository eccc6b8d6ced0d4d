"""How far spots lie off the place where their expression fits the image best, with the error of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pastpy.pp._watershed import haematoxylin

if TYPE_CHECKING:
    from scipy.sparse import spmatrix

    from pastpy.pp._overview import Overview

__all__ = ["SpotShift", "expression_profiles", "spot_shift"]

#: Shifts up to so many radii of a spot along each axis are tried, in steps of so many.
_REACH, _STEP = 5.0, 0.4
#: Lattice steps to each side of the best shift to which a paraboloid is fitted.
_AROUND = 2
#: Principal components of expression beside its total; genes that they are of, detected in at least this share.
_COMPONENTS, _GENES, _DETECTED = 4, 500, 0.1
#: Fewer spots say nothing, more than this add time and no certainty.
_FEWEST, _MOST = 30, 2000
#: Ridge penalty on standardised features: there only to keep the regression solvable.
_RIDGE = 5.0
_BOOTSTRAPS = 200
#: 99.9 % quantile of chi-squared with two degrees of freedom: one false alarm in a thousand if the error were normal.
_SURE = 13.8


@dataclass(frozen=True)
class SpotShift:
    """Where spots lie, as their expression tells.

    Attributes
    ----------
    shift_um
        How far right and down (x, y) of the best place they lie, µm.
    error_um
        Standard error of that by bootstrap over spots, along the axis where it is largest, µm.
    resolution_um
        The least shift that would be certain, µm.
    certain
        Whether this one is.
    """

    shift_um: tuple[float, float]
    error_um: float
    resolution_um: float
    certain: bool


def expression_profiles(matrix: np.ndarray | spmatrix) -> np.ndarray | None:
    """Log totals and first principal components of log-normalised counts.

    Parameters
    ----------
    matrix
        Counts, (n, genes), dense or sparse.

    Returns
    -------
    float (n, 5), columns with unit variance; ``None`` where there are too few spots or genes, or values that are
    negative or not finite.
    """
    from scipy.sparse import csr_matrix

    counts = csr_matrix(matrix, dtype=float)
    if counts.shape[0] < _FEWEST or not np.isfinite(counts.data).all() or (counts.data < 0).any():
        return None
    total = np.asarray(counts.sum(axis=1)).ravel()
    counts = counts[:, counts.getnnz(axis=0) >= _DETECTED * counts.shape[0]]
    if counts.shape[1] <= _COMPONENTS:
        return None
    logs = counts.multiply(1e4 / np.maximum(total, 1)[:, None]).tocsr().log1p()
    mean = np.asarray(logs.mean(axis=0)).ravel()
    variance = np.asarray(logs.multiply(logs).mean(axis=0)).ravel() - mean**2
    chosen = np.argsort(-variance)[:_GENES]
    left, singular, _ = np.linalg.svd(logs[:, chosen].toarray() - mean[chosen], full_matrices=False)
    profiles = np.column_stack([np.log1p(total), left[:, :_COMPONENTS] * singular[:_COMPONENTS]])
    spread = profiles.std(axis=0)
    return (profiles - profiles.mean(axis=0))[:, spread > 0] / spread[spread > 0]


def spot_shift(
    overview: Overview,
    points: np.ndarray,
    radius_um: float,
    profiles: np.ndarray,
    *,
    tolerance_um: float,
    seed: int = 0,
) -> SpotShift | None:
    """Shift at which the image around spots predicts their expression best.

    At every shift of a lattice each spot's profile is predicted from the stain around it by a ridge regression on the
    other spots. The shift of the least loss is refined by a paraboloid; a bootstrap over spots gives its error.

    Parameters
    ----------
    overview
        The slide at some 8 µm/px.
    points
        float (n, 2): centres of the spots, µm from the image's top-left corner.
    radius_um
        Radius of a spot.
    profiles
        float (n, k), of :func:`expression_profiles`.
    tolerance_um
        Shifts up to about this are none.
    seed
        Of the bootstrap.

    Returns
    -------
    The shift; ``None`` where expression does not tell it within the shifts that are tried.
    """
    rng = np.random.default_rng(seed)
    if len(points) > _MOST:
        some = rng.choice(len(points), _MOST, replace=False)
        points, profiles = points[some], profiles[some]
    steps = np.arange(-round(_REACH / _STEP), round(_REACH / _STEP) + 1) * _STEP * radius_um
    features = _features(overview, radius_um)
    loss = np.array([[_held_out(_at(features, overview.mpp, points + [x, y]), profiles) for x in steps] for y in steps])
    # as if each profile's residuals were normal with a variance of their own
    loss = (loss / loss.mean(axis=2).min(axis=(0, 1))).sum(axis=3)
    best = _lowest(loss.mean(axis=2), steps)
    n = len(points)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=_BOOTSTRAPS) / n
    drawn = np.array([_lowest(loss @ weight, steps) for weight in weights])
    covariance = np.cov(drawn.T) + tolerance_um**2 * np.eye(2)
    largest = float(np.linalg.eigvalsh(covariance)[-1])
    resolution = float(np.sqrt(_SURE * largest))
    if np.abs(best).max() >= steps[-1] or resolution > steps[-1]:
        return None
    return SpotShift(
        shift_um=(float(-best[0]), float(-best[1])),
        error_um=float(np.sqrt(largest - tolerance_um**2)),
        resolution_um=resolution,
        certain=bool(best @ np.linalg.solve(covariance, best) > _SURE),
    )


def _features(overview: Overview, radius_um: float) -> np.ndarray:
    """Mean OD of each channel around each pixel, and standard deviations of those and of haematoxylin: (7, h, w)."""
    from scipy.signal import fftconvolve

    od = -np.log10((overview.rgb.astype(np.float32) + 1) / 256)
    maps = np.concatenate([od.transpose(2, 0, 1), haematoxylin(overview.rgb)[None]])
    reach = max(1, int(radius_um / overview.mpp))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (np.hypot(x, y) <= max(radius_um / overview.mpp, 1)).astype(np.float32)
    padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    mean, square = (fftconvolve(m, disc[None] / disc.sum(), mode="valid", axes=(1, 2)) for m in (padded, padded**2))
    return np.concatenate([mean[:3], np.sqrt(np.maximum(square - mean**2, 0))])


def _at(features: np.ndarray, mpp: float, points: np.ndarray) -> np.ndarray:
    """Features at points, (n, 7); beyond the image those of its edge."""
    from scipy.ndimage import map_coordinates

    x, y = (points / mpp - 0.5).T
    return np.column_stack([map_coordinates(feature, [y, x], order=1, mode="nearest") for feature in features])


def _held_out(features: np.ndarray, profiles: np.ndarray) -> np.ndarray:
    """Squared error of each spot's profile, (n, k), predicted by a ridge regression that has not seen the spot."""
    centred = features - features.mean(axis=0)
    left, singular, _ = np.linalg.svd(centred / np.maximum(centred.std(axis=0), 1e-9), full_matrices=False)
    shrink = singular**2 / (singular**2 + _RIDGE)
    fitted = (left * shrink) @ (left.T @ profiles)
    leverage = (left**2) @ shrink + 1 / len(features)
    return ((profiles - fitted) / (1 - leverage)[:, None]) ** 2


def _lowest(loss: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Shift (x, y) of the least loss, by a paraboloid around the lowest point of a lattice."""
    at = np.array(np.unravel_index(np.argmin(loss), loss.shape))
    row, column = np.clip(at, _AROUND, len(steps) - 1 - _AROUND)
    near = np.arange(-_AROUND, _AROUND + 1)
    y, x = (v.ravel() for v in np.meshgrid(near, near, indexing="ij"))
    values = loss[row - _AROUND : row + _AROUND + 1, column - _AROUND : column + _AROUND + 1].ravel()
    _, gx, gy, xx, xy, yy = np.linalg.lstsq(np.column_stack([x**0, x, y, x * x, x * y, y * y]), values, rcond=None)[0]
    bend = np.array([[2 * xx, xy], [xy, 2 * yy]])
    lowest = np.array([steps[at[1]], steps[at[0]]])
    if np.linalg.eigvalsh(bend)[0] <= 0:
        return lowest
    off = -np.linalg.solve(bend, [gx, gy])
    if np.abs(off).max() > _AROUND:
        return lowest
    return np.array([steps[column], steps[row]]) + off * (steps[1] - steps[0])
