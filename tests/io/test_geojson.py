"""GeoJSON out and in: outlines, ids, classes and measurements survive; QuPath's own layouts are read."""

from __future__ import annotations

import gzip
import json
import uuid

import numpy as np
import pandas as pd
import pytest
import shapely
from spatialdata.transformations import Affine

import pastpy as past
from pastpy import _elements

SQUARE = [[10, 10], [30, 10], [30, 20], [10, 20], [10, 10]]


def feature(geometry=None, **properties):
    return {
        "type": "Feature",
        "id": "PathAnnotationObject",
        "geometry": geometry or {"type": "Polygon", "coordinates": [SQUARE]},
        "properties": properties,
    }


def write(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


@pytest.mark.parametrize("shapes", ["polygons", "circles"])
def test_round_trip(toy_sdata, tmp_path, shapes):
    turn = Affine([[0, -2, 5], [2, 0, 7], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    sdata = toy_sdata(shapes=shapes, transformation=turn)
    table = sdata.tables["cells"]
    table.obs["score"] = np.linspace(-1, 1, table.n_obs)
    table.obs.loc[table.obs_names[3], "score"] = np.nan
    table.obs["cell_type"] = table.obs["cell_type"].where(np.arange(table.n_obs) != 5)
    table.uns["cell_type_colors"] = ["#ff0000", "#0000ff"]
    table.obsm["past_expression"] = pd.DataFrame({"ERBB2": table.obs["score"] * 2}, index=table.obs_names)
    path = tmp_path / "cells.geojson"
    past.io.write_geojson(sdata, path, label="cell_type", columns=["score"], genes=["ERBB2"])

    past.io.read_geojson(sdata, path, key_added="back", table_key_added="back_cells")
    back, found = sdata.shapes["back"], sdata.tables["back_cells"]
    assert list(back.index) == list(found.obs["cell_id"]) == list(table.obs["cell_id"])
    assert back["classification"].isna().sum() == 1
    assert list(back["classification"].dropna()) == list(table.obs["cell_type"].dropna())
    np.testing.assert_allclose(found.obs["score"], table.obs["score"])
    np.testing.assert_allclose(found.obs["ERBB2"], table.obs["score"] * 2)
    np.testing.assert_allclose(found.obsm["spatial"], table.obsm["spatial"], atol=1e-6)
    # a circle of 32 corners is 0.6 % smaller; toy polygons have 32 corners too
    np.testing.assert_allclose(found.obs["area_um2"], table.obs["area_um2"], rtol=0.01)
    if shapes == "polygons":
        pair = back.geometry.to_numpy(), sdata.shapes["nuclei"].geometry.to_numpy()
        assert (shapely.area(shapely.symmetric_difference(*pair)) < 1e-6).all()
    assert _elements.resolve_shapes(sdata, table_key="back_cells") == "back"


def test_what_is_written(toy_sdata, tmp_path):
    sdata = toy_sdata(n_cells=3)
    sdata.tables["cells"].uns["cell_type_colors"] = ["#ff8000", "#0000ff"]
    path = tmp_path / "new" / "cells.geojson"
    past.io.write_geojson(sdata, path, label="cell_type", columns=["area_um2"])
    first = path.read_text()
    features = json.loads(first)["features"]
    assert len(features) == 3 and len({uuid.UUID(f["id"]) for f in features}) == 3
    outline = shapely.from_geojson(json.dumps(features[0]["geometry"]))
    assert outline.equals_exact(sdata.shapes["nuclei"].geometry.iloc[0], 1e-9)
    kinds = {f["properties"]["classification"]["name"]: f["properties"]["classification"]["color"] for f in features}
    assert kinds.items() <= {"dark": [255, 128, 0], "pale": [0, 0, 255]}.items()
    assert features[0]["properties"]["objectType"] == "detection"
    past.io.write_geojson(sdata, path, label="cell_type", columns=["area_um2"])
    assert path.read_text() == first
    assert [f.name for f in path.parent.iterdir()] == ["cells.geojson"]


def test_rows_without_shape_are_left_out(toy_sdata, tmp_path):
    sdata = toy_sdata(n_cells=4)
    sdata.shapes["nuclei"] = sdata.shapes["nuclei"].drop(index=[2])
    with pytest.warns(UserWarning, match="1 of 4 rows of table 'cells' have no shape in 'nuclei'"):
        past.io.write_geojson(sdata, tmp_path / "c.geojson")
    names = [f["properties"]["name"] for f in json.loads((tmp_path / "c.geojson").read_text())["features"]]
    assert names == ["1", "3", "4"]


def test_qupath_layouts(toy_sdata, tmp_path):
    multi = {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[50, 50], [60, 50], [60, 60], [50, 50]]]]}
    path = write(
        tmp_path / "q.geojson",
        feature(objectType="annotation", classification={"name": "Tumor", "colorRGB": -3670016}, name="A"),
        feature(multi, objectType="cell", measurements=[{"name": "Nucleus: Area µm^2", "value": 12.5}]),
        feature(objectType="cell", measurements={"Nucleus: Area µm^2": 3, "bad": None}, classification=None),
    )
    sdata = toy_sdata()
    past.io.read_geojson(sdata, path, table_key_added="qupath")
    shapes, table = sdata.shapes["annotations"], sdata.tables["qupath"]
    assert list(shapes.index) == [1, 2, 3]
    assert list(shapes["name"][:1]) == ["A"] and list(shapes["object_type"]) == ["annotation", "cell", "cell"]
    assert shapes["classification"].iloc[0] == "Tumor" and shapes["classification"].isna().tolist() == [
        False,
        True,
        True,
    ]
    np.testing.assert_allclose(table.obs["Nucleus__Area_um2"], [np.nan, 12.5, 3])
    np.testing.assert_allclose(table.obs["area_um2"], [50, (200 + 50) * 0.25, 50])
    np.testing.assert_allclose(table.obsm["spatial"][0], [10, 7.5])


