from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import shapely
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from pastpy import _elements, _keys
from pastpy._raster import draw_spans, filled_spans
from pastpy.tl import _stain, _stain_image
from pastpy.tl._markers import MARKERS, resolve_markers
from pastpy.tl._stain_intensity import OD_MAX, classify, stain_density
from pastpy.tl._virtual_stain import virtual_stain

# squares of 10 px at (left, top); at 0.5 µm/px they are 5 µm wide; the last two share an edge
CORNERS = [(20, 20), (60, 30), (100, 70), (110, 70)]
MPP = 0.5


def slide(*, chunk: int = 32, transformation=None, expression: dict[str, list[float]] | None = None, card: bool = True):
    """A slide of 96 × 160 px of uniform H&E with four nuclei and their predicted expression."""
    import dask.array as da
    import geopandas as gpd
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity

    pixels = np.full((3, 96, 160), 230, dtype=np.uint8)
    pixels[:, 48:] = np.array([150, 110, 190])[:, None, None]
    where = {"global": transformation or Identity()}
    image = Image2DModel.parse(
        da.from_array(pixels, chunks=(3, chunk, chunk)), dims=("c", "y", "x"), transformations=dict(where)
    )
    squares = gpd.GeoDataFrame(
        geometry=[shapely.box(x, y, x + 10, y + 10) for x, y in CORNERS], index=pd.Index([1, 2, 3, 4], name="cell_id")
    )
    obs = pd.DataFrame({"region": pd.Categorical(["nuclei"] * 4), "cell_id": [1, 2, 3, 4]}, index=list("abcd"))
    table = AnnData(np.zeros((4, 0), dtype=np.float32), obs=obs)
    values = expression or {"ERBB2": [3.0, 2.0, 0.0, np.nan], "MKI67": [0.0, 1.0, 2.0, 3.0]}
    table.obsm["past_expression"] = pd.DataFrame(values, index=obs.index)
    genes = list(values)
    if card:
        table.uns["past"] = {
            "impute_expression": {
                "reference": {"gene": genes, "q05": [1.0] * len(genes), "q95": [3.0] * len(genes)},
                "scores": {"gene": ["ERBB2"], "validation_r": [0.5], "statement": "same patient, validation section"},
            }
        }
    sdata = SpatialData(
        images={"he": image},
        shapes={"nuclei": ShapesModel.parse(squares, transformations=dict(where))},
        tables={"cells": TableModel.parse(table, region="nuclei", region_key="region", instance_key="cell_id")},
    )
    _elements.set_mpp(sdata, "he", MPP)
    return sdata


def pixels_of(sdata, name: str = "virtual_stain") -> np.ndarray:
    return np.asarray(_elements.image_levels(sdata, name)[0].data)


# ------------------------------------------------------------------ colour


@given(st.floats(0, 1.2), st.floats(0, 1.2))
def test_haematoxylin_is_found_again_whatever_the_eosin(haematoxylin, eosin):
    density = haematoxylin * _stain.HAEMATOXYLIN + eosin * _stain.EOSIN
    rgb = (10.0 ** -density.astype(float))[:, None, None]
    inside = rgb.min() > 0.5 / 255
    found = _stain.haematoxylin_amount(rgb)[0, 0]
    assert not inside or abs(found - haematoxylin) < 1e-5


def test_compose_is_beer_lambert():
    amounts = np.array([[0.0, 0.3]])
    out = _stain.compose(amounts, 2 * amounts)
    expected = 255 * 10 ** -(0.3 * _stain.HAEMATOXYLIN + 0.6 * _stain.DAB)
    assert out.dtype == np.uint8
    assert_array_equal(out[:, 0, 0], [255, 255, 255])
    assert_array_equal(out[:, 0, 1], np.round(expected))


def test_directions_are_those_of_ruifrok_and_johnston():
    # skimage's table, rounded to two digits there
    from skimage.color import rgb_from_hed

    ours = np.stack([_stain.HAEMATOXYLIN, _stain.EOSIN, _stain.DAB])
    theirs = rgb_from_hed / np.linalg.norm(rgb_from_hed, axis=1, keepdims=True)
    assert_allclose(ours, theirs, atol=0.006)


