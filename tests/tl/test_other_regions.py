"""A table that annotates several shapes, worked one at a time: what the others have stays, if it is of one kind."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

import pastpy as past

GENES = ["KRT8", "ERBB2"]


@pytest.fixture
def saved(tiny_model, tmp_path):
    """A model that can be told from another."""
    tiny_model.save(tmp_path / "model")
    return past.models.load(tmp_path / "model")


@pytest.fixture
def two(toy_sdata) -> SpatialData:
    """The toy tissue with its nuclei in two elements, and rows of one in between those of the other."""
    sdata = toy_sdata()
    table, nuclei = sdata["cells"].copy(), sdata["nuclei"]
    names = np.where(np.arange(len(nuclei)) % 3 == 0, "left", "right")
    table.obs["region"] = pd.Categorical(names)
    del table.uns[TableModel.ATTRS_KEY], table.obsm["spatial"]
    shapes = {name: ShapesModel.parse(nuclei[names == name]) for name in ("left", "right")}
    annotates = {"region": ["left", "right"], "region_key": "region", "instance_key": "cell_id"}
    return SpatialData(
        images={"he": sdata["he"]}, shapes=shapes, tables={"cells": TableModel.parse(table, **annotates)},
        attrs=sdata.attrs,
    )  # fmt: skip


@pytest.fixture
def whole(two, saved):
    """All shapes at once."""
    past.tl.embed(two, saved, modality="image", progress=False)
    past.tl.impute_expression(two, saved, genes=GENES, modality="image", uncertainty=True, progress=False)
    return two["cells"].copy()


def left_of(table) -> np.ndarray:
    return (table.obs["region"] == "left").to_numpy()


def test_one_after_the_other_is_all_at_once(two, saved, whole):
    table = two["cells"]
    for slot in [*table.obsm]:
        del table.obsm[slot]
    table.uns.pop("past")
    del table.obs["past_valid"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        past.tl.embed(two, saved, shapes_key="left", modality="image", progress=False)
    left = left_of(table)
    assert (table.obs["past_valid"].to_numpy() == left).all(), "the others are unknown, and no failure"
    assert np.isnan(table.obsm["spatial"][~left]).all() and np.isfinite(table.obsm["spatial"][left]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        past.tl.embed(two, saved, shapes_key="right", modality="image", progress=False)
    for name in ("left", "right"):
        past.tl.impute_expression(
            two, saved, shapes_key=name, genes=GENES, modality="image", uncertainty=True, progress=False
        )
    for slot, values in whole.obsm.items():
        np.testing.assert_allclose(np.asarray(table.obsm[slot]), np.asarray(values), atol=1e-6, err_msg=slot)
    assert table.obs["past_valid"].all()
    for function in ("embed", "impute_expression"):
        assert table.uns["past"][function]["regions"].keys() == {"left", "right"}


def test_counts_of_the_other_shapes_are_left_out_too(two, saved):
    past.tl.embed(two, saved, shapes_key="left", progress=False)
    table = two["cells"]
    left = left_of(table)
    assert np.isfinite(table.obsm["X_past_expression"][left]).all()
    assert np.isnan(table.obsm["X_past_expression"][~left]).all()


def test_another_model_does_not_share_a_column(two, saved, tiny_model, whole):
    table = two["cells"]
    left = left_of(table)
    with pytest.warns(UserWarning, match=rf"{(~left).sum()} rows of other shapes .* another model.*'X_past'"):
        past.tl.embed(two, tiny_model, shapes_key="left", modality="image", progress=False)
    assert np.isnan(table.obsm["X_past"][~left]).all() and not table.obs["past_valid"][~left].any()
    assert table.uns["past"]["embed"]["regions"].keys() == {"left"}


def test_other_genes_do_not_share_a_frame(two, saved, whole):
    table = two["cells"]
    left = left_of(table)
    with pytest.warns(UserWarning, match="rows of other shapes .*'past_expression'"):
        past.tl.impute_expression(two, saved, shapes_key="left", genes=GENES[:1], modality="image", progress=False)
    frame = table.obsm["past_expression"]
    assert list(frame) == GENES[:1]
    assert frame[~left].isna().all(axis=None) and frame[left].notna().all(axis=None)
    assert "past_expression_std" not in table.obsm


def test_another_key_has_places_for_all(two, saved, whole):
    before = whole.obsm["spatial"]
    past.tl.embed(two, saved, shapes_key="left", modality="image", key_added="mine", progress=False)
    np.testing.assert_allclose(two["cells"].obsm["spatial"], before)
    assert np.isfinite(two["cells"].obsm["X_past"]).all()


def test_coordinates_of_another_kind_are_kept_aside(two, saved):
    table = two["cells"]
    table.obsm["spatial"] = np.arange(2.0 * table.n_obs).reshape(-1, 2) + 1e6
    with pytest.warns(UserWarning, match="held other coordinates"):
        past.tl.embed(two, saved, shapes_key="left", modality="image", progress=False)
    left = left_of(table)
    assert np.isnan(table.obsm["spatial"][~left]).all(), "no two units in one column"
    assert table.obsm["spatial_before_past"].min() >= 1e6


def test_a_new_table_has_nothing_of_the_others(two, saved):
    past.tl.impute_expression(two, saved, shapes_key="left", genes=GENES, table_added="genes", progress=False)
    left = left_of(two["cells"])
    assert np.isnan(two["genes"].X[~left]).all() and np.isfinite(two["genes"].X[left]).all()


def test_stains_of_two_shapes(two, saved, whole):
    reference = pd.DataFrame({"low": 0.0, "high": 9.0}, index=GENES)
    table = two["cells"]
    left = left_of(table)
    marker = {"mine": GENES}
    past.tl.virtual_stain(two, marker, shapes_key="left", reference=reference, key_added="left_stain")
    density = table.obs["past_stain_intensity_mine"]
    assert density[~left].isna().all() and density[left].notna().all()
    first = density[left].copy()
    past.tl.virtual_stain(two, marker, shapes_key="right", reference=reference, key_added="right_stain")
    density = table.obs["past_stain_intensity_mine"]
    assert density.notna().all() and density[left].equals(first)
    assert table.obs["past_stain_class_mine"].notna().all()
    with pytest.raises(ValueError, match="already has obs"):
        past.tl.virtual_stain(two, marker, shapes_key="right", reference=reference, key_added="again")
