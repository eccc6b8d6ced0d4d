"""Scores per gene with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pastpy import metrics


@given(st.integers(0, 10_000), st.integers(4, 40))
def test_scores_equal_scipys(seed, n):
    rng = np.random.default_rng(seed)
    a, b = (
        pd.DataFrame(rng.integers(0, 6, (n, 3)) + rng.normal(0, 0.1, (n, 3)), columns=list("abc")) for _ in range(2)
    )
    found = metrics.expression(a, b)
    for gene in "abc":
        assert found.loc[gene, "pearson"] == pytest.approx(stats.pearsonr(a[gene], b[gene])[0], abs=1e-9)
        assert found.loc[gene, "spearman"] == pytest.approx(stats.spearmanr(a[gene], b[gene])[0], abs=1e-9)
        assert found.loc[gene, "mse"] == pytest.approx(((a[gene] - b[gene]) ** 2).mean())


def test_units_are_matched_by_name_and_nan_left_out():
    a = pd.DataFrame({"g": [1.0, 2, 3, 4, np.nan]}, index=list("vwxyz"))
    b = pd.DataFrame({"g": [9.0, 3, 2, 1, 7]}, index=list("zxwvu"))
    found = metrics.expression(a, b)
    assert (found.loc["g", "pearson"], found.loc["g", "n"]) == (pytest.approx(1.0), 3)


def test_constant_genes_are_not_scored():
    a = pd.DataFrame({"g": [0.1] * 5, "h": range(5)})
    found = metrics.expression(a, a.assign(g=range(5)))
    assert np.isnan(found.loc["g", "pearson"]) and np.isnan(found.loc["g", "spearman"])
    assert found.loc["h", "pearson"] == pytest.approx(1)


def test_bad_frames_are_named():
    a = pd.DataFrame({"g": [1.0, 2]})
    with pytest.raises(ValueError, match="share no unit"):
        metrics.expression(a, a.set_axis(["x", "y"], axis=0))
    with pytest.raises(ValueError, match="measured has a unit or a gene twice"):
        metrics.expression(a, a.set_axis([0, 0], axis=0))
    with pytest.raises(KeyError, match="not in both frames, e.g. \\['h'\\]"):
        metrics.expression(a, a, genes=["g", "h"])
