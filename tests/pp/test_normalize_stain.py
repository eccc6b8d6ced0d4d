"""Normalisation brings stains nearer to the reference and leaves the image as it was."""

from __future__ import annotations

import numpy as np
import pytest
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import Scale, get_transformation

import pastpy as past
from pastpy import _elements
from pastpy.pp import _normalize_stain as module
from pastpy.pp._stain_vectors import angle_deg, macenko
from pastpy.pp._tissue_mask import optical_density


def sdata_of(rgb: np.ndarray, **options) -> SpatialData:
    image = Image2DModel.parse(
        rgb.transpose(2, 0, 1), dims=("c", "y", "x"), scale_factors=[2],
        transformations={"global": Scale([0.69, 0.69], axes=("x", "y"))}, **options,
    )  # fmt: skip
    sdata = SpatialData(images={"he": image})
    _elements.set_mpp(sdata, "he", 0.69)
    return sdata


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return past.datasets.breast_st()["he"].values.transpose(1, 2, 0)[500:1012, 500:1012].copy()


@pytest.fixture(scope="module")
def other(rgb) -> np.ndarray:
    """The same tissue, each channel's optical density changed as another scanner and stain would."""
    return np.clip(256 * 10 ** -(optical_density(rgb) * [0.7, 1.1, 1.5]) - 1, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("method", ["macenko", "reinhard"])
def test_colours_become_those_of_the_reference(rgb, other, method):
    sdata = sdata_of(other)
    assert past.pp.normalize_stain(sdata, sdata_of(rgb), method=method) is None
    new = _elements.image_levels(sdata, "he_normalized")[0].values.transpose(1, 2, 0)
    np.testing.assert_array_equal(_elements.image_levels(sdata, "he")[0].values.transpose(1, 2, 0), other)
    assert new.dtype == np.uint8 and new.shape == other.shape
    before, after = (np.abs(np.mean(p, axis=(0, 1)) - np.mean(rgb, axis=(0, 1))).sum() for p in (other, new))
    assert after < 0.5 * before
    if method == "macenko":
        far, near = (angle_deg(macenko(p)[0], macenko(rgb)[0]) for p in (other, new))
        assert near < 0.5 * far


def test_the_new_image_is_laid_where_the_old_one_is_and_defaults_ignore_it(rgb, other):
    sdata = sdata_of(other)
    past.pp.normalize_stain(sdata, sdata_of(rgb), key_added="even")
    assert _elements.resolve_image(sdata) == "he" and _elements.resolve_mpp(sdata, "even") == 0.69
    assert get_transformation(sdata["even"], get_all=True) == get_transformation(sdata["he"], get_all=True)
    assert [lv.shape for lv in _elements.image_levels(sdata, "even")] == [(3, 512, 512), (3, 256, 256)]
    with pytest.raises(ValueError, match="already has an element 'even'; pass overwrite=True"):
        past.pp.normalize_stain(sdata, sdata_of(rgb), key_added="even")
    past.pp.normalize_stain(sdata, sdata_of(rgb), key_added="even", overwrite=True)


def level0(sdata: SpatialData, name: str) -> np.ndarray:
    return _elements.image_levels(sdata, name)[0].values


@pytest.mark.parametrize("kind", ["uint16", "float", "rgba", "bgr"])
def test_the_same_picture_in_another_type_gives_the_same(rgb, other, kind):
    pixels = {
        "uint16": other.astype(np.uint16) * 257,
        "float": (other / 255).astype(np.float32),
        "rgba": np.concatenate([other, np.full((*other.shape[:2], 1), 255, np.uint8)], axis=-1),
        "bgr": other[..., ::-1],
    }[kind]
    plain, typed = sdata_of(other), sdata_of(pixels, **({"c_coords": ["b", "g", "r"]} if kind == "bgr" else {}))
    for sdata in (plain, typed):
        past.pp.normalize_stain(sdata, sdata_of(rgb))
    new, expected = level0(typed, "he_normalized"), level0(plain, "he_normalized")
    assert new.dtype == np.uint8 and new.shape == expected.shape
    # levels of a pyramid are rounded to other numbers in other types
    assert np.abs(new.astype(int) - expected.astype(int)).mean() < 0.5


def test_errors_name_the_image_or_the_reference(rgb):
    sdata, swapped = sdata_of(rgb), sdata_of(rgb[..., [1, 0, 2]])
    with pytest.raises(ValueError, match=r"the stains of image 'he' cannot be told apart .*order red, green, blue"):
        past.pp.normalize_stain(swapped, sdata)
    with pytest.raises(ValueError, match="the stains of image 'he' of the reference cannot be told apart"):
        past.pp.normalize_stain(sdata, swapped)
    with pytest.raises(ValueError, match="no tissue found on image 'he' of the reference"):
        past.pp.normalize_stain(sdata, sdata_of(np.full((512, 512, 3), 240, np.uint8)))
    unknown = sdata_of(rgb)
    unknown.attrs.clear()
    with pytest.raises(ValueError, match=r"the reference stores no µm/px of its image 'he'.*reference\.attrs"):
        past.pp.normalize_stain(sdata, unknown, mpp=0.69)
    assert list(sdata.images) == ["he"]


def test_bad_input(rgb, monkeypatch):
    sdata, blank = sdata_of(rgb), sdata_of(np.full((512, 512, 3), 240, np.uint8))
    with pytest.raises(ValueError, match="method='mean' is unknown"):
        past.pp.normalize_stain(sdata, sdata, method="mean")
    with pytest.raises(ValueError, match="no tissue found on image 'he'"):
        past.pp.normalize_stain(sdata, blank)
    monkeypatch.setattr(module, "_squidpy", lambda: pytest.fail("computed before refusing"))
    taken, unfit = "already has an element 'he'.*key_added={!r}", "key_added={!r} is no element name"
    for name, said in [("he", taken), ("HE", taken), ("a/b", unfit), ("", unfit), (5, unfit)]:
        with pytest.raises(ValueError, match=said.format(name)):
            past.pp.normalize_stain(sdata, sdata, key_added=name, overwrite=True)
    monkeypatch.undo()
    monkeypatch.setitem(__import__("sys").modules, "squidpy.experimental", None)
    with pytest.raises(ModuleNotFoundError, match="pip install 'squidpy>=1.8.2'"):
        module._squidpy()
    assert list(sdata.images) == ["he"]
