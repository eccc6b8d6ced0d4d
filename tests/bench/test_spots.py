"""Cells are summed up to spots as stated: mean of expm1, log1p."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

from pastpy._aggregate import membership
from pastpy.bench import to_spots


def table(xy, frame=None) -> AnnData:
    out = AnnData(np.zeros((len(xy), 0), dtype=np.float32))
    out.obsm["spatial"] = np.asarray(xy, dtype=float)
    if frame is not None:
        out.obsm["past_expression"] = pd.DataFrame(frame, index=out.obs_names)
    return out


@given(st.integers(0, 10_000), st.integers(0, 30), st.integers(0, 8), st.floats(1, 60))
def test_membership_is_the_distance(seed, n_cells, n_spots, radius):
    rng = np.random.default_rng(seed)
    cells, spots = rng.uniform(0, 100, (n_cells, 2)), rng.uniform(0, 100, (n_spots, 2))
    distance = np.linalg.norm(spots[:, None] - cells[None], axis=2)
    np.testing.assert_array_equal(membership(cells, spots, radius).toarray(), distance <= radius)


def test_by_hand():
    cells = table(
        [[0, 0], [1, 0], [100, 0], [np.nan, 0], [0, 1]],
        {"A": np.log1p([1.0, 3, 50, 9, np.nan]), "B": [np.nan] * 5},
    )
    cells.obsm["past_expression"].loc["4"] = np.nan
    spots = table([[0, 0], [100, 0], [500, 0]])
    out = to_spots(cells, spots, spot_diameter_um=10)
    np.testing.assert_allclose(out[:, "A"].X.ravel(), [np.log1p(2.0), np.log1p(50.0), np.nan], rtol=1e-6)
    assert np.isnan(out[:, "B"].X).all()
    assert out.obs["n_cells"].tolist() == [2, 1, 0]


def test_a_cell_without_a_gene_does_not_count_for_it():
    cells = table([[0, 0], [1, 0], [100, 0]], {"A": np.log1p([4.0, 4, 4]), "B": np.log1p([np.nan, 4, np.nan])})
    out = to_spots(cells, table([[0, 0], [100, 0]]), spot_diameter_um=10)
    np.testing.assert_allclose(np.expm1(out.X), [[4, 4], [4, np.nan]], rtol=1e-6)
    assert out.obs["n_cells"].tolist() == [2, 1]


def test_the_samples_diameter_is_known(breast):
    spots = breast["spots"]
    cells = table(spots.obsm["spatial"] + [10.0, 0.0], {"A": np.zeros(spots.n_obs)})
    assert to_spots(cells, spots).obs["n_cells"].tolist() == [1] * spots.n_obs


def test_what_is_missing_is_named():
    with pytest.raises(KeyError, match="run pastpy.tl.impute_expression first"):
        to_spots(table([[0, 0]]), table([[0, 0]]), spot_diameter_um=1)
    with pytest.raises(KeyError, match="pass spot_diameter_um="):
        to_spots(table([[0, 0]], {"A": [1.0]}), table([[0, 0]]))
    with pytest.raises(KeyError, match="spots has no obsm"):
        to_spots(table([[0, 0]], {"A": [1.0]}), AnnData(np.zeros((1, 0))), spot_diameter_um=1)
