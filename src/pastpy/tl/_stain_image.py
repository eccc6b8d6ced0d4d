"""Paint: the colours of a virtual stain, block by block, from the H&E block and the cells that touch it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pastpy._raster import draw_spans, filled_spans
from pastpy.engine.read import unit_range
from pastpy.tl._stain import COUNTERSTAIN, compose, haematoxylin_amount

if TYPE_CHECKING:
    from xarray import DataArray, DataTree

    from pastpy.tl._markers import Compartment

__all__ = ["StainPainter", "stain_element"]


class Profile(NamedTuple):
    """Share of a cell's optical density that its parts show: a section holds cytoplasm above and below a nucleus."""

    nucleus: float
    cytoplasm: float
    membrane: float
    #: share that the cytoplasm has lost at the cell's border
    fade: float


PROFILES: dict[str, Profile] = {
    "nucleus": Profile(nucleus=1.0, cytoplasm=0.0, membrane=0.0, fade=0.0),
    "cytoplasm": Profile(nucleus=0.3, cytoplasm=1.0, membrane=0.0, fade=0.6),
    "membrane": Profile(nucleus=0.0, cytoplasm=0.25, membrane=1.0, fade=0.0),
}
#: Width of a membrane and blur of the chromogen, µm.
MEMBRANE_UM = 1.2
BLUR_UM = 0.35
#: Side of the stain's blocks where the H&E's own are larger, and the largest side of a pyramid's top, px.
BLOCK_PX = 1024
TOP_PX = 512


