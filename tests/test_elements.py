"""The resolver: geometry by property tests against matrices written by hand, defaults and messages by example."""

from __future__ import annotations

import warnings

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
from anndata import AnnData
from geopandas.testing import assert_geodataframe_equal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale
from tests.transformations import FACTOR, affine, chains, matrix

import pastpy as past
from pastpy import _elements

SIZE = 16


def build(to_image, to_shapes, geometry, radius=None, system="global", ids=None, pixels=None) -> SpatialData:
    """An image and shapes, each with its transformation to ``system``, and a table that annotates the shapes."""
    index = np.arange(1, len(geometry) + 1)
    if radius is None:
        shapes = ShapesModel.parse(
            gpd.GeoDataFrame(geometry=geometry, index=index), transformations={system: to_shapes}
        )
    else:
        shapes = ShapesModel.parse(
            np.asarray(geometry), geometry=0, radius=radius, index=index, transformations={system: to_shapes}
        )
    pixels = np.zeros((3, SIZE, SIZE), dtype=np.uint8) if pixels is None else pixels
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={system: to_image})
    return SpatialData(
        images={"he": image}, shapes={"nuclei": shapes}, tables={"cells": annotate("nuclei", ids or index)}
    )


def annotate(regions, ids) -> AnnData:
    """Table of one gene; ``regions`` is one name or one a row."""
    ids = list(ids)
    rows = [regions] * len(ids) if isinstance(regions, str) else list(regions)
    obs = pd.DataFrame({"region": pd.Categorical(rows), "cell_id": ids}, index=[f"r{i}" for i in range(len(ids))])
    return TableModel.parse(
        AnnData(np.ones((len(ids), 1)), obs=obs), region=sorted(set(rows)), region_key="region", instance_key="cell_id"
    )


def carry(m: np.ndarray, xy: np.ndarray) -> np.ndarray:
    return np.asarray(xy) @ m[:2, :2].T + m[:2, 2]


@given(chains(), chains(), st.integers(0, SIZE - 1), st.integers(0, SIZE - 1), st.sampled_from(["global", "aligned"]))
def test_a_painted_pixel_is_found(image_chain, shapes_chain, row, column, system):
    """A red pixel, its centre told through both transformations: the point lands in that pixel, on its centre."""
    pixels = np.zeros((3, SIZE, SIZE), dtype=np.uint8)
    pixels[0, row, column] = 255
    in_common = carry(image_chain[1], [[column + 0.5, row + 0.5]])
    intrinsic = carry(np.linalg.inv(shapes_chain[1]), in_common)
    sdata = build(image_chain[0], shapes_chain[0], intrinsic, radius=1.0, system=system, pixels=pixels)
    where = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=0.25, coordinate_system=system)
    np.testing.assert_allclose(where.centroids, [[column + 0.5, row + 0.5]], atol=1e-3)
    np.testing.assert_allclose(where.spatial_um, [[(column + 0.5) / 4, (row + 0.5) / 4]], atol=1e-3)
    x, y = np.floor(where.centroids[0]).astype(int)
    assert sdata.images["he"].values[0, y, x] == 255


@given(chains(), chains(), arrays(float, (5, 2), elements=st.floats(0, SIZE)))
def test_level0_affine_is_the_hand_made_one_and_inverts(image_chain, shapes_chain, level0):
    sdata = build(image_chain[0], shapes_chain[0], [[1.0, 1.0]], radius=1.0)
    m = _elements.level0_affine(sdata, sdata.shapes["nuclei"], "he", name="nuclei")
    intrinsic = carry(np.linalg.inv(shapes_chain[1]), carry(image_chain[1], level0))
    np.testing.assert_allclose(carry(m, intrinsic), level0, atol=1e-3)
    np.testing.assert_allclose(carry(np.linalg.inv(m), carry(m, level0)), level0, atol=1e-3)
    own = _elements.level0_affine(sdata, sdata.images["he"], "he", name="he")
    np.testing.assert_allclose(own, np.eye(3), atol=1e-6)


