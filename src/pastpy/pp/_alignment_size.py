"""How wide the nuclei of an image are: the check of its µm/px."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pastpy.pp._watershed import haematoxylin, watershed_nuclei

__all__ = ["PLAUSIBLE_UM", "SURE_UM", "nuclear_width"]

#: Full width at half maximum of haematoxylin around nuclei, µm. At the right µm/px it was 3.9 to 4.2 (skin, CMU-1) to
#: 6.6 (ovarian carcinoma); at twice the right one 7.6 to 9.8 for three of four sources (4.9 for the skin); at half of
#: it 2.4 to 3.3, but 3.6 to 4.5 where the nuclei were themselves found at that µm/px. These sources set the limits.
PLAUSIBLE_UM = (3.5, 7.5)
#: Down to here a small width may be of small nuclei or of a µm/px that is too small.
SURE_UM = 4.1

#: Radius of the profile, µm, and the fewest nuclei that one is taken of.
_REACH_UM = 15.0
_LEAST_NUCLEI = 100


def nuclear_width(
    windows: Sequence[np.ndarray], mpp: float, centres: Sequence[np.ndarray] | None = None
) -> tuple[float, int]:
    """Width of the mean haematoxylin profile around nuclei.

    Parameters
    ----------
    windows
        uint8 (h, w, 3) each.
    mpp
        Their µm per pixel, as claimed.
    centres
        float (n, 2) each, x and y of nuclei in pixels of the window; by default found by watershed at that µm/px.

    Returns
    -------
    width
        Full width at half maximum, µm; NaN where there are too few nuclei.
    nuclei
        How many were used.
    """
    reach = round(_REACH_UM / mpp)
    total, n = np.zeros((2 * reach + 1, 2 * reach + 1)), 0
    for i, rgb in enumerate(windows):
        od = haematoxylin(rgb)
        at = np.floor(centres[i] if centres is not None else _found(rgb, mpp)).astype(int)
        inside = ((at >= reach) & (at < np.array(od.shape[::-1]) - reach)).all(axis=1)
        for x, y in at[inside]:
            total += od[y - reach : y + reach + 1, x - reach : x + reach + 1]
        n += int(inside.sum())
    if n < _LEAST_NUCLEI:
        return float("nan"), n
    return _full_width(_radial_mean(total / n)) * mpp, n


def _found(rgb: np.ndarray, mpp: float) -> np.ndarray:
    """Centroids of the nuclei that the watershed finds, float (n, 2), x and y."""
    labels = watershed_nuclei(rgb, mpp)
    y, x = np.nonzero(labels)
    label = labels[y, x]
    count = np.bincount(label)
    some = np.flatnonzero(count)
    return np.column_stack([np.bincount(label, v)[some] / count[some] + 0.5 for v in (x, y)]).reshape(-1, 2)


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
