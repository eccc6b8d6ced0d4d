"""Tissue, pen and black background told apart by optical density: pure array maths at some 8 µm/px."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pastpy.pp._parameters import check_positive

__all__ = ["TissueMaskParameters", "optical_density", "tissue_mask", "unusable_mask", "white_level"]

#: Glass is at least this bright in every channel: dimmed to 0.7, that of CMU-1 (245, 243, 243) still is.
_GLASS = 170
#: Its channels differ by no more than this: they do by 2 to 17 on CMU-1, her2st and simulated tissue, by 35 on CMU-1
#: with blue light at 0.87 or red at 0.85, by 40 on simulated tissue so.
_GLASS_CHROMA = 45
#: Standard deviation over 3 × 3 pixels up to which a place is smooth, in grey levels. On glass of CMU-1 and her2st it
#: is below 7 for 95 % of the pixels, on tissue of these and of breast_st above 7 for 95 %.
_SMOOTH = 6.0
#: Most of a square of so many pixels is such: pale specks of breast_st are 1.8 % of it without this, 0.9 % with it.
_SPECK = 7
#: Less of the image than this is no glass.
_LEAST_GLASS = 0.02
#: Pixels darker than this in every channel are no tissue: the scanner's background, or black pen.
_BLACK = 60
#: OD of red above which what is as blue as haematoxylin is navy ink: at 8 µm/px that of tissue is above 0.95 in at most
#: 6 pixels that lie together on CMU-1, breast_st, five sections of her2st, HGSC and simulated tissue.
_NAVY = 0.95
#: OD below which a colour cannot be told from noise.
_FAINT = 0.12
#: A part whose least absorbed colour is absorbed by more than this share of the most absorbed one has no stain.
_GREY = 0.7


@dataclass(frozen=True)
class TissueMaskParameters:
    """Parameters of :func:`pastpy.pp.find_tissue`.

    Attributes
    ----------
    target_mpp
        µm/px to work at.
    min_area_mm2
        Smaller pieces are dropped.
    min_hole_mm2
        Smaller holes are filled.
    smooth_um
        Standard deviation of the Gaussian that joins what belongs together.
    least_od, most_od
        Limits of the threshold that Otsu's method finds on the optical density: the first keeps shadows on glass out,
        the second keeps pale tissue in where there is no glass at all.

    Examples
    --------
    >>> import pastpy as past
    >>> past.pp.TissueMaskParameters(min_area_mm2=0.2).min_area_mm2
    0.2
    """

    target_mpp: float = 8.0
    min_area_mm2: float = 0.02
    min_hole_mm2: float = 0.005
    smooth_um: float = 12.0
    least_od: float = 0.03
    most_od: float = 0.07

    def __post_init__(self) -> None:
        check_positive(self, may_be_zero={"min_area_mm2", "min_hole_mm2", "smooth_um", "least_od", "most_od"})
        if self.least_od > self.most_od:
            raise ValueError(f"least_od ({self.least_od:g}) must not exceed most_od ({self.most_od:g})")


def optical_density(rgb: np.ndarray, white: np.ndarray | float = 255.0) -> np.ndarray:
    """OD (−log₁₀ of transmitted light) of uint8 (…, 3) pixels: float32 of that shape, 0 where as bright as ``white``.

    Examples
    --------
    >>> optical_density(np.array([[255, 25, 128]], dtype=np.uint8)).round(2)
    array([[0.  , 0.99, 0.3 ]], dtype=float32)
    """
    light = (rgb.astype(np.float32) + 1) / (np.asarray(white, dtype=np.float32) + 1)
    return np.maximum(-np.log10(light), 0).astype(np.float32)


def unusable_mask(rgb: np.ndarray, white: np.ndarray | float = 255.0) -> dict[str, np.ndarray]:
    """Pixels that are neither tissue nor glass.

    In haematoxylin and eosin green light is absorbed most, blue least or nearly so. Inks are not like that: blue ink
    lets blue through and stops red more than green, navy is as haematoxylin but darker, green ink stops green least,
    black stops all alike, red ink stops blue as much as green and no red, orange and yellow stop blue most and no red.
    Red ink and pools of blood look alike, and both are excluded. Not told from tissue: purple and pink ink, which are
    the colours of the stain, and brown, which is that of melanin and DAB.

    Parameters
    ----------
    rgb
        uint8 (h, w, 3).
    white
        Level of glass, for all channels or each.

    Returns
    -------
    bool (h, w) for each of ``"black"`` (background, ink, grey shadows), ``"blue"``, ``"green"``, ``"red"`` (orange and
    yellow too).
    """
    red, green, blue = np.moveaxis(optical_density(rgb, white), -1, 0)
    most, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    strong = most > _FAINT
    black = (rgb.max(axis=-1) < _BLACK) | (strong & (least > 0.85 * most))
    navy = (red > _NAVY) & (red > 0.93 * green) & (red > 1.4 * blue)
    yellow = (blue > 0.3) & (blue > 1.5 * green) & (red < 0.2 * blue)
    return {
        "black": black,
        "blue": strong & ~black & (navy | (red > 1.1 * green) & ((red > 3 * blue) | ((red > 0.8) & (red > 2 * blue)))),
        "green": strong & ~black & (green < 0.85 * red) & (green < 0.95 * blue),
        "red": strong & ~black & (yellow | (green > 0.4) & (blue > 0.8 * green) & (red < 0.3 * green)),
    }


def tissue_mask(rgb: np.ndarray, mpp: float, parameters: TissueMaskParameters | None = None) -> np.ndarray:
    """Tissue of an overview: bool (h, w), smooth, without small pieces and holes.

    Parameters
    ----------
    rgb
        uint8 (h, w, 3).
    mpp
        µm per pixel.
    parameters
        Default: :class:`TissueMaskParameters`.

    References
    ----------
    Otsu, IEEE Trans Syst Man Cybern 9:62–66 (1979), https://doi.org/10.1109/TSMC.1979.4310076
    """
    from scipy import ndimage as ndi

    parameters = parameters or TissueMaskParameters()
    white = white_level(rgb)
    ink = np.logical_or.reduce(list(unusable_mask(rgb, white).values()))
    # ink and background fade out over a pixel or two, in colours between theirs and the glass
    rim = ndi.binary_dilation(ink & (ndi.uniform_filter(ink.astype(np.float32), 3) > 0.3), iterations=2)
    od = optical_density(rgb, white)
    od[rim] = 0
    density = ndi.gaussian_filter(od.max(axis=-1), parameters.smooth_um / mpp)
    mask = (density > _threshold(density[~rim], parameters)) & ~rim
    mask &= ~_grey_parts(mask, od)
    px_mm2 = (mpp / 1000) ** 2
    # the image itself may be smaller than the least piece
    mask &= ~_small(mask, min(parameters.min_area_mm2 / px_mm2, mask.size / 2))
    # what touches the border is no hole, however little of it the image shows
    return mask | (_small(~mask, parameters.min_hole_mm2 / px_mm2) & ndi.binary_fill_holes(mask))


def white_level(rgb: np.ndarray) -> np.ndarray:
    """Level of glass in each channel, float (3,), or 255 where there is hardly any.

    Glass is bright, nearly grey and smooth over an area, which tissue is only in specks; its level is the median.
    """
    from scipy import ndimage as ndi

    glass = (rgb.min(axis=-1) >= _GLASS) & (np.ptp(rgb, axis=-1) <= _GLASS_CHROMA) & _smooth(rgb)
    glass &= ndi.uniform_filter(glass.astype(np.float32), _SPECK) > 0.5
    if glass.sum() <= _LEAST_GLASS * glass.size:
        return np.full(3, 255.0)
    return np.median(rgb[glass], axis=0)


def _smooth(rgb: np.ndarray) -> np.ndarray:
    """Pixels around which no channel varies by more than noise."""
    from scipy import ndimage as ndi

    smooth = np.ones(rgb.shape[:2], dtype=bool)
    for channel in np.moveaxis(rgb, -1, 0).astype(np.float32):
        variance = ndi.uniform_filter(channel**2, 3) - ndi.uniform_filter(channel, 3) ** 2
        smooth &= variance <= _SMOOTH**2
    return smooth


def _grey_parts(mask: np.ndarray, od: np.ndarray) -> np.ndarray:
    """Pixels of connected parts without colour: fiducials, dust and shadows, too faint to tell pixel by pixel."""
    from scipy import ndimage as ndi

    parts, n = ndi.label(mask)
    most, least = (np.bincount(parts.ravel(), side.ravel(), n + 1) for side in (od.max(axis=-1), od.min(axis=-1)))
    grey = least > _GREY * most
    grey[0] = False
    return grey[parts]


def _small(mask: np.ndarray, least: float) -> np.ndarray:
    """Pixels of connected parts of fewer than ``least`` pixels."""
    from scipy import ndimage as ndi

    parts = ndi.label(mask)[0]
    small = np.bincount(parts.ravel()) < least
    small[0] = False
    return small[parts]


def _threshold(density: np.ndarray, parameters: TissueMaskParameters) -> float:
    from skimage.filters import threshold_otsu

    if density.size == 0 or np.ptp(density) == 0:
        return parameters.most_od
    return float(np.clip(threshold_otsu(density) / 2, parameters.least_od, parameters.most_od))