@given(chains(), st.floats(1, 10), st.floats(1, 10))
def test_polygons_keep_their_area_up_to_the_determinant(chain, width, height):
    sdata = build(Identity(), chain[0], [shapely.box(2, 3, 2 + width, 3 + height)])
    where = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=0.5)
    area = width * height * abs(np.linalg.det(chain[1][:2, :2]))
    np.testing.assert_allclose(where.area_um2, area * 0.25, rtol=1e-6)
    np.testing.assert_allclose(where.centroids, carry(chain[1], [[2 + width / 2, 3 + height / 2]]), atol=1e-6)
    assert np.isnan(where.radius).all()


@given(FACTOR, st.floats(-np.pi, np.pi), st.booleans(), st.floats(0.1, 10))
def test_circles_scale_with_a_similarity(factor, angle, flip, radius):
    turn = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    m = matrix(turn @ np.diag([-1, 1]) if flip else turn, [3, -4])
    sdata = build(Identity(), affine(m), [[1.0, 2.0]], radius=radius)
    where = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=2.0)
    np.testing.assert_allclose(where.radius, factor * radius, rtol=1e-9)
    np.testing.assert_allclose(where.area_um2, np.pi * (factor * radius * 2) ** 2, rtol=1e-9)


def test_agrees_with_spatialdata_through_a_multiscale_image():
    """Shapes in µm, image scaled to µm: SpatialData's own transform of the shapes, divided by µm/px."""
    image = Image2DModel.parse(
        np.zeros((3, 64, 64), dtype=np.uint8), dims=("c", "y", "x"), scale_factors=[2],
        transformations={"global": Scale([0.5, 0.5], axes=("x", "y"))},
    )  # fmt: skip
    turn = affine(matrix([[0, -1], [1, 0]], [30, 2]))
    shapes = ShapesModel.parse(
        np.array([[4.0, 5.0], [6.0, 1.0]]), geometry=0, radius=2, transformations={"global": turn}
    )
    sdata = SpatialData(images={"he": image}, shapes={"nuclei": shapes}, tables={"cells": annotate("nuclei", [0, 1])})
    where = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=0.5)
    moved = spatialdata.transform(shapes, to_coordinate_system="global")
    np.testing.assert_allclose(where.spatial_um, np.column_stack([moved.geometry.x, moved.geometry.y]))
    np.testing.assert_allclose(where.radius, moved["radius"] / 0.5)
    assert [level.shape for level in _elements.image_levels(sdata, "he")] == [(3, 64, 64), (3, 32, 32)]


@pytest.mark.parametrize("unit", [1.0, 1e-3, 1e-6, 1e3])
def test_any_unit_of_the_coordinate_system_will_do(unit):
    to_unit = Scale([0.25 * unit, 0.25 * unit], axes=("x", "y"))
    sdata = build(to_unit, to_unit, [[8.0, 3.0]], radius=2.0)
    where = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=0.25)
    np.testing.assert_allclose(where.centroids, [[8, 3]])
    np.testing.assert_allclose(where.radius, [2])


def test_users_shapes_are_left_alone():
    sdata = build(Identity(), Scale([2, 2], axes=("x", "y")), [[8.0, 3.0]], radius=2.0)
    before = sdata.shapes["nuclei"].copy()
    _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=0.25)
    assert_geodataframe_equal(sdata.shapes["nuclei"], before)


def test_an_image_that_is_flattened_or_elsewhere_is_refused():
    flat = build(affine(matrix([[1, 1], [1, 1]])), Identity(), [[1.0, 1.0]], radius=1.0)
    with pytest.raises(ValueError, match="transformation of image 'he' to 'global' cannot be inverted"):
        _elements.level0_affine(flat, flat.shapes["nuclei"], "he", name="nuclei")
    aligned = build(Identity(), Identity(), [[1.0, 1.0]], radius=1.0, system="aligned")
    with pytest.raises(ValueError, match=r"'nuclei' is not in coordinate system 'global' \(it is in \['aligned'\]\)"):
        _elements.level0_affine(aligned, aligned.shapes["nuclei"], "he", name="nuclei")


