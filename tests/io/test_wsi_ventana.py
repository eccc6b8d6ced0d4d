"""Ventana BIF written here in its layout, with OpenSlide reading it back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import openslide
import pytest
import tifffile
from tests.io.scans import MPP, check_place_of_pattern, check_travels, read

import pastpy as past

WIDTH, HEIGHT = 64, 48
OVERLAP = 16, 8
#: The tiles of all areas lie in one raster; positions are counted from below everything.
ACROSS, DOWN, BELOW = 5, 5, 1000
ROWS, COLUMNS = np.mgrid[:400, :600]
PIXELS = np.stack([ROWS % 256, COLUMNS % 256, (ROWS + COLUMNS) // 5], axis=-1).astype(np.uint8)


class Area(NamedTuple):
    """First tile and number of tiles in the raster, and the place (x, y) of the top-left corner on the slide in px."""

    column: int
    row: int
    across: int
    down: int
    x: int
    y: int
    is_scanned: bool = True


AREAS = Area(0, 0, 3, 2, 24, 0), Area(3, 0, 2, 2, 300, 0, is_scanned=False), Area(1, 2, 2, 3, 216, 104)


def tile_number(area, column, row):
    """Tiles are counted from the bottom row up, to the right and back by turns."""
    row = area.down - 1 - row
    return row * area.across + (area.across - 1 - column if row % 2 else column) + 1


def joint(area, direction, one, other, overlap):
    numbers = f'Tile1="{tile_number(area, *one)}" Tile2="{tile_number(area, *other)}"'
    size = f'OverlapX="{overlap[0]}" OverlapY="{overlap[1]}"'
    return f'<TileJointInfo FlagJoined="1" Confidence="98" Direction="{direction}" {numbers} {size}/>'


def joints(area, overlap, sideways):
    """Each tile with its right neighbour, and with the one above."""
    tiles = [(column, row) for row in range(area.down) for column in range(area.across)]
    beside = (joint(area, sideways, (c, r), (c + 1, r), (overlap[0], 0)) for c, r in tiles if c + 1 < area.across)
    above = (joint(area, "UP", (c, r), (c, r - 1), (0, overlap[1])) for c, r in tiles if r > 0)
    return "".join([*beside, *above])


def encode_info(overlap, sideways):
    """What the finest level says of its areas."""
    infos, origins = "", ""
    for i, area in enumerate(AREAS):
        below = BELOW - area.y - (area.down - 1) * (HEIGHT - overlap[1]) - HEIGHT
        infos += (
            f'<ImageInfo AOIScanned="{int(area.is_scanned)}" AOIIndex="{i}" Width="{WIDTH}" Height="{HEIGHT}" '
            f'NumRows="{area.down}" NumCols="{area.across}" Pos-X="{area.x}" Pos-Y="{below}">'
            f"{joints(area, overlap, sideways)}</ImageInfo>"
        )
        origins += f'<AOI{i} OriginX="{area.column * WIDTH}" OriginY="{area.row * HEIGHT}"/>'
    stitched = f"<SlideStitchInfo>{infos}</SlideStitchInfo><AoiOrigin>{origins}</AoiOrigin>"
    return f'<EncodeInfo Ver="2">{stitched}</EncodeInfo>'


def places(area, overlap):
    """Of each tile its row and column in the raster, and its corner (x, y) on the slide."""
    for row in range(area.down):
        for column in range(area.across):
            x, y = area.x + column * (WIDTH - overlap[0]), area.y + row * (HEIGHT - overlap[1])
            yield area.row + row, area.column + column, x, y


def raster_of(pixels, overlap):
    """Tiles as the file stores them, edge to edge; black where nothing must be shown."""
    raster = np.zeros((DOWN * HEIGHT, ACROSS * WIDTH, 3), np.uint8)
    for area in AREAS:
        for row, column, x, y in places(area, overlap) if area.is_scanned else ():
            tile = raster[row * HEIGHT :, column * WIDTH :][:HEIGHT, :WIDTH]
            tile[:] = pixels[y : y + HEIGHT, x : x + WIDTH]
    return raster


def xmp(text):
    return [(700, 1, len(text), text.encode(), True)]


def write_bif(path, pixels=PIXELS, *, overlap=(0, 0), compression=None, sideways="RIGHT", root="{}"):
    """A picture of the label, which bears what is said of the scan, and two levels of the raster."""
    scan = root.format(f'<iScan Magnification="20" ScanRes="{MPP}" Z-layers="1" Mode="brightfield"/>')
    raster = raster_of(pixels, overlap)
    options = {"photometric": "rgb", "metadata": None, "software": False}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(np.zeros((32, 16, 3), np.uint8), description="Label Image", extratags=xmp(scan), **options)
        for level in range(2):
            options |= {"tile": (HEIGHT, WIDTH), "compression": compression}
            tags = xmp(encode_info(overlap, sideways)) if level == 0 else []
            name = f"level={level} mag={20 / 2**level:g} quality=95"
            file.write(raster[:: 2**level, :: 2**level], description=name, extratags=tags, **options)
    return path


def shown(pixels, overlap):
    """What the slide shows: the scanned areas at their places, else white."""
    scanned = [(x, y) for area in AREAS if area.is_scanned for *_, x, y in places(area, overlap)]
    width, height = max(x for x, _ in scanned) + WIDTH, max(y for _, y in scanned) + HEIGHT
    whole = np.full((height, width, 3), 255, np.uint8)
    for x, y in scanned:
        whole[y : y + HEIGHT, x : x + WIDTH] = pixels[y : y + HEIGHT, x : x + WIDTH]
    return whole


@pytest.mark.parametrize("root", ["{}", "<Metadata>{}</Metadata>"], ids=["iScan", "Metadata"])
@pytest.mark.parametrize(("compression", "error"), [(None, 0), ("jpeg", 1)])
@pytest.mark.parametrize("overlap", [(0, 0), OVERLAP])
def test_areas_are_where_they_were_scanned(tmp_path, overlap, compression, error, root):
    levels = read(write_bif(tmp_path / "a.bif", overlap=overlap, compression=compression, root=root))
    whole = shown(PIXELS, overlap).astype(int)
    assert len(levels) == 2
    for i, level in enumerate(levels):
        expected = whole[:: 2**i, :: 2**i]
        assert level.shape == expected.shape and np.abs(level - expected).mean() <= error
        is_white = (expected == 255).all(axis=-1)
        assert is_white.mean() > 0.5 and (level[is_white] == 255).all()


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_pattern_is_read_at_its_um(tmp_path, scale):
    pixels = np.full_like(PIXELS, 255)
    pixels[120:160, 240:304] = 0
    path = write_bif(tmp_path / "a.bif", pixels, overlap=OVERLAP)
    check_place_of_pattern(path, x_um=(60, 76), y_um=(30, 40), scale=scale)


def test_levels_travel_to_other_processes(tmp_path):
    check_travels(write_bif(tmp_path / "a.bif"), shown(PIXELS, (0, 0)))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("compression", [None, "jpeg"])
def test_truncated(tmp_path, compression, share):
    path = write_bif(tmp_path / "cut.bif", compression=compression)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"cut\.bif"):
        read(path)


@pytest.mark.skipif(not openslide.__library_version__.startswith("4.0."), reason="what OpenSlide 4.0 does")
def test_joints_to_the_left_are_refused(tmp_path):
    """As the DP 200 writes them: OpenSlide 4.0 has no rule for these."""
    with pytest.raises(ValueError, match=r'a\.bif cannot be opened \(Bad direction attribute "LEFT"\)'):
        past.io.read_wsi(write_bif(tmp_path / "a.bif", sideways="LEFT"))
