"""Visium and Visium HD outputs written with a known µm/px: spots, bins and cells lie where they were painted."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from tests.io.visium_files import HIRES, MPP, make_visium, make_visium_hd, write_matrix, write_slide

import pastpy as past
from pastpy import _elements


@pytest.fixture
def visium(tmp_path):
    return make_visium(tmp_path)


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
