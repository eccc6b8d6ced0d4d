"""Xenium bundles: a landmark lies at the right H&E pixel for known affines; the real cut bundle; clear refusals."""

from __future__ import annotations

import json
import re
import shutil
import uuid
import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from shapely import box
from spatialdata import SpatialData, read_zarr
from spatialdata.models import ShapesModel
from spatialdata.transformations import Scale, get_transformation
from tests.io.xenium_files import HE_MPP, PIXEL_UM, cell_number, he_to_dapi, make_bundle, paint, write_matrix

import pastpy as past
from pastpy import _elements
from pastpy.cli import main
from pastpy.io._xenium import _add_cell_nuclei


@pytest.fixture
def bundle(shared_data, tmp_path):
    return make_bundle(shared_data, tmp_path)


def test_real_bundle_without_he(bundle):
    sdata = past.io.read_xenium(bundle)
    table = sdata.tables["table"]
    assert table.shape == (526, 27)  # genes only, without control probes
    assert _elements.resolve_shapes(sdata, table_key="table") == "cell_boundaries"
    cells = pd.read_parquet(bundle / "cells.parquet")
    np.testing.assert_allclose(table.obsm["spatial"], cells[["x_centroid", "y_centroid"]])
    assert sdata.attrs["past"]["mpp"] == {"morphology_focus": PIXEL_UM, "morphology_mip": PIXEL_UM}
    # polygons are in µm, global is morphology pixels
    where = _elements.unit_geometry(sdata, "table", "cell_boundaries", "morphology_focus", mpp=PIXEL_UM)
    assert np.median(np.linalg.norm(where.spatial_um - table.obsm["spatial"], axis=1)) < 0.5
    np.testing.assert_allclose(where.area_um2, cells["cell_area"], rtol=0.2, atol=5)
    with pytest.raises(KeyError, match=r"none of the images .*morphology_focus.* is an H&E.*modality='expression'"):
        past.tl.embed(sdata, progress=False)


def test_the_table_can_annotate_nuclei(bundle, tmp_path):
    cells, sdata = past.io.read_xenium(bundle), past.io.read_xenium(bundle, outlines="nuclei")
    assert _elements.resolve_shapes(sdata, table_key="table") == "cell_nuclei"
    area = {
        name: _elements.unit_geometry(each, "table", name, "morphology_focus", mpp=PIXEL_UM).area_um2
        for name, each in (("cell_boundaries", cells), ("cell_nuclei", sdata))
    }
    known = np.isfinite(area["cell_nuclei"])
    assert known.mean() > 0.9 and (area["cell_nuclei"] < area["cell_boundaries"] * 1.05)[known].mean() > 0.95
    assert np.median(area["cell_nuclei"][known]) < np.median(area["cell_boundaries"]) / 2
    sdata.write(tmp_path / "store.zarr")
    with pytest.raises(ValueError, match="outlines='nuclei' needs its nucleus boundaries, which were not read"):
        past.io.read_xenium(bundle, outlines="nuclei", nucleus_boundaries=False)
    with pytest.raises(ValueError, match=r"outlines='nucleus' is unknown; use one of \['cells', 'nuclei'\]"):
        past.io.read_xenium(bundle, outlines="nucleus")


def test_of_several_nuclei_a_cell_keeps_the_largest():
    nuclei = gpd.GeoDataFrame(
        {"cell_id": ["a", "b", "a"]}, geometry=[box(0, 0, 1, 1), box(5, 5, 7, 7), box(2, 2, 4, 4)], index=[3, 1, 2]
    )
    to_global = Scale([2.0, 2.0], axes=("x", "y"))
    sdata = SpatialData(shapes={"nucleus_boundaries": ShapesModel.parse(nuclei, transformations={"global": to_global})})
    _add_cell_nuclei(sdata, Path("outs"))
    found = sdata.shapes["cell_nuclei"]
    assert found.area.to_dict() == {"a": 4.0, "b": 4.0} and found.geometry["a"].bounds == (2, 2, 4, 4)
    assert get_transformation(found) == to_global