class StainPainter:
    """Paints blocks of a virtual stain; holds one optical density a cell and no pixels.

    Every nucleus claims the pixels within ``expand_um`` that are nearer to it than to any other nucleus; the chromogen
    fills the nucleus, that ring, or the ring's border. What a pixel looks like depends on absolute coordinates only,
    so blocks of any size give the same image.

    Parameters
    ----------
    geometry
        object (n,), shapely polygons of nuclei in level-0 pixels.
    density
        float (n,), optical density of the chromogen, NaN (drawn as 0) where unknown.
    compartment
        Where the chromogen sits.
    mpp
        µm per level-0 pixel.
    expand_um
        How far the cell reaches beyond its nucleus, µm.
    name
        Name of the H&E, for messages.
    """

    def __init__(
        self,
        geometry: np.ndarray,
        density: np.ndarray,
        *,
        compartment: Compartment,
        mpp: float,
        expand_um: float,
        name: str,
    ) -> None:
        import shapely

        self.geometry = geometry
        self.density = np.nan_to_num(density.astype(np.float32), nan=0.0)
        self.compartment = compartment
        self.mpp = mpp
        self.expand = expand_um / mpp
        self.name = name
        self.tree = shapely.STRtree(geometry)

    def paint(self, block: np.ndarray, y: int, x: int) -> np.ndarray:
        """Virtual stain of an H&E block (3, h, w) whose first pixel is (``y``, ``x``): uint8 (3, h, w)."""
        haematoxylin = COUNTERSTAIN * haematoxylin_amount(unit_range(block, self.name))
        return compose(haematoxylin, self.chromogen(y, x, *block.shape[1:]))

    def chromogen(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Optical density of the chromogen: float32 (height, width)."""
        from scipy.ndimage import gaussian_filter

        # everything that reaches into the block: the blur, then the membrane, then the edges between cells
        halo = int(np.ceil((4 * BLUR_UM + 2 * MEMBRANE_UM) / self.mpp)) + 2
        owner, distance = self._territories(y - halo, x - halo, height + 2 * halo, width + 2 * halo)
        if not (owner >= 0).any():
            return np.zeros((height, width), dtype=np.float32)
        profile = PROFILES[self.compartment]
        share = profile.cytoplasm * (1 - profile.fade * (distance / self.expand) ** 2)
        share[distance == 0] = profile.nucleus
        if profile.membrane:
            share += _membrane(owner, self.mpp) * (profile.membrane - share)
        density = np.where(owner >= 0, self.density[owner] * share, 0)
        blurred = gaussian_filter(density, BLUR_UM / self.mpp)
        return blurred[halo : halo + height, halo : halo + width]

    def _territories(self, y: int, x: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Position of the cell that each pixel belongs to (−1: none) and distance to its nucleus in px."""
        import shapely
        from scipy.ndimage import distance_transform_edt

        reach = int(np.ceil(self.expand)) + 1
        y, x, height, width = y - reach, x - reach, height + 2 * reach, width + 2 * reach
        found = np.sort(self.tree.query(shapely.box(x, y, x + width, y + height)))
        owner = np.full((height, width), -1, dtype=np.int32)
        inner = (slice(reach, -reach), slice(reach, -reach))
        if len(found):
            row, start, stop, position = filled_spans(self.geometry[found])
            draw_spans(owner, row - y, start - x, stop - x, found[position])
        if not (owner >= 0).any():
            return owner[inner], np.full((height, width), np.inf, dtype=np.float32)[inner]
        distance, (near_y, near_x) = distance_transform_edt(owner < 0, return_indices=True)
        owner = np.where(distance <= self.expand, owner[near_y, near_x], -1)
        return owner[inner], distance[inner].astype(np.float32)


def _membrane(owner: np.ndarray, mpp: float) -> np.ndarray:
    """Weight between 0 and 1 of the membrane: 1 where a cell ends, fading within twice its width."""
    from scipy.ndimage import distance_transform_edt

    edge = np.zeros(owner.shape, dtype=bool)
    for axis in (0, 1):
        change = np.diff(owner, axis=axis) != 0
        before = [slice(None)] * 2
        after = [slice(None)] * 2
        before[axis], after[axis] = slice(None, -1), slice(1, None)
        edge[tuple(before)] |= change
        edge[tuple(after)] |= change
    edge &= owner >= 0
    if not edge.any():
        return np.zeros(owner.shape, dtype=np.float32)
    away = distance_transform_edt(~edge) * (mpp / MEMBRANE_UM)
    return np.where((away < 2) & (owner >= 0), np.exp(-(away**2)), 0).astype(np.float32)


def stain_element(level0: DataArray, painter: StainPainter, transformations: dict[str, Any]) -> DataTree:
    """Multiscale image element of a virtual stain; no pixel is computed before it is asked for.

    Parameters
    ----------
    level0
        Full resolution of the H&E, RGB, dimensions (c, y, x).
    painter
        Paints its blocks.
    transformations
        Transformations of the H&E by coordinate system.
    """
    import dask.array as da
    from dask.base import tokenize
    from spatialdata.models import Image2DModel

    pixels = da.asarray(level0.data)
    pixels = pixels.rechunk({0: -1, 1: _block_px(pixels.chunks[1]), 2: _block_px(pixels.chunks[2])})
    painted = da.map_blocks(
        _paint_block,
        pixels,
        painter=painter,
        dtype=np.uint8,
        meta=np.empty((0, 0, 0), dtype=np.uint8),
        # named here because dask would otherwise pickle every polygon to make up a name
        name=f"virtual-stain-{id(painter):x}-{tokenize(pixels.name)}",
    )
    side, factors = max(painted.shape[1:]) / 2, [2]
    while side > TOP_PX:
        side, factors = side / 2, [*factors, 2]
    return Image2DModel.parse(
        painted,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=transformations,
        scale_factors=factors,
        # stated because the default would tie several blocks together
        chunks=painted.chunksize,
    )


def _block_px(chunks: tuple[int, ...]) -> int:
    return min(max(chunks), BLOCK_PX)


def _paint_block(
    block: np.ndarray, *, painter: StainPainter, block_info: dict[int, dict[str, Any]] | None = None
) -> np.ndarray:
    if block_info is None:
        raise ValueError("dask gave no position for the block")
    _, (y, _), (x, _) = block_info[0]["array-location"]
    return painter.paint(np.asarray(block), int(y), int(x))
