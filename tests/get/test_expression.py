from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import pastpy as past


@pytest.fixture
def table() -> AnnData:
    """Three cells with measured counts of one gene, predicted values of two and a gene never seen."""
    table = AnnData(np.ones((3, 1), dtype=np.float32), obs=pd.DataFrame({"region": list("aab")}, index=list("xyz")))
    table.obsm["spatial"] = np.arange(6.0).reshape(3, 2)
    table.obsm["X_past"] = np.zeros((3, 4), dtype=np.float32)
    table.obsm["past_expression"] = pd.DataFrame(
        {"HLA-A": [1.0, 2.0, np.nan], "never": np.full(3, np.nan)}, index=table.obs_names
    )
    table.obsp["spatial_connectivities"] = np.eye(3)
    table.uns["past"] = {"impute_expression": {"model": "toy"}}
    return table


def test_expression_is_the_frame_with_obs_and_coordinates(table):
    out = past.get.expression(table)
    assert out.X.dtype == np.float32
    assert out.var_names.tolist() == ["HLA-A", "never"]
    assert out.obs_names.tolist() == ["x", "y", "z"]
    np.testing.assert_array_equal(out.X[:, 0], [1, 2, np.nan])
    assert np.isnan(out.X[:, 1]).all()
    assert out.obs["region"].tolist() == ["a", "a", "b"]
    np.testing.assert_array_equal(out.obsm["spatial"], table.obsm["spatial"])
    np.testing.assert_array_equal(out.obsp["spatial_connectivities"], np.eye(3))
    assert out.uns["past"] == {"impute_expression": {"model": "toy"}}


def test_expression_shares_no_memory_with_the_table(table):
    out = past.get.expression(table)
    out.X[:] = 7
    out.obsm["spatial"][:] = 7
    out.obsp["spatial_connectivities"][:] = 7
    out.uns["past"]["impute_expression"]["model"] = "changed"
    out.obs["region"] = "c"
    assert table.obsm["past_expression"].iloc[0, 0] == 1
    assert table.obsm["spatial"].max() == 5
    assert table.obsp["spatial_connectivities"].max() == 1
    assert table.uns["past"]["impute_expression"]["model"] == "toy"
    assert table.obs["region"].tolist() == ["a", "a", "b"]


def test_expression_of_spatialdata_takes_the_cells_table(table):
    from spatialdata import SpatialData

    other = AnnData(np.ones((1, 1), dtype=np.float32))
    sdata = SpatialData(tables={"cells": table, "spots": other})
    assert past.get.expression(sdata).n_obs == 3
    with pytest.raises(KeyError, match=r"DataFrames in obsm: none.*impute_expression"):
        past.get.expression(sdata, table_key="spots")
    with pytest.raises(KeyError, match="no table named 'nuclei'"):
        past.get.expression(sdata, table_key="nuclei")


def test_expression_names_the_candidates(table):
    with pytest.raises(KeyError, match=r"no obsm\['foo_expression'\].*\['past_expression'\]"):
        past.get.expression(table, "foo_expression")
    with pytest.raises(KeyError, match=r"obsm\['X_past'\] is a ndarray"):
        past.get.expression(table, "X_past")
    with pytest.raises(TypeError, match="expected a SpatialData"):
        past.get.expression(pd.DataFrame())