# ------------------------------------------------------------------ intensity


def test_density_is_linear_clipped_and_averaged_over_known_genes():
    expression = np.array([[1, 0], [2, 0], [3, 2], [9, -1], [np.nan, 1], [np.nan, np.nan]])
    density = stain_density(expression, np.array([1.0, 0.0]), np.array([3.0, 2.0]))
    assert density.dtype == np.float32
    assert_allclose(density, [0, OD_MAX / 4, OD_MAX, OD_MAX / 2, OD_MAX / 2, np.nan], rtol=1e-6)


def test_a_density_on_a_threshold_belongs_to_the_higher_class():
    density = np.array([0, 0.19, 0.2, 0.4, 0.59, 0.6, 0.8, np.nan], dtype=np.float32)
    assert_array_equal(classify(density, [0.2, 0.4, 0.6]), [0, 0, 1, 2, 2, 3, 3, np.nan])


def test_stored_intensities_and_classes():
    sdata = slide()
    virtual_stain(sdata, "HER2")
    obs = sdata.tables["cells"].obs
    assert_allclose(obs["past_stain_intensity_HER2"], [OD_MAX, OD_MAX / 2, 0, np.nan], rtol=1e-6)
    assert_array_equal(obs["past_stain_class_HER2"], [3, 2, 0, np.nan])
    assert obs["past_stain_intensity_HER2"].dtype == obs["past_stain_class_HER2"].dtype == np.float32


def test_several_genes_are_averaged_and_absent_ones_left_out():
    sdata = slide(
        expression={"CD3D": [1.0, 3.0, 3.0, np.nan], "CD3E": [3.0, 3.0, np.nan, np.nan], "CD3G": [np.nan] * 4}
    )
    virtual_stain(sdata, "CD3")
    assert_allclose(
        sdata.tables["cells"].obs["past_stain_intensity_CD3"], [OD_MAX / 2, OD_MAX, OD_MAX, np.nan], rtol=1e-6
    )
    entry = sdata.tables["cells"].uns["past"]["virtual_stain"]["markers"]["CD3"]
    assert entry["genes"] == ["CD3D", "CD3E"]


# ------------------------------------------------------------------ markers


def test_markers_by_name_gene_and_own_definition():
    assert [(m.genes, m.compartment) for m in resolve_markers(["HER2", "ki67", "pan-CK", "MS4A1", "LUM"])] == [
        (("ERBB2",), "membrane"),
        (("MKI67",), "nucleus"),
        (("KRT8", "KRT18", "KRT19", "KRT7"), "cytoplasm"),
        (("MS4A1",), "membrane"),
        (("LUM",), "cytoplasm"),
    ]
    own = resolve_markers({"immune": ["PTPRC", "CD3D"], "ER": "ESR1"}, compartment={"immune": "nucleus"})
    assert [(m.name, m.genes, m.compartment) for m in own] == [
        ("immune", ("PTPRC", "CD3D"), "nucleus"),
        ("ER", ("ESR1",), "nucleus"),
    ]
    assert all(m.genes and m.name == name for name, m in MARKERS.items())


@pytest.mark.parametrize(
    ("markers", "keywords", "error", "message"),
    [
        ([], {}, ValueError, "no marker given"),
        (["HER2", "her2"], {}, ValueError, "more than once"),
        ("T cells", {}, ValueError, "cannot name a column"),
        (["HER2", 3], {}, TypeError, "a marker is a string"),
        ({"mine": []}, {}, TypeError, "needs a gene symbol"),
        ("HER2", {"compartment": "golgi"}, ValueError, "compartment 'golgi'"),
    ],
)
def test_bad_markers(markers, keywords, error, message):
    with pytest.raises(error, match=message):
        resolve_markers(markers, **keywords)


