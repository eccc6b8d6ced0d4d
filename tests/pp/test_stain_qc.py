"""Focus, clipping and stain colours: what is put into the pixels is found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

import pastpy as past
from pastpy._elements import set_mpp
from pastpy.pp._stain_vectors import REFERENCE, angle_deg, macenko


def sdata_of(rgb: np.ndarray, mpp: float = 0.69) -> SpatialData:
    sdata = SpatialData(images={"he": Image2DModel.parse(rgb.transpose(2, 0, 1), dims=("c", "y", "x"))})
    set_mpp(sdata, "he", mpp)
    return sdata


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    """A quarter of the shipped sample, uint8 (1000, 1000, 3)."""
    return past.datasets.breast_st()["he"].values.transpose(1, 2, 0)[500:1500, 500:1500].copy()


def turned(vector: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    """A unit vector so many degrees away, without negative parts."""
    away = np.random.default_rng(seed).normal(size=3)
    away -= away @ vector * vector
    out = np.cos(np.radians(degrees)) * vector + np.sin(np.radians(degrees)) * away / np.linalg.norm(away)
    return np.maximum(out, 0.02) / np.linalg.norm(np.maximum(out, 0.02))


@settings(max_examples=20)
@given(st.floats(0, 8), st.floats(0, 8), st.integers(0, 99))
def test_painted_stains_are_found(h_off, e_off, seed):
    stains = np.array([turned(REFERENCE[0], h_off, seed), turned(REFERENCE[1], e_off, seed + 1)])
    rng = np.random.default_rng(seed)
    amount = np.where(
        rng.random((20000, 1)) < 0.3, rng.gamma(4, [[0.3, 0.01]], (20000, 2)), rng.gamma(4, [[0.01, 0.2]], (20000, 2))
    )
    pixels = np.clip(256 * 10 ** -(amount @ stains) - 1, 0, 255).round().astype(np.uint8)
    found = macenko(pixels)
    for one, other in zip(found, stains, strict=True):
        assert angle_deg(one, other) < 6


def test_one_row_for_the_slide(rgb):
    found = past.pp.stain_qc(sdata_of(rgb))
    assert found.index.tolist() == ["he"] and found.loc["he", "flags"] == ""
    assert found.loc["he", "n_tiles"] > 2 and found.loc["he", "clipped_dark"] < 0.01
    vector = found.loc["he", ["haematoxylin_red", "haematoxylin_green", "haematoxylin_blue"]].astype(float)
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_one_row_a_tile(rgb):
    found = past.pp.stain_qc(sdata_of(rgb), per="tile", tile_um=128, max_tiles=5, seed=1)
    assert len(found) == 5 and {"x_um", "y_um", "focus", "flags"} <= set(found.columns)
    assert (found[["x_um", "y_um"]].to_numpy() % 128 == 0).all()


@pytest.mark.parametrize("blur_um", [1.0, 2.0, 4.0])
def test_blur_is_flagged(rgb, blur_um):
    blurred = gaussian_filter(rgb.astype(float), (blur_um / 0.69, blur_um / 0.69, 0)).round().astype(np.uint8)
    found = past.pp.stain_qc(sdata_of(blurred)).loc["he"]
    assert "out of focus" in found["flags"] and found["out_of_focus"] > 0.8


def test_clipping_is_flagged(rgb):
    over = np.clip(rgb.astype(float) * 1.35, 0, 255).astype(np.uint8)
    assert "clipped" in past.pp.stain_qc(sdata_of(over)).loc["he", "flags"]


def test_channels_in_the_wrong_order_are_flagged(rgb):
    assert "unusual" in past.pp.stain_qc(sdata_of(rgb[..., ::-1])).loc["he", "flags"]


def test_focus_of_coarse_pixels_is_unknown(rgb):
    found = past.pp.stain_qc(sdata_of(rgb[::4, ::4], 2.76)).loc["he"]
    assert np.isnan(found["focus"]) and "out of focus" not in found["flags"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile_um": "256"}, "tile_um must be a finite number of at least 32 µm, got '256'"),
        ({"tile_um": float("nan")}, "tile_um must be a finite number of at least 32 µm, got nan"),
        ({"max_tiles": 1.5}, "max_tiles must be at least 1, and a whole number, got 1.5"),
        ({"seed": -1}, "seed must be at least 0, and a whole number, got -1"),
    ],
)
def test_arguments_out_of_range(rgb, options, message):
    with pytest.raises(ValueError, match=message):
        past.pp.stain_qc(sdata_of(rgb), **options)


def test_bad_input(rgb):
    with pytest.raises(ValueError, match="per='cell' is unknown"):
        past.pp.stain_qc(sdata_of(rgb), per="cell")
    with pytest.raises(ValueError, match="tile_um must be"):
        past.pp.stain_qc(sdata_of(rgb), tile_um=0)
    with pytest.raises(ValueError, match="no tile of 256 µm on image 'he' is tissue"):
        past.pp.stain_qc(sdata_of(np.full((500, 500, 3), 240, np.uint8)))
    assert np.isnan(macenko(np.full((50, 50, 3), 250, np.uint8))).all()
