"""Stain normalisation by squidpy, with the tissue that pastpy finds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from pastpy._elements import image_levels, record_added, require_spatialdata, resolve_image, resolve_mpp, set_mpp
from pastpy._names import check_new
from pastpy.engine.read import rgb_channels, unit_range
from pastpy.pp._tissue import tissue_overview
from pastpy.pp._tissue_mask import TissueMaskParameters

if TYPE_CHECKING:
    from types import ModuleType

    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

__all__ = ["normalize_stain"]

Method = Literal["macenko", "vahadane", "reinhard"]
_IMAGE = "he"


def normalize_stain(
    sdata: SpatialData,
    reference: SpatialData,
    *,
    method: Method = "macenko",
    image_key: str | None = None,
    reference_image_key: str | None = None,
    mpp: float | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Give an H&E image the stain colours of another one.

    Nothing in pastpy does this by itself: embeddings are made of the image that ``image_key`` names. The methods are
    squidpy's; statistics are taken over the tissue, on a coarse level, and pixels are computed lazily.

    Parameters
    ----------
    sdata
        Object with an H&E image, (c, y, x), RGB or RGBA.
    reference
        Object whose only H&E image (or ``reference_image_key``) has the colours that are wanted, e.g.
        ``pastpy.datasets.breast_st()``, of the tumour that ``past-mini`` was trained on.
    method
        ``"macenko"`` or ``"vahadane"``: stain separation, in which white stays white; ``"reinhard"``: mean and spread
        of colours, which tints what is pale within the tissue's outline.
    image_key, reference_image_key
        Names of the images; default: the only one that pastpy did not write.
    mpp
        µm per level-0 pixel of the image; default: what the reader stored.
    key_added
        Name of the new image; default: the image's with ``_normalized``.
    overwrite
        Replace an image of that name.

    Returns
    -------
    None; writes ``sdata.images[key_added]``, uint8 RGB, lazy, with the pyramid and transformations of the image, its
    µm/px in ``sdata.attrs``, and remembers that pastpy added it, so that defaults keep to the image as it was: pass
    ``image_key=`` to use the new one.

    Raises
    ------
    KeyError
        If an image cannot be told.
    ModuleNotFoundError
        If squidpy is older than 1.8.2.
    ValueError
        If the method is unknown, the name is taken or not allowed, µm/px is unknown, or either image is not
        RGB, holds no tissue or none whose stains can be told apart.

    References
    ----------
    Macenko et al., ISBI 2009, https://doi.org/10.1109/ISBI.2009.5193250.
    Vahadane et al., IEEE Trans Med Imaging 35:1962–1971 (2016), https://doi.org/10.1109/TMI.2016.2529665.
    Reinhard et al., IEEE Comput Graph Appl 21:34–41 (2001), https://doi.org/10.1109/38.946629.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata, reference = past.datasets.breast_st(), past.datasets.breast_st()
    >>> past.pp.normalize_stain(sdata, reference)
    >>> sorted(sdata.images)
    ['he', 'he_normalized']
    """
    sdata, reference = require_spatialdata(sdata), require_spatialdata(reference)
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is unknown; use one of {list(get_args(Method))}")
    image_key = resolve_image(sdata, image_key)
    key_added = f"{image_key}_normalized" if key_added is None else key_added
    check_new(sdata, key_added, "key_added", replaces=set(sdata.images) - {image_key}, overwrite=overwrite)
    mpp = resolve_mpp(sdata, image_key, mpp)
    squidpy = _squidpy()
    reference_key = resolve_image(reference, reference_image_key)
    reference_mpp = _reference_mpp(reference, reference_key)
    with _fitting(f"image {reference_key!r} of the reference"):
        wanted = squidpy.fit_stain_reference(
            _with_tissue(reference, reference_key, reference_mpp, " of the reference"), _IMAGE, method=method
        )
    with _fitting(f"image {image_key!r}"):
        normalized = squidpy.normalize_stains(
            # white stays white where stains are separated, but not where colours are shifted
            _with_tissue(sdata, image_key, mpp), _IMAGE, wanted, inplace=False, preserve_background=method == "reinhard"
        )  # fmt: skip
    _write(sdata, image_key, key_added, normalized)
    set_mpp(sdata, key_added, mpp)
    record_added(sdata, key_added)