@pytest.mark.parametrize(
    ("degrees", "flip"), [(0, False), (90, False), (180.7, False), (13, True), (0, True), (270, True)]
)
def test_landmark_is_found_at_the_right_he_pixel(bundle, degrees, flip):
    matrix = he_to_dapi(degrees, flip)
    image, at = paint(bundle, matrix)
    write_matrix(bundle / "align.csv", matrix)
    sdata = past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "align.csv", transcripts=False)
    assert _elements.resolve_image(sdata) == "he"
    mpp = sdata.attrs["past"]["mpp"]["he"]
    assert mpp == pytest.approx(HE_MPP, rel=1e-6)
    # From the bundle's µm through the element's transformations to H&E pixels: the painted square is there.
    geometry = sdata.shapes["cell_boundaries"].geometry
    affine = _elements.level0_affine(sdata, sdata.shapes["cell_boundaries"], "he", name="cells")
    cells = pd.read_parquet(bundle / "cells.parquet")
    found = cells[["x_centroid", "y_centroid"]].to_numpy()[::10] @ affine[:2, :2].T + affine[:2, 2]
    np.testing.assert_allclose(found, at, atol=0.01)
    level0 = _elements.image_levels(sdata, "he")[0].values
    columns, rows = np.floor(found).astype(int).T
    assert (level0[:, rows, columns] == np.array([[80], [40], [120]])).all()
    # obsm is µm from the H&E's corner, of the polygon's centroid
    centroid = np.column_stack([geometry.centroid.x, geometry.centroid.y]) @ affine[:2, :2].T + affine[:2, 2]
    np.testing.assert_allclose(sdata.tables["table"].obsm["spatial"], centroid * mpp, rtol=1e-9)
    where = _elements.unit_geometry(sdata, "table", "cell_boundaries", "he", mpp=mpp)
    np.testing.assert_allclose(where.area_um2, geometry.area, rtol=1e-6)
    assert sdata.tables["table"].uns["past"]["read_xenium"]["mpp"] == mpp


def test_he_of_the_bundle_is_found_and_survives_a_store(bundle, tmp_path):
    matrix = he_to_dapi(45)
    _, at = paint(bundle, matrix, name="X_he_image.ome.tif")
    write_matrix(bundle / "X_he_imagealignment.csv", matrix)
    sdata = past.io.read_xenium(bundle, transcripts=False)
    past.io.write_store(sdata, tmp_path / "x.zarr")
    from pastpy.io._open import read_any

    back = read_any(tmp_path / "x.zarr")
    assert _elements.resolve_image(back) == "he"
    affine = _elements.level0_affine(back, back.shapes["cell_boundaries"], "he", name="cells")
    cells = pd.read_parquet(bundle / "cells.parquet")[["x_centroid", "y_centroid"]].to_numpy()[::10]
    np.testing.assert_allclose(cells @ affine[:2, :2].T + affine[:2, 2], at, atol=0.01)


def test_keypoints_give_the_affine_and_a_residual(bundle):
    matrix = he_to_dapi(13, True)
    image, _ = paint(bundle, matrix)
    he = np.random.default_rng(0).uniform(0, 2400, (8, 2))
    um = (he @ matrix[:2, :2].T + matrix[:2, 2]) * PIXEL_UM + np.random.default_rng(1).normal(0, 1.5, (8, 2))
    pd.DataFrame(np.hstack([he, um]), columns=["he_x", "he_y", "x_um", "y_um"]).to_csv(bundle / "k.csv", index=False)
    sdata = past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "k.csv", transcripts=False)
    said = sdata.tables["table"].uns["past"]["read_xenium"]
    assert said["keypoints"] == 8 and 0.5 < said["residual_um"] < 3
    np.testing.assert_allclose(said["he_to_global"], matrix, atol=10)


def test_pixel_size_of_the_manifest_is_used(bundle):
    manifest = json.loads((bundle / "experiment.xenium").read_text()) | {"pixel_size": 0.25}
    (bundle / "experiment.xenium").write_text(json.dumps(manifest))
    sdata = past.io.read_xenium(bundle, transcripts=False)
    assert set(sdata.attrs["past"]["mpp"].values()) == {0.25}


