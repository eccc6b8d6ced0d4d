"""Intervals over donors hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from pastpy.metrics._bootstrap import bootstrap_groups


@pytest.mark.parametrize(("n_groups", "confidence"), [(5, 0.95), (12, 0.8)])
def test_coverage_of_the_mean(n_groups, confidence):
    rng = np.random.default_rng(0)
    _, lower, upper = bootstrap_groups(rng.normal(0.3, 0.1, (n_groups, 2000)), confidence=confidence)
    # 2000 data sets: standard error of the coverage at most 1 %; few groups cost a few points
    assert confidence - 0.05 < ((lower <= 0.3) & (upper >= 0.3)).mean() < confidence + 0.03


def test_missing_groups_are_left_out():
    mean, lower, upper = bootstrap_groups(np.array([[1.0, 1.0, np.nan], [3.0, np.nan, np.nan], [np.nan] * 3]))
    np.testing.assert_array_equal(mean, [2.0, 1.0, np.nan])
    assert lower[0] < 2 < upper[0] and np.isnan(lower[1:]).all() and np.isnan(upper[1:]).all()


@pytest.mark.parametrize("bad", [{"confidence": 1.0}, {"n_boot": 0}])
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        bootstrap_groups(np.ones((3, 1)), **bad)
