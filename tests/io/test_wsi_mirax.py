"""3DHISTECH MRXS written here in its layout (Slidedat.ini, Index.dat, Data*.dat), with OpenSlide reading it back."""

from __future__ import annotations

import io
import itertools
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from tests.io.scans import MPP, check_place_of_pattern, check_travels, read

import pastpy as past

#: A camera's photo is stored as 2 × 2 images; one photo on this slide was never taken.
WIDTH, HEIGHT, PER_SIDE = 64, 48, 2
ACROSS, DOWN, LEVELS, MISSING = 4, 3, 3, 5
OVERLAP = 16, 8
VERSION_AND_ID = b"01.02" + b"0123456789ABCDEF" * 2
ROWS, COLUMNS = np.mgrid[:400, :600]
PIXELS = np.stack([ROWS % 256, COLUMNS % 256, (ROWS + COLUMNS) // 5], axis=-1).astype(np.uint8)


def planned(overlap):
    """Corners (x, y) of the photos as the overlap means them, in rows."""
    steps = PER_SIDE * WIDTH - overlap[0], PER_SIDE * HEIGHT - overlap[1]
    return [(column * steps[0], row * steps[1]) for row in range(DOWN) for column in range(ACROSS)]


def moved():
    """Corners as a stage reaches them: up to 8 px off, which leaves gaps; multiples of 4, exact on every level."""
    off = np.random.default_rng(0).integers(-2, 3, (ACROSS * DOWN, 2)) * 4
    return [(int(x), int(y)) for x, y in np.maximum(planned(OVERLAP) + off, 0)]


def images_of(pixels, corners):
    """Stored images of level 0 by (row, column)."""
    images = {}
    for photo, (x, y) in enumerate(corners):
        for i, j in itertools.product(range(PER_SIDE), repeat=2) if photo != MISSING else ():
            at = photo // ACROSS * PER_SIDE + i, photo % ACROSS * PER_SIDE + j
            images[at] = pixels[y + i * HEIGHT :, x + j * WIDTH :][:HEIGHT, :WIDTH]
    return images


def joined(images):
    """Stored images of the next level: four neighbours at half the size, white for those there are not."""
    fours = {}
    for (row, column), image in images.items():
        four = fours.setdefault((row // 2, column // 2), np.full((2 * HEIGHT, 2 * WIDTH, 3), 255, np.uint8))
        four[row % 2 * HEIGHT :, column % 2 * WIDTH :][:HEIGHT, :WIDTH] = image
    return {at: four[::2, ::2] for at, four in fours.items()}


def put(file, content):
    """Append bytes, or 32-bit integers; returns where they begin."""
    start = len(file)
    file += content if isinstance(content, bytes) else struct.pack(f"<{len(content)}i", *content)
    return start


def put_pages(index, entries, per_page=7):
    """Append a list of pages, an empty one first; each tells the place of the next, which follows it at once."""
    pages = [[], *(entries[i : i + per_page] for i in range(0, len(entries), per_page))]
    start = put(index, [0, len(index) + 8])
    for page in pages:
        following = len(index) + 8 + 16 * len(page) if page is not pages[-1] else 0
        put(index, [len(page), following, *itertools.chain(*page)])
    return start


def positions(corners):
    """A flag and x, y of every photo; zeros for the one that was not taken."""
    return b"".join(bytes(9) if photo == MISSING else struct.pack("<Bii", 1, *xy) for photo, xy in enumerate(corners))


def encoded(image, kind):
    out = io.BytesIO()
    Image.fromarray(image).save(out, format=kind.removesuffix("24"), quality=95)
    return out.getvalue()


def slidedat(*, mpp, overlap, kind, layer):
    """Sections of Slidedat.ini."""
    names = [f"LAYER_0_LEVEL_{i}_SECTION" for i in range(LEVELS)]
    general = {
        "SLIDE_VERSION": "01.02",
        "SLIDE_ID": VERSION_AND_ID[5:].decode(),
        "IMAGENUMBER_X": ACROSS * PER_SIDE,
        "IMAGENUMBER_Y": DOWN * PER_SIDE,
        "OBJECTIVE_MAGNIFICATION": 20,
        "CameraImageDivisionsPerSide": PER_SIDE,
    }
    hierarchical = {"INDEXFILE": "Index.dat", "HIER_COUNT": 1, "NONHIER_COUNT": int(layer is not None)}
    hierarchical |= {"HIER_0_NAME": "Slide zoom level", "HIER_0_COUNT": LEVELS}
    hierarchical |= {f"HIER_0_VAL_{i}_SECTION": name for i, name in enumerate(names)}
    if layer is not None:
        hierarchical |= {"NONHIER_0_NAME": layer, "NONHIER_0_COUNT": 1, "NONHIER_0_VAL_0": "default"}
    levels = {
        name: {
            "OVERLAP_X": overlap[0] / 2**i,
            "OVERLAP_Y": overlap[1] / 2**i,
            "MICROMETER_PER_PIXEL_X": mpp[0] * 2**i,
            "MICROMETER_PER_PIXEL_Y": mpp[1] * 2**i,
            "IMAGE_FORMAT": kind,
            "IMAGE_FILL_COLOR_BGR": 0xFFFFFF,
            "DIGITIZER_WIDTH": WIDTH,
            "DIGITIZER_HEIGHT": HEIGHT,
            "IMAGE_CONCAT_FACTOR": int(i > 0),
        }
        for i, name in enumerate(names)
    }
    files = {"FILE_COUNT": 2, "FILE_0": "Data0000.dat", "FILE_1": "Data0001.dat"}
    return {"GENERAL": general, "HIERARCHICAL": hierarchical, "DATAFILE": files, **levels}


def write_mrxs(path, pixels=PIXELS, *, mpp=(MPP, MPP), overlap=(0, 0), corners=None, layer=None, kind="PNG"):
    """A preview beside the slide's folder; ``layer`` names the record that tells the photos' corners, if any does."""
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(encoded(pixels[::8, ::8], "JPEG"))
    corners = planned(overlap) if corners is None else corners
    index, data = bytearray(VERSION_AND_ID + bytes(8)), [bytearray(VERSION_AND_ID) for _ in range(2)]

    def put_data(content, number):
        """Append to a data file; returns place, length and number of the file."""
        return put(data[number], content), len(content), number

    levels, images = [], images_of(pixels, corners)
    for level in range(LEVELS):
        entries = [
            ((row * ACROSS * PER_SIDE + column) << level, *put_data(encoded(image, kind), min(level, 1)))
            for (row, column), image in images.items()
        ]
        levels.append(put_pages(index, entries))
        images = joined(images)
    roots = [put(index, levels), 0]
    if layer is not None:
        record = zlib.compress(positions(corners)) if layer == "StitchingIntensityLayer" else positions(corners)
        roots[1] = put(index, [put(index, [0, put(index, [1, 0, 0, 0, *put_data(record, 1)])])])
    struct.pack_into("<ii", index, len(VERSION_AND_ID), *roots)

    sections = slidedat(mpp=mpp, overlap=overlap, kind=kind, layer=layer)
    text = "".join(f"[{name}]\n" + "".join(f"{k} = {v}\n" for k, v in keys.items()) for name, keys in sections.items())
    (folder / "Slidedat.ini").write_text(text, encoding="utf-8-sig", newline="\r\n")
    (folder / "Index.dat").write_bytes(index)
    for i, content in enumerate(data):
        (folder / f"Data{i:04}.dat").write_bytes(content)
    return path


def shown(pixels, corners, overlap=(0, 0)):
    """What the slide shows: the photos at their corners, else white."""
    width = ACROSS * PER_SIDE * WIDTH - (ACROSS - 1) * overlap[0]
    height = DOWN * PER_SIDE * HEIGHT - (DOWN - 1) * overlap[1]
    is_taken = np.zeros((height, width), dtype=bool)
    for x, y in (xy for photo, xy in enumerate(corners) if photo != MISSING):
        is_taken[y : y + PER_SIDE * HEIGHT, x : x + PER_SIDE * WIDTH] = True
    return np.where(is_taken[..., None], pixels[:height, :width], 255)


@pytest.mark.parametrize(
    ("overlap", "corners", "layer"),
    [
        ((0, 0), None, None),
        (OVERLAP, None, None),
        (OVERLAP, moved(), "VIMSLIDE_POSITION_BUFFER"),
        (OVERLAP, moved(), "StitchingIntensityLayer"),
    ],
    ids=["edge to edge", "overlap", "positions", "compressed positions"],
)
def test_photos_are_where_they_were_taken(tmp_path, overlap, corners, layer):
    levels = read(write_mrxs(tmp_path / "a.mrxs", overlap=overlap, corners=corners, layer=layer))
    whole = shown(PIXELS, corners or planned(overlap), overlap)
    assert len(levels) == LEVELS and (whole[120:160, 150:200] == 255).all()  # the missing photo's middle
    for i, level in enumerate(levels):
        np.testing.assert_array_equal(level, whole[:: 2**i, :: 2**i])


def test_coarse_levels_of_odd_positions_have_no_seams(tmp_path):
    """Positions that are no whole pixels of a coarser level: it is interpolated, and covered where photos meet."""
    smooth = np.stack([ROWS // 2, COLUMNS // 3, (ROWS + COLUMNS) // 8], axis=-1).astype(np.uint8)
    off = np.random.default_rng(1).integers(-3, 4, (ACROSS * DOWN, 2))
    corners = [(int(x), int(y)) for x, y in np.maximum(planned(OVERLAP) + off, 0)]
    path = write_mrxs(tmp_path / "a.mrxs", smooth, overlap=OVERLAP, corners=corners, layer="VIMSLIDE_POSITION_BUFFER")
    for i, level in enumerate(read(path)):
        inside = np.s_[8 >> i : 264 >> i, 248 >> i : 456 >> i]  # off the missing photo and the slide's edges
        assert np.abs(level[inside] - smooth[:: 2**i, :: 2**i][inside]).max() <= i


@pytest.mark.parametrize(("kind", "error"), [("BMP24", 0), ("JPEG", 1)])
def test_kinds_of_stored_images(tmp_path, kind, error):
    levels, whole = read(write_mrxs(tmp_path / "a.mrxs", kind=kind)), shown(PIXELS, planned((0, 0)))
    assert np.abs(levels[0] - whole).mean() <= error


def test_um_per_px_in_x_and_y(tmp_path):
    sdata = past.io.read_wsi(write_mrxs(tmp_path / "a.mrxs", mpp=(0.25, 0.251)))
    assert sdata.attrs["past"]["mpp"] == {"he": pytest.approx(0.2505)}
    with pytest.raises(ValueError, match=r"b\.mrxs states pixels that are not square, 0\.25 × 0\.5"):
        past.io.read_wsi(write_mrxs(tmp_path / "b.mrxs", mpp=(0.25, 0.5)))


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_pattern_is_read_at_its_um(tmp_path, scale):
    pixels = np.full_like(PIXELS, 255)
    pixels[120:160, 300:380] = 0
    path = write_mrxs(tmp_path / "a.mrxs", pixels, overlap=OVERLAP, corners=moved(), layer="StitchingIntensityLayer")
    check_place_of_pattern(path, x_um=(75, 95), y_um=(30, 40), scale=scale)


def test_levels_travel_to_other_processes(tmp_path):
    check_travels(write_mrxs(tmp_path / "a.mrxs"), shown(PIXELS, planned((0, 0))))


def test_the_preview_is_not_taken_for_the_slide(tmp_path):
    """OpenSlide knows the suffix in small letters only, and what bears it is a JPEG."""
    path = write_mrxs(tmp_path / "a.mrxs").rename(tmp_path / "A.MRXS")
    with pytest.raises(ValueError, match=r"slide A\.MRXS .* rename it to A\.mrxs"):
        past.io.read_wsi(path, mpp=MPP)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("name", ["Slidedat.ini", "Index.dat", "Data0000.dat", "Data0001.dat"])
def test_truncated(tmp_path, name, kind, share):
    write_mrxs(tmp_path / "cut.mrxs", kind=kind)
    path = tmp_path / "cut" / name
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"cut\.mrxs"):
        read(tmp_path / "cut.mrxs")


@pytest.mark.parametrize("name", ["Data0000.dat", "Data0001.dat", ""])
def test_missing_parts(tmp_path, name):
    path = write_mrxs(tmp_path / "part.mrxs")
    if name:
        (tmp_path / "part" / name).unlink()
    else:
        shutil.rmtree(tmp_path / "part")
    with pytest.raises(ValueError, match=r"part\.mrxs"):
        read(path)