@pytest.mark.parametrize("content", [feature(), [feature()]], ids=["one", "list"])
def test_one_feature_or_a_list(toy_sdata, tmp_path, content):
    (tmp_path / "f.geojson").write_text(json.dumps(content))
    sdata = toy_sdata()
    past.io.read_geojson(sdata, tmp_path / "f.geojson")
    assert sdata.shapes["annotations"].geometry.area.tolist() == [200.0]


def test_outline_that_crosses_itself_is_mended(toy_sdata, tmp_path):
    bow = {"type": "Polygon", "coordinates": [[[0, 0], [20, 20], [20, 0], [0, 20], [0, 0]]]}
    sdata = toy_sdata()
    past.io.read_geojson(sdata, write(tmp_path / "b.geojson", feature(bow)))
    geometry = sdata.shapes["annotations"].geometry.iloc[0]
    assert geometry.is_valid and geometry.area == pytest.approx(200)


def test_both_survive_a_store(toy_sdata, tmp_path):
    sdata = toy_sdata()
    path = write(tmp_path / "q.geojson", feature(classification={"name": "Tumor"}), feature())
    past.io.read_geojson(sdata, path, table_key_added="qupath")
    past.io.write_store(sdata, tmp_path / "s.zarr")
    from pastpy.io._open import read_any

    back = read_any(tmp_path / "s.zarr")
    assert back.shapes["annotations"]["classification"].iloc[0] == "Tumor"
    np.testing.assert_allclose(back.tables["qupath"].obsm["spatial"], sdata.tables["qupath"].obsm["spatial"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not GeoJSON"),
        ('{"type": "FeatureCollection", "features": [{"type"', "not GeoJSON"),
        ("[" * 5000, "not GeoJSON"),
        ("3", "no features"),
        ('{"type": "Polygon"}', "no features"),
        ('{"type": "FeatureCollection", "features": []}', "no feature"),
        ('{"type": "FeatureCollection"}', "no features"),
        (json.dumps([feature(), 5]), "no features"),
        (json.dumps(feature({"type": "LineString", "coordinates": [[0, 0], [1, 1]]})), "feature 1 is a LineString"),
        (json.dumps({"type": "Feature", "geometry": None, "properties": None}), "feature 1 is a None"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]})), "form no polygon"),
        (json.dumps(feature({"type": "Polygon", "coordinates": "x"})), "form no polygon"),
        (json.dumps(feature({"type": "Polygon", "coordinates": []})), "no area"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[[5, 5], [9, 9], [5, 5]]]})), "no area|no polygon"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [[[9e3, 9e3], [9e3, 9999], [9999, 9e3], [9e3, 9e3]]]})),
         r"none of the 1 outlines lies on image 'he' \(256×256 px\)"),
    ],
)  # fmt: skip
def test_bad_files(toy_sdata, tmp_path, text, message):
    (tmp_path / "bad.geojson").write_text(text)
    sdata = toy_sdata()
    with pytest.raises(ValueError, match=rf"bad\.geojson.*({message})"):
        past.io.read_geojson(sdata, tmp_path / "bad.geojson")
    assert list(sdata.shapes) == ["nuclei"]


def test_bad_calls(toy_sdata, tmp_path):
    sdata = toy_sdata()
    out = tmp_path / "o.geojson"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        past.io.read_geojson(sdata, tmp_path / "nowhere")
    with pytest.raises(KeyError, match="no obs column 'x'"):
        past.io.write_geojson(sdata, out, label="x")
    with pytest.raises(KeyError, match="no obs column 'x'"):
        past.io.write_geojson(sdata, out, columns=["x"])
    with pytest.raises(ValueError, match="'cell_type' is not numeric"):
        past.io.write_geojson(sdata, out, columns=["cell_type"])
    with pytest.raises(KeyError, match="past_expression"):
        past.io.write_geojson(sdata, out, genes=["ERBB2"])
    sdata.tables["cells"].obsm["past_expression"] = pd.DataFrame({"A": 0.0}, index=sdata.tables["cells"].obs_names)
    with pytest.raises(KeyError, match="no gene 'ERBB2'"):
        past.io.write_geojson(sdata, out, genes=["ERBB2"])
    with pytest.raises(ValueError, match="object_type"):
        past.io.write_geojson(sdata, out, object_type="tumour")
    assert not list(tmp_path.iterdir())


