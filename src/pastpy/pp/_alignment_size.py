"""How wide the nuclei of an image are: the check of its µm/px."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["BLOB_LIMITS", "PROFILE_LIMITS", "Limits", "blob_width", "profile_width"]


@dataclass(frozen=True)
class Limits:
    """Widths of nuclei that a measure gives at the right µm/px.

    Attributes
    ----------
    least, most
        What is smaller or larger is implausible, µm.
    sure
        Between ``least`` and this a width may be of small nuclei or of a µm/px that is too small.
    """

    least: float
    sure: float
    most: float


#: At the right µm/px the medians of six windows went, over draws of windows, from 4.3 (skin, CMU-1; 0.1 % quantile) to
#: 10.7 (ovarian carcinoma; 99.9 %). Sources differ about twofold, so a twofold error is caught in most tissue, not in
#: all: at twice the µm/px the skin gives 8 to 14, at half the carcinoma 4.5 to 4.8.
BLOB_LIMITS = Limits(4.2, 5.0, 11.0)
#: At the right µm/px profiles around given nuclei were 3.8 (skin) to 6.8 (ovarian carcinoma) wide, at twice 7.0 (skin)
#: to 13.5, at half 2.4 to 3.4, but 3.6 to 4.5 where the nuclei were themselves found at that µm/px.
PROFILE_LIMITS = Limits(3.5, 4.1, 7.5)

#: Standard deviations of the Gaussians, µm.
_SIGMAS_UM = np.geomspace(0.6, 12.0, 16)
#: A disc of diameter d responds most to a Gaussian of d / √8: exact for the Laplacian at its centre (Lindeberg 1998).
_WIDTH_OF_SIGMA = np.sqrt(8.0)
#: Beyond this OD are folds and pigment.
_MOST_OD = 1.5
#: A map smoothed by so many of its pixels is as well told by every other one.
_HALVE_FROM = 3.0

#: Radius of the profile, µm, and the fewest nuclei that one is taken of.
_REACH_UM = 15.0
_LEAST_NUCLEI = 100


def blob_width(maps: Sequence[np.ndarray], mpp: float) -> float:
    """Width of the dark blobs of haematoxylin.

    The scale-normalised determinant of the Hessian answers to blobs, not to fibres and borders of tissue; the scale at
    which it is strongest tells the blobs' width without a guess at it, so it follows the claimed µm/px in proportion,
    which a segmentation with lengths in µm does not.

    Parameters
    ----------
    maps
        Haematoxylin of windows, float (h, w) each.
    mpp
        Their µm per pixel, as claimed.

    Returns
    -------
    Diameter of a disc of that scale, µm: median of the windows; NaN where fewer than half of them, or no two, show a
    scale between 0.6 and 12 µm, that is a width between 1.7 and 34 µm.

    References
    ----------
    Lindeberg, Int J Comput Vis 30:79–116 (1998), https://doi.org/10.1023/A:1008045108935
    """
    scales = np.array([_blob_scale(od, mpp) for od in maps])
    seen = np.isfinite(scales)
    if seen.sum() < 2 or 2 * seen.sum() < len(scales):
        return float("nan")
    return float(_WIDTH_OF_SIGMA * np.median(scales[seen]))


def profile_width(maps: Sequence[np.ndarray], mpp: float, centres: Sequence[np.ndarray]) -> float:
    """Width of the mean haematoxylin profile around given nuclei.

    Parameters
    ----------
    maps
        Haematoxylin of windows, float (h, w) each.
    mpp
        Their µm per pixel, as claimed.
    centres
        float (n, 2) each, x and y of nuclei in pixels of the window.

    Returns
    -------
    Full width at half maximum, µm; NaN where there are too few nuclei.
    """
    reach = round(_REACH_UM / mpp)
    total, n = np.zeros((2 * reach + 1, 2 * reach + 1)), 0
    for od, places in zip(maps, centres, strict=True):
        at = np.floor(places).astype(int)
        inside = ((at >= reach) & (at < np.array(od.shape[::-1]) - reach)).all(axis=1)
        for x, y in at[inside]:
            total += od[y - reach : y + reach + 1, x - reach : x + reach + 1]
        n += int(inside.sum())
    if n < _LEAST_NUCLEI:
        return float("nan")
    return _full_width(_radial_mean(total / n)) * mpp


def _blob_scale(od: np.ndarray, mpp: float) -> float:
    """Standard deviation, µm, of the Gaussian that blobs answer most to; NaN if the first or last."""
    sigmas = _SIGMAS_UM[4 * _SIGMAS_UM / mpp < min(od.shape) / 2]
    if len(sigmas) < 3:
        return float("nan")
    strength = _blob_strength(np.clip(od, 0, _MOST_OD), sigmas / mpp)
    at = int(np.argmax(strength))
    if not 0 < at < len(sigmas) - 1:
        return float("nan")
    before, here, after = strength[at - 1 : at + 2]
    step = np.log(sigmas[1] / sigmas[0])
    return float(sigmas[at] * np.exp(step * 0.5 * (before - after) / (before - 2 * here + after)))


def _blob_strength(od: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Mean determinant of the Hessian, times σ⁴, over the pixels where the map is curved downwards; σ in pixels."""
    from scipy.ndimage import gaussian_filter

    # each scale is smoothed from the one before, on a grid that coarsens with it: a fifteenth of the time of Fourier
    # transforms of the whole window at every scale
    level, px, done = od, 1.0, 0.0
    strength = []
    for sigma in sigmas:
        if done >= _HALVE_FROM * px:
            level, px = level[::2, ::2], 2 * px
        level = gaussian_filter(level, np.sqrt(sigma**2 - done**2) / px, mode="reflect")
        done = sigma
        middle = 2 * level[1:-1, 1:-1]
        xx = level[1:-1, 2:] - middle + level[1:-1, :-2]
        yy = level[2:, 1:-1] - middle + level[:-2, 1:-1]
        xy = (level[2:, 2:] - level[2:, :-2] - level[:-2, 2:] + level[:-2, :-2]) / 4
        determinant = xx * yy - xy**2
        mean = float(np.where((xx + yy < 0) & (determinant > 0), determinant, 0).mean())
        strength.append((sigma / px) ** 4 * mean)
    return np.array(strength)


def _radial_mean(square: np.ndarray) -> np.ndarray:
    """Mean over rings of whole pixels around the middle."""
    reach = square.shape[0] // 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    ring = np.rint(np.hypot(x, y)).astype(int).ravel()
    return (np.bincount(ring, square.ravel()) / np.bincount(ring))[: reach + 1]


def _full_width(profile: np.ndarray) -> float:
    """Twice the radius at which a profile has fallen half-way to its lowest value, pixels; NaN if it does not fall."""
    half = (profile[0] + profile.min()) / 2
    below = np.flatnonzero(profile < half)
    if not len(below):
        return float("nan")
    k = int(below[0])
    return 2 * (k - 1 + float((profile[k - 1] - half) / (profile[k - 1] - profile[k])))
