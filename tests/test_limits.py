"""Odd input through the functions that users call: a right answer or one clear error.

Elsewhere: greyscale, RGBA and 16-bit slide files in ``io/test_wsi.py``, glass without nuclei in ``pp/test_nuclei.py``,
tables without genes in ``tl/test_embed.py``, channel-last and other layouts of images in ``test_geometry.py``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
from shapely.affinity import translate
from spatialdata.models import Image2DModel, ShapesModel

import pastpy as past


@pytest.fixture
def embedded(tiny_model):
    """Image embeddings of an object's cells, in the table's order."""

    def embed(sdata, **arguments) -> np.ndarray:
        arguments = {"modality": "image", "on_misaligned": "ignore", "progress": False, **arguments}
        past.tl.embed(sdata, tiny_model, **arguments)
        return sdata["cells"].obsm["X_past_image"]

    return embed


@pytest.fixture
def expected(toy_sdata, embedded) -> np.ndarray:
    """Embeddings of the toy tissue as it is."""
    return embedded(toy_sdata())


def with_pixels(sdata, change: Callable[[np.ndarray], np.ndarray], dims="cyx", names=None):
    """The object with the pixels, uint8 (3, y, x), changed."""
    pixels = change(sdata["he"].data.compute())
    sdata["he"] = Image2DModel.parse(pixels, dims=tuple(dims), c_coords=names)
    return sdata


def with_shape(sdata, row: int, geometry):
    """The object with another geometry in a row of its shapes, whatever SpatialData would say of it."""
    shapes = sdata["nuclei"].copy()
    shapes.iloc[row, shapes.columns.get_loc("geometry")] = geometry
    sdata.shapes["nuclei"] = shapes
    return sdata


@pytest.mark.parametrize(
    ("change", "dims", "names"),
    [
        pytest.param(lambda p: np.concatenate([p, np.full_like(p[:1], 255)]), "cyx", list("rgba"), id="RGBA"),
        pytest.param(lambda p: np.concatenate([p, np.full_like(p[:1], 255)]), "cyx", None, id="RGBA, unnamed"),
        pytest.param(lambda p: p.astype(np.uint16) * 257, "cyx", None, id="16 bits"),
        pytest.param(lambda p: (p / 255).astype(np.float32), "cyx", None, id="floats to 1"),
        pytest.param(lambda p: p.transpose(1, 2, 0), "yxc", None, id="channels last"),
        pytest.param(lambda p: p[::-1], "cyx", list("bgr"), id="BGR, named"),
        pytest.param(lambda p: np.concatenate([p[:1] * 0, p]), "cyx", list("argb"), id="ARGB, named"),
    ],
)
def test_the_same_picture_stored_otherwise(toy_sdata, embedded, expected, change, dims, names):
    found = embedded(with_pixels(toy_sdata(), change, dims, names))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda p: p[:1], "image 'he' has 1 channels; an H&E image has 3", id="grey"),
        pytest.param(lambda p: p.astype(np.uint16), "'he' is uint16, but no pixel .* above 2.. of 65535", id="8 of 16"),
        pytest.param(lambda p: p.astype(np.int32) * 16, "looks like values of fewer bits.*image >> 4", id="12 of 32"),
        pytest.param(lambda p: p.astype(np.float32), "float pixels up to 2.*; store them as uint8", id="floats to 255"),
    ],
)
def test_pixels_that_mean_something_else(toy_sdata, embedded, change, message):
    sdata = with_pixels(toy_sdata(), change)
    with pytest.raises(ValueError, match=message):
        embedded(sdata)
    assert not list(sdata["cells"].obsm) or list(sdata["cells"].obsm) == ["spatial"]


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(lambda g: translate(g, 5000, 0), id="outside"),
        pytest.param(lambda g: translate(g, -300, -300), id="before the corner"),
        pytest.param(lambda g: shapely.Polygon(), id="empty"),
        pytest.param(lambda g: None, id="missing"),
    ],
)
def test_a_cell_without_pixels_is_nan_and_the_others_stay(toy_sdata, embedded, expected, place):
    sdata = toy_sdata()
    with pytest.warns(UserWarning, match="1 of 40 rows could not be embedded"):
        found = embedded(with_shape(sdata, 3, place(sdata["nuclei"].geometry.iloc[3])))
    assert np.isnan(found[3]).all() and sdata["cells"].obs["past_valid"].tolist() == [i != 3 for i in range(40)]
    np.testing.assert_allclose(np.delete(found, 3, axis=0), np.delete(expected, 3, axis=0), atol=1e-6)


def test_nan_coordinates(toy_sdata, embedded, tiny_model):
    expected = embedded(toy_sdata(shapes="circles"))
    sdata = with_shape(toy_sdata(shapes="circles"), 3, shapely.Point(np.nan, np.nan))
    with pytest.warns(UserWarning, match="1 of 40 rows could not be embedded"):
        found = embedded(sdata)
    assert np.isnan(found[3]).all() and np.isnan(sdata["cells"].obsm["spatial"][3]).all()
    np.testing.assert_allclose(np.delete(found, 3, axis=0), np.delete(expected, 3, axis=0), atol=1e-6)
    past.tl.impute_expression(sdata, tiny_model, modality="image", on_misaligned="ignore", progress=False)
    assert sdata["cells"].obsm["past_expression"].isna().all(axis=1).tolist() == [i == 3 for i in range(40)]


def test_no_cell_on_the_image(toy_sdata, embedded):
    sdata = toy_sdata()
    moved = sdata["nuclei"].copy()
    moved["geometry"] = moved.geometry.translate(9000, 9000)
    sdata["nuclei"] = ShapesModel.parse(moved)
    with pytest.warns(UserWarning, match="40 of 40 rows could not be embedded"):
        assert np.isnan(embedded(sdata)).all()


def test_one_cell_is_embedded_as_among_many(toy_sdata, embedded, expected):
    sdata = toy_sdata()
    sdata["cells"] = sdata["cells"][[5]].copy()
    np.testing.assert_allclose(embedded(sdata), expected[[5]], atol=1e-6)


def test_tissue_of_one_nucleus(toy_sdata, tiny_model):
    sdata = toy_sdata(n_cells=1)
    del sdata.tables["cells"], sdata.shapes["nuclei"]
    past.pp.segment_nuclei(sdata, progress=False)
    past.tl.embed(sdata, tiny_model, modality="image", on_misaligned="ignore", progress=False)
    assert sdata["cells"].n_obs == 1 and np.isfinite(sdata["cells"].obsm["X_past"]).all()


def test_glass_holds_no_tissue(toy_sdata):
    sdata = with_pixels(toy_sdata(), lambda p: np.full_like(p, 240))
    with pytest.raises(ValueError, match="no tissue found on image 'he'; check that it is H&E"):
        past.pp.find_tissue(sdata)
    assert list(sdata.shapes) == ["nuclei"]


def test_ids_that_stand_twice(toy_sdata, embedded, expected):
    sdata = toy_sdata()
    index = sdata["nuclei"].index.to_numpy().copy()
    index[1] = index[0]
    sdata["nuclei"].index = index
    with pytest.raises(ValueError, match="shapes 'nuclei' has the index 1 more than once"):
        embedded(sdata)
    sdata = toy_sdata()
    sdata["cells"].obs["cell_id"] = np.r_[2, sdata["cells"].obs["cell_id"].to_numpy()[1:]]
    with pytest.raises(
        ValueError, match=r"obs\['cell_id'\] of table 'cells' has 1 ids of 'nuclei' more than once \(2\)"
    ):
        embedded(sdata)
    # names of rows may stand twice: they link nothing
    sdata = toy_sdata()
    sdata["cells"].obs_names = ["a", "a", *sdata["cells"].obs_names[2:]]
    np.testing.assert_allclose(embedded(sdata), expected, atol=1e-6)


def test_categorical_ids(toy_sdata, embedded, expected):
    sdata = toy_sdata()
    shapes = sdata["nuclei"].copy()
    shapes.index = pd.CategoricalIndex(shapes.index.astype(str))
    sdata.shapes["nuclei"] = shapes
    sdata["cells"].obs["cell_id"] = pd.Categorical(sdata["cells"].obs["cell_id"].astype(str))
    np.testing.assert_allclose(embedded(sdata), expected, atol=1e-6)


@pytest.mark.parametrize(("version", "mark"), [(2, ".zgroup"), (3, "zarr.json")])
def test_stores_of_both_zarr_formats(toy_sdata, embedded, expected, tmp_path, version, mark):
    from spatialdata._io import format as formats

    chosen = {2: formats.SpatialDataContainerFormatV01, 3: formats.SpatialDataContainerFormatV02}[version]()
    toy_sdata().write(tmp_path / "a.zarr", sdata_formats=chosen)
    assert (tmp_path / "a.zarr" / mark).is_file()
    sdata = spatialdata.read_zarr(tmp_path / "a.zarr")
    np.testing.assert_allclose(embedded(sdata), expected, atol=1e-6)
    past.io.write_store(sdata, tmp_path / "b.zarr")
    again = spatialdata.read_zarr(tmp_path / "b.zarr")["cells"]
    np.testing.assert_array_equal(again.obsm["X_past_image"], sdata["cells"].obsm["X_past_image"])


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_store_that_cannot_be_written(toy_sdata, embedded, expected, tmp_path):
    store = tmp_path / "locked" / "a.zarr"
    past.io.write_store(toy_sdata(), store)
    paths = [store.parent, *store.parent.rglob("*")]
    before = snapshot(store)
    for path in paths:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        sdata = spatialdata.read_zarr(store)
        np.testing.assert_allclose(embedded(sdata), expected, atol=1e-6)
        if os.geteuid() != 0:  # the superuser may write anywhere
            with pytest.raises(PermissionError, match="locked"):
                past.io.write_store(sdata, store.with_name("b.zarr"))
        with pytest.raises(FileExistsError, match=r"a\.zarr' exists; choose another path"):
            past.io.write_store(sdata, store)
        assert snapshot(store) == before
    finally:
        for path in paths:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def two_regions(toy_sdata):
    """One object, one table, two slides with an image and shapes of their own."""
    import anndata
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    a, b = toy_sdata(seed=1), toy_sdata(seed=2, image_key="he2", shapes_key="nuclei2")
    table = anndata.concat([a["cells"], b["cells"]], index_unique="-")
    table.obs["region"] = pd.Categorical(["nuclei"] * 40 + ["nuclei2"] * 40)
    both = SpatialData(
        images={"he": a["he"], "he2": b["he2"]},
        shapes={"nuclei": a["nuclei"], "nuclei2": b["nuclei2"]},
        tables={
            "cells": TableModel.parse(
                table,
                region=["nuclei", "nuclei2"],
                region_key="region",
                instance_key="cell_id",
                overwrite_metadata=True,
            )
        },
    )
    both.attrs["past"] = {"mpp": {"he": 0.5, "he2": 0.5}}
    return both, a, b


def test_a_table_of_several_regions(toy_sdata, embedded):
    both, a, b = two_regions(toy_sdata)
    with pytest.raises(
        KeyError, match="annotates 2 shapes, so name the image of each, image_key={'nuclei': …, 'nuclei2'"
    ):
        embedded(both)
    found = embedded(both, image_key={"nuclei": "he", "nuclei2": "he2"})
    np.testing.assert_allclose(found, np.concatenate([embedded(a), embedded(b)]), atol=1e-6)
    both, *_ = two_regions(toy_sdata)
    with pytest.warns(UserWarning, match="40 of 80 rows could not be embedded"):
        alone = embedded(both, image_key="he2", shapes_key="nuclei2")
    np.testing.assert_allclose(alone[40:], found[40:], atol=1e-6)


@pytest.fixture
def neighbours(tiny_model):
    """As ``tiny_model``, with cells that look at their neighbours."""
    from dataclasses import replace

    import torch

    from pastpy.models import PAST

    torch.manual_seed(0)
    config = replace(tiny_model.config, neighbours=4, neighbour_radius_um=40.0)
    model = PAST(config, tiny_model.card)
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


@pytest.mark.parametrize("call", [past.tl.embed, past.tl.impute_expression])
def test_cores_of_a_microarray_do_not_see_each_other(toy_sdata, neighbours, call):
    """Each core of two that touch gets the values that it gets with the other one left out of the table."""
    slot = {past.tl.embed: "X_past_image", past.tl.impute_expression: "past_expression"}[call]
    arguments = {"modality": "image", "on_misaligned": "ignore", "progress": False}
    sdata, mixed = toy_sdata(), toy_sdata()
    left = sdata["cells"].obsm["spatial"][:, 0] < 64
    sdata["cells"].obs["core"] = pd.Categorical(np.where(left, "A1", "A2"))
    call(sdata, neighbours, library_key="core", **arguments)
    call(mixed, neighbours, **arguments)
    found = np.asarray(sdata["cells"].obsm[slot])
    assert np.abs(found - np.asarray(mixed["cells"].obsm[slot])).max() > 1e-3, "without it, neighbours cross the border"
    for core in (left, ~left):
        alone = toy_sdata()
        alone["cells"] = alone["cells"][core].copy()
        call(alone, neighbours, **arguments)
        np.testing.assert_allclose(found[core], np.asarray(alone["cells"].obsm[slot]), atol=1e-5)
    (facts,) = sdata["cells"].uns["past"].values()
    assert facts["library_key"] == "core"


def test_libraries_that_are_not_known(toy_sdata, embedded):
    sdata = toy_sdata()
    with pytest.raises(KeyError, match=r"table 'cells' has no obs column 'core' \(library_key=\)"):
        embedded(sdata, library_key="core")
    sdata["cells"].obs["core"] = ["A1"] * 39 + [None]
    with pytest.raises(ValueError, match="no value in 1 of 40 rows"):
        embedded(sdata, library_key="core")