# ------------------------------------------------------------------ rasterisation


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(3, 12))
def test_spans_are_the_pixels_whose_centres_lie_inside(seed, corners):
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radius = rng.uniform(2, 12, corners)
    outline = np.column_stack([20 + radius * np.cos(angle), 18 + radius * np.sin(angle)])
    polygon = shapely.Polygon(outline)
    if not polygon.is_valid:
        return
    canvas = np.full((40, 40), -1)
    row, start, stop, position = filled_spans(np.array([polygon]))
    draw_spans(canvas, row, start, stop, position)
    centres = np.stack(np.meshgrid(np.arange(40) + 0.5, np.arange(40) + 0.5), axis=-1)
    inside = shapely.contains_xy(polygon, centres[..., 0], centres[..., 1])
    if not inside.any():
        inside[int(polygon.centroid.y), int(polygon.centroid.x)] = True
    assert_array_equal(canvas == 0, inside)


def test_spans_leave_holes_open_and_draw_every_part():
    ring = shapely.box(0, 0, 6, 6).difference(shapely.box(2, 2, 4, 4))
    two = shapely.MultiPolygon([shapely.box(7, 0, 8, 1), shapely.box(7, 3, 8, 4)])
    canvas = np.full((6, 8), -1)
    row, start, stop, position = filled_spans(np.array([ring, two]))
    draw_spans(canvas, row, start, stop, position)
    expected = np.zeros((6, 8), dtype=int)
    expected[2:4, 2:4] = expected[:, 6:] = -1
    expected[[0, 3], 7] = 1
    assert_array_equal(canvas, expected)


# ------------------------------------------------------------------ the picture


def test_nuclear_stain_fills_the_nucleus_and_leaves_the_rest():
    sdata = slide()
    virtual_stain(sdata, "Ki-67")
    stained = pixels_of(sdata)
    blue = _stain.COUNTERSTAIN * _stain.haematoxylin_amount(np.full((3, 1, 1), 230 / 255))
    # cell b: half of the scale is at 2.0; its value is 1.0, the low end; cell c (on the darker half) is at 2.0
    assert_array_equal(stained[:, 10, 140], _stain.compose(blue, np.zeros((1, 1)))[:, 0, 0])
    assert_array_equal(stained[:, 35, 65], stained[:, 10, 140])
    dark = _stain.COUNTERSTAIN * _stain.haematoxylin_amount(np.array([150, 110, 190])[:, None, None] / 255)
    expected = _stain.compose(dark, np.full((1, 1), OD_MAX / 2))[:, 0, 0].astype(int)
    assert np.abs(stained[:, 75, 104].astype(int) - expected).max() <= 2
    # brown: red passes, blue is absorbed
    strong = stained[:, 75, 115].astype(int)
    assert strong[0] > strong[1] > strong[2] - 15
    assert strong[2] < 0.4 * stained[2, 60, 140]


def test_membrane_stain_is_a_ring_and_leaves_the_nucleus():
    sdata = slide()
    virtual_stain(sdata, "HER2")
    painter = _stain_image.StainPainter(
        np.array([shapely.box(20, 20, 30, 30)]),
        np.array([0.8]),
        compartment="membrane",
        mpp=MPP,
        expand_um=5,
        name="he",
    )
    chromogen = painter.chromogen(0, 0, 60, 60)
    across = chromogen[25]
    assert across[25] < 0.01
    # the nucleus ends at column 30, the cell 10 px (5 µm) further on
    assert abs(int(np.argmax(across[30:])) + 30 - 39) <= 1
    assert 0.6 < across[30:].max() <= 0.8
    assert across[44:].max() < 0.01
    assert_array_equal(chromogen > 0.3, (chromogen > 0.3).T)


def test_cytoplasm_stain_fades_outwards():
    painter = _stain_image.StainPainter(
        np.array([shapely.box(20, 20, 30, 30)]),
        np.array([0.8]),
        compartment="cytoplasm",
        mpp=MPP,
        expand_um=5,
        name="he",
    )
    across = painter.chromogen(0, 0, 60, 60)[25]
    assert across[33] > 0.7
    assert across[33] > across[36] > across[38] > 0.1
    assert across[25] == pytest.approx(0.3 * 0.8, abs=0.01)