def test_alignment_of_another_image_is_refused(bundle):
    matrix = he_to_dapi()
    image, _ = paint(bundle, matrix, mpp=HE_MPP)
    double = matrix.copy()
    double[:2, :2] *= 2
    write_matrix(bundle / "double.csv", double)
    write_matrix(bundle / "inverse.csv", np.linalg.inv(matrix))
    with pytest.raises(ValueError, match=r"double\.csv the H&E has 0\.7274 µm/px, he\.ome\.tif says 0\.3637; pass the"):
        past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "double.csv")
    with pytest.raises(ValueError, match="fits if the matrix is inverted"):
        past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "inverse.csv")
    write_matrix(bundle / "right.csv", matrix)
    with pytest.raises(ValueError, match="mpp= says 0.7"):
        past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "right.csv", mpp=0.7)


def test_small_disagreement_is_warned(bundle):
    matrix = he_to_dapi(mpp=HE_MPP * 1.05)
    image, _ = paint(bundle, matrix)
    write_matrix(bundle / "a.csv", matrix)
    with pytest.warns(UserWarning, match="0.3819 µm/px, he.ome.tif says 0.3637"):
        sdata = past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "a.csv", transcripts=False)
    assert sdata.attrs["past"]["mpp"]["he"] == pytest.approx(HE_MPP * 1.05)


def test_image_that_states_nothing_gets_its_mpp_from_the_alignment(bundle):
    matrix = he_to_dapi()
    image, _ = paint(bundle, matrix, states_mpp=False)
    write_matrix(bundle / "a.csv", matrix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sdata = past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "a.csv", transcripts=False)
    assert sdata.attrs["past"]["mpp"]["he"] == pytest.approx(HE_MPP)


def test_image_and_alignment_go_together(bundle, tmp_path):
    image, _ = paint(bundle, he_to_dapi())
    files = r"\(he_he_imagealignment\.csv or he_imagealignment\.csv\)"
    with pytest.raises(ValueError, match=rf"he\.ome\.tif has no alignment beside it {files}"):
        past.io.read_xenium(bundle, he_image=image)
    with pytest.raises(ValueError, match="pass both"):
        past.io.read_xenium(bundle, he_alignment=tmp_path / "a.csv")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        past.io.read_xenium(bundle, he_image=tmp_path / "nowhere.tif", he_alignment=image)
    for name in ("A_he_image.ome.tif", "B_he_image.ome.tif"):
        shutil.copyfile(image, bundle / name)
    with pytest.raises(ValueError, match="several H&E"):
        past.io.read_xenium(bundle)


def test_incomplete_bundles(shared_data, bundle, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"xenium lacks experiment\.xenium"):
        past.io.read_xenium(shared_data / "xenium_cosmx_mini" / "xenium")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        past.io.read_xenium(tmp_path / "nowhere")
    (bundle / "transcripts.parquet").unlink()
    (bundle / "cells.zarr.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"outs lacks cells\.zarr\.zip, transcripts\.parquet"):
        past.io.read_xenium(bundle)


@pytest.mark.parametrize(
    "name",
    ["cells.parquet", "cell_boundaries.parquet", "cell_feature_matrix.h5", "cells.zarr.zip", "experiment.xenium"],
)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_bundles(bundle, name, share):
    whole = (bundle / name).read_bytes()
    (bundle / name).write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="Xenium bundle outs"):
        past.io.read_xenium(bundle, transcripts=False)


def test_impossible_pixel_size_and_unknown_option(bundle):
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        past.io.read_xenium(bundle, colour="blue")
    (bundle / "experiment.xenium").write_text('{"pixel_size": -1}')
    with pytest.raises(ValueError, match="pixel_size"):
        past.io.read_xenium(bundle)


