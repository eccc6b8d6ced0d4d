"""Stain vectors of an H&E image: pure array maths."""

from __future__ import annotations

import numpy as np

from pastpy.pp._tissue_mask import optical_density
from pastpy.pp._watershed import _STAINS

__all__ = ["REFERENCE", "angle_deg", "macenko"]

#: Optical density (red, green, blue) of haematoxylin and eosin, unit length; Ruifrok & Johnston (2001).
REFERENCE = (_STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True))[:2]

#: Fainter pixels say little about a stain's colour; the extreme angles are taken as percentiles.
_LEAST_OD, _EXTREME = 0.06, 1.0
_LEAST_PIXELS = 500


def macenko(rgb: np.ndarray, white: np.ndarray | float = 255.0) -> np.ndarray:
    """Stain vectors of haematoxylin and eosin by the extreme angles in the plane of most variance.

    Parameters
    ----------
    rgb
        uint8 (…, 3), tissue for the most part.
    white
        Level of glass, for all channels or each.

    Returns
    -------
    float (2, 3): OD of red, green and blue, unit length, haematoxylin first; NaN where there is too little stain.

    References
    ----------
    Macenko et al., ISBI 2009, 1107–1110, https://doi.org/10.1109/ISBI.2009.5193250

    Examples
    --------
    >>> macenko(np.full((8, 8, 3), 255, dtype=np.uint8)).shape
    (2, 3)
    """
    od = optical_density(rgb.reshape(-1, 3), white).astype(float)
    od = od[(od > _LEAST_OD).all(axis=1)]
    if len(od) < _LEAST_PIXELS:
        return np.full((2, 3), np.nan)
    plane = np.linalg.eigh(np.cov(od.T))[1][:, 1:]
    plane *= np.where(plane.sum(axis=0) < 0, -1, 1)
    on_plane = od @ plane
    angle = np.arctan2(on_plane[:, 0], on_plane[:, 1])
    ends = np.percentile(angle, [_EXTREME, 100 - _EXTREME])
    stains = np.column_stack([np.sin(ends), np.cos(ends)]) @ plane.T
    stains = np.maximum(stains * np.where(stains.sum(axis=1, keepdims=True) < 0, -1, 1), 0)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    # haematoxylin absorbs more red than eosin does
    return stains[np.argsort(-stains[:, 0])]


def angle_deg(one: np.ndarray, other: np.ndarray) -> float:
    """Angle between two vectors, degrees."""
    cosine = float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
