"""TIFF through tifffile: OME-TIFF, ImageJ, and plain files, pyramidal or not, tiled or in strips."""

from __future__ import annotations

import logging
import threading
import weakref
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy.io._damaged import DAMAGED
from pastpy.io._resolution import UM, positive, positive_pair
from pastpy.io._slide import Fourth, LazyLevel, Slide, as_rgb, one_plane, refuse_markers

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage, TiffPageSeries

__all__ = ["TIFF_MAGIC", "check_complete", "open_tiff"]

#: First bytes of TIFF and BigTIFF, in either byte order.
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_tiff(path: Path) -> Slide:
    """Open a TIFF file; its image is the series with the most pixels.

    Raises
    ------
    ValueError
        If the file is no TIFF, ends before its pixels do, or holds no brightfield image.
    """
    import tifffile

    try:
        with _quiet(), tifffile.TiffFile(path) as file:
            size, reach = file.filehandle.size, _reach(file)
            _refuse_truncated(path, size, reach)
            index, series = _largest(file, path)
            _check_channels(path, _channel_names(file, index), series)
            levels = [_lazy(path, index, i, level) for i, level in enumerate(series.levels)]
            mpp, power, kind = _resolution(file, index, series)
    except DAMAGED as error:
        if str(error).startswith("slide "):
            raise
        raise ValueError(f"slide {path.name} is not a TIFF that can be read ({error}); is it complete?") from error
    return Slide(levels=levels, mpp=mpp, objective_power=power, format=kind)


def check_complete(path: Path) -> None:
    """Refuse a TIFF that ends before the last page or tile it promises: a broken download opens without complaint.

    A file that only its own scanner's library understands passes.

    Raises
    ------
    ValueError
        If it ends early; the message names the file.
    """
    import tifffile

    try:
        with _quiet(), tifffile.TiffFile(path) as file:
            size, reach = file.filehandle.size, _reach(file)
    except DAMAGED:
        return
    _refuse_truncated(path, size, reach)