def test_a_run_with_its_he_goes_straight_into_the_model(bundle):
    matrix = he_to_dapi(degrees=90)
    image, _ = paint(bundle, matrix)
    write_matrix(bundle / "align.csv", matrix)
    sdata = past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "align.csv", transcripts=False)
    past.tl.embed(sdata, progress=False)
    past.tl.impute_expression(sdata, genes=["ERBB2", "KRT8"], progress=False)
    table = sdata.tables["table"]
    measured = np.asarray(table.X.sum(axis=1)).ravel() > 0
    assert table.uns["past"]["embed"]["image_key"] == "he"
    assert np.isfinite(table.obsm["X_past_image"]).all()
    assert np.isfinite(table.obsm["X_past_expression"]).all(axis=1).mean() > 0.5
    assert not np.isfinite(table.obsm["X_past_expression"][~measured]).any()
    assert np.isfinite(table.obsm["past_expression"].to_numpy()).all()


def test_a_bundle_on_the_command_line(bundle, tiny_model, tmp_path, capsys):
    tiny_model.save(tmp_path / "tiny")
    out = tmp_path / "o.zarr"
    call = ["embed", str(bundle), "--model", str(tmp_path / "tiny"), "--modality", "image", "--out", str(out)]
    assert main(call) == 2
    assert "none of the images ['morphology_" in capsys.readouterr().err
    matrix = he_to_dapi()
    image, _ = paint(bundle, matrix)
    alignment = write_matrix(bundle / "align.csv", matrix)
    he = ["--he-image", str(image), "--he-alignment", str(alignment)]
    assert main([*call[:1], str(image), *call[2:], *he]) == 2
    assert "--he-image and --he-alignment are for a Xenium bundle" in capsys.readouterr().err
    assert main([*call[:2], str(image), *call[2:], *he]) == 2
    assert "give several one at a time" in capsys.readouterr().err
    assert not out.exists()
    assert main([*call, *he]) == 0
    said = capsys.readouterr().out
    assert re.search(r"wrote .*o.zarr: 526 rows; obsm: X_past, X_past_expression, X_past_image", said)
    table = read_zarr(out).tables["table"]
    assert table.uns["past"]["embed"]["image_key"] == "he" and np.isfinite(table.obsm["X_past_image"]).all()
    # its own H&E needs no option
    image.rename(bundle / "slide_he_image.ome.tif"), alignment.rename(bundle / "slide_he_imagealignment.csv")
    assert main([*call[:-1], str(tmp_path / "own.zarr")]) == 0
    own = read_zarr(tmp_path / "own.zarr").tables["table"]
    np.testing.assert_array_equal(own.obsm["X_past"], table.obsm["X_past"])


def as_release_3(bundle, n_files):
    """The layout of later software: cells in polygon sets, and a morphology image of several files."""
    manifest = json.loads((bundle / "experiment.xenium").read_text())
    (bundle / "experiment.xenium").write_text(json.dumps({**manifest, "analysis_sw_version": "xenium-3.1.0.0"}))
    ids = pd.read_parquet(bundle / "cells.parquet")["cell_id"]
    numbers = np.array([[cell_number(i), int(i.split("-")[1])] for i in ids], dtype=np.uint32)
    columns = ["cell_centroid_x", "cell_centroid_y", "cell_area", "nucleus_centroid_x", "nucleus_centroid_y"]
    index = np.arange(len(ids), dtype=np.uint32)
    (bundle / "cells.zarr.zip").unlink()
    with zarr.storage.ZipStore(bundle / "cells.zarr.zip", mode="w") as store:
        group = zarr.open_group(store, mode="w", zarr_format=2)
        for name, values, attributes in (
            ("cell_id", numbers, {}),
            ("cell_summary", np.zeros((len(ids), 8)), {"column_names": [*columns, "area", "z_level", "nuclei"]}),
            ("polygon_sets/0/cell_index", index, {}),
            ("polygon_sets/1/cell_index", index, {}),
        ):
            array = group.create_array(name, shape=values.shape, dtype=values.dtype, attributes=attributes)
            array[...] = values
    for name in ("cell_boundaries", "nucleus_boundaries"):
        outlines = pd.read_parquet(bundle / f"{name}.parquet")
        cell = outlines["cell_id"].map(lambda c: c.decode() if isinstance(c, bytes) else c)
        label = cell.map({c: i + 1 for i, c in enumerate(ids)})
        outlines.assign(cell_id=cell, label_id=label)[label.notna()].astype({"label_id": int}).to_parquet(
            bundle / f"{name}.parquet"
        )
    for old in ("morphology_mip.ome.tif", "morphology_focus.ome.tif"):
        (bundle / old).unlink()
    write_channels(bundle / "morphology_focus", n_files)