def _squidpy() -> ModuleType:
    """The module with stain normalisation; its import must not pour out the warnings of its dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            from squidpy.experimental import im
        except ImportError as error:
            raise ModuleNotFoundError("stain normalisation needs squidpy: pip install 'squidpy>=1.8.2'") from error
    if not hasattr(im, "normalize_stains"):
        raise ModuleNotFoundError("this squidpy has no stain normalisation: pip install 'squidpy>=1.8.2'")
    return im


def _reference_mpp(reference: SpatialData, image_key: str) -> float:
    """µm/px that the reference stores: ``mpp=`` is of the other image."""
    try:
        return resolve_mpp(reference, image_key)
    except ValueError as error:
        raise ValueError(
            f"the reference stores no µm/px of its image {image_key!r}, and mpp= is not meant for it; store it once "
            f"with reference.attrs['past'] = {{'mpp': {{{image_key!r}: …}}}}"
        ) from error


@contextmanager
def _fitting(what: str) -> Iterator[None]:
    """Errors of squidpy's fit to the stains of an image, which it cannot name, as one that does."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "StainFittingError":
            raise
        raise ValueError(
            f"the stains of {what} cannot be told apart ({error}); check that it is H&E with its channels in the order "
            "red, green, blue, or use method='reinhard', which separates no stains"
        ) from error


def _with_tissue(sdata: SpatialData, image_key: str, mpp: float, whose: str = "") -> SpatialData:
    """An object with the image and, as squidpy wants it, its tissue as labels."""
    from spatialdata import SpatialData
    from spatialdata.models import Labels2DModel

    _, tissue = tissue_overview(sdata, image_key, mpp, TissueMaskParameters())
    if not tissue.any():
        raise ValueError(
            f"no tissue found on image {image_key!r}{whose}, so its stains are unknown; check mpp={mpp:g} µm/px"
        )
    labels = Labels2DModel.parse(tissue.astype(np.uint8), dims=("y", "x"))
    return SpatialData(images={_IMAGE: _uint8_rgb(sdata, image_key)}, labels={f"{_IMAGE}_tissue": labels})


def _uint8_rgb(sdata: SpatialData, image_key: str) -> DataArray | DataTree:
    """The image with its channels red, green and blue as uint8, all that squidpy takes without scaling; lazy."""
    from xarray import Dataset, DataTree

    levels = [_as_uint8(rgb_channels(level, image_key), image_key) for level in image_levels(sdata, image_key)]
    if len(levels) == 1:
        return levels[0]
    return DataTree.from_dict({f"scale{i}": Dataset({"image": level}) for i, level in enumerate(levels)})


def _as_uint8(level: DataArray, name: str) -> DataArray:
    from xarray import apply_ufunc

    if level.dtype == np.uint8:
        return level
    return apply_ufunc(
        lambda block: np.rint(unit_range(block, name) * 255).astype(np.uint8), level, dask="parallelized",
        output_dtypes=[np.uint8], keep_attrs=True,
    )  # fmt: skip


def _write(sdata: SpatialData, image_key: str, key_added: str, pixels: Any) -> None:
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import get_transformation

    sizes = [level.sizes["x"] for level in image_levels(sdata, image_key)]
    factors = [max(2, round(a / b)) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    element = Image2DModel.parse(
        pixels.transpose("c", "y", "x").data,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=get_transformation(sdata.images[image_key], get_all=True),
        scale_factors=factors or None,
    )
    if key_added in sdata.images:
        del sdata.images[key_added]
    sdata.images[key_added] = element
