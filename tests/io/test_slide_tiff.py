"""Tiles of a TIFF are decoded in the threads that ask, to the pixels that tifffile gives."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from pastpy.io._slide_tiff import TiffLevel, _Tiles

PIXELS = np.random.default_rng(0).integers(0, 256, (150, 210, 3), dtype=np.uint8)


def level(path) -> TiffLevel:
    with tifffile.TiffFile(path) as file:
        first = file.series[0].levels[0]
        return TiffLevel(path, 0, 0, first.shape, first.dtype)


@pytest.mark.parametrize("compression", [None, "jpeg", "zlib", "lzw"])
def test_windows_are_those_of_the_page(tmp_path, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, tile=(64, 32), photometric="rgb", compression=compression)
    lazy, expected = level(path), tifffile.imread(path)
    windows = [(slice(0, 150), slice(0, 210)), (slice(63, 65), slice(31, 33)), (slice(140, 150), slice(200, 210))]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda w: lazy[*w, slice(0, 3)], windows * 3))
    assert isinstance(lazy._source, _Tiles)
    for window, pixels in zip(windows * 3, found, strict=True):
        np.testing.assert_array_equal(pixels, expected[window])
    again = pickle.loads(pickle.dumps(lazy))
    np.testing.assert_array_equal(again[10:20, 30:70, 0:2], expected[10:20, 30:70, :2])


def test_a_tile_that_is_not_stored_is_blank(tmp_path):
    """As scanners leave out glass: no bytes, no offset."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS[:128, :128], tile=(64, 64), photometric="rgb")
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = file.pages[0].tags[name]
            tag.overwrite([0, *tag.value[1:3], 0])
    pixels = level(path)[0:128, 0:128, 0:3]
    np.testing.assert_array_equal(pixels, tifffile.imread(path))
    np.testing.assert_array_equal(pixels[:64, 64:], PIXELS[:64, 64:128])
    assert not pixels[:64, :64].any() and not pixels[64:, 64:].any()


def test_other_layouts_go_through_the_view(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS.transpose(2, 0, 1), tile=(64, 64), photometric="rgb", planarconfig="separate")
    lazy = level(path)
    np.testing.assert_array_equal(lazy[0:3, 10:90, 20:100], PIXELS.transpose(2, 0, 1)[:, 10:90, 20:100])
    assert not isinstance(lazy._source, _Tiles)