def write_channels(folder, n_files):
    """An OME-TIFF of one file a channel, each of which describes them all; they differ in size."""
    folder.mkdir()
    names = [f"morphology_focus_{i:04}.ome.tif" for i in range(n_files)]
    ids = [f"urn:uuid:{uuid.UUID(int=i)}" for i in range(n_files)]
    planes = "".join(
        f'<TiffData FirstC="{i}" FirstT="0" FirstZ="0" IFD="0" PlaneCount="1"><UUID FileName="{name}">{ids[i]}</UUID>'
        "</TiffData>"
        for i, name in enumerate(names)
    )
    channels = "".join(f'<Channel ID="Channel:{i}" SamplesPerPixel="1"/>' for i in range(n_files))
    for i, name in enumerate(names):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{ids[i]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" '
            f'SizeX="512" SizeY="512" SizeZ="1" SizeC="{n_files}" SizeT="1">{channels}{planes}</Pixels></Image></OME>'
        )
        pixels = np.random.default_rng(i).integers(0, 1 + 1000 * i, (512, 512)).astype(np.uint16)
        tifffile.imwrite(
            folder / name, pixels, tile=(256, 256), compression="zlib", description=xml.encode(), metadata=None,
            photometric="minisblack",
        )  # fmt: skip


@pytest.mark.parametrize("n_files", [1, 4])
def test_later_bundles_with_a_file_a_channel(bundle, n_files):
    as_release_3(bundle, n_files)
    matrix = he_to_dapi(20)
    image, at = paint(bundle, matrix)
    write_matrix(bundle / "align.csv", matrix)
    options = {"he_image": image, "he_alignment": bundle / "align.csv", "transcripts": False}
    sdata = past.io.read_xenium(bundle, **options)
    assert _elements.image_levels(sdata, "morphology_focus")[0].sizes["c"] == n_files
    found = sdata["table"].obsm["spatial"][::10] / sdata.attrs["past"]["mpp"]["he"]
    assert np.linalg.norm(found - at, axis=1).max() < 10  # the cell's centroid, not the nucleus'
    last = sorted((bundle / "morphology_focus").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"{last.name} is (truncated|not)"):
        past.io.read_xenium(bundle, **options)


def test_positions_are_on_the_he_without_outlines_too(bundle):
    matrix = he_to_dapi(30)
    image, at = paint(bundle, matrix)
    write_matrix(bundle / "align.csv", matrix)
    sdata = past.io.read_xenium(
        bundle, he_image=image, he_alignment=bundle / "align.csv", transcripts=False, cells_boundaries=False
    )
    found = sdata["table"].obsm["spatial"][::10] / sdata.attrs["past"]["mpp"]["he"]
    np.testing.assert_allclose(found, at, atol=0.01)


def test_an_alignment_that_puts_no_cell_on_the_he_is_refused(bundle):
    matrix = he_to_dapi(0)
    image, _ = paint(bundle, matrix, states_mpp=False)
    matrix[0, 2] += 50_000
    write_matrix(bundle / "align.csv", matrix)
    with pytest.raises(ValueError, match="alignment of H&E 'he': none of the 526 cells lies on"):
        past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "align.csv", transcripts=False)


