"""A slide file as lazy pyramid levels with what the file says of its resolution."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy.io._damaged import DAMAGED

if TYPE_CHECKING:
    from dask.array import Array

__all__ = ["Fourth", "LazyLevel", "Slide", "as_rgb", "one_plane", "opaque", "refuse_markers"]

#: What a fourth channel is: opacity, opacity that the colours are multiplied by already, or of no use.
Fourth = Literal["opacity", "premultiplied", "unused"]

#: Names of channels that are, or may be, those of a brightfield image: colours, and names that say nothing.
_NOT_MARKERS = re.compile(
    r"red|green|blue|rgb|bright|transmi|h&e|ha?ematox|\b(TL|BF)\b|^\W*([rgb]|he|(c|ch|channel)?[\W\d_]*)\W*$", re.I
)

#: Side of a block in px, about: large enough to be worth a task, small enough that a field reads little in vain.
BLOCK = 1024


@dataclass(frozen=True)
class Slide:
    """What every reader of slide files gives.

    Attributes
    ----------
    levels
        Lazy arrays (3, height, width), uint8 or uint16, level 0 first.
    mpp
        µm per level-0 pixel in x and y as the file states them, ``None`` where it does not.
    objective_power
        Magnification of the objective as the file states it, e.g. 20.
    format
        Name of the format, for messages.
    """

    levels: list[Array]
    mpp: tuple[float, float] | None
    objective_power: float | None
    format: str


class LazyLevel:
    """One level of a slide as an array that reads what it is sliced for; base of the formats' own.

    Dask hands a consumer's slice down to it, so a field reads its own pixels and not the whole blocks it touches. An
    instance can be sent to another process: the open file stays behind, and is opened again there.

    Parameters
    ----------
    path
        The file.
    shape
        Shape of the level.
    dtype
        Type of a pixel.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: Any) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._source: Any = None

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def open(self) -> Any:
        """Open the file; called once in a process."""
        raise NotImplementedError

    def read(self, source: Any, window: tuple[slice, ...]) -> np.ndarray:
        """Pixels of a window (slices with start and stop, step 1)."""
        raise NotImplementedError

    def __getitem__(self, key: tuple[Any, ...]) -> np.ndarray:
        window, rest = zip(*(_window(k, n) for k, n in zip(key, self.shape, strict=True)), strict=True)
        sides = [w.stop - w.start for w in window]
        if 0 in sides:
            return np.empty(sides, self.dtype)
        try:
            if self._source is None:
                self._source = self.open()
            pixels = self.read(self._source, window)
        except DAMAGED as error:
            raise ValueError(f"slide {self.path.name}: its pixels cannot be read ({error}); is it damaged?") from error
        for axis in reversed(range(self.ndim)):  # an index of one axis at a time, as dask means it
            pixels = pixels[(slice(None),) * axis + (rest[axis],)]
        return pixels

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}

    def to_dask(self, tile: tuple[int, ...]) -> Array:
        """As dask array, in blocks of whole tiles."""
        import dask.array as da
        from dask.base import tokenize

        blocks = tuple(
            n if t >= n else min(n, t * max(1, round(BLOCK / t))) for t, n in zip(tile, self.shape, strict=True)
        )
        token = tokenize(type(self).__name__, str(self.path), self.path.stat().st_mtime_ns, vars(self).get("level"))
        return da.from_array(self, chunks=blocks, name=f"slide-{token}", meta=np.empty((0,), self.dtype))


def _window(key: Any, n: int) -> tuple[slice, Any]:
    """The range that an index needs, and what is left to do within it."""
    if isinstance(key, slice):
        start, stop, step = key.indices(n)
        if step < 0:
            return _window(np.arange(start, stop, step), n)
        return slice(start, max(start, stop)), slice(None, None, step)
    index = np.asarray(key)
    if index.dtype == bool:
        index = np.flatnonzero(index)
    if index.size == 0:
        return slice(0, 0), index.astype(int)
    index = np.where(index < 0, index + n, index)
    return slice(int(index.min()), int(index.max()) + 1), index - index.min()


def one_plane(level: Array, axes: Sequence[str], channel: str) -> Array:
    """A level as (c, y, x), whatever the order of its axes; all others have one entry, and a missing channel gets one.

    Parameters
    ----------
    level
        The level as stored.
    axes
        Name of each axis.
    channel
        Name of the axis of channels.
    """
    import dask.array as da

    order = [axes.index(a) for a in (channel, "y", "x") if a in axes]
    others = [i for i in range(level.ndim) if i not in order]
    plane = da.transpose(level, [*others, *order])[(0,) * len(others)]
    return plane if plane.ndim == 3 else plane[None]


def opaque(pixels: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
    """RGBA (4, h, w) laid over white, (3, h, w): what was never scanned is glass, not black."""
    alpha = pixels[3]
    top = np.iinfo(pixels.dtype).max
    if (alpha == top).all():
        return pixels[:3]
    if premultiplied:
        return pixels[:3] + np.minimum(top - alpha, top - pixels[:3])  # never beyond white, whatever the file holds
    share = alpha.astype(np.float32) / top
    return np.round(pixels[:3] * share + top * (1 - share)).astype(pixels.dtype)


def refuse_markers(name: str, channels: Sequence[str]) -> None:
    """Refuse several channels that are named, all of them as no channel of a brightfield image is.

    Names that differ by numbers and single letters alone, as writers give them to channels without a name, say nothing.

    Raises
    ------
    ValueError
        Naming the file and its channels.
    """
    said = {re.sub(r"\d+|\b[rgba]\b", "", channel, flags=re.IGNORECASE).strip() for channel in channels}
    if len(said) > 1 and not any(_NOT_MARKERS.search(channel) for channel in channels):
        raise ValueError(
            f"slide {name} has the channels {', '.join(channels)}, as fluorescence has; expected a brightfield "
            "image: pass the H&E, or name its channels Red, Green and Blue if this is one"
        )


def as_rgb(level: Array, name: str, *, fourth: Fourth | None = "opacity") -> Array:
    """A (c, y, x) level as three colour channels: 8-bit grey is repeated, RGBA is laid over white.

    Parameters
    ----------
    level
        One, three or four channels of uint8 or uint16.
    name
        What messages call the file.
    fourth
        What a fourth channel is; ``None``: part of no brightfield image.

    Raises
    ------
    ValueError
        If the channels are not those of a brightfield image.
    """
    import dask.array as da

    if level.dtype not in (np.dtype("uint8"), np.dtype("uint16")):
        raise ValueError(f"slide {name} has {level.dtype} pixels; expected 8- or 16-bit unsigned integers: convert it")
    channels = level.shape[0]
    if channels == 3:
        return level.rechunk({0: 3})
    if channels == 1 and level.dtype != np.uint8:
        raise ValueError(
            f"slide {name} has one channel of {level.dtype}, as fluorescence (DAPI) has; expected a brightfield image: "
            "pass the H&E"
        )
    if channels == 1:
        return da.concatenate([level] * 3).rechunk({0: 3})
    if channels == 4 and fourth == "unused":
        return level[:3].rechunk({0: 3})
    if channels == 4 and fourth is not None:
        return level.rechunk({0: 4}).map_blocks(
            opaque, premultiplied=fourth == "premultiplied", chunks=(3, *level.chunks[1:]), dtype=level.dtype
        )
    raise ValueError(
        f"slide {name} has {channels} channels; expected a brightfield image with 1 (grey), 3 (RGB) or 4 (RGBA)"
    )
