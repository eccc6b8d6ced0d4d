"""Scanners' formats written here in their layout, with OpenSlide reading them back."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile
from tests.io.scans import MPP, read

ROWS, COLUMNS = np.mgrid[:512, :768]
PIXELS = np.stack([ROWS // 3 % 256, COLUMNS // 3 % 256, (ROWS + COLUMNS) // 5 % 256], axis=-1).astype(np.uint8)


def per_cm(level):
    return {"resolution": (10000 / MPP / 2**level,) * 2, "resolutionunit": "CENTIMETER", "metadata": None}


def write_ndpi(path, pixels=PIXELS):
    """Hamamatsu: a JPEG of one strip a level, told by private tags (format flag, lens, position)."""
    with tifffile.TiffWriter(path) as file:
        for level in range(2):
            image = pixels[:: 2**level, :: 2**level]
            tags = [(65420, 4, 1, 1, True), (65421, 11, 1, 20.0 / 2**level, True)]
            tags += [(tag, 9, 1, 0, True) for tag in (65422, 65423, 65424)]
            options = {"photometric": "rgb", "compression": "jpeg", "rowsperstrip": len(image), "extratags": tags}
            file.write(image, **options, **per_cm(level))
    return path


def write_scn(path, pixels=PIXELS):
    """Leica: one scanned region on a larger slide, told by XML in the first description; sizes in nm."""
    height, width = pixels.shape[:2]
    size = 'sizeX="{}" sizeY="{}"'
    levels = "".join(f'<dimension {size.format(width >> i, height >> i)} r="{i}" ifd="{i}"/>' for i in range(2))
    nm = int(width * MPP * 1000), int(height * MPP * 1000)
    xml = (
        '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="a">'
        f'<collection name="c" uuid="b" {size.format(4 * nm[0], 4 * nm[1])}>'
        f'<image name="i" uuid="c"><device model="Leica SCN400" version="1"/>'
        f"<pixels {size.format(width, height)}>{levels}</pixels>"
        f'<view {size.format(*nm)} offsetX="{nm[0]}" offsetY="{nm[1]}"/>'
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings></image></collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(2):
            image = pixels[:: 2**level, :: 2**level]
            options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg"}
            file.write(image, description=xml if level == 0 else None, **options, **per_cm(level))
    return path


def element(group, number, kind, value):
    """A DICOM data element, explicit value representation, little endian."""
    content = value if isinstance(value, bytes) else value.encode()
    content += (b"\0" if kind == "UI" else b" ") * (len(content) % 2)
    if kind in {"OB", "OW", "SQ"}:
        return struct.pack("<HH2sHI", group, number, kind.encode(), 0, len(content)) + content
    return struct.pack("<HH2sH", group, number, kind.encode(), len(content)) + content


def sequence(group, number, *elements):
    content = b"".join(elements)
    return element(group, number, "SQ", struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)


def short(value):
    return struct.pack("<H", value)


def long(value):
    return struct.pack("<I", value)


def write_dicom(path, pixels, *, mpp, instance, tile=256):
    """A level of a whole-slide image: uncompressed RGB tiles, every tile present."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // tile), -(-width // tile)
    padded = np.full((rows * tile, columns * tile, 3), 255, dtype=np.uint8)
    padded[:height, :width] = pixels
    tiles = padded.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2)
    kind, encoding, name = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.1.2.1", f"1.2.3.4.{instance}"
    flavour = "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if instance == 1 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    meta = element(2, 1, "OB", b"\0\1") + element(2, 2, "UI", kind) + element(2, 3, "UI", name)
    meta += element(2, 0x10, "UI", encoding) + element(2, 0x12, "UI", "1.2.3")
    data = [
        element(8, 8, "CS", flavour),
        element(8, 0x16, "UI", kind),
        element(8, 0x18, "UI", name),
        element(8, 0x60, "CS", "SM"),
        element(0x20, 0xD, "UI", "1.2.3.5"),
        element(0x20, 0xE, "UI", "1.2.3.6"),
        element(0x20, 0x9311, "CS", "TILED_FULL"),
        element(0x28, 2, "US", short(3)),
        element(0x28, 4, "CS", "RGB"),
        element(0x28, 6, "US", short(0)),
        element(0x28, 8, "IS", str(rows * columns)),
        *(
            element(0x28, n, "US", short(v))
            for n, v in ((0x10, tile), (0x11, tile), (0x100, 8), (0x101, 8), (0x102, 7))
        ),
        element(0x28, 0x103, "US", short(0)),
        element(0x48, 6, "UL", long(width)),
        element(0x48, 7, "UL", long(height)),
        sequence(0x48, 0x105, element(0x48, 0x106, "SH", "0"), element(0x48, 0x112, "DS", "20")),
        element(0x48, 0x303, "UL", long(1)),
        sequence(0x5200, 0x9229, sequence(0x28, 0x9110, element(0x28, 0x30, "DS", f"{mpp / 1000}\\{mpp / 1000}"))),
        element(0x7FE0, 0x10, "OW", tiles.tobytes()),
    ]
    header = b"\0" * 128 + b"DICM" + element(2, 0, "UL", long(len(meta))) + meta
    path.write_bytes(header + b"".join(data))
    return path


def test_hamamatsu_ndpi(tmp_path):
    levels = read(write_ndpi(tmp_path / "a.ndpi"))
    assert levels[0].shape == PIXELS.shape and len(levels) >= 2
    assert np.abs(levels[0] - PIXELS).mean() < 1  # JPEG


def test_leica_scn(tmp_path):
    """The region lies at its offset on the slide; what was not scanned is white."""
    level0, level1 = read(write_scn(tmp_path / "a.scn"))
    height, width = PIXELS.shape[:2]
    assert level0.shape == (4 * height, 4 * width, 3)
    region = level0[height : 2 * height, width : 2 * width]
    assert np.abs(region - PIXELS).mean() < 1
    assert np.abs(level1[height // 2 : height, width // 2 : width] - PIXELS[::2, ::2]).mean() < 1
    level0[height : 2 * height, width : 2 * width] = 255
    assert (level0 == 255).all()


@pytest.mark.parametrize("by", ["file", "folder"])
def test_dicom(tmp_path, by):
    write_dicom(tmp_path / "0.dcm", PIXELS, mpp=MPP, instance=1)
    write_dicom(tmp_path / "1.dcm", PIXELS[::2, ::2], mpp=2 * MPP, instance=2)
    level0, level1 = read(tmp_path / "0.dcm" if by == "file" else tmp_path)
    np.testing.assert_array_equal(level0, PIXELS)
    np.testing.assert_array_equal(level1, PIXELS[::2, ::2])


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
@pytest.mark.parametrize("write", [write_ndpi, write_scn, lambda path: write_dicom(path, PIXELS, mpp=MPP, instance=1)],
                         ids=["ndpi", "scn", "dicom"])  # fmt: skip
def test_truncated(tmp_path, write, share):
    path = write(tmp_path / "cut")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="cut"):
        read(path)