def test_a_pixel_between_two_cells_belongs_to_the_nearer():
    pair = np.array([shapely.box(10, 10, 20, 20), shapely.box(26, 10, 36, 20)])
    painter = _stain_image.StainPainter(
        pair, np.array([0.8, 0.0]), compartment="cytoplasm", mpp=MPP, expand_um=5, name="he"
    )
    across = painter.chromogen(0, 0, 30, 50)[15]
    assert across[21] > 0.6
    assert across[25] < 0.05


def test_unknown_and_absent_cells_are_drawn_without_chromogen():
    sdata = slide()
    virtual_stain(sdata, "HER2", compartment="nucleus")
    stained = pixels_of(sdata)
    assert_array_equal(stained[:, 75, 116], stained[:, 60, 140])


@pytest.mark.parametrize("chunk", [7, 64])
@pytest.mark.parametrize("marker", ["HER2", "Ki-67", "PanCK"])
def test_the_picture_does_not_depend_on_the_blocks(chunk, marker):
    values = {gene: [3.0, 2.0, 2.5, 1.5] for gene in MARKERS[marker].genes}
    whole, cut = slide(chunk=160, expression=values), slide(chunk=chunk, expression=values)
    for sdata in (whole, cut):
        virtual_stain(sdata, marker)
    assert len(_elements.image_levels(cut, "virtual_stain")[0].data.chunks[2]) > 1
    assert_array_equal(pixels_of(whole), pixels_of(cut))


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_a_window_is_a_crop_of_the_whole(seed):
    rng = np.random.default_rng(seed)
    centre = rng.integers(0, 80, (30, 2)) + rng.choice([0, 0.5], (30, 1))
    cells = shapely.buffer(shapely.points(centre), rng.integers(2, 7, 30))
    painter = _stain_image.StainPainter(
        cells, rng.uniform(0, 0.8, 30), compartment="membrane", mpp=0.5, expand_um=5, name="he"
    )
    y, x = rng.integers(0, 60, 2)
    assert_array_equal(painter.chromogen(y, x, 15, 11), painter.chromogen(0, 0, 80, 80)[y : y + 15, x : x + 11])


def test_blocks_are_computed_when_they_are_looked_at(monkeypatch):
    painted: list[tuple[int, int]] = []
    paint = _stain_image.StainPainter.paint

    def counted(self, block, y, x):
        painted.append((y, x))
        return paint(self, block, y, x)

    monkeypatch.setattr(_stain_image.StainPainter, "paint", counted)
    sdata = slide(chunk=32)
    virtual_stain(sdata, "HER2")
    assert painted == []
    level0, level1 = _elements.image_levels(sdata, "virtual_stain")[:2]
    level0.data[:, 40:50, 40:60].compute()
    assert painted == [(32, 32)]
    # a block of the next level is as wide as two of this one
    level1.data[:, :16, :16].compute()
    assert sorted(painted[1:]) == [(0, 0), (0, 32), (32, 0), (32, 32)]
    level0.data.compute()
    assert sorted(painted[5:]) == [(y, x) for y in range(0, 96, 32) for x in range(0, 160, 32)]


