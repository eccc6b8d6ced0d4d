"""Scanner formats through OpenSlide."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pastpy.io._resolution import positive, positive_pair
from pastpy.io._slide import LazyLevel, Slide, opaque

if TYPE_CHECKING:
    from openslide import OpenSlide

__all__ = ["open_openslide", "vendor_of"]


def vendor_of(path: Path) -> str | None:
    """OpenSlide's name of a scanner format, ``None`` for a file that is not of one (a plain TIFF is not)."""
    from openslide import OpenSlide

    vendor = OpenSlide.detect_format(str(path))
    return None if vendor == "generic-tiff" else vendor


def open_openslide(path: Path) -> Slide:
    """Open a scanner's file.

    Raises
    ------
    ValueError
        If OpenSlide cannot open it.
    """
    with _open(path) as slide:
        properties = dict(slide.properties)
        levels = []
        for level, (width, height) in enumerate(slide.level_dimensions):
            named = (f"openslide.level[{level}].tile-{side}" for side in ("height", "width"))
            tile = [int(properties.get(name, 512)) for name in named]
            lazy = OpenSlideLevel(path, level, slide.level_downsamples[level], (3, height, width))
            levels.append(lazy.to_dask((3, *tile)))
    return Slide(
        levels=levels,
        mpp=positive_pair(properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y")),
        objective_power=positive(properties.get("openslide.objective-power")),
        format=properties.get("openslide.vendor", "OpenSlide"),
    )


class OpenSlideLevel(LazyLevel):
    """A level read through OpenSlide, RGB over white."""

    def __init__(self, path: Path, level: int, downsample: float, shape: tuple[int, int, int]) -> None:
        super().__init__(path, shape, np.uint8)
        self.level, self.downsample = level, downsample

    def open(self) -> OpenSlide:
        """Open the slide."""
        return _open(self.path)

    def read(self, source: OpenSlide, window: tuple[slice, ...]) -> np.ndarray:
        """Pixels of a window; OpenSlide is asked in level-0 pixels."""
        from openslide import OpenSlideError

        channels, rows, columns = window
        corner = round(columns.start * self.downsample), round(rows.start * self.downsample)
        size = columns.stop - columns.start, rows.stop - rows.start
        try:
            rgba = np.asarray(source.read_region(corner, self.level, size))
        except OpenSlideError as error:
            raise OSError(str(error)) from error
        return opaque(rgba.transpose(2, 0, 1))[channels]


def _open(path: Path) -> OpenSlide:
    from openslide import OpenSlide, OpenSlideError

    try:
        return OpenSlide(str(path))
    except OpenSlideError as error:
        raise ValueError(f"slide {path.name} cannot be opened ({error}); is it complete?") from error
