"""Read: pixels of a field at the model's µm/px, from the nearest finer pyramid level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pastpy.engine.levels import level_geometry
from pastpy.engine.plan import Field

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from xarray import DataArray

__all__ = ["FieldPixels", "FieldReader", "Window", "resampling_weights", "rgb_channels", "unit_range"]

#: A level that is this much coarser than asked for still serves: scanners state 0.2523 µm/px where 0.25 is meant.
_COARSER = 1.02
#: A field is resampled at once where that makes it smaller by more than this.
_SHRINKS = 2
#: Rows of a field that are then resampled together.
_STRIP = 256
#: Rows and columns of a level: (top, bottom), (left, right), the second of each excluded.
Window = tuple[tuple[int, int], tuple[int, int]]
#: Source range of target pixels along an axis, the source pixels of each, and their weights.
Taps = tuple[tuple[int, int], np.ndarray, "np.ndarray | None"]


def rgb_channels(level: DataArray, name: str) -> DataArray:
    """The three colour channels of a (c, y, x) image, by their names where these are r, g, b; alpha is dropped.

    Raises
    ------
    ValueError
        If the image has neither three nor four channels.
    """
    n = level.sizes["c"]
    if n not in (3, 4):
        raise ValueError(
            f"image {name!r} has {n} channels; an H&E image has 3 (RGB) or 4 (RGBA). Pass the H&E with image_key="
        )
    names = [str(c).lower() for c in level.coords["c"].values] if "c" in level.coords else []
    order = [names.index(c) for c in "rgb"] if {"r", "g", "b"} <= set(names) else [0, 1, 2]
    # a slice costs nothing, a list a copy of every chunk
    return level.isel(c=slice(3) if order == [0, 1, 2] else order)


def check_depth(levels: Sequence[DataArray], name: str) -> None:
    """Refuse 8-bit or 12-bit values in a wider integer type, which would be taken for a nearly black image.

    H&E is bright, so the brightest of many pixels is near the end of its range.

    Raises
    ------
    ValueError
        If no pixel in the middle of the image reaches a quarter of its type's range.
    """
    level = levels[-1]
    if not np.issubdtype(level.dtype, np.integer) or level.dtype.itemsize == 1:
        return
    middle = [slice(max(0, level.sizes[a] // 2 - 256), level.sizes[a] // 2 + 256) for a in "yx"]
    top, limit = int(np.asarray(level[:, middle[0], middle[1]].data).max(initial=0)), np.iinfo(level.dtype).max
    if 0 < top < limit / 4:
        raise ValueError(
            f"image {name!r} is {level.dtype}, but no pixel in its middle is above {top} of {limit}: it looks like "
            f"values of fewer bits. Convert it to uint8, e.g. (image >> {max(0, top.bit_length() - 8)}).astype('uint8')"
        )


def unit_range(pixels: np.ndarray, name: str) -> np.ndarray:
    """Pixels as float32 in [0, 1]: integers are divided by their type's maximum, floats must lie there already.

    Raises
    ------
    ValueError
        If float pixels exceed 1, or the type is not a number.
    """
    if np.issubdtype(pixels.dtype, np.integer):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"image {name!r} has dtype {pixels.dtype}; expected integers, or floats between 0 and 1")
    top = float(np.nanmax(pixels)) if pixels.size else 0.0
    if top > 1.0 + 1e-6:
        raise ValueError(f"image {name!r} has float pixels up to {top:g}; store them as uint8, or scale them to [0, 1]")
    return pixels.astype(np.float32)


class FieldReader:
    """Reads fields at ``target_mpp`` from a lazy pyramid.

    Every target pixel is the tent-weighted mean of the level's pixels around it (an antialiased linear filter on
    absolute coordinates), so a pixel has the same value whichever field it was read in. Beyond the edge the nearest
    pixel is repeated.

    Parameters
    ----------
    levels
        Lazy (c, y, x) arrays, level 0 first.
    mpp
        µm per level-0 pixel.
    target_mpp
        µm per pixel of the fields.
    name
        Name of the image, for messages.

    Attributes
    ----------
    level
        The pyramid level that is read: the coarsest that is at least as fine as ``target_mpp``, give or take 2 %.
    width, height
        Size of the image in target pixels.
    zoom
        Target pixels per pixel of ``level``, x and y.
    corner
        Top-left corner of ``level`` in target pixels, x and y; not (0, 0) where a pyramid's writer has dropped pixels.

    Raises
    ------
    ValueError
        If the image is not RGB or RGBA, or holds fewer bits than its type says.
    """

    def __init__(self, levels: Sequence[DataArray], *, mpp: float, target_mpp: float, name: str = "image") -> None:
        rgb = [rgb_channels(level, name) for level in levels]
        check_depth(rgb, name)
        full_width, full_height = rgb[0].sizes["x"], rgb[0].sizes["y"]
        self.name = name
        self.target_per_level0 = mpp / target_mpp
        self.width = full_width * self.target_per_level0
        self.height = full_height * self.target_per_level0
        # near enough to choose a level by; where its pixels lie is measured
        scales = [(full_width / level.sizes["x"], full_height / level.sizes["y"]) for level in rgb]
        fine_enough = [i for i, (sx, sy) in enumerate(scales) if max(sx, sy) * mpp <= target_mpp * _COARSER]
        chosen = fine_enough[-1] if fine_enough else 0
        self.level = rgb[chosen]
        geometry = level_geometry(rgb, chosen)
        self.zoom = tuple(s * self.target_per_level0 for s in geometry.scale)
        self.corner = tuple(o * self.target_per_level0 for o in geometry.offset)

    def _taps(self, field: Field, axis: str) -> Taps:
        i = "xy".index(axis)
        start, n = (field.x, field.width) if axis == "x" else (field.y, field.height)
        return _taps(start, n, self.zoom[i], self.level.sizes[axis], self.corner[i])

    def window(self, field: Field) -> Window:
        """The part of the level that a field is made of."""
        columns, _, _ = self._taps(field, "x")
        rows, _, _ = self._taps(field, "y")
        return rows, columns

    def read(self, field: Field) -> np.ndarray:
        """Pixels of a field: float32 (3, height, width) in [0, 1]."""
        rows, columns = self.window(field)
        return as_unit(self.resample(field, np.asarray(self.level[:, slice(*rows), slice(*columns)].data)), self.name)

    def resample(self, field: Field, block: np.ndarray) -> np.ndarray:
        """Pixels of a field from those of its window in the level, (3, h, w).

        Returns
        -------
        (3, height, width): of the level's own type where the resolutions agree, else float32 in [0, 1].
        """
        (left, _), x_taps, x_weight = self._taps(field, "x")
        (top, _), y_taps, y_weight = self._taps(field, "y")
        if x_weight is None and y_weight is None:
            rows, columns = _as_slice(y_taps - top), _as_slice(x_taps - left)
            return np.ascontiguousarray(block[:, rows][:, :, columns])
        by_row = _sparse(y_taps - top, y_weight, block.shape[1])
        by_column = _sparse(x_taps - left, x_weight, block.shape[2])
        out = np.empty((3, field.height, field.width), dtype=np.float32)
        for channel, pixels in zip(out, block, strict=True):
            narrow = by_row @ unit_range(pixels, self.name)
            channel[:] = (by_column @ np.ascontiguousarray(narrow.T)).T
        return out


class FieldPixels:
    """A field's pixels, resampled rectangle by rectangle when they are needed.

    Until then they are kept as the level has them, unless the level is so much finer that they would fill the memory.

    Parameters
    ----------
    reader
        The image.
    field
        The field.
    block
        Pixels of the field's window in the level, (3, h, w).
    """

    def __init__(self, reader: FieldReader, field: Field, block: np.ndarray) -> None:
        self.field = field
        self._reader, self._block = reader, block
        self._resampled: np.ndarray | None = None
        if block.itemsize * block[0].size > _SHRINKS * np.dtype(np.float32).itemsize * field.width * field.height:
            strips = (min(_STRIP, field.height - y) for y in range(0, field.height, _STRIP))
            self._resampled = np.concatenate(
                [self.cut(0, i * _STRIP, field.width, height) for i, height in enumerate(strips)], axis=1
            )
            self._block = block[:, :0, :0]

    def cut(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        """Pixels (3, height, width) of a rectangle, its corner counted from the field's; as ``resample`` gives them."""
        if self._resampled is not None:
            # a rectangle around a unit at the border may begin beyond the field, where the edge's pixels are repeated
            rows, columns = (
                _as_slice(np.clip(np.arange(start, start + n), 0, end - 1))
                for start, n, end in ((y, height, self.field.height), (x, width, self.field.width))
            )
            return self._resampled[:, rows][:, :, columns]
        part = Field(self.field.x + x, self.field.y + y, width, height, self.field.units)
        (top, _), (left, _) = self._reader.window(self.field)
        (y0, y1), (x0, x1) = self._reader.window(part)
        return self._reader.resample(part, self._block[:, y0 - top : y1 - top, x0 - left : x1 - left])

    def whole(self) -> np.ndarray:
        """All pixels of the field, (3, height, width)."""
        return self.cut(0, 0, self.field.width, self.field.height)