def test_failure_leaves_the_old_file(toy_sdata, tmp_path, monkeypatch):
    sdata = toy_sdata()
    out = tmp_path / "o.geojson"
    out.write_text("old")
    written = iter(range(5))

    def failing(geometry):
        next(written)
        return to_geojson(geometry)

    to_geojson = shapely.to_geojson
    monkeypatch.setattr(shapely, "to_geojson", failing)
    with pytest.raises(RuntimeError):
        past.io.write_geojson(sdata, out)
    assert out.read_text() == "old" and [f.name for f in tmp_path.iterdir()] == ["o.geojson"]


@pytest.mark.parametrize(
    ("classification", "named"),
    [
        ({"name": "Tumor"}, "Tumor"),
        ({"names": ["Tumor", "Positive"], "color": [250, 62, 62]}, "Tumor: Positive"),
        ("Tumor", "Tumor"),
    ],
)
def test_classes_as_every_release_of_qupath_writes_them(toy_sdata, tmp_path, classification, named):
    sdata = toy_sdata()
    past.io.read_geojson(sdata, write(tmp_path / "q.geojson", feature(classification=classification)))
    assert sdata["annotations"]["classification"].tolist() == [named]


def test_objects_keep_their_id_and_name(toy_sdata, tmp_path):
    sdata, ids = toy_sdata(), [str(uuid.UUID(int=i)) for i in (7, 8)]
    features = [{**feature(name=name), "id": i} for i, name in zip(ids, ("A", None), strict=True)]
    past.io.read_geojson(sdata, write(tmp_path / "q.geojson", *features), key_added="mine", table_key_added="my_cells")
    past.io.write_geojson(sdata, tmp_path / "back.geojson", table_key="my_cells")
    back = json.loads((tmp_path / "back.geojson").read_text())["features"]
    assert [f["id"] for f in back] == ids
    assert [f["properties"]["name"] for f in back] == ["A", "2"]


def test_measurements_that_would_be_named_alike_are_all_kept(toy_sdata, tmp_path):
    sdata = toy_sdata()
    measured = {"CD3+": 1.0, "CD3": 3.0, "cd3": 4.0, "cell_id": 5.0, "region": 6.0, "Classification": 7.0}
    path = write(tmp_path / "q.geojson", feature(measurements=measured), feature(measurements={"CD3": 8.0}))
    past.io.read_geojson(sdata, path, key_added="mine", table_key_added="my_cells")
    obs = sdata["my_cells"].obs
    found = {"CD3": 1, "CD3_2": 3, "cd3_3": 4, "cell_id_2": 5, "region_2": 6, "Classification_2": 7}
    assert obs[list(found)].iloc[0].tolist() == list(found.values())
    assert obs["cell_id"].tolist() == [1, 2] and obs["CD3_2"].tolist() == [3, 8]
    past.io.write_store(sdata, tmp_path / "x.zarr")


@pytest.mark.parametrize("wrap", [lambda b: b"\xef\xbb\xbf" + b, gzip.compress])
def test_marked_and_zipped_files(toy_sdata, tmp_path, wrap):
    sdata, path = toy_sdata(), write(tmp_path / "q.geojson", feature(name=3), feature(name="A"))
    path.write_bytes(wrap(path.read_bytes()))
    past.io.read_geojson(sdata, path)
    assert sdata["annotations"]["name"].tolist() == ["3", "A"]
    path.write_bytes(gzip.compress(b"[]" * 100)[:-9])
    with pytest.raises(ValueError, match="q.geojson is not GeoJSON"):
        past.io.read_geojson(sdata, path, key_added="more")


def test_heights_are_left_behind(toy_sdata, tmp_path):
    square = {"type": "Polygon", "coordinates": [[[*xy, 5.0] for xy in SQUARE]]}
    sdata = toy_sdata()
    past.io.read_geojson(sdata, write(tmp_path / "q.geojson", feature(square)))
    assert not sdata["annotations"].has_z.any()


def test_a_name_that_differs_by_case_is_refused_before_anything_is_added(toy_sdata, tmp_path):
    sdata, path = toy_sdata(), write(tmp_path / "q.geojson", feature())
    with pytest.raises(ValueError, match="already has an element 'cells'.*'Cells'"):
        past.io.read_geojson(sdata, path, key_added="mine", table_key_added="Cells")
    assert list(sdata.shapes) == ["nuclei"]


def test_ids_that_match_no_shape_are_named(toy_sdata, tmp_path):
    sdata, path = toy_sdata(), tmp_path / "c.geojson"
    path.write_text("there before")
    sdata["cells"].obs["cell_id"] = sdata["cells"].obs["cell_id"].astype(str)
    said = r"no id in obs\['cell_id'\] of table 'cells' .* is in the index of shapes 'nuclei' \(int64, e.g. 1\)"
    with pytest.raises(ValueError, match=said):
        past.io.write_geojson(sdata, path)
    with pytest.raises(ValueError, match=said):
        past.pp.check_alignment(sdata)
    assert path.read_text() == "there before"
