"""OME-Zarr images (NGFF 0.1 to 0.5) through zarr."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pastpy.io._damaged import DAMAGED
from pastpy.io._resolution import UM, positive_pair
from pastpy.io._slide import LazyLevel, Slide, as_rgb, one_plane, refuse_markers

__all__ = ["is_series_root", "multiscales_of", "open_zarr", "zarr_attributes"]

#: Bytes of a Blosc buffer's header; the last four are the length of the whole.
_BLOSC_HEADER = 16


def zarr_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a Zarr group of format 2 or 3.

    Raises
    ------
    ValueError
        If the folder is no Zarr group that can be opened.
    """
    import zarr

    try:
        return dict(zarr.open_group(path, mode="r").attrs)
    except DAMAGED as error:
        raise ValueError(f"{path.name} is not a Zarr store that can be opened ({error}); is it complete?") from error


def multiscales_of(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """The image description of OME-Zarr, wherever this version keeps it."""
    found = _ome(attributes, "multiscales")
    return dict(found[0]) if isinstance(found, Sequence) and found and isinstance(found[0], Mapping) else None


def is_series_root(attributes: Mapping[str, Any]) -> bool:
    """Whether these are of the group in which bioformats2raw puts a file's images, ``0``, ``1`` and so on."""
    return _ome(attributes, "bioformats2raw.layout") is not None


def _ome(attributes: Mapping[str, Any], name: str) -> Any:
    nested = attributes.get("ome")
    return attributes.get(name) or (nested.get(name) if isinstance(nested, Mapping) else None)


def open_zarr(path: Path) -> Slide:
    """Open an OME-Zarr image.

    Raises
    ------
    ValueError
        If the folder holds none, or one that is not brightfield.
    """
    import zarr

    attributes = zarr_attributes(path)
    image = multiscales_of(attributes)
    if image is None and is_series_root(attributes):
        raise ValueError(
            f"{path.name} is the root of a bioformats2raw store, whose images are groups in it; pass its first, "
            f"{str(path / '0')!r}"
        )
    if image is None:
        raise ValueError(f"{path.name} holds no OME-Zarr image (no 'multiscales' in its attributes)")
    try:
        axes = _axes(image)
        names = [dataset["path"] for dataset in image["datasets"]]
        if not names:
            raise ValueError("its metadata name no level")
        levels = []
        for name in names:
            array = zarr.open_array(path / name, mode="r")
            if len(array.shape) != len(axes):
                raise ValueError(f"level {name!r} has {len(array.shape)} axes, the metadata name {len(axes)}")
            levels.append(_lazy(path, name, [a["name"] for a in axes], array))
        labels = _channel_names(attributes)
        if len(labels) == dict(zip((a["name"] for a in axes), array.shape, strict=True)).get("c"):
            refuse_markers(path.name, labels)
        return Slide(levels=levels, mpp=_resolution(image, axes), objective_power=None, format="OME-Zarr")
    except DAMAGED as error:
        if str(error).startswith("slide "):
            raise
        raise ValueError(f"slide {path.name} is not an OME-Zarr image that can be read ({error})") from error


class ZarrLevel(LazyLevel):
    """A level of an OME-Zarr image, axes as stored."""

    def __init__(self, path: Path, level: str, shape: tuple[int, ...], dtype: Any) -> None:
        super().__init__(path, shape, dtype)
        self.level = level

    def open(self) -> Any:
        """Open the array."""
        import zarr

        return zarr.open_array(self.path / self.level, mode="r")

    def read(self, source: Any, window: tuple[slice, ...]) -> np.ndarray:
        """Pixels of a window."""
        _refuse_cut_chunks(self.path / self.level, source, window)
        return np.asarray(source[window])


def _refuse_cut_chunks(folder: Path, array: Any, window: tuple[slice, ...]) -> None:
    """Refuse chunks shorter than their own header says: Blosc decodes what is left of them without complaint."""
    codec = (array.compressors or (None,))[0]
    if codec is None or "blosc" not in f"{type(codec).__name__} {getattr(codec, 'codec_id', '')}".lower():
        return
    spans = [range(w.start // n, -(-w.stop // n)) for w, n in zip(window, array.chunks, strict=True)]
    for place in product(*spans):
        chunk = folder / array.metadata.encode_chunk_key(place)
        if not chunk.is_file():
            continue  # never written: the fill value
        with chunk.open("rb") as file:
            header = file.read(_BLOSC_HEADER)
        promised = int.from_bytes(header[12:16], "little") if len(header) == _BLOSC_HEADER else _BLOSC_HEADER
        if chunk.stat().st_size < promised:
            raise ValueError(f"chunk {chunk.name} has {chunk.stat().st_size} of {promised} bytes")


def _channel_names(attributes: Mapping[str, Any]) -> list[str]:
    """Labels of the channels, none unless every channel has one."""
    omero = _ome(attributes, "omero")
    channels = omero.get("channels") if isinstance(omero, Mapping) else None
    if not isinstance(channels, Sequence) or not all(isinstance(each, Mapping) for each in channels):
        return []
    labels = [each.get("label") for each in channels]
    return [str(label) for label in labels] if all(labels) else []


def _axes(image: Mapping[str, Any]) -> list[dict[str, Any]]:
    # Before 0.3 the axes were fixed; 0.3 has bare names; since 0.4 each is a dictionary.
    axes = image.get("axes", ["t", "c", "z", "y", "x"])
    return [dict(a) if isinstance(a, Mapping) else {"name": a} for a in axes]


def _lazy(path: Path, name: str, axes: list[str], array: Any) -> Any:
    sizes = dict(zip(axes, array.shape, strict=True))
    several = {a: n for a, n in sizes.items() if a not in "cyx" and n > 1}
    if several or not {"y", "x"} <= set(sizes):
        raise ValueError(f"slide {path.name} has axes {sizes}; expected one RGB image (c, y, x)")
    lazy = ZarrLevel(path, name, array.shape, array.dtype).to_dask(array.chunks)
    return as_rgb(one_plane(lazy, axes, "c"), path.name)


def _resolution(image: Mapping[str, Any], axes: list[dict[str, Any]]) -> tuple[float, float] | None:
    """µm/px in x and y of the first level, ``None`` without a unit of length."""
    transformations = [
        *image["datasets"][0].get("coordinateTransformations", []),
        *image.get("coordinateTransformations", []),
    ]
    scales = [t["scale"] for t in transformations if t.get("type") == "scale"]
    units = {a["name"]: UM[a["unit"]] for a in axes if a.get("unit") in UM}
    if not scales or not {"x", "y"} <= set(units):
        return None
    names = [a["name"] for a in axes]
    x, y = (math.prod(float(s[names.index(a)]) for s in scales) * units[a] for a in ("x", "y"))
    return positive_pair(x, y)
