"""Shape of simulated nuclei: what is drawn and the polygon that is the truth follow from the same numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pastpy.datasets._tissue_architecture import LOOKS, Cells
from pastpy.datasets._tissue_expression import Profiles

__all__ = ["Nuclei", "make_nuclei"]

#: Median ratio of the axes of nuclei, spread of its logarithm: neoplastic, connective and inflammatory nuclei of the
#: HGSC crop (BSD-3, HautaniemiLab) have medians of 1.36, 2.09 and 1.24.
_ASPECT = {
    "tumour": (1.38, 0.18), "myoepithelial": (1.8, 0.2), "fibroblast": (2.3, 0.28), "endothelial": (2.6, 0.25),
    "macrophage": (1.4, 0.15), "plasma": (1.18, 0.08), "lymphocyte": (1.18, 0.09),
}  # fmt: skip
#: How far outlines stray from an ellipse: standard deviation of the third harmonic of the radius.
_UNEVEN = {
    "tumour": 0.05, "myoepithelial": 0.05, "fibroblast": 0.06, "endothelial": 0.05, "macrophage": 0.09, "plasma": 0.03,
    "lymphocyte": 0.035,
}  # fmt: skip
#: Sizes come from this type's distribution: types of one look must not differ in what is seen.
_SIZE_TYPE = dict.fromkeys(LOOKS, "") | {"plasma": "plasma_cell", "lymphocyte": "T_cell"}
_SMALLEST_UM2, _LARGEST_UM2 = 14.0, 200.0
_VERTICES = 32


@dataclass(frozen=True)
class Nuclei:
    """Outlines r(φ) = 1 + Σ (a_m cos mφ + b_m sin mφ), m = 2, 3, in the frame of an ellipse.

    Attributes
    ----------
    xy
        (n, 2) centres, µm.
    axes
        (n, 2) half axes, µm.
    angle
        (n,) direction of the first axis, radians.
    harmonics
        (n, 4): a₂, b₂, a₃, b₃.
    """

    xy: np.ndarray
    axes: np.ndarray
    angle: np.ndarray
    harmonics: np.ndarray

    @property
    def area_um2(self) -> np.ndarray:
        """Area within the outline, µm²."""
        return np.pi * self.axes.prod(1) * (1 + (self.harmonics**2).sum(1) / 2)

    def polygons(self, mpp: float) -> np.ndarray:
        """Outlines as shapely polygons in px."""
        import shapely

        t = np.arange(_VERTICES) * 2 * np.pi / _VERTICES
        waves = np.stack([np.cos(2 * t), np.sin(2 * t), np.cos(3 * t), np.sin(3 * t)])
        r = 1 + self.harmonics @ waves
        u, v = self.axes[:, :1] * r * np.cos(t), self.axes[:, 1:] * r * np.sin(t)
        c, s = np.cos(self.angle)[:, None], np.sin(self.angle)[:, None]
        x, y = self.xy[:, :1] + c * u - s * v, self.xy[:, 1:] + s * u + c * v
        return shapely.polygons(np.stack([x, y], axis=-1) / mpp)


def make_nuclei(cells: Cells, states: np.ndarray, profiles: Profiles, scale: float, rng: np.random.Generator) -> Nuclei:
    """Outlines of cells whose visible states say how large and how long they are.

    The size state is a standard normal; its quantile becomes that of the real areas of the look's type, which are then
    multiplied by ``scale``.
    """
    from scipy.special import ndtr

    n = len(cells.xy)
    area, aspect, harmonics = np.empty(n), np.empty(n), rng.standard_normal((n, 4))
    for i, look in enumerate(LOOKS):
        of = np.flatnonzero(cells.look == i)
        row = profiles.types.index(_SIZE_TYPE[look] or look)
        real = np.log(np.maximum.accumulate(profiles.nucleus_um2[row]) + np.arange(len(profiles.quantiles)) * 1e-3)
        area[of] = np.exp(np.interp(ndtr(states[of, 0]), profiles.quantiles, real))
        median, spread = _ASPECT[look]
        aspect[of] = np.exp(np.maximum(np.log(median) + spread * states[of, 3], 0.03))
        # The second harmonic would pass for elongation.
        harmonics[of] *= _UNEVEN[look] * np.array([0.4, 0.4, 1.0, 1.0])
    area = np.clip(area * scale, _SMALLEST_UM2, _LARGEST_UM2)
    both = area / np.pi / (1 + (harmonics**2).sum(1) / 2)
    axes = np.column_stack([np.sqrt(both * aspect), np.sqrt(both / aspect)])
    return Nuclei(cells.xy, axes, cells.angle, harmonics)
