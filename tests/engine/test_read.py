"""Pixels are right at any µm/px, and do not depend on the field they were read in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xarray import DataArray

from pastpy.engine import Field, FieldReader
from pastpy.engine.read import FieldPixels, as_unit, unit_range


def image(pixels: np.ndarray) -> DataArray:
    return DataArray(pixels, dims=("c", "y", "x"))


def field(x: int, y: int, width: int, height: int) -> Field:
    return Field(x, y, width, height, np.arange(0))


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 60, 80), dtype=np.uint8)


def test_same_resolution_gives_the_pixels_themselves(noise):
    read = FieldReader([image(noise)], mpp=0.5, target_mpp=0.5).read(field(8, 16, 24, 32))
    np.testing.assert_allclose(read, noise[:, 16:48, 8:32] / 255, atol=1e-6)


def test_beyond_the_edge_the_nearest_pixel_is_repeated(noise):
    read = FieldReader([image(noise)], mpp=0.5, target_mpp=0.5).read(field(-8, -8, 16, 16))
    np.testing.assert_allclose(read[:, 0, 0], noise[:, 0, 0] / 255, atol=1e-6)
    np.testing.assert_allclose(read[:, 8:, 8:], noise[:, :8, :8] / 255, atol=1e-6)


@given(st.floats(0.2, 2.0), st.floats(0.2, 2.0), st.integers(0, 20), st.integers(0, 20))
def test_a_ramp_keeps_its_position(mpp, target_mpp, x, y):
    """Intensity grows by 1/200 a µm: the value at every target pixel's centre tells where it was taken from."""
    size = int(100 / mpp)
    um = (np.arange(size) + 0.5) * mpp
    ramp = np.broadcast_to((um / 200)[None, None, :], (3, size, size)).astype(np.float32)
    read = FieldReader([image(ramp)], mpp=mpp, target_mpp=target_mpp).read(field(x, y, 16, 8))
    expected = (np.arange(x, x + 16) + 0.5) * target_mpp
    away_from_edge = (expected > 3) & (expected < 90)
    np.testing.assert_allclose(
        read[0, 0, away_from_edge] * 200, expected[away_from_edge], atol=0.26 * max(mpp, target_mpp)
    )


@given(st.integers(0, 40), st.integers(0, 40), st.floats(0.25, 1.5))
def test_a_pixel_does_not_depend_on_its_field(dx, dy, mpp):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 90, 90), dtype=np.uint8)
    reader = FieldReader([image(pixels)], mpp=mpp, target_mpp=0.5)
    whole = reader.read(field(0, 0, 64, 64))
    part = reader.read(field(dx, dy, 16, 16))
    np.testing.assert_allclose(part, whole[:, dy : dy + 16, dx : dx + 16], atol=1e-5)


def test_the_nearest_finer_level_is_read():
    levels = [image(np.full((3, 64 // s, 64 // s), v, np.uint8)) for s, v in ((1, 10), (2, 20), (4, 40))]
    for mpp, target_mpp, value in (
        (0.5, 0.5, 10),
        (0.5, 0.9, 10),
        (0.5, 1.0, 20),
        (0.5, 2.5, 40),
        (0.505, 1, 20),
        (0.52, 1, 10),
    ):
        read = FieldReader(levels, mpp=mpp, target_mpp=target_mpp).read(field(0, 0, 8, 8))
        assert round(float(read.mean()) * 255) == value


def test_downsampling_averages():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    read = FieldReader([image(np.stack([checks] * 3).astype(np.uint8))], mpp=0.25, target_mpp=1.0).read(
        field(2, 2, 8, 8)
    )
    np.testing.assert_allclose(read, 0.5, atol=0.01)


@pytest.mark.parametrize("target_mpp", [0.25, 0.5, 1.3, 2.0])
def test_rectangles_of_a_field_are_those_of_the_image(target_mpp):
    """Also where the field is resampled as soon as it is read."""
    pixels = np.random.default_rng(2).integers(0, 256, (3, 1500, 1400), dtype=np.uint8)
    reader = FieldReader([image(pixels)], mpp=0.25, target_mpp=target_mpp)
    whole = field(-8, -16, int(1400 * 0.25 / target_mpp) + 16, int(1500 * 0.25 / target_mpp) + 32)
    (top, bottom), (left, right) = reader.window(whole)
    read = FieldPixels(reader, whole, pixels[:, top:bottom, left:right])
    np.testing.assert_array_equal(as_unit(read.cut(24, 8, 40, 100), "he"), reader.read(field(16, -8, 40, 100)))
    np.testing.assert_array_equal(as_unit(read.whole(), "he"), reader.read(whole))


def test_pixel_types_and_channels(noise):
    assert unit_range(np.array([65535], np.uint16), "he") == 1.0
    assert unit_range(np.array([0.25]), "he").dtype == np.float32
    with pytest.raises(ValueError, match="'he' has float pixels up to 255"):
        unit_range(np.array([255.0]), "he")
    rgba = np.concatenate([noise, np.full((1, 60, 80), 7, np.uint8)])
    read = FieldReader([image(rgba)], mpp=1, target_mpp=1).read(field(0, 0, 8, 8))
    np.testing.assert_allclose(read, noise[:, :8, :8] / 255, atol=1e-6)
    for channels in (1, 2, 5):
        with pytest.raises(ValueError, match=f"'dapi' has {channels} channels"):
            FieldReader([image(np.zeros((channels, 8, 8), np.uint8))], mpp=1, target_mpp=1, name="dapi")


@pytest.mark.parametrize("rectangle", [(-30, -20, 24, 16), (30, 28, 40, 30), (-30, 10, 90, 8), (5, 6, 7, 8)])
def test_a_rectangle_that_leaves_a_shrunk_field_at_the_images_border(rectangle):
    """What a single unit's rectangle does in crop mode; a field of a much finer level is resampled beforehand."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 160, 160), dtype=np.uint8)
    reader = FieldReader([image(pixels)], mpp=0.5, target_mpp=2.0)
    # fields reach beyond the image, where its last pixels are repeated
    whole = FieldPixels(reader, field(-8, -8, 56, 56), pixels)
    x, y, width, height = rectangle
    found = whole.cut(x + 8, y + 8, width, height)
    np.testing.assert_array_equal(found, reader.read(field(x, y, width, height)))
