"""Visium and Visium HD outputs of a known µm/px, with something dark painted where spots and bins are."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from scipy.sparse import csc_matrix

MPP = 0.5
HIRES = 0.1
GENES = ["ERBB2", "KRT8", "ACTB"]


def write_matrix(path, counts, barcodes):
    """10x's HDF5 count matrix, genes × barcodes."""
    matrix = csc_matrix(np.asarray(counts).T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = np.array(matrix.shape)
        group["barcodes"] = np.array(barcodes, dtype="S")
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(len(GENES))], dtype="S")
        features["name"] = np.array(GENES, dtype="S")
        features["feature_type"] = np.array(["Gene Expression"] * len(GENES), dtype="S")
        features["genome"] = np.array(["GRCh38"] * len(GENES), dtype="S")
        file.attrs["library_ids"] = np.array([b"sample"])


def write_pictures(folder, pixels):
    Image.fromarray(pixels[:: int(1 / HIRES), :: int(1 / HIRES)]).save(folder / "tissue_hires_image.png")
    Image.fromarray(pixels[::20, ::20]).save(folder / "tissue_lowres_image.png")


def write_slide(path, pixels, mpp=MPP):
    resolution = {} if mpp is None else {"resolution": (10000 / mpp, 10000 / mpp), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), **resolution)
    return path


def make_visium(tmp_path):
    """6 rows of 12 spots, rotated by 3°, 1200×1100 px at 0.5 µm/px; a dark square at each spot."""
    folder = tmp_path / "outs"
    (folder / "spatial").mkdir(parents=True)
    rows = np.repeat(np.arange(6), 6)
    columns = np.tile(np.arange(6) * 2, 6) + rows % 2
    um = np.column_stack([columns * 50.0, rows * 100 * np.sqrt(3) / 2])
    angle = np.deg2rad(3)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    at = (um @ turn.T) / MPP + [80, 60]
    pixels = np.full((1100, 1300, 3), 230, dtype=np.uint8)
    for x, y in np.floor(at).astype(int):
        pixels[y - 3 : y + 4, x - 3 : x + 4] = (80, 40, 120)
    barcodes = [f"SPOT{i:02d}-1" for i in range(36)]
    positions = pd.DataFrame(
        {
            "barcode": barcodes,
            "in_tissue": 1,
            "array_row": rows,
            "array_col": columns,
            "pxl_row_in_fullres": at[:, 1],
            "pxl_col_in_fullres": at[:, 0],
        }
    )
    positions.to_csv(folder / "spatial" / "tissue_positions.csv", index=False)
    write_matrix(folder / "filtered_feature_bc_matrix.h5", np.random.default_rng(0).poisson(3, (36, 3)), barcodes)
    factors = {
        "spot_diameter_fullres": 65 / MPP,
        "fiducial_diameter_fullres": 105 / MPP,
        "tissue_hires_scalef": HIRES,
        "tissue_lowres_scalef": 0.05,
    }
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    write_pictures(folder / "spatial", pixels)
    return folder, write_slide(tmp_path / "slide.tif", pixels), at


def make_visium_hd(tmp_path):
    """Bins of 8 and 16 µm over 400×480 px at 0.5 µm/px, and three segmented cells."""
    folder = tmp_path / "hd"
    pixels = np.full((400, 480, 3), 230, dtype=np.uint8)
    pixels[200:216, 320:336] = (80, 40, 120)  # the bin of 8 µm in row 12, column 20
    for size in (8, 16):
        place = folder / "binned_outputs" / f"square_{size:03}um"
        (place / "spatial").mkdir(parents=True)
        side = size / MPP
        grid = np.stack(np.meshgrid(np.arange(400 // side), np.arange(480 // side), indexing="ij"), -1).reshape(-1, 2)
        barcodes = [f"s_{size:03}um_{int(r):05}_{int(c):05}-1" for r, c in grid]
        positions = pd.DataFrame(
            {
                "barcode": barcodes,
                "in_tissue": 1,
                "array_row": grid[:, 0].astype(int),
                "array_col": grid[:, 1].astype(int),
                "pxl_row_in_fullres": (grid[:, 0] + 0.5) * side + (8 if size == 8 else 0),
                "pxl_col_in_fullres": (grid[:, 1] + 0.5) * side,
            }
        )
        positions.to_parquet(place / "spatial" / "tissue_positions.parquet", index=False)
        write_factors(place / "spatial" / "scalefactors_json.json", size)
        write_pictures(place / "spatial", pixels)
        counts = np.zeros((len(barcodes), 3), int) + np.arange(len(barcodes))[:, None] % 5
        write_matrix(place / "filtered_feature_bc_matrix.h5", counts, barcodes)
    pairs = [("cytassist", "spot"), ("spot", "cytassist"), ("microscope", "spot"), ("spot", "microscope")]
    matrices = {f"{a}_colrow_to_{b}_colrow": np.eye(3).ravel().tolist() for a, b in pairs}
    layout = json.dumps({"transform": np.eye(3).tolist(), "file_format": "1.0"})
    with h5py.File(folder / "feature_slice.h5", "w") as file:
        file.attrs["metadata_json"] = json.dumps({"hd_layout_json": layout, "transform_matrices": matrices})
    cells = folder / "segmented_outputs"
    (cells / "spatial").mkdir(parents=True)
    write_factors(cells / "spatial" / "scalefactors_json.json", 8)
    features = []
    for i in (1, 2, 3):
        x, y = 100.0 * i, 50.0 * i
        ring = [[x, y], [x + 20, y], [x + 20, y + 10], [x, y + 10], [x, y]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"cell_id": i}, "geometry": geometry})
    (cells / "cell_segmentations.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    write_matrix(
        cells / "filtered_feature_cell_matrix.h5", np.ones((3, 3), int), [f"cellid_{i:09}-1" for i in (1, 2, 3)]
    )
    (folder / "microscope_image").mkdir()
    write_slide(folder / "microscope_image" / "slide.tif", pixels, mpp=None)
    return folder


def write_factors(path, size):
    factors = {
        "spot_diameter_fullres": size / MPP,
        "bin_size_um": float(size),
        "microns_per_pixel": MPP,
        "tissue_hires_scalef": HIRES,
        "tissue_lowres_scalef": 0.05,
    }
    path.write_text(json.dumps(factors))
