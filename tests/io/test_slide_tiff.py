"""Tiles of a TIFF are decoded in the threads that ask, to the pixels that tifffile gives; colours are what it says."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
from PIL import Image

import pastpy as past
from pastpy._elements import image_levels
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


def pixels_of(path) -> np.ndarray:
    return image_levels(past.io.read_wsi(path, mpp=0.5), "he")[0].values.transpose(1, 2, 0)


@pytest.mark.parametrize("mode", ["P", "CMYK", "LAB"])
def test_values_that_are_no_colours_are_refused(tmp_path, mode):
    Image.fromarray(PIXELS).convert("RGB").convert(mode).save(tmp_path / "a.tif")
    name = {"P": "PALETTE", "CMYK": "SEPARATED", "LAB": "CIELAB"}[mode]
    with pytest.raises(
        ValueError, match=rf"slide a\.tif has the photometric interpretation {name}; .*convert it to RGB"
    ):
        past.io.read_wsi(tmp_path / "a.tif", mpp=0.5)


def test_ycbcr_is_read_only_where_the_decoder_makes_it_rgb(tmp_path):
    flat = np.full((64, 64, 3), (180, 90, 160), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "jpeg.tif", flat, tile=(64, 64), photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "jpeg.tif") as file:
        assert file.pages[0].photometric == tifffile.PHOTOMETRIC.YCBCR
    assert np.abs(pixels_of(tmp_path / "jpeg.tif").astype(int) - flat).max() <= 3
    tifffile.imwrite(tmp_path / "plain.tif", flat, photometric="rgb")
    with tifffile.TiffFile(tmp_path / "plain.tif", mode="r+") as file:
        file.pages[0].tags["PhotometricInterpretation"].overwrite(6)
    with pytest.raises(ValueError, match=r"plain\.tif has the photometric interpretation YCBCR"):
        past.io.read_wsi(tmp_path / "plain.tif", mpp=0.5)


def test_white_is_zero_is_inverted(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.tif"), np.repeat(255 - PIXELS[..., :1], 3, axis=2))


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_a_fourth_sample_is_what_the_file_says(tmp_path, kind):
    """Opaque, half transparent and transparent rows: laid over white, or as they are where the sample is no opacity."""
    opacity = np.repeat(np.array([255, 51, 0], dtype=np.uint8), 50)[:, None, None]
    share = opacity / 255
    stored = np.round(PIXELS * share).astype(np.uint8) if kind == "assocalpha" else PIXELS
    rgba = np.concatenate([stored, np.broadcast_to(opacity, (150, 210, 1))], axis=2)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=[kind])
    expected = PIXELS if kind == "unspecified" else np.round(PIXELS * share + 255 * (1 - share))
    assert np.abs(pixels_of(tmp_path / "a.tif") - expected).max() <= (1 if kind == "assocalpha" else 0)


def test_four_grey_samples_are_no_colours(tmp_path):
    rgba = np.concatenate([PIXELS, PIXELS[..., :1]], axis=2)
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="minisblack", planarconfig="contig")
    with pytest.raises(ValueError, match=r"a\.tif has 4 channels"):
        past.io.read_wsi(tmp_path / "a.tif", mpp=0.5)


@pytest.mark.parametrize(
    ("names", "is_refused"),
    [
        (["DAPI", "CD3", "CD8"], True),
        (["DAPI", "CD3", "CD8", "CK"], True),
        (["Red", "Green", "Blue"], False),
        (["R", "G", "B", "A"], False),
        (["Channel 0", "Channel 1", "Channel 2"], False),
        (["TL Brightfield", "C2", "C3"], False),
        (None, False),
    ],
)
def test_channels_named_as_markers_are_no_brightfield(tmp_path, names, is_refused):
    n = 3 if names is None else len(names)
    stack = np.stack([*np.moveaxis(PIXELS, 2, 0), np.full(PIXELS.shape[:2], 255, np.uint8)])[:n]
    metadata = {"axes": "CYX"} | ({} if names is None else {"Channel": {"Name": names}})
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata=metadata)
    if is_refused:
        with pytest.raises(ValueError, match=r"a\.ome\.tif has the channels DAPI, CD3, CD8.*as fluorescence"):
            past.io.read_wsi(tmp_path / "a.ome.tif", mpp=0.5)
    else:
        np.testing.assert_array_equal(pixels_of(tmp_path / "a.ome.tif"), PIXELS)
