"""H&E of simulated tissue, drawn window by window: any window has the pixels that the whole picture has there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pastpy.datasets._tissue_architecture import GRID_UM, Architecture
from pastpy.datasets._tissue_nuclei import Nuclei
from pastpy.datasets._tissue_stamp import REACH_UM, Canvas, CellPainter, step
from pastpy.datasets._tissue_texture import Textures

__all__ = ["Renderer", "Stain"]

#: Windows are widened to this grid before compression: JPEG works on blocks of 8 px.
_JPEG_BLOCK = 8
#: SciPy's Gaussians end at this many standard deviations.
_TRUNCATE = 3.0
_LN10 = np.float32(np.log(10))


@dataclass(frozen=True)
class Stain:
    """How one donor's slide was stained and scanned.

    Attributes
    ----------
    haematoxylin, eosin
        (3,) unit directions in OD space, red, green, blue.
    strength
        Strength of haematoxylin and eosin.
    white
        (3,) light through glass, 0–1.
    blur_um
        Standard deviation of the optical blur, µm.
    jpeg_quality
        0 for none.
    sensor_noise
        Standard deviation, grey levels.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    strength: tuple[float, float]
    white: tuple[float, float, float]
    blur_um: float
    jpeg_quality: int
    sensor_noise: float


class Renderer:
    """Draws one donor's tissue.

    Parameters
    ----------
    architecture
        Fields and holes.
    nuclei
        Outlines.
    look
        int (n,), code of the look.
    states
        float (n, 4), visible states of the cells.
    stain
        Stain and optics.
    textures
        Textures at this ``mpp``.
    mpp
        µm per px.
    seed
        Shifts the textures, and draws what the states leave open of a cell.
    """

    def __init__(
        self, architecture: Architecture, nuclei: Nuclei, look: np.ndarray, states: np.ndarray, stain: Stain,
        textures: Textures, mpp: float, seed: int | list[int],
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(seed)
        self.architecture, self.stain, self.textures, self.mpp = architecture, stain, textures, mpp
        self.cells = CellPainter(nuclei, look, states, textures.fine, mpp, rng)
        self.shift = rng.integers(0, 1024, 2)
        self.erythrocytes = self._erythrocytes(rng)

    def window(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Pixels of rows ``y0`` to ``y1`` and columns ``x0`` to ``x1``, uint8 (3, height, width)."""
        block = _JPEG_BLOCK
        top, left = y0 // block * block, x0 // block * block
        bottom, right = -(-y1 // block) * block, -(-x1 // block) * block
        sigma = self.stain.blur_um / self.mpp
        halo = int(np.ceil(_TRUNCATE * sigma)) + 1
        rgb = self._transmitted(top - halo, bottom + halo, left - halo, right + halo)
        rgb = self._scan(rgb, sigma, halo, np.arange(top, bottom), np.arange(left, right))
        return rgb[:, y0 - top : y1 - top, x0 - left : x1 - left]

    def _transmitted(self, y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        """Light through the section, float32 (3, height, width)."""
        y, x = np.arange(y0, y1), np.arange(x0, x1)
        white = np.array(self.stain.white, dtype=np.float32)[:, None, None]
        if self._field("tissue", y[::8], x[::8]).max() < -REACH_UM - 8 * self.mpp:
            return np.broadcast_to(white, (3, len(y), len(x)))
        canvas = self._ground(y, x)
        near = self.cells.near(canvas)
        self.cells.cytoplasm_contest(canvas, near)
        self._settle_cytoplasm(canvas)
        self._holes(canvas)
        self.cells.lay_nuclei(canvas, near)
        h, e = canvas.haematoxylin * self.stain.strength[0], canvas.eosin * self.stain.strength[1]
        out = np.empty((3, *h.shape), dtype=np.float32)
        for c in range(3):
            density = h * np.float32(self.stain.haematoxylin[c]) + e * np.float32(self.stain.eosin[c])
            out[c] = white[c] * np.exp(-_LN10 * density)
        return out

    def _scan(self, rgb: np.ndarray, sigma: float, halo: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Blur, noise, 8 bits, JPEG; takes the halo off."""
        from scipy.ndimage import gaussian_filter1d

        out = np.empty((len(y), len(x), 3), dtype=np.uint8)
        for c in range(3):
            channel = rgb[c]
            if sigma > 0:
                for axis in (0, 1):
                    channel = gaussian_filter1d(channel, sigma, axis=axis, truncate=_TRUNCATE)
            channel = channel[halo:-halo, halo:-halo] * 255
            channel = channel + self.stain.sensor_noise * self.textures.window("white", y + 331 * c, x + 517 * c)
            out[..., c] = np.clip(np.round(channel), 0, 255)
        return _jpeg(out, self.stain.jpeg_quality).transpose(2, 0, 1)

    def _field(self, name: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """A field of the architecture at px centres, bilinear, (len(y), len(x)) float32."""
        values = self.architecture.fields[name]
        last = len(values) - 1.001

        def corners(px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            at = np.clip((px + 0.5) * (self.mpp / GRID_UM) - 0.5, 0, last)
            low = at.astype(np.intp)
            return low, (at - low).astype(np.float32)

        (i, a), (j, b) = corners(y), corners(x)
        values = values[i[0] : i[-1] + 2, j[0] : j[-1] + 2]
        i, j = i - i[0], j - j[0]
        rows = values[i]
        rows += (values[i + 1] - rows) * a[:, None]
        out = rows[:, j]
        out += (rows[:, j + 1] - out) * b
        return out

    def _ground(self, y: np.ndarray, x: np.ndarray) -> Canvas:
        """The section without cells: collagen, loose stroma, the ground of nests, clefts, glass."""
        ty, tx = y + self.shift[0], x + self.shift[1]
        clouds = self.textures.window("clouds", ty, tx)
        coarse = self.textures.window("coarse", ty, tx)
        direction = np.arctan2(self._field("sin2", y, x), self._field("cos2", y, x)) / 2
        strands = self.textures.strands(ty, tx, direction)
        nest_um = self._field("nest", y, x) + 1.2 * clouds
        nest = step(nest_um, -1.0, 1.5)
        aggregate = self._field("aggregate", y, x)
        collagen = self._field("collagen", y, x)
        rim_um = self._field("tissue", y, x) + 2.5 * clouds + 1.2 * strands
        solid = step(rim_um, -0.5, 1.0)

        fat = self._field("fat", y, x)
        dense = step(collagen, -1.2, 1.2) * (1 - 0.8 * np.maximum(aggregate, fat))
        # Loose stroma tears open between its strands; dense stroma does not.
        open_at = -1.5 + 1.6 * (1 - dense) + 0.35 * clouds
        strand = step(strands + 0.25 * coarse, open_at - 0.8, open_at + 0.3)
        stroma = (0.15 + 0.38 * dense + 0.11 * strands + 0.03 * coarse) * (0.15 + 0.85 * strand)
        stroma *= 1 - 0.4 * fat
        # Nests shrink away from the stroma here and there.
        cleft = np.exp(-(((nest_um + 2.2) / 1.8) ** 2)) * step(clouds + 0.5 * collagen, 0.3, 1.0)
        eosin = np.maximum(stroma, 0.02) * (1 - nest) + nest * (0.22 + 0.03 * coarse)
        basophil = (0.03 + 0.05 * aggregate) * (1 - nest) + nest * (0.10 + 0.02 * coarse)
        solid *= 1 - 0.85 * cleft
        solid *= self._field("thick", y, x)
        layers = [np.full((len(y), len(x)), value, dtype=np.float32) for value in (9, 9, 0, 0, 0)]
        return Canvas(y, x, basophil * solid, eosin * solid, solid, *layers)

    def _settle_cytoplasm(self, canvas: Canvas) -> None:
        """Fill each pixel with the cytoplasm that won it, with borders where two cells meet."""
        ty, tx = canvas.y + self.shift[1], canvas.x + self.shift[0]
        coarse = self.textures.window("coarse", ty, tx)
        inside = step(-canvas.nearest, -1.0, -0.8) * canvas.solid
        border = np.exp(-(((canvas.second - canvas.nearest) / np.float32(0.08)) ** 2))
        amount = inside * (1 + 0.16 * coarse) * (1 + 0.25 * border)
        kept = 1 - canvas.cell_own * inside
        canvas.eosin *= kept
        canvas.haematoxylin *= kept
        canvas.eosin += amount * canvas.cell_eosin
        canvas.haematoxylin += amount * canvas.cell_basophil

    def _holes(self, canvas: Canvas) -> None:
        """Lumina of vessels with their wall and blood, fat cells, lumina of glands."""
        holes = self.architecture.holes
        reach = (holes[:, 2] + 6) / self.mpp
        cx, cy = holes[:, 0] / self.mpp, holes[:, 1] / self.mpp
        y0, y1, x0, x1 = canvas.y[0], canvas.y[-1] + 1, canvas.x[0], canvas.x[-1] + 1
        for i in np.flatnonzero((cx > x0 - reach) & (cx < x1 + reach) & (cy > y0 - reach) & (cy < y1 + reach)):
            top, left, side = int(cy[i] - reach[i]), int(cx[i] - reach[i]), 2 * int(np.ceil(reach[i])) + 1
            met = canvas.part(top, left, side)
            if met is not None:
                self._hole(canvas, met[0], int(i))

    def _hole(self, canvas: Canvas, at: tuple[slice, slice], i: int) -> None:
        x, y, a, b, angle, kind = self.architecture.holes[i]
        dx = ((canvas.x[at[1]] + 0.5) * self.mpp - x)[None]
        dy = ((canvas.y[at[0]] + 0.5) * self.mpp - y)[:, None]
        c, s = np.cos(angle), np.sin(angle)
        clouds = self.textures.window("clouds", canvas.y[at[0]], canvas.x[at[1]])
        depth = (1 - np.hypot((c * dx + s * dy) / a, (c * dy - s * dx) / b)) * np.sqrt(a * b) + 0.7 * clouds
        empty = step(depth, -0.4, 0.6).astype(np.float32)
        wall = np.exp(-(((depth + 1.2) / (1.6 if kind == 0 else 0.8)) ** 2)) * canvas.solid[at]
        canvas.eosin[at] = np.maximum(canvas.eosin[at], (0.5 if kind == 0 else 0.4) * wall) * (1 - 0.97 * empty)
        canvas.haematoxylin[at] *= 1 - 0.97 * empty
        canvas.solid[at] *= 1 - empty
        if kind == 0:
            blood = np.zeros(empty.shape, dtype=np.float32)
            for ex, ey in self.erythrocytes[i]:
                r = np.hypot(dx - ex, dy - ey)
                blood = np.maximum(blood, step(-r, -3.4, -2.8) * (0.75 + 0.25 * np.minimum(r / 2.5, 1)))
            canvas.eosin[at] += 0.62 * blood * empty
        elif kind == 2:
            canvas.eosin[at] += 0.10 * empty * (1 + 0.5 * clouds)

    def _erythrocytes(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Offsets (k, 2) in µm of red blood cells from the middle of each hole; only vessels have any."""
        out = []
        for _, _, a, b, angle, kind in self.architecture.holes:
            n = int(rng.poisson(a * b * rng.choice([0.0, 0.02, 0.06]))) if kind == 0 else 0
            t, r = rng.uniform(0, 2 * np.pi, n), np.sqrt(rng.random(n)) * 0.85
            u, v = a * r * np.cos(t), b * r * np.sin(t)
            out.append(np.column_stack([np.cos(angle) * u - np.sin(angle) * v, np.sin(angle) * u + np.cos(angle) * v]))
        return out


def _jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    """Through a JPEG and back; without colour subsampling, so that no block of 8 px knows of another."""
    if quality == 0:
        return rgb
    import io

    from PIL import Image

    with io.BytesIO() as file:
        Image.fromarray(rgb).save(file, "JPEG", quality=quality, subsampling=0)
        file.seek(0)
        with Image.open(file) as image:
            return np.asarray(image)


def draw_stain(
    strength: tuple[float, float], strength_sd: float, hue_sd: float, blur_um: float, blur_sd: float,
    jpeg_quality: int, sensor_noise: float, rng: np.random.Generator,
) -> Stain:  # fmt: skip
    """A donor's stain: directions between those of Ruifrok & Johnston and of Macenko et al., and around them."""
    ruifrok = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
    macenko = np.array([[0.563, 0.720, 0.406], [0.216, 0.801, 0.558]])
    # Haematoxylin lies nearer to the first, eosin to the second.
    between = np.array([[0.3], [0.65]]) + hue_sd * rng.uniform(-0.3, 0.3, (2, 1))
    vectors = ruifrok + between * (macenko - ruifrok) + hue_sd * 0.025 * rng.standard_normal((2, 3))
    vectors = np.clip(vectors, 0.01, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    amount = np.array(strength) * np.exp(strength_sd * rng.standard_normal(2))
    white = 0.955 + hue_sd * rng.uniform(-0.02, 0.02, 3)
    blur = blur_um * np.exp(blur_sd * rng.standard_normal())
    jitter = rng.integers(-5, 6)
    quality = 0 if jpeg_quality == 0 else int(np.clip(jpeg_quality + jitter, 1, 100))
    h, e = (tuple(v.tolist()) for v in vectors)
    return Stain(h, e, tuple(amount.tolist()), tuple(white.tolist()), float(blur), quality, sensor_noise)
