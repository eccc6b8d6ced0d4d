"""Nuclei of an H&E array by haematoxylin, a local threshold and seeded watershed: pure array maths.

Every step looks at a bounded neighbourhood and gives the same bits wherever the array was cut from the slide, so that
blocks with a halo give what the whole slide would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pastpy.pp._parameters import check_positive

__all__ = ["NucleiParameters", "haematoxylin", "watershed_nuclei"]

# Optical density (red, green, blue) of haematoxylin, eosin and DAB, Ruifrok & Johnston (2001).
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
# Local statistics are sums of integers, which do not depend on where the sum began; this is one step in OD.
_OD_STEP = 1e-3
# Deeper than this the distance to the border says nothing about a nucleus any more.
_DEPTH_UM = 10.0
_DEPTH_SMOOTH_UM = 0.8
# SciPy's Gaussians end at this many standard deviations.
_TRUNCATE = 4.0


@dataclass(frozen=True)
class NucleiParameters:
    """Parameters of the watershed segmentation, in µm, µm² and optical density (OD).

    The defaults of ``smooth_um``, ``threshold_sd``, ``opening_um``, ``log_weight_um`` and ``seed_distance_um`` are the
    setting that :func:`pastpy.bench.nuclei_loto` chooses on all ten tiles of NuCLS.

    Attributes
    ----------
    target_mpp
        µm/px to work at; an image within 10 % of it is worked on as it is, others are resampled.
    smooth_um
        Standard deviation of the Gaussian that smooths haematoxylin.
    window_um
        Side of the square over which the local mean and standard deviation are taken.
    threshold_sd
        A pixel is nuclear above local mean + ``threshold_sd`` · local standard deviation.
    floor_od
        … and above this haematoxylin OD, so that glass and faint background hold no nuclei.
    opening_um
        Radius of the disc that removes specks and thin bridges.
    hole_um2
        Holes up to this area are filled.
    log_sigma_um
        Standard deviation of the Laplacian of Gaussian (LoG) that finds dark blobs.
    log_weight_um
        Seeds are maxima of depth (distance to the border, µm) + ``log_weight_um`` · LoG response (OD).
    seed_distance_um
        Two seeds are further apart than this, along rows or columns.
    min_area_um2, max_area_um2
        Nuclei outside these limits are dropped; where the image's edge cuts a nucleus, half the lower limit holds.

    Raises
    ------
    ValueError
        If a value is not a finite number, a length or area is not positive, or the area limits are the wrong way round.

    Examples
    --------
    >>> import pastpy as past
    >>> past.pp.NucleiParameters(max_area_um2=200.0).max_area_um2
    200.0
    """

    target_mpp: float = 0.5
    smooth_um: float = 0.6
    window_um: float = 40.0
    threshold_sd: float = 0.35
    floor_od: float = 0.15
    opening_um: float = 1.0
    hole_um2: float = 15.0
    log_sigma_um: float = 1.5
    log_weight_um: float = 10.0
    seed_distance_um: float = 2.5
    min_area_um2: float = 8.0
    max_area_um2: float = 500.0

    def __post_init__(self) -> None:
        may_be_zero = {"threshold_sd", "floor_od", "opening_um", "hole_um2", "log_weight_um", "min_area_um2"}
        check_positive(self, may_be_zero=may_be_zero)
        if self.min_area_um2 >= self.max_area_um2:
            raise ValueError(f"min_area_um2 ({self.min_area_um2:g}) must be below max_area_um2 ({self.max_area_um2:g})")

    @property
    def halo_um(self) -> float:
        """Width around a block that its nuclei can depend on."""
        mask = _TRUNCATE * self.smooth_um + self.window_um / 2 + 2 * self.opening_um + 2 * self.hole_um2**0.5
        seeds = max(_DEPTH_UM + _TRUNCATE * _DEPTH_SMOOTH_UM, _TRUNCATE * self.log_sigma_um) + self.seed_distance_um
        # and from its centroid to the far end of an elongated nucleus
        return mask + seeds + 1.3 * self.max_area_um2**0.5


def haematoxylin(rgb: np.ndarray) -> np.ndarray:
    """Haematoxylin by colour deconvolution.

    Parameters
    ----------
    rgb
        uint8 (h, w, 3).

    Returns
    -------
    float32 (h, w), OD (−log₁₀) of the haematoxylin component; about 0 on glass.

    References
    ----------
    Ruifrok & Johnston, Anal Quant Cytol Histol 23:291–299 (2001)

    Examples
    --------
    >>> haematoxylin(np.full((1, 1, 3), 255, dtype=np.uint8))
    array([[0.]], dtype=float32)
    """
    unit = _STAINS / np.linalg.norm(_STAINS, axis=1, keepdims=True)
    density = -np.log10((np.arange(256) + 1) / 256)
    # One table a channel: 256 values can occur, and sums of tables give the same bits in every block.
    tables = (np.linalg.inv(unit)[:, 0, None] * density).astype(np.float32)
    return tables[0][rgb[..., 0]] + tables[1][rgb[..., 1]] + tables[2][rgb[..., 2]]


def watershed_nuclei(rgb: np.ndarray, mpp: float, parameters: NucleiParameters | None = None) -> np.ndarray:
    """Label the nuclei of an H&E array.

    Parameters
    ----------
    rgb
        uint8 (h, w, 3).
    mpp
        µm per pixel of ``rgb``.
    parameters
        Default: :class:`NucleiParameters`.

    Returns
    -------
    int32 (h, w): 0 is background; labels of dropped objects are missing from the sequence.

    References
    ----------
    Ruifrok & Johnston (2001); Niblack, An Introduction to Digital Image Processing (1986): local threshold;
    Lindeberg, Int J Comput Vis 30:79–116 (1998), https://doi.org/10.1023/A:1008045108935: LoG blobs;
    Vincent & Soille, IEEE TPAMI 13:583–598 (1991), https://doi.org/10.1109/34.87344: watershed.

    Examples
    --------
    >>> watershed_nuclei(np.full((40, 40, 3), 255, dtype=np.uint8), 0.5).max()
    np.int32(0)
    """
    from scipy import ndimage as ndi
    from skimage.segmentation import watershed

    parameters = parameters or NucleiParameters()
    od = ndi.gaussian_filter(haematoxylin(rgb), parameters.smooth_um / mpp)
    mask = _foreground(od, mpp, parameters)
    if not mask.any():
        return np.zeros(mask.shape, dtype=np.int32)
    response = _seed_response(od, mask, mpp, parameters)
    reach = max(1, round(parameters.seed_distance_um / mpp))
    peaks = mask & (response == ndi.maximum_filter(response, size=2 * reach + 1))
    seeds = ndi.label(peaks, structure=np.ones((3, 3)))[0]
    labels = watershed(-response, seeds, mask=mask)
    return _within_limits(labels.astype(np.int32, copy=False), mpp, parameters)


def _foreground(od: np.ndarray, mpp: float, parameters: NucleiParameters) -> np.ndarray:
    """Pixels darker than their surroundings, without specks and holes."""
    from scipy import ndimage as ndi

    if not (od > parameters.floor_od).any():
        return np.zeros(od.shape, dtype=bool)
    mean, std = _local_mean_std(od, max(1, round(parameters.window_um / 2 / mpp)))
    mask = od > np.maximum(mean + parameters.threshold_sd * std, parameters.floor_od)
    disc = _disc(parameters.opening_um / mpp)
    # Beyond the edge counts as nucleus, or nuclei cut by the edge would be eroded there.
    mask = ndi.binary_dilation(ndi.binary_erosion(mask, disc, border_value=1), disc)
    holes = ndi.label(~mask)[0]
    small = np.bincount(holes.ravel()) * mpp**2 <= parameters.hole_um2
    small[0] = False
    return mask | small[holes]


def _seed_response(od: np.ndarray, mask: np.ndarray, mpp: float, parameters: NucleiParameters) -> np.ndarray:
    """Depth inside the mask plus weighted blob response, in µm: one maximum a nucleus."""
    from scipy import ndimage as ndi

    depth = np.minimum(ndi.distance_transform_edt(mask) * mpp, _DEPTH_UM).astype(np.float32)
    depth = ndi.gaussian_filter(depth, _DEPTH_SMOOTH_UM / mpp)
    sigma = parameters.log_sigma_um / mpp
    # scale-normalised, so that the weight does not depend on the resolution
    return depth - np.float32(parameters.log_weight_um * sigma**2) * ndi.gaussian_laplace(od, sigma)


def _within_limits(labels: np.ndarray, mpp: float, parameters: NucleiParameters) -> np.ndarray:
    """Drop objects that are too small or too large; half of a nucleus that the edge cuts is enough."""
    area = np.bincount(labels.ravel()) * mpp**2
    least = np.full(area.shape, parameters.min_area_um2)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        least[edge] = parameters.min_area_um2 / 2
    dropped = (area < least) | (area > parameters.max_area_um2)
    return np.where(dropped[labels], np.int32(0), labels)


def _local_mean_std(od: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over squares of side 2 · reach + 1, cut off at the array's edge."""
    steps = np.rint(od / _OD_STEP).astype(np.int64)
    count = _box_sum(np.ones((od.shape[0], 1), dtype=np.int64), reach, axis=0) * _box_sum(
        np.ones((1, od.shape[1]), dtype=np.int64), reach, axis=1
    )
    mean = _box_sum(_box_sum(steps, reach, axis=0), reach, axis=1) / count
    square = _box_sum(_box_sum(steps * steps, reach, axis=0), reach, axis=1) / count
    return mean * _OD_STEP, np.sqrt(np.maximum(square - mean**2, 0)) * _OD_STEP


def _box_sum(values: np.ndarray, reach: int, axis: int) -> np.ndarray:
    """Exact running sum of integers over ``2 · reach + 1`` entries along an axis."""
    n = values.shape[axis]
    total = np.concatenate([np.zeros_like(values.take([0], axis)), np.cumsum(values, axis)], axis)
    at = np.arange(n)
    return total.take(np.minimum(at + reach + 1, n), axis) - total.take(np.maximum(at - reach, 0), axis)


def _disc(radius: float) -> np.ndarray:
    reach = int(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return x**2 + y**2 <= radius**2
