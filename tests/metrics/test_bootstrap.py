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


@pytest.mark.parametrize("n_unknown", [0, 7])
@pytest.mark.parametrize("n_groups", [3, 4, 6, 10])
def test_few_groups_cover_too(n_groups, n_unknown):
    scores = np.random.default_rng(1).normal(0.3, 0.1, (n_groups, 4000))
    scores = np.concatenate([scores, np.full((n_unknown, 4000), np.nan)])
    _, lower, upper = bootstrap_groups(scores)
    # 4000 data sets: standard error of the coverage 0.4 %
    assert 0.93 <= ((lower <= 0.3) & (upper >= 0.3)).mean() <= 0.97


def test_three_groups_have_students_interval():
    mean, lower, upper = bootstrap_groups(np.array([[1.0], [2.0], [3.0]]))
    half = 4.302653 / np.sqrt(3)  # the 97.5 % quantile of t with two degrees of freedom; a standard deviation of 1
    np.testing.assert_allclose([mean[0], lower[0], upper[0]], [2, 2 - half, 2 + half], rtol=1e-6)


def test_missing_groups_are_left_out():
    few = np.array([[1.0, 1.0, 1.0, np.nan], [2.0, 3.0, np.nan, np.nan], [3.0] + [np.nan] * 3, [np.nan] * 4])
    mean, lower, upper = bootstrap_groups(few)
    np.testing.assert_array_equal(mean, [2.0, 2.0, 1.0, np.nan])
    # two groups are too few for an interval
    assert lower[0] < 2 < upper[0] and np.isnan(lower[1:]).all() and np.isnan(upper[1:]).all()


@pytest.mark.parametrize("bad", [{"confidence": 1.0}, {"n_boot": 0}])
def test_bad_arguments(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        bootstrap_groups(np.ones((3, 1)), **bad)


def test_an_infinite_score_is_not_left_out():
    mean, lower, upper = bootstrap_groups(np.array([[1.0, 1.0], [2.0, 2.0], [np.inf, np.nan]]))
    np.testing.assert_array_equal(mean, [np.inf, 1.5])
    assert np.isnan([lower, upper]).all()


def test_intervals_of_few_resampled_groups_cover():
    """Eight groups: the percentiles themselves would cover some 92 of 95 %."""
    values = np.random.default_rng(3).normal(size=(8, 4000))
    _, lower, upper = bootstrap_groups(values, n_boot=1000)
    assert np.mean((lower <= 0) & (upper >= 0)) == pytest.approx(0.95, abs=0.015)