def as_unit(pixels: np.ndarray, name: str) -> np.ndarray:
    """Pixels from :meth:`FieldReader.resample` as float32 in [0, 1]."""
    return pixels if pixels.dtype == np.float32 and pixels.max(initial=0) <= 1 else unit_range(pixels, name)


def resampling_weights(
    start: int, n: int, zoom: float, size: int, corner: float = 0.0
) -> tuple[tuple[int, int], np.ndarray]:
    """Source range and (n, n_source) weights of ``n`` target pixels from ``start`` along one axis.

    The source begins at ``corner``, and each of its ``size`` pixels is ``zoom`` target pixels wide.
    """
    (low, high), taps, weight = _taps(start, n, zoom, size, corner)
    if weight is None:
        taps, weight = taps[:, None], np.ones((n, 1), dtype=np.float32)
    matrix = np.zeros((n, high - low), dtype=np.float32)
    np.add.at(matrix, (np.arange(n)[:, None], taps - low), weight)
    return (low, high), matrix


def _taps(start: int, n: int, zoom: float, size: int, corner: float = 0.0) -> Taps:
    """Source range, and the source pixels (n, taps) of each target pixel with their weights.

    Where the resolutions agree there is one source pixel each, taps are (n,), and no weight.
    """
    centre = (np.arange(start, start + n) + 0.5 - corner) / zoom - 0.5
    if abs(zoom - 1) < 1e-6 and abs(corner - round(corner)) < 1e-6:
        taps = np.clip(np.round(centre).astype(int), 0, size - 1)
        return (int(taps.min()), int(taps.max()) + 1), taps, None
    support = max(1.0, 1.0 / zoom)
    first = np.floor(centre - support).astype(int) + 1
    taps = first[:, None] + np.arange(int(np.ceil(2 * support)))
    weight = np.clip(1 - np.abs(taps - centre[:, None]) / support, 0, None)
    weight /= weight.sum(axis=1, keepdims=True)
    taps = np.clip(taps, 0, size - 1)
    return (int(taps.min()), int(taps.max()) + 1), taps, weight.astype(np.float32)


def _sparse(taps: np.ndarray, weight: np.ndarray | None, n_source: int) -> csr_array:
    """Resampling along an axis; sums term by term, so to the same bits in every field, as dense products do not."""
    from scipy.sparse import csr_array

    if weight is None:
        taps, weight = taps[:, None], np.ones((len(taps), 1), dtype=np.float32)
    n, k = taps.shape
    return csr_array((weight.ravel(), taps.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n_source))


def _as_slice(index: np.ndarray) -> slice | np.ndarray:
    """A slice where an index is a plain range: it copies many times faster."""
    first = int(index[0])
    if int(index[-1]) - first == len(index) - 1 and (np.diff(index) == 1).all():
        return slice(first, first + len(index))
    return index