def test_rows_without_a_shape_are_unknown_in_the_tables_order():
    centres = [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]
    sdata = build(Identity(), Identity(), centres, radius=[1.0, 2.0, 3.0], ids=[3, 99, 1])
    where = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=1.0)
    np.testing.assert_array_equal(where.centroids, [[3, 3], [np.nan] * 2, [1, 1]])
    np.testing.assert_array_equal(where.radius, [3, np.nan, 1])
    assert where.geometry[1] is None and np.isnan(where.area_um2[1])
    assert np.isnan(where.spatial_um[1]).all()


def test_ids_of_another_type_are_named():
    sdata = build(Identity(), Identity(), [[1.0, 1.0]], radius=1.0, ids=["1"])
    with pytest.raises(ValueError, match="table 'cells' .*'1'.* is in the index of shapes 'nuclei' .*make them"):
        _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=1.0)


def test_multi_region_tables():
    sdata = build(Identity(), Identity(), [[1.0, 1.0], [2.0, 2.0]], radius=1.0)
    sdata.shapes["spots"] = ShapesModel.parse(np.array([[7.0, 7.0], [8.0, 8.0]]), geometry=0, radius=1, index=[1, 2])
    sdata.tables["cells"] = annotate(["spots", "nuclei", "spots"], [2, 2, 1])
    with pytest.raises(KeyError, match="2 shapes annotated by table 'cells', .*nuclei.*spots.*shapes_key="):
        _elements.resolve_shapes(sdata, table_key="cells")
    assert _elements.resolve_shapes(sdata, "spots", table_key="cells") == "spots"
    spots = _elements.unit_geometry(sdata, "cells", "spots", "he", mpp=1.0)
    nuclei = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=1.0)
    np.testing.assert_array_equal(spots.centroids, [[8, 8], [np.nan] * 2, [7, 7]])
    np.testing.assert_array_equal(nuclei.centroids, [[np.nan] * 2, [2, 2], [np.nan] * 2])


def test_an_index_that_repeats_is_refused():
    sdata = build(Identity(), Identity(), [[1.0, 1.0], [2.0, 2.0]], radius=1.0)
    sdata.shapes["nuclei"].index = [1, 1]
    with pytest.raises(ValueError, match="shapes 'nuclei' has the index 1 more than once"):
        _elements.table_rows(sdata, "cells", "nuclei")


# Names and µm/px


def test_the_only_image_and_its_shapes_are_found(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4, image_key="slide", shapes_key="outlines", table_key="units")
    assert _elements.resolve_image(sdata) == "slide"
    assert _elements.resolve_table(sdata) == "units"
    assert _elements.resolve_shapes(sdata, table_key="units") == "outlines"


def test_no_image(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4)
    del sdata.images["he"]
    with pytest.raises(KeyError, match="has no image; add its H&E.*modality=.expression."):
        _elements.resolve_image(sdata)


def test_an_image_that_is_not_in_colour_is_no_candidate(toy_sdata):
    from spatialdata.models import Image2DModel

    sdata = toy_sdata(size=96, n_cells=4)
    sdata.images["dapi"] = Image2DModel.parse(np.zeros((1, 96, 96), dtype=np.uint16))
    assert _elements.resolve_image(sdata) == "he"
    markers = np.zeros((4, 96, 96), dtype=np.uint8)
    sdata.images["focus"] = Image2DModel.parse(markers, c_coords=["DAPI", "ATP1A1", "18S", "AlphaSMA"])
    assert _elements.resolve_image(sdata) == "he"
    del sdata.images["he"], sdata.images["focus"]
    assert _elements.resolve_image(sdata) == "dapi", "readers of outlines need no colour"
    _elements.record_added(sdata, "dapi")
    with pytest.raises(KeyError, match=r"none of the images \['dapi'\] is an H&E.*he_image="):
        _elements.resolve_image(sdata)


