"""Visium and Visium HD outputs written with a known µm/px: spots, bins and cells lie where they were painted."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from scipy.sparse import csc_matrix

import pastpy as past
from pastpy import _elements

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


@pytest.fixture
def visium(tmp_path):
    return make_visium(tmp_path)


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


def change_factors(folder, **changes):
    for path in folder.rglob("scalefactors_json.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_visium_spots_lie_on_the_image(visium):
    folder, slide, at = visium
    sdata = past.io.read_visium(folder, fullres_image_file=slide)
    table = sdata.tables["spots"]
    assert sdata.attrs["past"]["mpp"]["he"] == pytest.approx(MPP, rel=1e-9)
    assert sdata.attrs["past"]["mpp"]["outs_hires_image"] == pytest.approx(MPP / HIRES, rel=1e-9)
    assert _elements.resolve_image(sdata) == "he" and _elements.resolve_table(sdata) == "spots"
    np.testing.assert_allclose(table.obsm["spatial"], at * MPP)
    shapes_key = _elements.resolve_shapes(sdata, table_key="spots")
    where = _elements.unit_geometry(sdata, "spots", shapes_key, "he", mpp=MPP)
    np.testing.assert_allclose(where.spatial_um, at * MPP)
    np.testing.assert_allclose(where.area_um2, np.pi * 27.5**2)
    columns, rows = np.floor(where.centroids).astype(int).T
    level0 = _elements.image_levels(sdata, "he")[0].values
    assert (level0[:, rows, columns] == np.array([[80], [40], [120]])).all()
    # and on the small picture, through its own transformation
    small = _elements.unit_geometry(sdata, "spots", shapes_key, "outs_hires_image", mpp=MPP / HIRES)
    np.testing.assert_allclose(small.spatial_um, at * MPP)


def test_visium_survives_a_store(visium, tmp_path):
    folder, slide, at = visium
    past.io.write_store(past.io.read_visium(folder, fullres_image_file=slide), tmp_path / "v.zarr")
    from pastpy.io._open import read_any

    back = read_any(tmp_path / "v.zarr")
    where = _elements.unit_geometry(back, "spots", "spot_circles", "he", mpp=back.attrs["past"]["mpp"]["he"])
    np.testing.assert_allclose(where.spatial_um, at * MPP)


def test_visium_without_the_image_says_so(visium):
    folder, _, _ = visium
    with pytest.warns(UserWarning, match="no full-resolution image.*'outs_hires_image' has 5 µm/px"):
        sdata = past.io.read_visium(folder)
    assert _elements.resolve_image(sdata) == "outs_hires_image"


def test_visium_in_either_layout(visium):
    folder, slide, at = visium
    spatial = folder / "spatial"
    table = pd.read_csv(spatial / "tissue_positions.csv")
    table.to_csv(spatial / "tissue_positions_list.csv", index=False, header=False)
    (spatial / "tissue_positions.csv").unlink()
    (folder / "filtered_feature_bc_matrix.h5").rename(folder / "S1_filtered_feature_bc_matrix.h5")
    sdata = past.io.read_visium(folder, fullres_image_file=slide)
    np.testing.assert_allclose(sdata.tables["spots"].obsm["spatial"], at * MPP)
    assert "S1_hires_image" in sdata.images


def test_visium_diameter_that_disagrees_with_the_grid(visium):
    folder, slide, _ = visium
    change_factors(folder, spot_diameter_fullres=55 / MPP)
    with pytest.warns(UserWarning, match=r"by the 100 µm between spots the image has 0\.5 µm/px, .* 0\.5909"):
        sdata = past.io.read_visium(folder, fullres_image_file=slide)
    assert sdata.attrs["past"]["mpp"]["he"] == pytest.approx(MPP)


def test_visium_grid_that_is_none(visium):
    folder, slide, _ = visium
    path = folder / "spatial" / "tissue_positions.csv"
    table = pd.read_csv(path)
    table["pxl_row_in_fullres"] *= 1.3
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match="do not form Visium's grid"):
        past.io.read_visium(folder, fullres_image_file=slide)


def test_visium_of_two_spots_uses_the_diameter(visium):
    folder, slide, _ = visium
    write_matrix(folder / "filtered_feature_bc_matrix.h5", np.ones((2, 3), int), ["SPOT00-1", "SPOT01-1"])
    sdata = past.io.read_visium(folder, fullres_image_file=slide)
    assert sdata.attrs["past"]["mpp"]["he"] == pytest.approx(MPP)


def test_wrong_image_and_wrong_mpp(visium, tmp_path):
    folder, _, _ = visium
    half = write_slide(tmp_path / "half.tif", np.zeros((550, 650, 3), np.uint8))
    with pytest.raises(ValueError, match=r"half\.tif has 650×550 px, the data were aligned to one of about 1300×1100"):
        past.io.read_visium(folder, fullres_image_file=half)
    wrong = write_slide(tmp_path / "wrong.tif", np.zeros((1100, 1300, 3), np.uint8), mpp=0.25)
    with pytest.warns(UserWarning, match=r"0\.5 µm/px, wrong\.tif says 0\.25"):
        past.io.read_visium(folder, fullres_image_file=wrong)
    with pytest.raises(ValueError, match=r"mpp= says 0\.25"):
        past.io.read_visium(folder, fullres_image_file=wrong, mpp=0.25)


@pytest.mark.parametrize("name", ["filtered_feature_bc_matrix.h5", "spatial/scalefactors_json.json"])
def test_visium_incomplete(visium, name):
    folder, slide, _ = visium
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="outs|scalefactors"):
        past.io.read_visium(folder, fullres_image_file=slide)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"outs lacks {name}"):
        past.io.read_visium(folder, fullres_image_file=slide)


def test_visium_bad_scalefactors(visium):
    folder, slide, _ = visium
    for value in (0, -1, "x", None):
        change_factors(folder, spot_diameter_fullres=value)
        with pytest.raises(ValueError, match="'spot_diameter_fullres' is"):
            past.io.read_visium(folder, fullres_image_file=slide)


@pytest.fixture
def visium_hd(tmp_path):
    return make_visium_hd(tmp_path)


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


def test_visium_hd_bins_and_cells(visium_hd):
    sdata = past.io.read_visium_hd(visium_hd)
    assert set(sdata.tables) == {"square_008um", "square_016um", "cell_segmentations"}
    assert sdata.attrs["past"]["mpp"]["he"] == MPP
    assert _elements.resolve_image(sdata) == "he"
    for name, size in (("square_008um", 8), ("square_016um", 16)):
        where = _elements.unit_geometry(sdata, name, _elements.resolve_shapes(sdata, table_key=name), "he", mpp=MPP)
        np.testing.assert_allclose(where.area_um2, size**2)
        np.testing.assert_allclose(where.spatial_um, sdata.tables[name].obsm["spatial"])
    table = sdata.tables["square_008um"]
    dark = table.obs_names.get_loc("s_008um_00012_00020-1")
    np.testing.assert_allclose(table.obsm["spatial"][dark], [164.0, 104.0])
    level0 = _elements.image_levels(sdata, "he")[0].values
    x, y = (table.obsm["spatial"][dark] / MPP).astype(int)
    assert level0[:, y, x].tolist() == [80, 40, 120]
    np.testing.assert_allclose(
        sdata.tables["cell_segmentations"].obsm["spatial"], [[55, 27.5], [105, 52.5], [155, 77.5]]
    )
    cells = _elements.unit_geometry(sdata, "cell_segmentations", "hd_cell_segmentations", "he", mpp=MPP)
    np.testing.assert_allclose(cells.area_um2, 20 * 10 * MPP**2)


def test_visium_hd_one_bin_size_and_given_image(visium_hd, tmp_path):
    image = visium_hd / "microscope_image" / "slide.tif"
    other = image.rename(tmp_path / "other.tif")
    sdata = past.io.read_visium_hd(visium_hd, bin_size=16, fullres_image_file=other)
    assert set(sdata.tables) == {"square_016um", "cell_segmentations"} and "he" in sdata.images


def test_visium_hd_refusals(visium_hd, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        past.io.read_visium_hd(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="mpp= says 1"):
        past.io.read_visium_hd(visium_hd, mpp=1.0)
    path = visium_hd / "segmented_outputs" / "spatial" / "scalefactors_json.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"microns_per_pixel": 0.25}))
    with pytest.raises(ValueError, match=r"several µm/px, \[0\.25, 0\.5\]"):
        past.io.read_visium_hd(visium_hd)
    path.unlink()
    write_slide(visium_hd / "microscope_image" / "b.tif", np.zeros((40, 48, 3), np.uint8))
    with pytest.raises(ValueError, match="several images"):
        past.io.read_visium_hd(visium_hd)
    (visium_hd / "microscope_image" / "slide.tif").unlink()
    with pytest.raises(ValueError, match=r"b\.tif has 48×40 px"):
        past.io.read_visium_hd(visium_hd)
    matrix = visium_hd / "binned_outputs" / "square_008um" / "filtered_feature_bc_matrix.h5"
    matrix.write_bytes(matrix.read_bytes()[:500])
    with pytest.raises(ValueError, match="Visium HD output hd cannot be read"):
        past.io.read_visium_hd(visium_hd)
    (visium_hd / "feature_slice.h5").unlink()
    with pytest.raises(FileNotFoundError, match="feature_slice"):
        past.io.read_visium_hd(visium_hd)
