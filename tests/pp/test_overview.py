"""Overviews and windows of a slide: each chunk is decoded once, by this process whatever Dask would do elsewhere."""

from __future__ import annotations

from collections import Counter

import dask
import dask.array as da
import numpy as np
import pytest
from xarray import DataArray

from pastpy.engine import FieldReader, image_fingerprint
from pastpy.engine.levels import level_geometry
from pastpy.pp import _overview

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 300, 420), dtype=np.uint8)


def as_image(pixels: np.ndarray, chunk: int = 64, made: Counter | None = None) -> DataArray:
    """A lazy image that counts how often each block is made."""

    def block(block_info=None):
        location = block_info[None]["array-location"]
        if made is not None:
            made[tuple(location)] += 1
        return pixels[tuple(slice(*part) for part in location)]

    sides = da.core.normalize_chunks((3, chunk, chunk), pixels.shape)
    array = da.map_blocks(block, chunks=sides, dtype=np.uint8, meta=np.empty(0, np.uint8))
    return DataArray(array, dims=("c", "y", "x"))


@pytest.fixture
def elsewhere():
    """Another scheduler is Dask's default, as the workers of a client are; nothing may go there."""

    def refuse(graph, keys, **options):
        pytest.fail("sent away to be computed")

    with dask.config.set(scheduler=refuse):
        yield


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("whole_px", [0, 10**9])
def test_an_overview_decodes_each_chunk_once(monkeypatch, whole_px):
    monkeypatch.setattr(_overview, "_WHOLE_PX", whole_px)
    monkeypatch.setattr(_overview, "_BLOCK", 50)
    made: Counter = Counter()
    lazy = _overview.read_overview([as_image(PIXELS, made=made)], mpp=1.0, target_mpp=2.0, name="he")
    whole = FieldReader([DataArray(PIXELS, dims=("c", "y", "x"))], mpp=1.0, target_mpp=2.0)
    expected = whole.read(_overview.Field(0, 0, 210, 150, np.arange(0))).transpose(1, 2, 0) * 255
    np.testing.assert_array_equal(lazy.rgb, np.rint(expected))
    assert set(made.values()) == {1}


@pytest.mark.usefixtures("elsewhere")
def test_windows_decode_each_chunk_once():
    made: Counter = Counter()
    corners = np.array([[10.0, 20.0], [30.0, 40.0], [10.0, 20.0]])
    windows, at = _overview.read_windows(
        [as_image(PIXELS, made=made)], corners, 50.0, mpp=1.0, target_mpp=1.0, name="he"
    )
    for window, (x, y) in zip(windows, at.astype(int), strict=True):
        np.testing.assert_array_equal(window, PIXELS[:, y : y + 50, x : x + 50].transpose(1, 2, 0))
    assert set(made.values()) == {1}


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("whole_px", [0, 10**9])
def test_levels_are_measured_and_hashed_by_this_process(monkeypatch, whole_px):
    monkeypatch.setattr("pastpy.engine.fingerprint._WHOLE_PX", whole_px)
    halved = PIXELS.reshape(3, 150, 2, 210, 2).mean(axis=(2, 4)).astype(np.uint8)
    lazy, loaded = (
        [make(part) for part in (PIXELS, halved)]
        for make in (as_image, lambda pixels: DataArray(pixels, dims=("c", "y", "x")))
    )
    assert level_geometry(lazy, 1) == level_geometry(loaded, 1)
    one, other = (image_fingerprint(FieldReader(part, mpp=1.0, target_mpp=1.0)) for part in (lazy, loaded))
    assert one == other
