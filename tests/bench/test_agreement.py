"""Types that only one side has count, and what cannot be compared is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pastpy.bench import deconvolution_agreement


def proportions(seed=0, n=50) -> pd.DataFrame:
    return pd.DataFrame(np.random.default_rng(seed).dirichlet([4, 1, 1, 1], n), columns=list("abcd"))


def test_a_type_that_the_method_lacks_counts():
    reference = proportions()
    found = deconvolution_agreement(reference.drop(columns="a"), reference)
    whole = reference.assign(a=0.0).div(reference[["b", "c", "d"]].sum(axis=1), axis=0)
    pd.testing.assert_frame_equal(found.loc[list("abcd")], deconvolution_agreement(whole, reference).loc[list("abcd")])
    every = found.loc["all types"]
    # the missing type has no correlation of its own, and counts as 0 in the mean
    assert np.isnan(found.loc["a", "pearson"]) and found.loc["a", "mean_predicted"] == 0
    assert every["pearson"] == pytest.approx(found.loc[list("bcd"), "pearson"].sum() / 4)
    assert every["jensen_shannon"] > 0.2 and found.loc["a", "rmse"] > 0.4


def test_a_type_that_the_reference_lacks_counts():
    predicted = proportions()
    found = deconvolution_agreement(predicted, predicted.drop(columns="a"))
    assert found.loc["a", "mean_reference"] == 0 and found.loc["all types", "jensen_shannon"] > 0.2


def test_a_method_that_is_constant_has_no_correlation():
    reference = proportions()
    mean = pd.DataFrame(np.tile(reference.mean(), (50, 1)), columns=reference.columns)
    assert np.isnan(deconvolution_agreement(mean, reference).loc["all types", "pearson"])


def test_doubles_are_refused():
    p = proportions(n=3)
    with pytest.raises(ValueError, match="predicted has a spot or a cell type twice"):
        deconvolution_agreement(pd.concat([p, p]), p)
    with pytest.raises(ValueError, match="reference has a spot or a cell type twice"):
        deconvolution_agreement(p, p.set_axis(list("aabc"), axis=1))
