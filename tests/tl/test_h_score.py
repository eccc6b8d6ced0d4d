from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose, assert_array_equal

from pastpy.tl._h_score import h_score


@pytest.fixture
def table() -> AnnData:
    """Ten cells: 0, 0, 0, 0, 1+, 1+, 2+, 3+ and two of unknown intensity."""
    density = np.array([0.0, 0.1, 0.1, 0.15, 0.2, 0.3, 0.5, 0.8, np.nan, np.nan], dtype=np.float32)
    obs = pd.DataFrame(
        {
            "past_stain_intensity_HER2": density,
            "past_stain_class_HER2": np.array([0, 0, 0, 0, 1, 1, 2, 3, np.nan, np.nan], dtype=np.float32),
            "past_label": pd.Categorical(
                ["tumour", "stroma", "stroma", "stroma", "tumour", "stroma", "tumour", "tumour", "tumour", "blood"],
                categories=["tumour", "stroma", "blood", "nerve"],
            ),
        },
        index=[f"c{i}" for i in range(10)],
    )
    table = AnnData(np.zeros((10, 0), dtype=np.float32), obs=obs)
    table.uns["past"] = {
        "virtual_stain": {"markers": {"HER2": {"transfer_score": 0.31, "statement": "leave one patient out"}}}
    }
    return table


def test_h_score_by_hand(table):
    out = h_score(table, "HER2")
    assert out.index.tolist() == ["all"]
    row = out.loc["all"]
    assert (row["n_cells"], row["n_unknown"]) == (8, 2)
    assert_allclose(row[["pct_0", "pct_1", "pct_2", "pct_3"]].astype(float), [50, 25, 12.5, 12.5])
    # 1 · 25 + 2 · 12.5 + 3 · 12.5
    assert row["h_score"] == pytest.approx(87.5)


def test_h_score_by_group(table):
    out = h_score(table, "HER2", groupby="past_label")
    assert out.index.tolist() == ["tumour", "stroma", "blood"]
    assert_array_equal(out["n_cells"], [4, 4, 0])
    assert_array_equal(out["n_unknown"], [1, 0, 1])
    assert_allclose(out["h_score"], [25 + 50 + 75, 25, np.nan])
    assert np.isnan(out.loc["blood", "pct_0"])


def test_cells_without_a_group_are_left_out(table):
    table.obs["region_of_interest"] = ["a"] * 4 + [None] * 6
    out = h_score(table, "HER2", groupby="region_of_interest")
    assert out.index.tolist() == ["a"]
    assert out.loc["a", "n_cells"] == 4


def test_thresholds_cut_the_densities_anew(table):
    out = h_score(table, "HER2", thresholds=[0.1, 0.15, 0.7])
    assert_allclose(out.loc["all", ["pct_0", "pct_1", "pct_2", "pct_3"]].astype(float), [12.5, 25, 50, 12.5])
    assert_allclose(h_score(table, "HER2", thresholds=[0.2, 0.4, 0.6])["h_score"], h_score(table, "HER2")["h_score"])


def test_every_row_carries_its_caveats(table):
    out = h_score(table, "HER2", groupby="past_label")
    assert set(out["use"]) == {"research use only"}
    assert set(out["transfer_score"]) == {0.31}
    assert set(out["transfer_statement"]) == {"leave one patient out"}
    assert out.attrs["transfer_statement"] == "leave one patient out"
    assert set(out["caveats"]) == {""}
    del table.uns["past"]
    unknown = h_score(table, "HER2")
    assert np.isnan(unknown.loc["all", "transfer_score"])
    assert unknown.loc["all", "transfer_statement"] == "not measured on another patient"


def test_spatialdata_and_bad_input(table):
    from spatialdata import SpatialData

    sdata = SpatialData(tables={"cells": table})
    assert h_score(sdata, "HER2").loc["all", "h_score"] == pytest.approx(87.5)
    with pytest.raises(KeyError, match=r"'ER' has no virtual stain.*stained markers: \['HER2'\]"):
        h_score(sdata, "ER")
    with pytest.raises(KeyError, match="no obs column 'cluster'"):
        h_score(table, "HER2", groupby="cluster")
    with pytest.raises(ValueError, match="three rising"):
        h_score(table, "HER2", thresholds=[0.2, 0.4])