def test_a_block_reads_only_its_own_pixels_of_the_he():
    import dask.array as da
    from spatialdata.models import Image2DModel

    read: list[tuple[int, int]] = []

    def loaded(block_info=None):
        _, (y, _), (x, _) = block_info[None]["array-location"]
        read.append((y, x))
        return np.full((3, 32, 32), 200, dtype=np.uint8)

    sdata = slide()
    del sdata.images["he"]
    lazy = da.map_blocks(
        loaded, chunks=((3,), (32,) * 3, (32,) * 5), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    sdata.images["he"] = Image2DModel.parse(lazy, dims=("c", "y", "x"))
    virtual_stain(sdata, "HER2")
    assert read == []
    _elements.image_levels(sdata, "virtual_stain")[0].data[:, 64:96, 96:128].compute()
    assert read == [(64, 96)]


def test_the_pyramid_is_the_mean_of_the_level_below():
    sdata = slide()
    virtual_stain(sdata, "Ki-67")
    level0, level1 = (np.asarray(level.data) for level in _elements.image_levels(sdata, "virtual_stain")[:2])
    mean = level0.reshape(3, 48, 2, 80, 2).mean(axis=(2, 4))
    assert level1.dtype == np.uint8
    assert np.abs(level1 - mean).max() < 1


def test_the_stain_lies_where_the_he_lies():
    from spatialdata.transformations import Affine, Scale, get_transformation, set_transformation

    turned = Affine([[0, -2, 300], [2, 0, 10], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))
    straight, rotated = slide(), slide(transformation=turned)
    set_transformation(rotated.images["he"], Scale([0.5, 0.5], axes=("x", "y")), "um")
    for sdata in (straight, rotated):
        virtual_stain(sdata, "HER2")
    of_he = get_transformation(rotated.images["he"], get_all=True)
    of_stain = get_transformation(rotated.images["virtual_stain"], get_all=True)
    assert set(of_stain) == {"global", "um"}
    for name, transformation in of_he.items():
        matrices = [t.to_affine_matrix(("x", "y"), ("x", "y")) for t in (transformation, of_stain[name])]
        assert_array_equal(*matrices)
    assert_array_equal(pixels_of(straight), pixels_of(rotated))


def test_shapes_of_another_scale_are_mapped_to_the_image():
    from spatialdata.transformations import Scale, set_transformation

    straight, scaled = slide(), slide()
    # the image is stored in µm, the shapes too: their own coordinates are now halves of pixels
    set_transformation(scaled.images["he"], Scale([MPP, MPP], axes=("x", "y")), "global")
    squares = scaled.shapes["nuclei"]
    squares["geometry"] = shapely.transform(squares.geometry.to_numpy(), lambda xy: xy * MPP)
    for sdata in (straight, scaled):
        virtual_stain(sdata, "HER2")
    assert_array_equal(pixels_of(straight), pixels_of(scaled))


def test_circles_are_stained_as_discs():
    import geopandas as gpd
    from spatialdata.models import ShapesModel

    sdata = slide()
    del sdata.shapes["nuclei"]
    centres = gpd.GeoDataFrame(
        {"radius": [5.0] * 4}, geometry=gpd.points_from_xy(*np.add(CORNERS, 5).T), index=[1, 2, 3, 4]
    )
    sdata.shapes["nuclei"] = ShapesModel.parse(centres)
    virtual_stain(sdata, "HER2", compartment="nucleus")
    stained = pixels_of(sdata).astype(int)
    assert stained[2, 25, 25] < 0.6 * stained[2, 10, 140]
    assert stained[2, 20, 20] > 0.9 * stained[2, 10, 140]


# ------------------------------------------------------------------ what is written


def test_several_markers_give_an_image_each():
    sdata = slide()
    virtual_stain(sdata, ["HER2", "Ki-67"], key_added="ihc")
    assert set(sdata.images) == {"he", "ihc_HER2", "ihc_Ki-67"}
    assert _elements.resolve_image(sdata) == "he"
    assert _elements.resolve_mpp(sdata, "ihc_HER2") == MPP
    assert list(sdata.images["ihc_HER2"]["scale0"]["image"].coords["c"].values) == ["r", "g", "b"]


def test_provenance_keeps_the_markers_of_earlier_calls():
    sdata = slide()
    virtual_stain(sdata, "HER2")
    virtual_stain(sdata, {"prolif": "MKI67"}, key_added="second", thresholds=[0.1, 0.3, 0.5])
    stored = sdata.tables["cells"].uns["past"]["virtual_stain"]
    assert stored["use"] == _keys.RESEARCH_USE
    assert (stored["image_key"], stored["shapes_key"], stored["mpp"], stored["style"]) == ("he", "nuclei", MPP, "ihc")
    her2, prolif = stored["markers"]["HER2"], stored["markers"]["prolif"]
    assert her2 == {
        "genes": ["ERBB2"],
        "compartment": "membrane",
        "reference": {"gene": ["ERBB2"], "low": [1.0], "high": [3.0]},
        "transfer_score": 0.5,
        "statement": "same patient, validation section",
        "caveats": [],
        "image": "virtual_stain",
        "thresholds": [0.2, 0.4, 0.6],
    }
    assert np.isnan(prolif["transfer_score"])
    assert prolif["statement"] == "not measured on another patient"
    assert prolif["thresholds"] == [0.1, 0.3, 0.5]
    assert "reference" in sdata.tables["cells"].uns["past"]["impute_expression"]


def test_what_may_mislead_is_said_wherever_the_stain_is_used():
    """A range of predictions, however small, gives a picture with contrast."""
    from pastpy import pl
    from pastpy.tl import h_score

    sdata = slide()
    made = sdata["cells"].uns["past"]["impute_expression"]
    made["scores"] |= {"gene": ["ERBB2", "MKI67"], "validation_r": [0.1, 0.6], "trusted": [False, True]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        virtual_stain(sdata, "Ki-67", key_added="trusted")
    made["shift"] = {"share_beyond": 0.8, "limit": 0.2, "percentile": 99.0}
    untrusted, far = "does not trust its prediction of ERBB2", "80% of the cells look unlike"
    with pytest.warns(UserWarning, match=f"{untrusted}; {far}"):
        virtual_stain(sdata, "HER2")
    assert h_score(sdata, "Ki-67").attrs["caveats"] == ""
    said = h_score(sdata, "HER2").loc["all", "caveats"]
    assert untrusted in said and far in said
    caption = pl.virtual_stain(sdata, show=False).get_supxlabel()
    assert caption.startswith("Caution: the model's card") and "80% of the cells" in caption.replace("\n", " ")


def test_tissue_as_usual_is_no_caveat():
    sdata = slide()
    far = {"share_beyond": 0.4, "limit": 0.2, "percentile": 99.0}
    usual = {"share_beyond": 0.1, "limit": 0.2, "percentile": 99.0}
    made = sdata["cells"].uns["past"]["impute_expression"]
    made["regions"] = {"a": {"shift": usual}, "b": {}}
    virtual_stain(sdata, "HER2")
    assert sdata["cells"].uns["past"]["virtual_stain"]["markers"]["HER2"]["caveats"] == []
    made["regions"]["b"]["shift"] = far
    with pytest.warns(UserWarning, match="40% of the cells"):
        virtual_stain(sdata, "HER2", overwrite=True)


def test_survives_the_disk(tmp_path):
    from spatialdata import read_zarr

    sdata = slide()
    virtual_stain(sdata, ["HER2", "Ki-67"])
    expected = pixels_of(sdata, "virtual_stain_Ki-67")
    sdata.write(tmp_path / "slide.zarr")
    back = read_zarr(tmp_path / "slide.zarr")
    assert_array_equal(pixels_of(back, "virtual_stain_Ki-67"), expected)
    assert len(_elements.image_levels(back, "virtual_stain_Ki-67")) == len(
        _elements.image_levels(sdata, "virtual_stain_Ki-67")
    )
    assert _elements.resolve_image(back) == "he"
    assert_array_equal(back.tables["cells"].obs["past_stain_class_HER2"], [3, 2, 0, np.nan])
    # a stored object can be stained again
    virtual_stain(back, "HER2", overwrite=True)
    assert set(back.tables["cells"].uns["past"]["virtual_stain"]["markers"]) == {"HER2", "Ki-67"}


def test_own_reference_wins_over_the_card():
    sdata = slide()
    reference = pd.DataFrame({"low": [0.0], "high": [6.0]}, index=["ERBB2"])
    virtual_stain(sdata, "HER2", reference=reference)
    assert_allclose(
        sdata.tables["cells"].obs["past_stain_intensity_HER2"], [OD_MAX / 2, OD_MAX / 3, 0, np.nan], rtol=1e-6
    )


def snapshot(sdata) -> tuple:
    table = sdata.tables["cells"]
    return (
        set(sdata.images),
        list(table.obs.columns),
        repr(table.uns["past"]) if "past" in table.uns else "",
        repr(sdata.attrs),
    )


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"style": "if"}, ValueError, "style='if' is unknown"),
        ({"expand_um": 0}, ValueError, "expand_um must be positive"),
        ({"thresholds": [0.4, 0.2, 0.6]}, ValueError, "three rising"),
        ({"markers": "ESR1"}, KeyError, r"\['ESR1'\] not in obsm.*genes=\[\*table.obsm.*, 'ESR1'\]"),
        ({"markers": ["HER2", "CD3"]}, KeyError, "CD3D"),
        ({"expression_key": "other"}, KeyError, "past_expression"),
        ({"image_key": "nope"}, KeyError, r"no image named 'nope'.*'he'"),
        ({"key_added": "he"}, ValueError, "already has an element 'he'"),
        ({"key_added": "he", "overwrite": True}, ValueError, "already has an element 'he'"),
        ({"key_added": "nuclei", "overwrite": True}, ValueError, "already has an element 'nuclei'"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' is no element name"),
        ({"key_added": 5, "markers": ["HER2", "KRT8"]}, ValueError, "key_added=5 is no element name"),
        ({"key_added": "HE"}, ValueError, "already has an element 'he'.*key_added='HE'"),
        ({"reference": pd.DataFrame({"low": [1.0]}, index=["ERBB2"])}, ValueError, r"\['high'\] missing"),
        ({"reference": pd.DataFrame({"low": [1.0], "high": [1.0]}, index=["ERBB2"])}, ValueError, "is no range"),
        ({"reference": pd.DataFrame({"low": [1.0], "high": [2.0]}, index=["ESR1"])}, KeyError, "without a reference"),
        ({"mpp": -1}, ValueError, "positive number of µm"),
        ({"coordinate_system": "elsewhere"}, ValueError, "not in coordinate system 'elsewhere'"),
    ],
)
def test_bad_input_changes_nothing(keywords, error, message):
    sdata = slide()
    before = snapshot(sdata)
    with pytest.raises(error, match=message):
        virtual_stain(sdata, **{"markers": "HER2", **keywords})
    assert snapshot(sdata) == before


