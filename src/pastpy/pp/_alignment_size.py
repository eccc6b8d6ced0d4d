"""How wide the nuclei of an image are: the check of its µm/px."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pastpy.pp._watershed import haematoxylin

__all__ = ["PLAUSIBLE_UM", "SURE_UM", "nuclear_width"]

#: Widths of nuclei in sections, µm: shrunken lymphocytes to large carcinoma nuclei. At the right µm/px this measure
#: gave some 5 (skin, CMU-1) and 5.6 (NuCLS) to 9.1 (ovarian carcinoma), so sources differ about twofold, and a twofold
#: error is caught in most tissue, not in all: at twice the µm/px the skin gives 9 to 10, at half the carcinoma 4.8.
PLAUSIBLE_UM = (4.5, 10.0)
#: Down to here a small width may be of small nuclei or of a µm/px that is too small.
SURE_UM = 5.0

#: Standard deviations of the Gaussians, µm.
_SIGMAS_UM = np.geomspace(0.6, 12.0, 16)
#: A disc of diameter d responds most to a Gaussian of d / √8: exact for the Laplacian at its centre (Lindeberg 1998).
_WIDTH_OF_SIGMA = np.sqrt(8.0)
#: Beyond this OD are folds and pigment.
_MOST_OD = 1.5


def nuclear_width(windows: Sequence[np.ndarray], mpp: float) -> float:
    """Width of the dark blobs of haematoxylin.

    The scale-normalised determinant of the Hessian answers to blobs, not to fibres and borders of tissue; the scale at
    which it is strongest tells the blobs' width without a guess at it, so it follows the claimed µm/px in proportion,
    which a segmentation with lengths in µm does not.

    Parameters
    ----------
    windows
        uint8 (h, w, 3) each.
    mpp
        Their µm per pixel, as claimed.

    Returns
    -------
    Diameter of a disc of that scale, µm: median of the windows; NaN where fewer than half of them, or no two, show a
    scale between 0.6 and 12 µm.

    References
    ----------
    Lindeberg, Int J Comput Vis 30:79–116 (1998), https://doi.org/10.1023/A:1008045108935
    """
    scales = np.array([_blob_scale(haematoxylin(rgb), mpp) for rgb in windows])
    seen = np.isfinite(scales)
    if seen.sum() < 2 or 2 * seen.sum() < len(scales):
        return float("nan")
    return float(_WIDTH_OF_SIGMA * np.median(scales[seen]))


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
    from scipy import fft

    border = int(4 * sigmas[-1])
    padded = np.pad(od, border, mode="reflect")
    size = [fft.next_fast_len(side, real=True) for side in padded.shape]
    spectrum = fft.rfft2(padded, size)
    ky = 2 * np.pi * fft.fftfreq(size[0])[:, None].astype(np.float32)
    kx = 2 * np.pi * fft.rfftfreq(size[1])[None].astype(np.float32)
    inside = slice(border, border + od.shape[0]), slice(border, border + od.shape[1])
    strength = []
    for sigma in sigmas:
        smooth = -(sigma**2) * spectrum * np.exp(-(sigma**2) / 2 * (kx**2 + ky**2))
        xx, yy, xy = (fft.irfft2(smooth * k, size)[inside] for k in (kx * kx, ky * ky, kx * ky))
        determinant = xx * yy - xy**2
        strength.append(float(np.where((xx + yy < 0) & (determinant > 0), determinant, 0).mean()))
    return np.array(strength)
