"""Xenium Explorer: selections come in at their place, groups go out with ids, names and colours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from spatialdata.transformations import Scale, get_transformation

import pastpy as past
from pastpy import _elements

ONE = "#Selection name: Tumour, left\n#Area (µm^2): 200.00\nX,Y\n10.0,20.0\n30.0,20.0\n30.0,30.0\n10.0,30.0\n"
TWO = (
    "#Selection names: A,B\n#Areas (µm^2): 50.0,50.0\nSelection,X,Y\n"
    "A,0,0\nA,10,0\nA,0,10\nB,100,100\nB,110,100\nB,100,110\nB,100,100\n"
)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def xenium_like(toy_sdata):
    """Cells in µm, as read_xenium gives them: scaled into global, where the image is itself scaled."""
    sdata = toy_sdata(shapes_key="cell_boundaries", table_key="table")
    um = Scale([1 / 0.2125] * 2, axes=("x", "y"))
    sdata.shapes["cell_boundaries"] = sdata.shapes["cell_boundaries"].copy()
    past_image = Scale([0.5 / 0.2125] * 2, axes=("x", "y"))
    from spatialdata.transformations import set_transformation

    set_transformation(sdata.shapes["cell_boundaries"], um, "global")
    set_transformation(sdata.images["he"], past_image, "global")
    return sdata


@pytest.mark.parametrize("options", [{}, {"pixel_um": 0.2125}])
def test_selection_lies_at_its_um(xenium_like, tmp_path, options):
    past.io.read_xenium_explorer(xenium_like, write(tmp_path / "s.csv", ONE), **options)
    shapes = xenium_like.shapes["selections"]
    assert list(shapes.index) == ["Tumour, left"] and shapes.geometry.area.tolist() == [200.0]
    assert list(get_transformation(shapes, get_all=True)) == ["global"]
    affine = _elements.level0_affine(xenium_like, shapes, "he", name="selections")
    np.testing.assert_allclose(affine @ [10.0, 20.0, 1.0], [20.0, 40.0, 1.0])  # the H&E has 0.5 µm/px


def test_several_selections(xenium_like, tmp_path):
    past.io.read_xenium_explorer(xenium_like, write(tmp_path / "s.csv", TWO), key_added="regions")
    shapes = xenium_like.shapes["regions"]
    assert list(shapes.index) == ["A", "B"] and shapes.geometry.area.tolist() == [50.0, 50.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no columns"),
        ("a,b\n1,2\n", "no columns"),
        ("#Selection name: A\nX,Y\n1,2\n", "fewer than three corners"),
        ("X,Y\n1,2\n3,x\n5,6\n", "row 2: 'X' or 'Y' is no number"),
        ("X,Y\n1,2\n3\n5,6\n", "row 2"),
        ("X,Y\n1,2\n3,inf\n5,6\n", "not finite"),
    ],
)
def test_bad_selections(xenium_like, tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"bad\.csv.*{message}"):
        past.io.read_xenium_explorer(xenium_like, write(tmp_path / "bad.csv", text))
    assert "selections" not in xenium_like


def test_bad_calls(toy_sdata, tmp_path):
    sdata = toy_sdata()
    with pytest.raises(KeyError, match=r"no shapes 'cell_boundaries'.*pixel_um="):
        past.io.read_xenium_explorer(sdata, write(tmp_path / "s.csv", ONE))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        past.io.read_xenium_explorer(sdata, tmp_path / "nowhere.csv", pixel_um=0.2125)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x81")
    with pytest.raises(ValueError, match=r"b\.csv"):
        past.io.read_xenium_explorer(sdata, tmp_path / "b.csv", pixel_um=0.2125)
    with pytest.raises(ValueError, match="already has"):
        past.io.read_xenium_explorer(sdata, tmp_path / "s.csv", key_added="he")


def test_groups(toy_sdata, tmp_path):
    sdata = toy_sdata(n_cells=6)
    table = sdata.tables["cells"]
    table.obs["cell_id"] = [f"aaaa{c}-1" for c in "bcdefg"]
    groups = ["B cell", None, 'odd, "name"', "B cell", "B cell", None]
    table.obs["label"] = pd.Categorical(groups)
    path = tmp_path / "groups.csv"
    past.io.write_xenium_explorer_groups(sdata, path, groupby="label")
    back = pd.read_csv(path)
    assert list(back.columns) == ["cell_id", "group"]
    assert list(back["cell_id"]) == ["aaaab-1", "aaaad-1", "aaaae-1", "aaaaf-1"]
    assert list(back["group"]) == ["B cell", 'odd, "name"', "B cell", "B cell"]
    table.uns["label_colors"] = ["red", "#00ff00"]
    past.io.write_xenium_explorer_groups(table, path, groupby="label")
    assert list(pd.read_csv(path)["color"]) == ["#ff0000", "#00ff00", "#ff0000", "#ff0000"]
    assert [f.name for f in tmp_path.iterdir()] == ["groups.csv"]


def test_bad_groups(toy_sdata, tmp_path):
    sdata = toy_sdata()
    table = sdata.tables["cells"]
    with pytest.raises(KeyError, match="no obs column 'x'"):
        past.io.write_xenium_explorer_groups(sdata, tmp_path / "g.csv", groupby="x")
    table.obs["empty"] = None
    with pytest.raises(ValueError, match="no cell has a value"):
        past.io.write_xenium_explorer_groups(sdata, tmp_path / "g.csv", groupby="empty")
    table.obs["cell_id"] = 1
    with pytest.raises(ValueError, match="cell id '1' is there twice"):
        past.io.write_xenium_explorer_groups(sdata, tmp_path / "g.csv", groupby="cell_type")
    assert not list(tmp_path.iterdir())


def test_corners_on_a_line_are_no_selection(xenium_like, tmp_path):
    path = write(tmp_path / "s.csv", "X,Y\n1,1\n2,2\n3,3\n")
    with pytest.raises(ValueError, match=r"s.csv: the corners of selection .* lie on one line"):
        past.io.read_xenium_explorer(xenium_like, path)


def test_ids_of_groups(toy_sdata, tmp_path):
    table = toy_sdata(n_cells=3)["cells"]
    table.obs["cell_id"] = table.obs["cell_id"].astype(float)
    table.uns["cell_type_colors"] = {"dark": "red", "pale": "blue"}
    past.io.write_xenium_explorer_groups(table, tmp_path / "g.csv", groupby="cell_type")
    lines = (tmp_path / "g.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["cell_id", "1", "2", "3"]
    assert {tuple(line.split(",")[1:]) for line in lines[1:]} <= {("dark", "#ff0000"), ("pale", "#0000ff")}
    table.obs.loc[table.obs_names[0], "cell_id"] = np.nan
    with pytest.raises(ValueError, match=r"1 of 3 rows have no id in obs\['cell_id'\]"):
        past.io.write_xenium_explorer_groups(table, tmp_path / "g.csv", groupby="cell_type")


@pytest.mark.parametrize("shift", [-1e4, 1e7])
def test_selections_off_every_image_are_refused(xenium_like, tmp_path, shift):
    corners = np.array([[10, 20], [30, 20], [30, 30]]) + shift
    away = "".join(f"B,{x},{y}\n" for x, y in corners)
    path = write(tmp_path / "s.csv", f"Selection,X,Y\n{away}")
    with pytest.raises(ValueError, match=r"s\.csv: none of the 1 selections lies on image 'he' .*they reach from"):
        past.io.read_xenium_explorer(xenium_like, path)
    assert "selections" not in xenium_like
    # one that touches the image will do, and so will one around all of it
    touches = "A,-1000,-1000\nA,1,-1000\nA,1,1\nA,-1000,1\n"
    around = "C,-1e5,-1e5\nC,1e6,-1e5\nC,1e6,1e6\nC,-1e5,1e6\n"
    for i, other in enumerate((touches, around)):
        path = write(tmp_path / "s.csv", f"Selection,X,Y\n{away}{other}")
        past.io.read_xenium_explorer(xenium_like, path, key_added=f"s{i}")
        assert len(xenium_like.shapes[f"s{i}"]) == 2


@pytest.mark.parametrize("separator", [";", "\t"])
def test_selections_that_a_spreadsheet_saved(xenium_like, tmp_path, separator):
    text = "#Selection name: A|\nX|Y\n10,5|10,0\n20,5|10,0\n20,5|20\n|\n".replace("|", separator)
    past.io.read_xenium_explorer(xenium_like, write(tmp_path / "s.csv", text))
    shapes = xenium_like.shapes["selections"]
    assert shapes.index.tolist() == ["A"] and shapes.geometry.bounds.loc["A"].tolist() == [10.5, 10, 20.5, 20]