def test_why_a_marker_cannot_be_drawn():
    sdata = slide(expression={"CD3D": [np.nan] * 4, "CD3E": [1.0] * 4})
    sdata.tables["cells"].uns["past"]["impute_expression"]["reference"]["q95"] = [3.0, 1.0]
    with pytest.raises(KeyError) as raised:
        virtual_stain(sdata, "CD3")
    message = str(raised.value)
    assert "['CD3G'] not in obsm" in message
    assert "['CD3D'] unknown in every cell" in message
    assert "['CD3E'] without a reference range" in message


def test_without_a_reference_it_asks_for_one():
    sdata = slide(card=False)
    with pytest.raises(ValueError, match=r"no reference range.*pass reference="):
        virtual_stain(sdata, "HER2")
    assert set(sdata.images) == {"he"}


def test_an_existing_stain_is_replaced_only_on_request():
    sdata = slide()
    virtual_stain(sdata, "HER2")
    with pytest.raises(ValueError, match="overwrite=True"):
        virtual_stain(sdata, "Ki-67")
    with pytest.raises(ValueError, match=r"obs\['past_stain_intensity_HER2'\].*same spelling"):
        virtual_stain(sdata, "her2", key_added="second", overwrite=True)
    virtual_stain(sdata, "Ki-67", overwrite=True)
    assert "past_stain_class_Ki-67" in sdata.tables["cells"].obs
