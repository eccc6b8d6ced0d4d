"""Reader of slides: a scanner's file, a TIFF, a picture or an OME-Zarr as a lazy multiscale image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import past_attrs, set_mpp
from pastpy.io._resolution import choose_mpp
from pastpy.io._slide import BLOCK, Slide
from pastpy.io._slide_openslide import open_openslide, vendor_of
from pastpy.io._slide_tiff import TIFF_MAGIC, check_complete, open_tiff
from pastpy.io._slide_zarr import is_series_root, multiscales_of, open_zarr, zarr_attributes
from pastpy.io._st_files import read_image

if TYPE_CHECKING:
    from dask.array import Array
    from spatialdata import SpatialData
    from xarray import DataTree

__all__ = ["add_image", "is_store", "open_slide", "open_with_mpp", "parse_slide", "read_wsi"]

#: A slide without levels of its own gets coarser ones until its longer side fits.
_COARSEST = 4096


def read_wsi(path: str | Path, *, mpp: float | None = None, image_key: str = _keys.IMAGE) -> SpatialData:
    """Read a slide as SpatialData with one lazy multiscale image.

    Nothing is decoded before it is used. Scanner formats (Aperio SVS, Hamamatsu NDPI, 3DHISTECH MRXS, Leica SCN,
    Ventana BIF, DICOM, and the others that OpenSlide knows) are read by OpenSlide; OME-TIFF and other TIFF, with or
    without levels, by tifffile; OME-Zarr by zarr; JPEG, PNG and BMP by Pillow, decoded at once. What was never
    scanned is white.

    Parameters
    ----------
    path
        File, or folder of an OME-Zarr image or of one DICOM slide.
    mpp
        µm per level-0 pixel. Needed where the file does not state it; else it overrides the file, with a warning where
        they differ by more than 2 %.
    image_key
        Name of the image element.

    Returns
    -------
    SpatialData
        ``images[image_key]`` (c, y, x), uint8 or uint16 RGB, a ``DataTree`` of the file's own levels (of halved ones
        where it has a single large one); the coordinate system ``global`` is level-0 pixels.
        ``attrs["past"]["mpp"][image_key]`` is µm/px, ``attrs["past"]["objective_power"][image_key]`` the objective's
        power where the file states it.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ValueError
        If the file is damaged or no brightfield image, or if its µm/px is unknown, implausible (below 0.02 or above 50)
        or not the same in x and y; the message names the file.

    References
    ----------
    Goode et al., J Pathol Inform 4:27 (2013), https://doi.org/10.4103/2153-3539.119005

    Examples
    --------
    >>> import numpy as np
    >>> import pastpy as past
    >>> from PIL import Image
    >>> Image.fromarray(np.full((60, 80, 3), 240, dtype=np.uint8)).save("tile.png")
    >>> sdata = past.io.read_wsi("tile.png", mpp=0.5)
    >>> sdata.attrs["past"]["mpp"]
    {'he': 0.5}
    """
    from spatialdata import SpatialData

    slide, mpp = open_with_mpp(path, mpp)
    sdata = SpatialData(images={image_key: parse_slide(slide)})
    set_mpp(sdata, image_key, mpp)
    _set_objective_power(sdata, image_key, slide)
    return sdata


def add_image(sdata: SpatialData, image_key: str, slide: Slide, *, mpp: float, to_global: np.ndarray) -> None:
    """Add a slide to an object, placed by an affine (3, 3) from its level-0 pixels (x, y) to ``global``."""
    from spatialdata.transformations import Affine

    place = Affine(to_global, input_axes=("x", "y"), output_axes=("x", "y"))
    sdata.images[image_key] = parse_slide(slide, place)
    set_mpp(sdata, image_key, mpp)
    _set_objective_power(sdata, image_key, slide)


def open_with_mpp(path: str | Path, mpp: float | None) -> tuple[Slide, float]:
    """Open a slide and settle its µm/px."""
    path = Path(path)
    slide = open_slide(path)
    return slide, choose_mpp(mpp, slide.mpp, f"slide {path.name}")


def open_slide(path: Path) -> Slide:
    """Open a file or folder with the reader that its content asks for.

    Raises
    ------
    FileNotFoundError
        If there is nothing at ``path``.
    ValueError
        If no reader knows it, or only by another name.
    """
    if not path.exists():
        raise FileNotFoundError(f"no slide at {str(path)!r}; check the path")
    if path.is_dir():
        return _open_folder(path)
    if path.stat().st_size == 0:
        raise ValueError(f"slide {path.name} is empty")
    with path.open("rb") as file:
        is_tiff = file.read(4) in TIFF_MAGIC
    vendor = vendor_of(path)
    if vendor is not None:
        # Hamamatsu bends the rules of TIFF for its offsets, so there only OpenSlide can tell.
        if is_tiff and vendor != "hamamatsu":
            check_complete(path)
        return open_openslide(path)
    if path.suffix.lower() == ".mrxs" and path.suffix != ".mrxs":
        # OpenSlide goes by the suffix; the file itself is a picture, the slide's preview.
        raise ValueError(f"slide {path.name} is no MRXS slide to OpenSlide; rename it to {path.stem}.mrxs")
    return open_tiff(path) if is_tiff else _open_picture(path)


def is_store(path: Path) -> bool:
    """Whether a folder is a SpatialData store (and not an OME-Zarr image, or a folder of them)."""
    if not any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")):
        return False
    attributes = zarr_attributes(path)
    return multiscales_of(attributes) is None and not is_series_root(attributes)


def parse_slide(slide: Slide, place: Any = None) -> DataTree:
    """A slide's levels as SpatialData's multiscale image.

    Parameters
    ----------
    slide
        The slide.
    place
        SpatialData transformation from level-0 pixels to ``global``; default: identity.
    """
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, Scale, Sequence
    from xarray import DataArray, Dataset, DataTree

    levels = _with_coarser(slide.levels)
    _, height, width = levels[0].shape
    place = place or Identity()
    tree = {}
    for i, level in enumerate(levels):
        # Factors are ratios of sizes, as SpatialData defines them, whatever rounding a scanner's pyramid has.
        scale = Scale([width / level.shape[2], height / level.shape[1]], axes=("x", "y"))
        # Coordinates are pixel centres in level-0 pixels, as SpatialData's own pyramids have them.
        coords = {
            axis: (np.arange(n) + 0.5) * (full / n)
            for axis, n, full in (("y", level.shape[1], height), ("x", level.shape[2], width))
        }
        image = Image2DModel.parse(
            DataArray(level, dims=("c", "y", "x"), coords=coords),
            c_coords=["r", "g", "b"],
            transformations={_keys.COORDINATE_SYSTEM: Sequence([scale, place]) if i else place},
        )
        tree[f"scale{i}"] = Dataset({"image": image})
    return DataTree.from_dict(tree)


def _open_folder(path: Path) -> Slide:
    if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zattrs")):
        return open_zarr(path)
    dicom = sorted([*path.glob("*.dcm"), *path.glob("*.DCM")])
    if not dicom:
        raise ValueError(f"folder {path.name} is no OME-Zarr image and holds no .dcm file of a DICOM slide")
    return open_openslide(dicom[0])


def _open_picture(path: Path) -> Slide:
    """JPEG, PNG or BMP, decoded at once: these formats give no part of an image without the whole."""
    import dask.array as da
    from PIL import Image

    pixels = da.from_array(read_image(path, name=path.name).transpose(2, 0, 1), chunks=(3, BLOCK, BLOCK))
    with Image.open(path) as opened:
        per_inch = opened.info.get("dpi")
    mpp = None if not per_inch or min(per_inch) <= 0 else (25400 / float(per_inch[0]), 25400 / float(per_inch[1]))
    return Slide(levels=[pixels], mpp=mpp, objective_power=None, format=path.suffix.lstrip(".").upper())


def _with_coarser(levels: list[Array]) -> list[Array]:
    """Halved levels, computed from the finer ones when they are read, for a slide with a single level."""
    import dask.array as da

    levels = list(levels)
    if len(levels) > 1:
        return levels
    while max(levels[-1].shape[1:]) > _COARSEST:
        finer = levels[-1]
        even = da.pad(finer, [(0, 0), *((0, n % 2) for n in finer.shape[1:])], mode="edge")
        mean = da.coarsen(np.mean, even.rechunk((3, BLOCK, BLOCK)), {1: 2, 2: 2})
        levels.append(da.round(mean).astype(finer.dtype))
    return levels


def _set_objective_power(sdata: SpatialData, image_key: str, slide: Slide) -> None:
    if slide.objective_power is None:
        return
    attrs = past_attrs(sdata)
    attrs[_keys.OBJECTIVE_POWER] = {**attrs.get(_keys.OBJECTIVE_POWER, {}), image_key: slide.objective_power}
    sdata.attrs[_keys.PAST] = attrs
