"""Every chunk is decoded once, whatever its shape and however little may be kept in between."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from xarray import DataArray

from pastpy.engine.chunks import ChunkedLevel, DecodedChunks
from pastpy.engine.recent import RecentChunks

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 70, 110), dtype=np.uint8)


def counted(chunks=(3, 16, 32)) -> tuple[DataArray, Counter]:
    """A dask image that counts how often each block is made."""
    made: Counter = Counter()

    def block(block_info=None):
        location = block_info[None]["array-location"]
        made[tuple(location)] += 1
        return PIXELS[tuple(slice(*part) for part in location)]

    sides = da.core.normalize_chunks(chunks, PIXELS.shape)
    array = da.map_blocks(block, chunks=sides, dtype=np.uint8, meta=np.empty(0, np.uint8))
    return DataArray(array, dims=("c", "y", "x")), made


window = st.tuples(
    st.tuples(st.integers(0, 60), st.integers(1, 10)), st.tuples(st.integers(0, 100), st.integers(1, 10))
).map(lambda w: tuple((start, start + size) for start, size in w))


@given(st.lists(window, min_size=1, max_size=8), st.sampled_from([(3, 16, 32), (1, 7, 110), (2, 70, 13)]))
def test_windows_are_right_and_chunks_decoded_once(windows, chunks):
    image, made = counted(chunks)
    with ThreadPoolExecutor(2) as decoder:
        decoded = DecodedChunks(ChunkedLevel(image), windows, decoder)
        for i, (rows, columns) in enumerate(windows):
            np.testing.assert_array_equal(decoded.get(i), PIXELS[:, slice(*rows), slice(*columns)])
        assert not decoded._cache
    assert set(made.values()) == {1}


def test_a_budget_bounds_what_is_kept():
    image, made = counted((3, 10, 10))
    windows = [((0, 70), (0, 110)), ((0, 10), (0, 10)), ((0, 70), (0, 110))]
    with ThreadPoolExecutor(2) as decoder:
        level = ChunkedLevel(image)
        decoded = DecodedChunks(level, windows, decoder, budget=3 * 300)
        decoded.get(0)
        assert len(decoded._cache) == 3
        assert (0, 0) in decoded._cache, "what is needed next is kept"
        decoded.get(1)
        np.testing.assert_array_equal(decoded.get(2), PIXELS)
    assert max(made.values()) == 2
    assert level.decoded == sum(made.values())


def test_a_chunk_larger_than_the_budget_is_decoded_once_for_neighbouring_windows():
    image, made = counted((3, 70, 110))
    windows = [((y, y + 10), (0, 110)) for y in range(0, 70, 10)]
    with ThreadPoolExecutor(2) as decoder:
        decoded = DecodedChunks(ChunkedLevel(image), windows, decoder, budget=100)
        for i, (rows, _) in enumerate(windows):
            np.testing.assert_array_equal(decoded.get(i), PIXELS[:, slice(*rows)])
        assert not decoded._cache
    assert set(made.values()) == {1}


def test_windows_may_be_asked_for_at_the_same_time():
    image, made = counted()
    windows = [((0, 70), (0, 110))] * 12
    with ThreadPoolExecutor(2) as decoder, ThreadPoolExecutor(6) as readers:
        decoded = DecodedChunks(ChunkedLevel(image), windows, decoder)
        for pixels in readers.map(decoded.get, range(12)):
            np.testing.assert_array_equal(pixels, PIXELS)
    assert set(made.values()) == {1}


def test_what_was_decoded_for_others_is_not_decoded_again():
    image, made = counted()
    recall = partial(RecentChunks(budget=PIXELS.nbytes).get, "image")
    for decodes in (image.data.npartitions, 0):
        level = ChunkedLevel(image, recall)
        with ThreadPoolExecutor(1) as decoder:
            np.testing.assert_array_equal(DecodedChunks(level, [((0, 70), (0, 110))], decoder).get(0), PIXELS)
        assert level.decoded == decodes
    assert set(made.values()) == {1}
    coarser = ChunkedLevel(image[:, ::2, ::2], recall)
    np.testing.assert_array_equal(coarser.chunk((0, 0)), PIXELS[:, :16:2, :32:2])


def test_an_image_in_memory_has_no_chunks():
    level = ChunkedLevel(DataArray(PIXELS, dims=("c", "y", "x")))
    assert level.edges is None
    with ThreadPoolExecutor(1) as decoder:
        decoded = DecodedChunks(level, [((3, 9), (4, 8))], decoder)
        np.testing.assert_array_equal(decoded.get(0), PIXELS[:, 3:9, 4:8])
        assert level.decoded == 0


def test_chunks_of_a_file_that_dask_does_not_know(tmp_path):
    """An array that xarray reads lazily says in its encoding how its file is divided."""
    import xarray

    xarray.Dataset({"image": (("c", "y", "x"), PIXELS)}).to_zarr(
        tmp_path / "a.zarr", encoding={"image": {"chunks": (3, 32, 64)}}, consolidated=False
    )
    lazy = xarray.open_zarr(tmp_path / "a.zarr", chunks=None, consolidated=False)["image"]
    level = ChunkedLevel(lazy)
    assert [edges.tolist() for edges in level.edges] == [[0, 32, 64, 70], [0, 64, 110]]
    np.testing.assert_array_equal(level.chunk((2, 1)), PIXELS[:, 64:, 64:])


def test_a_zarr_array_is_read_chunk_by_chunk(tmp_path):
    array = zarr.create_array(tmp_path / "a.zarr", shape=PIXELS.shape, chunks=(3, 32, 32), dtype=np.uint8)
    array[:] = PIXELS
    image = DataArray(da.from_zarr(str(tmp_path / "a.zarr")), dims=("c", "y", "x")).isel(c=slice(0, 3))
    level = ChunkedLevel(image)
    np.testing.assert_array_equal(level.chunk((1, 2)), PIXELS[:, 32:64, 64:96])


def test_a_broken_chunk_is_an_error_every_time():
    def block(block_info=None):
        raise OSError("tile is damaged")

    array = da.map_blocks(block, chunks=((3,), (8, 8), (8,)), dtype=np.uint8, meta=np.empty(0, np.uint8))
    level = ChunkedLevel(DataArray(array, dims=("c", "y", "x")))
    with ThreadPoolExecutor(1) as decoder:
        decoded = DecodedChunks(level, [((0, 9), (0, 8))] * 2, decoder)
        for i in range(2):
            with pytest.raises(OSError, match="tile is damaged"):
                decoded.get(i)
