"""Cells of simulated tissue as patches of pixels, computed for many cells at once and laid down one by one.

A patch lies on absolute pixels, so that a cell is the same in whichever window it is drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pastpy.datasets._tissue_architecture import LOOKS
from pastpy.datasets._tissue_nuclei import Nuclei

__all__ = ["Canvas", "CellPainter", "step"]

#: Farthest that anything of a cell reaches from its centre, µm.
REACH_UM = 18.0
#: Half sides of patches are multiples of this, so that many cells have patches of one size.
_PATCH_STEP = 4
_BATCH = 64


@dataclass(frozen=True)
class _Look:
    """How the cells of a look are drawn.

    ``dark``: OD of haematoxylin; ``clumps``, ``pale_centre``, ``rim``, ``nucleolus``: its relative contrast;
    ``cytoplasm_um``: width of cytoplasm around the nucleus; ``eosin``, ``basophil``: its OD; ``own``: how much of what
    was there it hides; ``offset``: of the nucleus from the middle, in its half axes.
    """

    dark: float
    clumps: float
    pale_centre: float
    rim: float
    nucleolus: float
    cytoplasm_um: float
    eosin: float
    basophil: float
    own: float
    offset: float = 0.0


_LOOKS = {
    "tumour": _Look(0.62, 0.16, 0.22, 0.20, 0.55, 7.5, 0.30, 0.16, 1.0),
    "myoepithelial": _Look(0.80, 0.12, 0.05, 0.10, 0.0, 3.0, 0.20, 0.03, 0.7),
    "fibroblast": _Look(0.76, 0.12, 0.10, 0.10, 0.1, 1.8, 0.36, 0.05, 0.4),
    "endothelial": _Look(0.82, 0.10, 0.05, 0.10, 0.0, 1.6, 0.38, 0.05, 0.5),
    "macrophage": _Look(0.52, 0.14, 0.16, 0.20, 0.2, 4.5, 0.23, 0.06, 0.8),
    "plasma": _Look(0.92, 0.34, 0.00, 0.10, 0.0, 3.2, 0.30, 0.24, 0.9, 0.45),
    "lymphocyte": _Look(1.00, 0.20, 0.00, 0.05, 0.0, 1.3, 0.26, 0.10, 0.5),
}


def _of_looks(name: str, look: np.ndarray) -> np.ndarray:
    return np.array([getattr(_LOOKS[of], name) for of in LOOKS], dtype=np.float32)[look]


@dataclass
class Canvas:
    """Layers of a window, float32 (len(y), len(x)).

    Attributes
    ----------
    y, x
        Rows and columns, px.
    haematoxylin, eosin
        OD of the stains at unit strength.
    solid
        How much of the section's thickness is there, 0 on glass.
    nearest, second
        Distance to the nearest and second nearest cell, 1 at the rim of its cytoplasm.
    cell_eosin, cell_basophil, cell_own
        Cytoplasm of the nearest cell.
    """

    y: np.ndarray
    x: np.ndarray
    haematoxylin: np.ndarray
    eosin: np.ndarray
    solid: np.ndarray
    nearest: np.ndarray
    second: np.ndarray
    cell_eosin: np.ndarray
    cell_basophil: np.ndarray
    cell_own: np.ndarray

    def part(self, top: int, left: int, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
        """Where a square patch at absolute px meets the window: slices of the window and of the patch."""
        y, x = top - int(self.y[0]), left - int(self.x[0])
        y0, y1, x0, x1 = max(y, 0), min(y + side, len(self.y)), max(x, 0), min(x + side, len(self.x))
        if y0 >= y1 or x0 >= x1:
            return None
        return (slice(y0, y1), slice(x0, x1)), (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))


class CellPainter:
    """Draws cells.

    Parameters
    ----------
    nuclei
        Outlines.
    look
        int (n,), code of the look.
    states
        float (n, 4), visible states.
    fine
        Texture of chromatin.
    mpp
        µm per px.
    rng
        Draws what the states leave open of a cell.
    """

    def __init__(
        self, nuclei: Nuclei, look: np.ndarray, states: np.ndarray, fine: np.ndarray, mpp: float,
        rng: np.random.Generator,
    ) -> None:  # fmt: skip
        n, states = len(look), np.clip(states, -3, 3)
        self.nuclei, self.look, self.fine, self.mpp = nuclei, look, fine, mpp
        self.centre = nuclei.xy / mpp
        radius = np.sqrt(nuclei.axes.prod(1))
        offset = _of_looks("offset", look) * nuclei.axes[:, 1] / mpp
        away = np.column_stack([np.sin(nuclei.angle), -np.cos(nuclei.angle)])
        self.cell_centre = self.centre + offset[:, None] * away
        self.cytoplasm = np.minimum(radius + _of_looks("cytoplasm_um", look), REACH_UM - 4)
        self.long = np.sqrt(nuclei.axes[:, 0] / nuclei.axes[:, 1]) ** np.where(look == LOOKS.index("tumour"), 0.5, 0.8)
        self.eosin = _of_looks("eosin", look) * np.exp(0.22 * states[:, 2])
        self.basophil = _of_looks("basophil", look) * np.exp(-0.30 * states[:, 2])
        self.own = _of_looks("own", look)
        # Nuclei out of the focal plane are paler, and their rim is soft.
        self.soft = np.where(rng.random(n) < 0.18, 0.5 + 1.0 * rng.random(n), 0.0)
        light = np.exp(0.03 * rng.standard_normal(n)) * (1 - 0.08 * self.soft)
        self.dark = (_of_looks("dark", look) * light * np.exp(0.20 * states[:, 1])).astype(np.float32)
        self.clumps = (_of_looks("clumps", look) * np.exp(0.3 * states[:, 1])).astype(np.float32)
        self.patch = rng.integers(0, fine.shape[0], (n, 2))
        self.spot = rng.uniform(-0.4, 0.4, (n, 2, 2)).astype(np.float32)
        shown = rng.poisson(1.0, n)[:, None] > np.arange(2)
        self.nucleolus = shown * _of_looks("nucleolus", look)[:, None] * rng.uniform(0.6, 1.2, (n, 2))

    def near(self, canvas: Canvas) -> np.ndarray:
        """Cells that may reach into a window, in their order."""
        reach = REACH_UM / self.mpp
        x, y = self.centre.T
        inside_x = (x > canvas.x[0] - reach) & (x < canvas.x[-1] + reach)
        return np.flatnonzero(inside_x & (y > canvas.y[0] - reach) & (y < canvas.y[-1] + reach))

    def _batches(self, which: np.ndarray, reach_px: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """Cells by the size of their patch, a few at a time, with half its side."""
        half = (np.ceil(reach_px / _PATCH_STEP).astype(int) + 0) * _PATCH_STEP
        for size in np.unique(half):
            same = which[half == size]
            for start in range(0, len(same), _BATCH):
                yield same[start : start + _BATCH], int(size)

    def _frame(
        self, which: np.ndarray, centre: np.ndarray, half: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Top and left of patches, and the coordinates of their px in the cells' own frames, µm (k, side, side)."""
        corner = np.floor(centre[which]).astype(np.int64) - half
        at = np.arange(2 * half + 1, dtype=np.float64) + 0.5
        dx = (corner[:, :1] + at - centre[which, :1]).astype(np.float32)[:, None, :] * np.float32(self.mpp)
        dy = (corner[:, 1:] + at - centre[which, 1:]).astype(np.float32)[:, :, None] * np.float32(self.mpp)
        angle = self.nuclei.angle[which][:, None, None]
        c, s = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        return corner[:, 1], corner[:, 0], c * dx + s * dy, c * dy - s * dx

    def cytoplasm_contest(self, canvas: Canvas, which: np.ndarray) -> None:
        """Give every px to the nearest cell, by the cells' own measures."""
        reach, long = self.cytoplasm[which], self.long[which]
        for some, half in self._batches(which, reach * long / self.mpp + 1):
            top, left, u, v = self._frame(some, self.cell_centre, half)
            a, b = self.cytoplasm[some] * self.long[some], self.cytoplasm[some] / self.long[some]
            u /= a.astype(np.float32)[:, None, None]
            v /= b.astype(np.float32)[:, None, None]
            distance = np.sqrt(u * u + v * v)
            for k, i in enumerate(some):
                met = canvas.part(int(top[k]), int(left[k]), 2 * half + 1)
                if met is not None:
                    self._enter(canvas, met[0], distance[k][met[1]], i)

    def _enter(self, canvas: Canvas, at: tuple[slice, slice], distance: np.ndarray, i: int) -> None:
        nearest, second = canvas.nearest[at], canvas.second[at]
        wins = distance < nearest
        np.minimum(second, np.maximum(nearest, distance), out=second)
        np.minimum(nearest, distance, out=nearest)
        for layer, value in (
            (canvas.cell_eosin, self.eosin), (canvas.cell_basophil, self.basophil), (canvas.cell_own, self.own),
        ):  # fmt: skip
            np.copyto(layer[at], np.float32(value[i]), where=wins)

    def lay_nuclei(self, canvas: Canvas, which: np.ndarray) -> None:
        """Lay nuclei over what is there, in the order of the cells."""
        reach = 1.25 * self.nuclei.axes[which, 0] / self.mpp + self.soft[which] / self.mpp + 2
        patches: dict[int, tuple[int, int, np.ndarray, np.ndarray]] = {}
        for some, half in self._batches(which, reach):
            top, left, u, v = self._frame(some, self.centre, half)
            cover, density = self._nuclei(some, u, v)
            for k, i in enumerate(some):
                patches[int(i)] = int(top[k]), int(left[k]), cover[k], density[k]
        for i in which:
            top_i, left_i, cover_i, density_i = patches[int(i)]
            met = canvas.part(top_i, left_i, len(cover_i))
            if met is None:
                continue
            at, own = met
            cover_i, density_i, under = cover_i[own], density_i[own], canvas.haematoxylin[at]
            # Where nuclei overlap in the section, both absorb.
            over = np.maximum(density_i, 0.3 * density_i + 0.85 * under)
            under += cover_i * (over - under)
            canvas.eosin[at] *= 1 - np.float32(0.35) * cover_i

    def _nuclei(self, some: np.ndarray, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How much of each px a nucleus covers, and its OD: body, clumps, pale centre, rim, nucleoli."""

        def wide(values: np.ndarray) -> np.ndarray:
            return np.asarray(values, dtype=np.float32)[:, None, None]

        look, axes = self.look[some], self.nuclei.axes[some]
        p, q = u / wide(axes[:, 0]), v / wide(axes[:, 1])
        r = np.sqrt(p * p + q * q) + np.float32(1e-6)
        cos, sin = p / r, q / r
        cos2, sin2 = cos * cos - sin * sin, 2 * cos * sin
        a2, b2, a3, b3 = (wide(h) for h in self.nuclei.harmonics[some].T)
        edge = 1 + a2 * cos2 + b2 * sin2 + a3 * (cos2 * cos - sin2 * sin) + b3 * (sin2 * cos + cos2 * sin)
        # Distance inward in µm: along the radius of the ellipse, which is long where the ellipse is.
        inward = (edge - r) * (np.sqrt(u * u + v * v) / r)
        cover = np.clip(inward / wide(self.mpp + self.soft[some]) + np.float32(0.5), 0, 1)
        rows = (self.patch[some, :1] + np.arange(u.shape[1])) % len(self.fine)
        columns = (self.patch[some, 1:] + np.arange(u.shape[2])) % len(self.fine)
        body = 1 + wide(self.clumps[some]) * self.fine[rows[:, :, None], columns[:, None, :]]
        body -= wide(_of_looks("pale_centre", look)) * np.clip(inward / np.float32(2), 0, 1)
        body += wide(_of_looks("rim", look)) * np.exp(-((inward / np.float32(0.7)) ** 2))
        for k in range(2):
            du = u - wide(self.spot[some, k, 0] * axes[:, 0])
            dv = v - wide(self.spot[some, k, 1] * axes[:, 1])
            body += wide(self.nucleolus[some, k]) * np.exp(-(du * du + dv * dv) / np.float32(0.6))
        return cover, wide(self.dark[some]) * np.maximum(body, np.float32(0.25))


def step(x: np.ndarray, low: float | np.ndarray, high: float | np.ndarray) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth in between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