class _Tiles:
    """Tiles of an RGB page, decoded in the threads that ask: a Zarr view decodes all of them in one.

    Parameters
    ----------
    page
        Tiled, with all samples of a pixel in one tile.
    """

    def __init__(self, page: TiffPage) -> None:
        self._page, self._file, self._lock = page, page.parent.filehandle, threading.Lock()

    def __getitem__(self, window: tuple[slice, ...]) -> np.ndarray:
        rows, columns, samples = window
        page = self._page
        out = np.full((rows.stop - rows.start, columns.stop - columns.start, page.shape[2]), page.nodata, page.dtype)
        for y in range(rows.start // page.tilelength, -(-rows.stop // page.tilelength)):
            for x in range(columns.start // page.tilewidth, -(-columns.stop // page.tilewidth)):
                tile = self._decode(y * page.chunked[1] + x)
                if tile is None:
                    continue
                top, left = y * page.tilelength, x * page.tilewidth
                ya, yb = max(rows.start, top), min(rows.stop, top + tile.shape[0])
                xa, xb = max(columns.start, left), min(columns.stop, left + tile.shape[1])
                part = tile[ya - top : yb - top, xa - left : xb - left]
                out[ya - rows.start : yb - rows.start, xa - columns.start : xb - columns.start] = part
        return out[:, :, samples]

    def _decode(self, index: int) -> np.ndarray | None:
        """A tile, (h, w, samples), without what lies beyond the page; ``None`` where nothing is stored."""
        page, size = self._page, self._page.databytecounts[index]
        if not size:
            return None
        with self._lock:
            self._file.seek(page.dataoffsets[index])
            data = self._file.read(size)
        tile, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        return None if tile is None else tile[0, : shape[1], : shape[2]]


class TiffLevel(LazyLevel):
    """A level read tile by tile, or through tifffile's Zarr view of it; axes as stored."""

    def __init__(self, path: Path, series: int, level: int, shape: tuple[int, ...], dtype: Any) -> None:
        super().__init__(path, shape, dtype)
        self.series, self.level = series, level

    def open(self) -> Any:
        """Open the file; the view keeps it open."""
        import tifffile
        import zarr

        with _quiet():
            file = tifffile.TiffFile(self.path)
            weakref.finalize(self, file.close)
            level = file.series[self.series].levels[self.level]
            page, alone = level.pages[0], len(level.pages) == 1 and level.axes == "YXS"
            if alone and isinstance(page, tifffile.TiffPage) and page.is_tiled and page.planarconfig == 1:
                return _Tiles(page)
            return zarr.open_array(file.series[self.series].aszarr(level=self.level), mode="r")

    def read(self, source: Any, window: tuple[slice, ...]) -> np.ndarray:
        """Pixels of a window."""
        return np.asarray(source[window])


def _largest(file: TiffFile, path: Path) -> tuple[int, TiffPageSeries]:
    def area(series: TiffPageSeries) -> int:
        sizes = dict(zip(series.axes, series.shape, strict=True))
        return sizes.get("Y", 0) * sizes.get("X", 0)

    index = max(range(len(file.series)), key=lambda i: area(file.series[i]), default=None)
    if index is None or area(file.series[index]) == 0:
        raise ValueError(f"slide {path.name} holds no image")
    return index, file.series[index]


def _reach(file: TiffFile) -> int:
    """How far into the file its own pages and tiles reach, in bytes; a series of an OME-TIFF may go on in others."""
    pages = file.pages
    len(pages)  # walks the chain of pages, as far as it goes
    reach = 0
    if pages.next_page_offset is not None:
        file.filehandle.seek(pages.next_page_offset)
        reach = int.from_bytes(file.filehandle.read(file.tiff.offsetsize), "little" if file.byteorder == "<" else "big")
    for series in file.series:
        for page in (page for level in series.levels for page in level.pages if page is not None):
            if page.parent is not file:
                continue
            ends = np.asarray(page.dataoffsets, dtype=np.int64) + np.asarray(page.databytecounts, dtype=np.int64)
            reach = max(reach, int(ends.max(initial=0)))
    return reach


def _refuse_truncated(path: Path, size: int, reach: int) -> None:
    if reach > size:
        raise ValueError(
            f"slide {path.name} is truncated: it has {size} bytes, its pages and tiles reach to byte {reach}; copy or "
            "download it again"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No log lines of tifffile's: what matters of them is raised, in one message."""
    import tifffile

    logger = tifffile.logger()
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _lazy(path: Path, index: int, level: int, series: TiffPageSeries) -> Any:
    """A level as (3, y, x) dask array."""
    import tifffile

    extra = [(a, n) for a, n in zip(series.axes, series.shape, strict=True) if a not in "SCYX" and n > 1]
    if extra or ("S" in series.axes and "C" in series.axes and series.shape[series.axes.index("C")] > 1):
        raise ValueError(
            f"slide {path.name} has axes {series.axes} of sizes {series.shape}; expected one RGB image: extract it"
        )
    page = series.keyframe
    _refuse_other_colours(path, page)
    sides = {"Y": page.tilelength or page.rowsperstrip or 512, "X": page.tilewidth or page.imagewidth}
    tile = tuple(sides.get(a, n) for a, n in zip(series.axes, series.shape, strict=True))
    array = TiffLevel(path, index, level, tuple(series.shape), series.dtype).to_dask(tile)
    channel = "S" if "S" in series.axes else "C"
    plane = one_plane(array, series.axes.lower(), channel.lower())
    rgb = as_rgb(plane, path.name, fourth=_fourth(page, array.dtype, is_sample=channel == "S"))
    return np.iinfo(rgb.dtype).max - rgb if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE else rgb


def _fourth(page: TiffPage, dtype: np.dtype[Any], *, is_sample: bool) -> Fourth | None:
    """What a fourth channel is, stored as a sample of each pixel or as an array of its own."""
    from tifffile import EXTRASAMPLE, PHOTOMETRIC

    if not is_sample:
        # opacity in 8-bit pictures only; else it is fluorescence
        return "opacity" if dtype == np.uint8 else None
    if page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE):
        return None
    kinds: dict[int, Fourth] = {EXTRASAMPLE.UNASSALPHA: "opacity", EXTRASAMPLE.ASSOCALPHA: "premultiplied"}
    return kinds.get(page.extrasamples[0], "unused") if page.extrasamples else "unused"


def _refuse_other_colours(path: Path, page: TiffPage) -> None:
    """Refuse values that are not RGB or grey once they are decoded, as indices into a palette or inks are."""
    from tifffile import COMPRESSION, PHOTOMETRIC

    kind = page.photometric
    # their decoders give RGB; the values of other compressions stay YCbCr
    decoded = kind == PHOTOMETRIC.YCBCR and page.compression in (
        COMPRESSION.OJPEG, COMPRESSION.JPEG, COMPRESSION.WEBP, COMPRESSION.JPEGXL
    )  # fmt: skip
    if decoded or kind in (PHOTOMETRIC.RGB, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE):
        return
    raise ValueError(
        f"slide {path.name} has the photometric interpretation {getattr(kind, 'name', kind)}; expected RGB, grey or "
        f"JPEG's YCBCR: convert it to RGB, with `vips colourspace {path.name} rgb.tif srgb` or ImageJ's Image > Type > "
        "RGB Color"
    )


def _channel_names(file: TiffFile, index: int) -> list[str]:
    """Names of the channels of an OME-TIFF's image, empty where a channel has none."""
    if not file.is_ome:
        return []
    _, image = _ome_image(file.ome_metadata or "", index)
    return [channel.get("Name", "") for channel in image.iterfind("{*}Pixels/{*}Channel")]


def _check_channels(path: Path, names: list[str], series: TiffPageSeries) -> None:
    """Refuse arrays of separate channels that are markers."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    if "S" not in sizes and len(names) == sizes.get("C"):
        refuse_markers(path.name, names)


def _resolution(
    file: TiffFile, index: int, series: TiffPageSeries
) -> tuple[tuple[float, float] | None, float | None, str]:
    """µm/px in x and y, objective power, and the kind of TIFF."""
    if file.is_ome:
        return *_from_ome(file.ome_metadata or "", index), "OME-TIFF"
    tags = series.keyframe.tags
    if not ("XResolution" in tags and "YResolution" in tags):
        return None, None, "TIFF"
    per_unit = [_ratio(tags[name].value) for name in ("XResolution", "YResolution")]
    if file.is_imagej:
        unit = UM.get(str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ"))
    else:
        unit = {2: 25400.0, 3: 10000.0}.get(int(tags["ResolutionUnit"].value) if "ResolutionUnit" in tags else 2)
    if unit is None or min(per_unit) <= 0:
        return None, None, "TIFF"
    return (unit / per_unit[0], unit / per_unit[1]), None, "TIFF"


def _ratio(value: Any) -> float:
    numerator, denominator = value if isinstance(value, tuple) else (value, 1)
    return float(numerator) / float(denominator) if denominator else 0.0


def _from_ome(xml: str, index: int) -> tuple[tuple[float, float] | None, float | None]:
    """Pixel size of the image at ``index`` of OME-XML, and the objective's nominal magnification."""
    root, image = _ome_image(xml, index)
    pixels = image.find("{*}Pixels")
    stated = {} if pixels is None else pixels.attrib
    sizes = positive_pair(stated.get("PhysicalSizeX"), stated.get("PhysicalSizeY"))
    units = positive_pair(*(UM.get(stated.get(f"PhysicalSize{axis}Unit") or "µm") for axis in "XY"))
    mpp = None if sizes is None or units is None else (sizes[0] * units[0], sizes[1] * units[1])
    used = image.find("{*}ObjectiveSettings")
    objectives = {o.get("ID"): o.get("NominalMagnification") for o in root.iterfind(".//{*}Objective")}
    return mpp, None if used is None else positive(objectives.get(used.get("ID")))


def _ome_image(xml: str, index: int) -> tuple[ElementTree.Element, ElementTree.Element]:
    """Root of OME-XML and the image at ``index``, the root itself where there is none."""
    root = ElementTree.fromstring(xml)
    images = root.findall("{*}Image")
    return root, images[index] if index < len(images) else root