def test_an_inverted_alignment_is_told(bundle):
    matrix = he_to_dapi(10)
    image, _ = paint(bundle, matrix, states_mpp=False)
    with pytest.raises(
        ValueError, match=r"none of the 526 cells lies on image 'he' .*; \d+% would lie on it if the matrix"
    ):
        past.io.read_xenium(bundle, he_image=image, he_alignment=np.linalg.inv(matrix), transcripts=False)


def test_the_alignment_of_an_image_named_he_is_found(bundle):
    matrix = he_to_dapi(10)
    image, _ = paint(bundle, matrix, name="he.tif")
    write_matrix(bundle / "he_imagealignment.csv", matrix)
    sdata = past.io.read_xenium(bundle, he_image=image, transcripts=False)
    np.testing.assert_allclose(sdata["table"].uns["past"]["read_xenium"]["he_to_global"], matrix)


def test_dapi_is_no_he(bundle):
    write_matrix(bundle / "align.csv", he_to_dapi(0))
    dapi = bundle / "morphology_focus.ome.tif"
    with pytest.raises(ValueError, match="one channel of uint16, as fluorescence"):
        past.io.read_xenium(bundle, he_image=dapi, he_alignment=bundle / "align.csv", transcripts=False)


def test_groups_are_of_the_bundles_own_cells(bundle, tmp_path):
    matrix = he_to_dapi(0)
    image, _ = paint(bundle, matrix)
    write_matrix(bundle / "align.csv", matrix)
    sdata = past.io.read_xenium(bundle, he_image=image, he_alignment=bundle / "align.csv", transcripts=False)
    past.pp.segment_nuclei(sdata)
    sdata["table"].obs["side"] = np.where(sdata["table"].obsm["spatial"][:, 0] > 400, "right", "left")
    past.io.write_xenium_explorer_groups(sdata, tmp_path / "groups.csv", groupby="side")
    written = pd.read_csv(tmp_path / "groups.csv")
    assert written["cell_id"].tolist() == sdata["table"].obs["cell_id"].tolist()


@pytest.mark.parametrize("as_list", [False, True])
def test_the_matrix_itself_is_an_alignment(bundle, as_list):
    matrix = he_to_dapi(20)
    image, at = paint(bundle, matrix)
    given = matrix.tolist() if as_list else matrix
    sdata = past.io.read_xenium(bundle, he_image=image, he_alignment=given, transcripts=False, cells_boundaries=False)
    found = sdata["table"].obsm["spatial"][::10] / sdata.attrs["past"]["mpp"]["he"]
    np.testing.assert_allclose(found, at, atol=0.01)
    with pytest.raises(ValueError, match=r"by alignment he_alignment= the H&E has 0\.1242 µm/px.*fits if the matrix"):
        past.io.read_xenium(bundle, he_image=image, he_alignment=np.linalg.inv(matrix))


def test_the_he_of_the_bundle_can_be_left_out(bundle):
    paint(bundle, he_to_dapi(), name="X_he_image.ome.tif")
    write_matrix(bundle / "X_he_imagealignment.csv", he_to_dapi())
    assert "he" in past.io.read_xenium(bundle, transcripts=False).images
    assert "he" not in past.io.read_xenium(bundle, he_image=False, transcripts=False).images
    with pytest.raises(ValueError, match="he_alignment= was given, but he_image=False"):
        past.io.read_xenium(bundle, he_image=False, he_alignment=np.eye(3))


@pytest.mark.parametrize("image", ["", True, 3, b"he.tif", np.zeros((3, 5, 5), np.uint8)])
def test_what_is_no_path_is_named_by_its_argument(bundle, image):
    with pytest.raises(ValueError, match="he_image= must be the path of a slide, got"):
        past.io.read_xenium(bundle, he_image=image, he_alignment=np.eye(3))


@pytest.mark.parametrize("alignment", ["", False, 3, np.eye(4)])
def test_what_is_no_alignment_is_named_by_its_argument(bundle, alignment):
    image, _ = paint(bundle, he_to_dapi())
    with pytest.raises(ValueError, match="he_alignment= must be the path of a file or a 3×3 matrix"):
        past.io.read_xenium(bundle, he_image=image, he_alignment=alignment)
