"""Colour of stains: from RGB to amounts of stain and back, on plain arrays.

Light that passes a stained section is absorbed exponentially, so stains add up in optical density (OD, −log10 of the
transmitted fraction). A pixel's OD is split into amounts of haematoxylin, eosin and a residual along fixed directions,
after Ruifrok & Johnston (Anal Quant Cytol Histol 23:291–299, 2001).
"""

from __future__ import annotations

import numpy as np

__all__ = ["DAB", "EOSIN", "HAEMATOXYLIN", "compose", "haematoxylin_amount"]


def _unit(*direction: float) -> np.ndarray:
    vector = np.array(direction)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


#: Directions of the stains in OD space (red, green, blue), unit length, from Ruifrok & Johnston 2001.
HAEMATOXYLIN = _unit(0.650, 0.704, 0.286)
EOSIN = _unit(0.072, 0.990, 0.105)
DAB = _unit(0.268, 0.570, 0.776)

# an H&E has no third stain: the residual takes what lies outside the plane of the two
_RESIDUAL = _unit(*np.cross(HAEMATOXYLIN, EOSIN))
_UNMIX_HAEMATOXYLIN = np.linalg.inv(np.stack([HAEMATOXYLIN, EOSIN, _RESIDUAL]))[:, 0].astype(np.float32)
#: Share of the H&E's haematoxylin that a counterstain keeps: that of an immunohistochemistry is lighter, so that
#: the chromogen shows above it.
COUNTERSTAIN = 0.45
# darkest pixel that is told from black: half a step of 8 bits
_DARKEST = np.float32(0.5 / 255)


def haematoxylin_amount(rgb: np.ndarray) -> np.ndarray:
    """Amount of haematoxylin of each pixel of an H&E.

    Parameters
    ----------
    rgb
        float (3, height, width), transmitted light between 0 and 1.

    Returns
    -------
    numpy.ndarray
        float32 (height, width), OD along :data:`HAEMATOXYLIN`, at least 0.

    Examples
    --------
    >>> bool(haematoxylin_amount(np.ones((3, 1, 1)))[0, 0] == 0)
    True
    """
    density = -np.log10(np.clip(rgb.astype(np.float32), _DARKEST, 1))
    return np.clip(np.einsum("cyx,c->yx", density, _UNMIX_HAEMATOXYLIN), 0, None)


def compose(haematoxylin: np.ndarray, dab: np.ndarray) -> np.ndarray:
    """Colour of a section with a haematoxylin counterstain and DAB.

    Parameters
    ----------
    haematoxylin, dab
        float (height, width), amounts of stain as OD along :data:`HAEMATOXYLIN` and :data:`DAB`.

    Returns
    -------
    numpy.ndarray
        uint8 (3, height, width).

    Examples
    --------
    >>> compose(np.zeros((1, 1)), np.zeros((1, 1))).ravel().tolist()
    [255, 255, 255]
    """
    density = HAEMATOXYLIN[:, None, None] * haematoxylin + DAB[:, None, None] * dab
    return np.round(255 * np.exp(density * np.float32(-np.log(10)))).astype(np.uint8)
