from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import shapely
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex, to_rgba
from numpy.testing import assert_allclose

import pastpy as past
from pastpy.pl import _cells, _image
from pastpy.pl._style import CATEGORICAL, UNKNOWN


@pytest.fixture
def sdata(toy_sdata):
    """Forty painted nuclei on 128 × 128 µm; two genes predicted, one of them unknown in the first five cells."""
    sdata = toy_sdata()
    table = sdata.tables["cells"]
    values = np.linspace(0, 3, 40)
    table.obsm["past_expression"] = pd.DataFrame(
        {"ERBB2": values, "KRT8": np.where(np.arange(40) < 5, np.nan, values)}, index=table.obs_names
    )
    return sdata


def polygons(ax) -> PolyCollection:
    (found,) = [item for item in ax.collections if isinstance(item, PolyCollection)]
    return found


def legend_texts(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_every_cell_is_drawn_where_it_lies_in_micrometres(sdata):
    ax = past.pl.cells(sdata, "ERBB2")
    drawn = polygons(ax)
    assert len(drawn.get_paths()) == 40
    for path, shape in zip(drawn.get_paths(), sdata.shapes["nuclei"].geometry, strict=True):
        extents = path.get_extents()
        assert_allclose([extents.x0, extents.y0, extents.x1, extents.y1], np.multiply(shape.bounds, 0.5))
    assert ax.get_xlim() == (0, 128)
    assert ax.get_ylim() == (128, 0)
    assert_allclose(ax.images[0].get_extent(), [0, 128, 128, 0])
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0


def test_numbers_become_colours_with_their_unit(sdata):
    ax = past.pl.cells(sdata, "ERBB2", vmin=0, vmax=3, alpha=0.5, cmap="cividis")
    expected = mpl.colormaps["cividis"](np.linspace(0, 1, 40))
    assert_allclose(polygons(ax).get_facecolor()[:, :3], expected[:, :3])
    assert_allclose(polygons(ax).get_facecolor()[:, 3], 0.5)
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel() == "ERBB2, predicted\nlog(1 + counts per 10,000)"
    assert ax.get_title() == "ERBB2"
    assert ax.get_legend() is None


def test_a_gene_that_the_card_does_not_trust_says_so(sdata):
    scores = {"gene": ["ERBB2"], "trusted": [False]}
    sdata["cells"].uns["past"] = {"impute_expression": {"scores": scores, "target_sum": 1e4}}
    ax = past.pl.cells(sdata, "ERBB2")
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel().startswith("ERBB2, predicted (not trusted by the model's card)\n")


def test_unknown_cells_are_grey_and_named(sdata):
    ax = past.pl.cells(sdata, "KRT8")
    grey = np.all(np.isclose(polygons(ax).get_facecolor()[:, :3], to_rgba(UNKNOWN)[:3]), axis=1)
    assert grey.tolist() == [True] * 5 + [False] * 35
    assert legend_texts(ax) == ["unknown"]


def test_labels_have_a_colour_each(sdata):
    ax = past.pl.cells(sdata, "cell_type")
    of_type = dict(zip(("dark", "pale"), CATEGORICAL, strict=False))
    expected = [of_type[name] for name in sdata.tables["cells"].obs["cell_type"]]
    assert [to_hex(colour).upper() for colour in polygons(ax).get_facecolor()] == expected
    assert legend_texts(ax) == ["dark", "pale"]
    assert ax.figure.axes == [ax]


def test_stored_colours_of_labels_are_kept(sdata):
    table = sdata.tables["cells"]
    table.uns["cell_type_colors"] = ["#112233", "#445566"]
    table.obs.loc[table.obs_names[0], "cell_type"] = None
    ax = past.pl.cells(sdata, "cell_type")
    assert {to_hex(colour) for colour in polygons(ax).get_facecolor()} == {"#112233", "#445566", UNKNOWN.lower()}
    assert legend_texts(ax) == ["dark", "pale", "unknown"]


def test_what_color_is_looked_up_in(sdata):
    # measured counts; nothing predicted has this name
    ax = past.pl.cells(sdata, "GENE0")
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel() == "GENE0, values of X"
    sdata.tables["cells"].obs["ERBB2"] = "obs wins"
    assert legend_texts(past.pl.cells(sdata, "ERBB2")) == ["obs wins"]
    with pytest.raises(KeyError, match="'ERBB3' is no obs column.*'ERBB2'"):
        past.pl.cells(sdata, "ERBB3")


def test_bools_are_labels_and_missing_numbers_unknown(sdata):
    sdata.tables["cells"].obs["past_valid"] = np.arange(40) > 2
    assert legend_texts(past.pl.cells(sdata, "past_valid")) == ["False", "True"]
    sdata.tables["cells"].obs["score"] = pd.array([None] + [1.0] * 39, dtype="Float64")
    assert legend_texts(past.pl.cells(sdata, "score")) == ["unknown"]


def test_classes_of_a_stain_are_four_browns(sdata):
    n = sdata["cells"].n_obs
    sdata["cells"].obs["past_stain_class_HER2"] = np.r_[np.nan, np.resize([0.0, 3.0], n - 1)].astype(np.float32)
    ax = past.pl.cells(sdata, "past_stain_class_HER2")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["0", "3+", "unknown"]
    light, dark = (patch.get_facecolor() for patch in ax.get_legend().get_patches()[:2])
    assert sum(dark[:3]) < 0.5 * sum(light[:3])
    with pytest.raises(TypeError, match="color must be one column or gene"):
        past.pl.cells(sdata, ["ERBB2", "past_stain_class_HER2"])


def test_no_colour_draws_outlines(sdata):
    ax = past.pl.cells(sdata, None)
    assert ax.get_title() == "40 cells"
    assert len(polygons(ax).get_facecolor()) == 0
    assert len(polygons(ax).get_edgecolor()) == 40


def test_a_crop_draws_its_cells_only(sdata):
    crop = (20, 30, 70, 60)
    ax = past.pl.cells(sdata, "ERBB2", crop=crop, vmin=0, vmax=3)
    inside = shapely.intersects(sdata.shapes["nuclei"].geometry.to_numpy(), shapely.box(40, 60, 140, 120))
    assert 0 < inside.sum() < 40
    assert len(polygons(ax).get_paths()) == inside.sum()
    expected = mpl.colormaps["viridis"](np.linspace(0, 1, 40)[inside])
    assert_allclose(polygons(ax).get_facecolor()[:, :3], expected[:, :3])
    assert (ax.get_xlim(), ax.get_ylim()) == ((20, 70), (60, 30))
    (bar,) = [patch for patch in ax.patches if patch.get_gid() == "scale_bar"]
    assert bar.get_width() == 10


@pytest.mark.parametrize(
    ("crop", "message"), [((0, 0, 10), "four numbers"), ((500, 0, 600, 10), "holds nothing"), ((9, 0, 3, 5), "x0 < x1")]
)
def test_bad_crops(sdata, crop, message):
    with pytest.raises(ValueError, match=message):
        past.pl.cells(sdata, "ERBB2", crop=crop)


def test_positions_follow_the_transformations(toy_sdata):
    from spatialdata.transformations import Affine

    turned = Affine([[0, -2, 300], [2, 0, 10], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    straight, rotated = (past.pl.cells(toy_sdata(transformation=t), None) for t in (None, turned))
    for one, other in zip(polygons(straight).get_paths(), polygons(rotated).get_paths(), strict=True):
        assert_allclose(one.vertices, other.vertices, atol=1e-9)


def test_circles_are_discs_of_their_radius(toy_sdata):
    sdata = toy_sdata(shapes="circles")
    paths = polygons(past.pl.cells(sdata, "cell_type")).get_paths()
    width = [path.get_extents().width for path in paths]
    assert_allclose(width, sdata.shapes["nuclei"]["radius"])


def test_many_cells_are_drawn_as_pixels(sdata, monkeypatch):
    monkeypatch.setattr(_cells, "MAX_POLYGONS", 39)
    ax = past.pl.cells(sdata, "ERBB2", vmin=0, vmax=3)
    assert not [item for item in ax.collections if isinstance(item, PolyCollection)]
    pixels = ax.images[1].get_array()
    assert max(pixels.shape[:2]) == _image.MAX_PX
    expected = mpl.colormaps["viridis"](np.linspace(0, 1, 40))
    for centre, colour in zip(shapely.get_coordinates(sdata.shapes["nuclei"].centroid), expected, strict=True):
        x, y = (centre * 0.5 / 128 * _image.MAX_PX).astype(int)
        assert_allclose(pixels[y, x, :3], colour[:3])
    covered = pixels[..., 3].astype(bool).mean() * 256**2
    assert covered == pytest.approx(sdata.shapes["nuclei"].area.sum(), rel=0.01)


def test_the_elements_are_left_alone(sdata):
    before = sdata.shapes["nuclei"].copy(), sdata.tables["cells"].copy()
    past.pl.cells(sdata, "cell_type")
    assert sdata.shapes["nuclei"].equals(before[0])
    pd.testing.assert_frame_equal(sdata.tables["cells"].obs, before[1].obs)
    assert sdata.tables["cells"].uns == before[1].uns


def test_own_axes_and_a_file(sdata, tmp_path):
    figure, (left, right) = plt.subplots(1, 2)
    assert past.pl.cells(sdata, "cell_type", ax=right, save=tmp_path / "cells.pdf", title="mine") is right
    assert not left.images
    assert right.get_title() == "mine"
    assert (tmp_path / "cells.pdf").stat().st_size > 0
    assert plt.get_fignums() == [figure.number]


def test_the_image_is_read_at_the_resolution_of_the_screen(toy_sdata, monkeypatch):
    from spatialdata.models import Image2DModel

    monkeypatch.setattr(_image, "MAX_PX", 64)
    sdata = toy_sdata()
    pixels = np.asarray(sdata.images["he"].data)
    whole = _image.read_view(sdata, "he", mpp=0.5, crop=None)
    assert whole.rgb.shape == (64, 64, 3)
    assert_allclose(whole.rgb[3, 5] * 255, pixels[:, 12:16, 20:24].mean(axis=(1, 2)), atol=1)
    part = _image.read_view(sdata, "he", mpp=0.5, crop=(10.1, 20, 30, 40))
    assert part.extent == (10, 20, 30, 40)
    assert_allclose(part.rgb[0, 0] * 255, pixels[:, 40, 20])

    # two levels: the second has 128 px, enough for the whole and too few for a part
    del sdata.images["he"]
    sdata.images["he"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), scale_factors=[2])
    sizes = []
    for crop in (None, (0, 0, 20, 20)):
        view = _image.read_view(sdata, "he", mpp=0.5, crop=crop)
        sizes.append(view.rgb.shape[:2])
    assert sizes == [(64, 64), (40, 40)]


def test_bad_elements(sdata, toy_sdata):
    with pytest.raises(KeyError, match="no image named 'slide'"):
        past.pl.cells(sdata, "ERBB2", image_key="slide")
    with pytest.raises(ValueError, match="µm/px of image 'he' is unknown"):
        past.pl.cells(toy_sdata(mpp=None), "cell_type")
    with pytest.raises(TypeError, match="expected a SpatialData"):
        past.pl.cells(sdata.tables["cells"], "ERBB2")


@pytest.mark.parametrize("color", ["KRT8", "cell_type"])
def test_pictures(sdata, same_picture, color):
    same_picture(past.pl.cells(sdata, color).figure, f"cells_{color}")


def test_another_picture_is_noticed(sdata, picture_difference):
    # one cell of forty has another label
    table = sdata.tables["cells"]
    table.obs.loc[table.obs_names[7], "cell_type"] = {"dark": "pale", "pale": "dark"}[table.obs["cell_type"].iloc[7]]
    assert picture_difference(past.pl.cells(sdata, "cell_type").figure, "cells_cell_type") > 2.5
