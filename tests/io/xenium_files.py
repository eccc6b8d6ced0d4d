"""A Xenium bundle that readers take for whole, and an H&E that lies on it by a known affine."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import tifffile
import zarr

PIXEL_UM = 0.2125
HE_MPP = 0.3637


def cell_number(name):
    """The number a Xenium cell id encodes: hexadecimal digits spelled a to p."""
    return int("".join(f"{ord(c) - 97:x}" for c in name.split("-")[0]), 16)


def make_bundle(shared_data, tmp_path):
    """The real cut bundle with the two files it lacks."""
    folder = tmp_path / "outs"
    shutil.copytree(shared_data / "xenium_cosmx_mini" / "xenium", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    manifest = {"pixel_size": PIXEL_UM, "analysis_sw_version": "xenium-1.4.0.7"}
    (folder / "experiment.xenium").write_text(json.dumps(manifest))
    ids = pd.read_parquet(folder / "cells.parquet")["cell_id"]
    store = zarr.storage.ZipStore(folder / "cells.zarr.zip", mode="w")
    group = zarr.open_group(store, mode="w", zarr_format=2)
    numbers = np.array([[cell_number(i), int(i.split("-")[1])] for i in ids], dtype=np.uint32)
    columns = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
    for name, values, attributes in (
        ("cell_id", numbers, {}),
        ("cell_summary", np.zeros((len(ids), 7)), {"column_names": [*columns, "nucleus_area", "z_level"]}),
        ("seg_mask_value", np.arange(1, len(ids) + 1, dtype=np.uint32), {}),
    ):
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, attributes=attributes)
        array[...] = values
    store.close()
    return folder


def he_to_dapi(degrees=0.0, flip=False, size=(2600, 2400), mpp=HE_MPP):
    """Affine that puts an H&E of that size over the cells of the bundle (its centre at 1195, 1193 µm)."""
    angle, scale = np.deg2rad(degrees), mpp / PIXEL_UM
    matrix = np.eye(3)
    matrix[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flip:
        matrix[:2, :2] @= np.diag([-1.0, 1.0])
    middle = matrix[:2, :2] @ (np.array(size) / 2)
    matrix[:2, 2] = np.array([1195.0, 1193.0]) / PIXEL_UM - middle
    return matrix


def paint(folder, matrix, *, name="he.ome.tif", size=(2600, 2400), mpp=HE_MPP, states_mpp=True):
    """An H&E with a dark square of 9 px at the pixel of every tenth cell; returns its path and those cells' pixels."""
    cells = pd.read_parquet(folder / "cells.parquet")
    dapi = cells[["x_centroid", "y_centroid"]].to_numpy()[::10] / PIXEL_UM
    inverse = np.linalg.inv(matrix)
    at = dapi @ inverse[:2, :2].T + inverse[:2, 2]
    width, height = size
    assert (at > 5).all() and (at < [width - 5, height - 5]).all()
    pixels = np.full((height, width, 3), 230, dtype=np.uint8)
    for x, y in np.floor(at).astype(int):
        pixels[y - 4 : y + 5, x - 4 : x + 5] = (80, 40, 120)
    metadata = {"axes": "YXS"}
    if states_mpp:
        metadata |= {"PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(folder / name, pixels, photometric="rgb", tile=(256, 256), compression="zlib", metadata=metadata)
    return folder / name, at


def write_matrix(path, matrix):
    np.savetxt(path, matrix, delimiter=",")
    return path
