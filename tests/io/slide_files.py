"""Slides in the formats that tifffile and zarr write, each of the same pixels."""

from __future__ import annotations

import numpy as np
import tifffile
import zarr

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8)


def halved(pixels):
    return pixels[::2, ::2]


def resolution(mpp_x, mpp_y=None):
    """TIFF tags, px per cm."""
    return {"resolution": (10000 / mpp_x, 10000 / (mpp_y or mpp_x)), "resolutionunit": "CENTIMETER"}


def write_plain(path, pixels=PIXELS, **options):
    tifffile.imwrite(path, pixels, photometric="rgb", **options)
    return path


def write_pyramid(path, pixels=PIXELS, *, n=3, mpp=0.25):
    """Pyramid in SubIFDs, tiled and compressed."""
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, subifds=n - 1, tile=(32, 32), photometric="rgb", compression="zlib", **resolution(mpp))
        for _ in range(n - 1):
            pixels = halved(pixels)
            file.write(pixels, subfiletype=1, tile=(32, 32), photometric="rgb", compression="zlib")
    return path


def write_ome(path, pixels=PIXELS, *, mpp=0.25, unit="µm", axes="YXS", n=2, magnification=None):
    metadata = {"axes": axes}
    if mpp is not None:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    options = {"tile": (32, 32), "photometric": "rgb" if axes == "YXS" else "minisblack"}
    with tifffile.TiffWriter(path, ome=True) as file:
        file.write(pixels, subifds=n - 1, metadata=metadata, **options)
        for _ in range(n - 1):
            pixels = halved(pixels) if axes == "YXS" else pixels[:, ::2, ::2]
            file.write(pixels, subfiletype=1, metadata=None, **options)
    if magnification is not None:
        comment = tifffile.tiffcomment(path)
        instrument = (
            f'<Instrument ID="Instrument:0"><Objective ID="Objective:0" NominalMagnification="{magnification}"/>'
            "</Instrument><Image "
        )
        comment = comment.replace("<Image ", instrument, 1)
        comment = comment.replace("<Pixels ", '<ObjectiveSettings ID="Objective:0"/><Pixels ', 1)
        tifffile.tiffcomment(path, comment.encode())
    return path


def write_aperio(path, pixels=PIXELS, *, mpp=0.25, n=2):
    """A file in the layout of an Aperio scanner: levels, with a thumbnail after the first, all in plain IFDs."""
    text = "Aperio Image Library v1\n130x90 [0,0 130x90] (32x32) JPEG/RGB Q=90|AppMag = 40"
    text += "" if mpp is None else f"|MPP = {mpp}"
    options = {"photometric": "rgb", "metadata": None, "compression": None}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, tile=(32, 32), description=text, **options)
        file.write(pixels[::8, ::8], description="Aperio Image Library v1\nthumbnail", **options)
        for _ in range(n - 1):
            pixels = halved(pixels)
            file.write(pixels, tile=(32, 32), description=text, subfiletype=0, **options)
    return path


def write_ome_zarr(path, pixels=PIXELS, *, version="0.4", mpp=0.25, unit="micrometer", axes="cyx"):
    scale = {"t": 1.0, "c": 1.0, "z": 1.0, "y": mpp, "x": mpp}
    kinds = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for i, level in enumerate((pixels, halved(pixels))):
        data = level.transpose(["yxc".index(a) for a in axes if a in "yxc"])
        data = np.expand_dims(data, [i for i, a in enumerate(axes) if a not in "yxc"])
        array = group.create_array(str(i), shape=data.shape, dtype=data.dtype, chunks=[min(n, 32) for n in data.shape])
        array[...] = data
        factors = [scale[a] * (2**i if a in "yx" else 1) for a in axes]
        datasets.append({"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": factors}]})
    described = [
        {"name": a, "type": kinds[a]} | ({"unit": unit} if unit is not None and kinds[a] == "space" else {})
        for a in axes
    ]
    image = [{"version": version, "axes": described, "datasets": datasets, "name": "x"}]
    group.attrs.update(
        {"multiscales": image} if version == "0.4" else {"ome": {"version": version, "multiscales": image}}
    )
    return path