def test_two_images_and_no_key(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4)
    sdata.images["dapi"] = sdata.images["he"]
    with pytest.raises(KeyError, match="2 images.*he.*dapi.*image_key="):
        _elements.resolve_image(sdata)
    assert _elements.resolve_image(sdata, "dapi") == "dapi"
    with pytest.raises(KeyError, match="no image named .*if.*he.*dapi"):
        _elements.resolve_image(sdata, "if")


def test_images_that_pastpy_wrote_are_skipped_but_can_be_named(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4)
    sdata.images["virtual_stain"] = sdata.images["he"]
    _elements.record_added(sdata, "virtual_stain")
    assert _elements.resolve_image(sdata) == "he"
    assert _elements.resolve_image(sdata, "virtual_stain") == "virtual_stain"
    assert _elements.resolve_mpp(sdata, "he") == 0.5  # recording keeps what was there


def test_a_thumbnail_is_not_the_slide(toy_sdata):
    """What wsidata attaches: a thumbnail by default, the slide if it is asked to."""
    from spatialdata.models import Image2DModel

    sdata = toy_sdata(size=96, n_cells=4, mpp=None)
    sdata.attrs["slide_properties"] = {"shape": [96, 96], "mpp": 0.25}
    sdata.images["wsi_thumbnail"] = Image2DModel.parse(np.zeros((3, 24, 24), dtype=np.uint8))
    assert _elements.resolve_image(sdata) == "he"
    assert _elements.resolve_mpp(sdata, "he") == 0.25
    del sdata.images["he"]
    with pytest.raises(KeyError, match=r"not among the images \['wsi_thumbnail'\].*attach_images=True"):
        _elements.resolve_image(sdata)
    sdata.images["part"] = Image2DModel.parse(np.zeros((3, 24, 70), dtype=np.uint8))
    assert _elements.resolve_image(sdata) == "part"


def test_an_image_of_several_planes(toy_sdata):
    from spatialdata.models import Image3DModel

    sdata = toy_sdata(size=96, n_cells=4)
    sdata.images["stack"] = Image3DModel.parse(np.zeros((3, 2, 8, 8), dtype=np.uint8))
    with pytest.raises(ValueError, match="image 'stack' has 2 planes along z"):
        _elements.image_levels(sdata, "stack")


def test_a_table_of_labels_is_told_how_to_get_shapes(toy_sdata):
    """The advice, taken word for word, works."""
    from spatialdata.models import Labels2DModel

    sdata = toy_sdata(size=96, n_cells=4)
    labels = np.zeros((96, 96), dtype=int)
    for i, name in enumerate(sdata["cells"].obs["cell_id"]):
        labels[8 * i + 4 : 8 * i + 10, 40:50] = name
    sdata.labels["mask"] = Labels2DModel.parse(labels)
    del sdata.shapes["nuclei"]
    table = sdata["cells"]
    table.obs["region"] = pd.Categorical(["mask"] * 4)
    sdata.set_table_annotates_spatialelement("cells", region="mask")
    with pytest.raises(KeyError, match=r"annotates the labels \['mask'\].*read_labels"):
        _elements.resolve_shapes(sdata, table_key="cells")
    past.io.read_labels(sdata, "mask", key_added="nuclei", table_key_added=None)
    table.obs["region"] = pd.Categorical(["nuclei"] * 4)
    sdata.set_table_annotates_spatialelement("cells", region="nuclei")
    assert _elements.resolve_shapes(sdata, table_key="cells") == "nuclei"


