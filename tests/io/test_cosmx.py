"""CosMx flat files: the real cut run, several fields of view, an H&E by keypoints, and clear refusals."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
import tifffile
from tests.io.cosmx_files import RUN, make_run, write_positions

import pastpy as past
from pastpy import _elements

PIXEL_UM = 0.18


@pytest.fixture
def run(shared_data, tmp_path):
    return make_run(shared_data, tmp_path)


def test_real_run(run):
    sdata = past.io.read_cosmx(run, pixel_um=PIXEL_UM)
    table = sdata.tables["table"]
    metadata = pd.read_csv(run / f"{RUN}_metadata_file.csv")
    counts = pd.read_csv(run / f"{RUN}_exprMat_file.csv").set_index("cell_ID").drop(columns="fov")
    assert table.shape == (27, 960)
    assert list(table.obs["cell_id"]) == [f"1_{i}" for i in metadata["cell_ID"]]
    np.testing.assert_array_equal(table.X.toarray(), counts.loc[metadata["cell_ID"]])
    centre = metadata[["CenterX_global_px", "CenterY_global_px"]].to_numpy() * PIXEL_UM
    np.testing.assert_allclose(table.obsm["spatial"], centre)
    shapes = sdata.shapes[_elements.resolve_shapes(sdata, table_key="table")]
    outline = shapes.geometry.loc[table.obs["cell_id"]]
    middle = np.column_stack([outline.centroid.x, outline.centroid.y]) * PIXEL_UM
    assert np.linalg.norm(middle - centre, axis=1).max() < 3
    ratio = outline.area.to_numpy() / metadata["Area"].to_numpy()  # outlines are drawn around the pixels of a mask
    assert abs(np.median(ratio) - 1) < 0.03 and (ratio > 0.8).all() and (ratio < 1.25).all()


def test_fields_of_view_without_outlines(run):
    (run / f"{RUN}-polygons.csv").unlink()
    sdata = past.io.read_cosmx(run, pixel_um=PIXEL_UM)
    radius = sdata.shapes["cell_boundaries"]["radius"].to_numpy()
    np.testing.assert_allclose(np.pi * radius**2, sdata.tables["table"].obs["Area"])


def test_pixel_size_from_positions_in_both_units(run):
    px = np.array([[0.0, 0.0], [4000, 0], [4000, 3000]]) + 170000
    both = {"fov": [1, 2, 3], "x_global_px": px[:, 0], "y_global_px": px[:, 1]}
    write_positions(run, both | {"x_global_mm": px[:, 0] * 0.12028e-3, "y_global_mm": px[:, 1] * 0.12028e-3})
    table = past.io.read_cosmx(run).tables["table"]
    assert table.uns["past"]["read_cosmx"]["pixel_um"] == pytest.approx(0.12028)


@pytest.mark.parametrize("flip", [False, True])
def test_he_by_keypoints(run, flip):
    metadata = pd.read_csv(run / f"{RUN}_metadata_file.csv")
    centre = metadata[["CenterX_global_px", "CenterY_global_px"]].to_numpy()
    scale = 0.25 / PIXEL_UM
    matrix = np.diag([scale, -scale if flip else scale, 1.0])
    matrix[:2, 2] = centre.min(axis=0) - 50
    if flip:
        matrix[1, 2] = centre[:, 1].max() + 50
    at = (centre - matrix[:2, 2]) / np.diag(matrix)[:2]
    pixels = np.full((int(at[:, 1].max()) + 20, int(at[:, 0].max()) + 20, 3), 230, dtype=np.uint8)
    for x, y in at.astype(int):
        pixels[y - 2 : y + 3, x - 2 : x + 3] = (80, 40, 120)
    tifffile.imwrite(run / "he.tif", pixels, photometric="rgb")
    he = np.array([[0.0, 0], [500, 0], [0, 700], [400, 300]])
    target = he * np.diag(matrix)[:2] + matrix[:2, 2]
    pd.DataFrame(np.hstack([he, target]), columns=["he_x", "he_y", "dapi_x", "dapi_y"]).to_csv(
        run / "k.csv", index=False
    )
    sdata = past.io.read_cosmx(run, pixel_um=PIXEL_UM, he_image=run / "he.tif", he_alignment=run / "k.csv")
    assert sdata.attrs["past"]["mpp"] == {"he": pytest.approx(0.25)}
    affine = _elements.level0_affine(sdata, sdata.shapes["cell_boundaries"], "he", name="cells")
    columns, rows = (centre @ affine[:2, :2].T + affine[:2, 2]).astype(int).T
    level0 = _elements.image_levels(sdata, "he")[0].values
    assert (level0[:, rows, columns] == np.array([[80], [40], [120]])).all()
    assert np.abs(sdata.tables["table"].obsm["spatial"] - at * 0.25).max() < 3  # centroids of outlines, not centres


def test_several_fields_of_view_and_gzip(run):
    for name in ("metadata_file.csv", "exprMat_file.csv"):
        table = pd.read_csv(run / f"{RUN}_{name}")
        second = table.assign(fov=2)
        for column in [c for c in table if c.startswith("CenterX")]:
            second[column] += 5000
        text = pd.concat([table, second]).to_csv(index=False)
        (run / f"{RUN}_{name}").unlink()
        with gzip.open(run / f"{RUN}_{name}.gz", "wt") as file:
            file.write(text)
    sdata = past.io.read_cosmx(run, pixel_um=PIXEL_UM)
    table = sdata.tables["table"]
    assert table.n_obs == 54 and table.obs["fov"].nunique() == 2
    np.testing.assert_allclose(table.obsm["spatial"][27:, 0] - table.obsm["spatial"][:27, 0], 5000 * PIXEL_UM)


def test_refusals(shared_data, run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cosmx lacks \*fov_positions_file\.csv"):
        past.io.read_cosmx(shared_data / "xenium_cosmx_mini" / "cosmx", pixel_um=PIXEL_UM)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        past.io.read_cosmx(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"fov_positions_file\.csv does not give.*pixel_um=.*0\.12028"):
        past.io.read_cosmx(run)
    with pytest.raises(ValueError, match="pixel_um"):
        past.io.read_cosmx(run, pixel_um=180)
    with pytest.raises(ValueError, match="together"):
        past.io.read_cosmx(run, pixel_um=PIXEL_UM, he_image=run / "he.tif")


def drop(column):
    return lambda table: table.drop(columns=column)


def twice(table):
    return pd.concat([table, table.iloc[[2]]])


def negative(table):
    table.iloc[5, 7] = -1
    return table


def fractional(table):
    return table.assign(Chrna4=0.5)


def elsewhere(table):
    return table.assign(fov=9)


def missing_centre(table):
    return table.assign(CenterX_global_px=np.nan)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("_metadata_file.csv", drop("cell_ID"), "no column 'cell_ID'"),
        ("_metadata_file.csv", drop("CenterX_global_px"), "no column 'CenterX_global_px'"),
        ("_metadata_file.csv", missing_centre, "centre of a cell is missing"),
        ("_metadata_file.csv", twice, "more than once"),
        ("_metadata_file.csv", elsewhere, "no cell is in both"),
        ("_exprMat_file.csv", drop("fov"), "no column 'fov'"),
        ("_exprMat_file.csv", negative, "not counts"),
        ("_exprMat_file.csv", fractional, "not counts"),
        ("_exprMat_file.csv", twice, "more than once"),
        ("-polygons.csv", drop("cellID"), "no column 'cellID'"),
        ("-polygons.csv", drop("x_global_px"), "no column 'x_global_px'"),
        ("-polygons.csv", elsewhere, "no outline is of a cell"),
        ("_fov_positions_file.csv", drop("fov"), "no column 'fov'"),
    ],
)
def test_bad_tables(run, name, change, message):
    path = run / f"{RUN}{name}"
    change(pd.read_csv(path)).to_csv(path, index=False)
    with pytest.raises(ValueError, match=f"run.*{message}"):
        past.io.read_cosmx(run, pixel_um=PIXEL_UM)


def test_gene_that_is_there_twice(run):
    path = run / f"{RUN}_exprMat_file.csv"
    path.write_text(path.read_text().replace("Slc6a1", "Chrna4", 1))
    with pytest.raises(ValueError, match="gene 'Chrna4' more than once"):
        past.io.read_cosmx(run, pixel_um=PIXEL_UM)


@pytest.mark.parametrize(
    "name", ["_metadata_file.csv", "_exprMat_file.csv", "-polygons.csv", "_fov_positions_file.csv"]
)
def test_empty_files(run, name):
    (run / f"{RUN}{name}").write_text("")
    with pytest.raises(ValueError, match="CosMx folder run"):
        past.io.read_cosmx(run, pixel_um=PIXEL_UM)
