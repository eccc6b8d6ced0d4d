"""Blocks tile the image, and a pixel has one value whichever block it was read in."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xarray import DataArray

from pastpy.pp._blocks import WorkingImage, plan_blocks


def image_of(pixels, **changes):
    level = DataArray(np.moveaxis(pixels, -1, 0), dims=("c", "y", "x"))
    return WorkingImage([level], **({"mpp": 0.5, "target_mpp": 0.5, "name": "he"} | changes))


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 64), st.integers(0, 20))
def test_cores_tile_the_image(height, width, block_px, halo_px):
    times = np.zeros((height, width), int)
    for block in plan_blocks(height, width, block_px=block_px, halo_px=halo_px):
        top, bottom, left, right = block.core
        times[top:bottom, left:right] += 1
        outer = block.outer
        assert outer[0] == max(top - halo_px, 0) and outer[1] == min(bottom + halo_px, height)
        assert outer[2] == max(left - halo_px, 0) and outer[3] == min(right + halo_px, width)
    assert (times == 1).all()


@given(st.sampled_from([0.25, 0.31, 0.5, 0.69, 1.0]), st.data())
@settings(max_examples=30)
def test_a_part_is_what_the_whole_has_there(mpp, data):
    image = image_of(noise(67, 83), mpp=mpp)
    height, width = image.shape
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    whole = image.read((0, height, 0, width))
    np.testing.assert_array_equal(image.read((top, bottom, left, right)), whole[top:bottom, left:right])


@pytest.mark.parametrize(("mpp", "side"), [(0.5, 60), (0.46, 60), (0.55, 60), (0.25, 30), (0.69, 83), (1.0, 120)])
def test_resampled_only_where_the_resolution_differs_much(mpp, side):
    pixels = noise(60, 60)
    image = image_of(pixels, mpp=mpp)
    assert image.shape == (side, side)
    assert image.mpp * side == pytest.approx(mpp * 60)
    if side == 60:
        np.testing.assert_array_equal(image.read((0, 60, 0, 60)), pixels)


def test_resampling_keeps_positions_and_means():
    y, x = np.mgrid[:80, :120]
    ramp = np.stack([x * 2, y * 3, np.full_like(x, 77)], axis=-1).astype(np.uint8)
    image = image_of(ramp, mpp=0.25)
    read = image.read((0, 40, 0, 60)).astype(float)
    np.testing.assert_allclose(
        read[5:-5, 5:-5, 0], np.broadcast_to(4.0 * np.arange(60) + 1, (40, 60))[5:-5, 5:-5], atol=0.5
    )
    np.testing.assert_allclose(read[5:-5, 5:-5, 1], (6.0 * np.arange(40) + 1.5)[5:-5, None] + np.zeros(50), atol=0.51)
    assert (read[..., 2] == 77).all()


def test_alpha_is_dropped():
    pixels = noise(20, 20, channels=4)
    np.testing.assert_array_equal(image_of(pixels).read((0, 20, 0, 20)), pixels[..., :3])


@pytest.mark.parametrize(
    "same",
    [lambda u: u.astype(np.uint16) * 257, lambda u: (u / 255).astype(np.float32), lambda u: u / 255.0],
    ids=["uint16", "float32", "float64"],
)
def test_other_types_are_scaled(same):
    pixels = noise(20, 20)
    np.testing.assert_array_equal(image_of(same(pixels)).read((0, 20, 0, 20)), pixels)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_than_rgb_is_refused(channels):
    with pytest.raises(ValueError, match="'he' has . channels"):
        image_of(noise(10, 10, channels))


def test_floats_beyond_one_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        image_of(noise(10, 10).astype(float)).read((0, 10, 0, 10))


def test_only_what_is_needed_is_read():
    asked = []

    def load(block_info=None):
        asked.append(block_info[None]["chunk-location"])
        return np.zeros((3, 64, 64), np.uint8)

    lazy = da.map_blocks(load, chunks=((3,), (64,) * 8, (64,) * 8), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    image = WorkingImage([DataArray(lazy, dims=("c", "y", "x"))], mpp=0.5, target_mpp=0.5, name="he")
    asked.clear()
    image.read((0, 100, 64, 128))
    assert sorted(asked) == [(0, 0, 1), (0, 1, 1)]


@pytest.mark.parametrize("dropped", ["first", "last"])
def test_levels_that_lost_a_row_are_read_where_they_lie(dropped):
    """Of odd sides, writers drop a row and a column at one end: by sizes alone, the far end would be a pixel off."""
    y, x = np.mgrid[:301, :301].astype(np.float32)
    fine = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), 128 + 90 * np.sin((x + 2 * y) / 11)])
    cut = fine[:, 1:, 1:] if dropped == "first" else fine[:, :-1, :-1]
    coarse = cut.reshape(3, 150, 2, 150, 2).mean(axis=(2, 4))
    levels = [DataArray(np.rint(a).astype(np.uint8), dims=("c", "y", "x")) for a in (fine, coarse)]
    image = WorkingImage(levels, mpp=0.25, target_mpp=0.5, name="he")
    height, width = image.shape
    found = image.read((0, height, 0, width)).astype(float)
    # the same pattern at the working pixels' centres
    at = [(np.arange(n) + 0.5) * px - 0.5 for n, px in zip((width, height), image.level0_px, strict=True)]
    expected = np.stack([128 + 100 * np.sin(at[0] / 9)[None] + 0 * at[1][:, None]], axis=-1)
    inner = slice(2, -2)
    miss = np.abs(found[inner, inner, :1] - expected[inner, inner]).max()
    steepest = 100 / 9 * 2  # grey levels a working pixel
    assert miss < 0.25 * steepest