def test_another_mpp_than_the_stored_is_taken_with_a_warning(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4, mpp=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _elements.resolve_mpp(sdata, "he", 0.52) == 0.52
    with pytest.warns(UserWarning, match="mpp=1 is 2 times what is stored of image 'he', 0.5 µm/px"):
        assert _elements.resolve_mpp(sdata, "he", 1.0) == 1.0


def test_no_table(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4)
    del sdata.tables["cells"]
    with pytest.raises(KeyError, match="no table; find its cells with pastpy.pp.segment_nuclei"):
        _elements.resolve_table(sdata)


def test_tables(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4, table_key="a")
    sdata.tables["b"] = sdata.tables["a"].copy()
    with pytest.raises(KeyError, match=r"2 tables, .*a.*b.*table_key="):
        _elements.resolve_table(sdata)
    sdata.tables["cells"] = sdata.tables["a"].copy()
    assert _elements.resolve_table(sdata) == "cells"
    assert _elements.resolve_table(sdata, "b") == "b"
    with pytest.raises(KeyError, match="no table named .*c.*cells"):
        _elements.resolve_table(sdata, "c")


@pytest.mark.parametrize("attrs", ["absent", "empty"])
def test_a_table_without_annotation(toy_sdata, attrs):
    sdata = toy_sdata(size=96, n_cells=4)
    uns = sdata.tables["cells"].uns
    if attrs == "absent":
        del uns["spatialdata_attrs"]
    else:
        uns["spatialdata_attrs"] = {"region": None, "region_key": None, "instance_key": None}
    with pytest.raises(KeyError, match="table 'cells' annotates no element"):
        _elements.resolve_shapes(sdata, table_key="cells")
    with pytest.raises(KeyError, match="annotates no element, not the shapes 'nuclei'"):
        _elements.resolve_shapes(sdata, "nuclei", table_key="cells")


def test_shapes_that_are_not_there_or_not_annotated(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4)
    sdata.shapes["other"] = sdata.shapes["nuclei"]
    with pytest.raises(KeyError, match="annotates .*nuclei.*not the shapes 'other'"):
        _elements.resolve_shapes(sdata, "other", table_key="cells")
    with pytest.raises(KeyError, match="nowhere.*nuclei"):
        _elements.resolve_shapes(sdata, "nowhere", table_key="cells")
    del sdata.shapes["nuclei"]
    with pytest.raises(KeyError, match="shapes annotated by table 'cells'.*other"):
        _elements.resolve_shapes(sdata, table_key="cells")


def test_unknown_mpp_is_never_guessed(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4, mpp=None)
    with pytest.raises(ValueError, match="µm/px of image 'he' is unknown; pass mpp="):
        _elements.resolve_mpp(sdata, "he")
    assert _elements.resolve_mpp(sdata, "he", 0.3) == 0.3
    _elements.set_mpp(sdata, "he", 0.4)
    assert _elements.resolve_mpp(sdata, "he") == 0.4
    assert _elements.resolve_mpp(sdata, "he", 0.3) == 0.3
    with pytest.raises(ValueError, match="unknown"):
        _elements.resolve_mpp(sdata, "dapi")


@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf"), "half", [0.5, 0.25]])
def test_bad_mpp(toy_sdata, value):
    sdata = toy_sdata(size=96, n_cells=4)
    with pytest.raises(ValueError, match="positive number of µm per level-0 pixel"):
        _elements.resolve_mpp(sdata, "he", value)
    with pytest.raises(ValueError, match="mpp of image 'he' must be"):
        _elements.set_mpp(sdata, "he", value)
    assert _elements.resolve_mpp(sdata, "he") == 0.5


def test_only_spatialdata_is_taken(toy_sdata):
    sdata = toy_sdata(size=96, n_cells=4)
    assert _elements.require_spatialdata(sdata) is sdata
    with pytest.raises(TypeError, match="expected a SpatialData object, got AnnData"):
        _elements.require_spatialdata(sdata.tables["cells"])
