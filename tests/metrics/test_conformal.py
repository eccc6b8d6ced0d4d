"""Conformal intervals cover what they promise where units are exchangeable, and do not where they are not."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

import pastpy as past
from pastpy import metrics

GENES = [f"g{i}" for i in range(30)]


def cohort(seed, donors, n=60, spread=1.0):
    """Predictions, measurements with errors that grow with the prediction, their sd, and donors."""
    rng = np.random.default_rng(seed)
    index = pd.Index([f"{d}/{i}" for d in donors for i in range(n)])
    predicted = pd.DataFrame(rng.uniform(2, 6, (len(index), 30)), index=index, columns=GENES)
    sd = 0.2 + 0.2 * predicted
    measured = predicted + spread * sd * rng.standard_normal(predicted.shape)
    return predicted, measured, sd, pd.Series(np.repeat(donors, n), index=index)


OLD, NEW = [f"P{i}" for i in range(10)], [f"Q{i}" for i in range(10)]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_on_new_donors(scaled, level):
    p, m, sd, donor = cohort(0, OLD)
    calibration = metrics.calibrate_intervals(p, m, donor, sd=sd if scaled else None)
    p, m, sd, donor = cohort(1, NEW)
    lower, upper = metrics.conformal_intervals(p, calibration, level=level, sd=sd if scaled else None)
    found = metrics.interval_coverage(m, lower, upper, donor)
    assert found["coverage"].mean() == pytest.approx(level, abs=0.03)
    # scaled intervals are honest for high and for low predictions; plain ones only on average
    inside = ((m >= lower) & (m <= upper)).to_numpy()[p.to_numpy() > 5].mean()
    assert abs(inside - level) < 0.03 if scaled else inside < level - 0.04
    assert "units of a new donor" in calibration.statement


def test_coverage_is_lost_where_errors_are_larger():
    p, m, _, donor = cohort(0, OLD)
    calibration = metrics.calibrate_intervals(p, m, donor)
    p, m, _, donor = cohort(1, NEW, spread=2)
    found = metrics.interval_coverage(m, *metrics.conformal_intervals(p, calibration), donor)
    assert found["coverage"].mean() < 0.7


def test_half_width_is_the_quantile_of_split_conformal():
    errors = np.random.default_rng(0).normal(size=98)
    y = pd.DataFrame({"g": 5 + errors})
    calibration = metrics.calibrate_intervals(y * 0 + 5, y, pd.Series(["a", "b"] * 49))
    assert calibration.half_widths[calibration.row(0.9), 0] == pytest.approx(
        np.sort(np.abs(errors))[90 - 1]
    )  # ⌈0.9 · 99⌉


def test_too_few_errors_give_no_finite_interval():
    y = pd.DataFrame({"g": [1.0, 2, 3, 4], "h": np.nan})
    calibration = metrics.calibrate_intervals(y * 0, y, pd.Series(list("aabb")))
    assert np.isinf(calibration.half_widths[calibration.row(0.9), 0]) and calibration.n.tolist() == [4, 0]
    assert np.isfinite(calibration.half_widths[calibration.row(0.5), 0])
    lower, upper = metrics.conformal_intervals(y, calibration)
    assert (lower["g"] == 0).all() and np.isinf(upper["g"]).all() and upper["h"].isna().all()


def test_a_large_donor_does_not_set_the_width():
    rng = np.random.default_rng(3)
    donor = pd.Series(["big"] * 3000 + ["small"] * 100)
    errors = np.r_[rng.normal(0, 0.1, 3000), rng.normal(0, 2, 100)]
    y = pd.DataFrame({"g": 20 + errors})
    calibration = metrics.calibrate_intervals(y * 0 + 20, y, donor)
    lower, upper = metrics.conformal_intervals(y * 0 + 20, calibration)
    assert metrics.interval_coverage(y, lower, upper, donor).loc["g", "coverage"] == pytest.approx(0.9, abs=0.04)


def test_groups_weigh_the_same():
    errors = np.r_[np.arange(1, 101) / 100, np.full(50, 10.0)]
    y = pd.DataFrame({"g": 20 + errors})
    calibration = metrics.calibrate_intervals(
        y * 0 + 20, y, pd.Series(["a"] * 100 + ["b"] * 50), levels=(0.1, 0.2, 0.3, 0.4, 0.6)
    )
    # a's errors are half of the weight, so a fifth of them is 0.1 of it, and one of 134 effective errors is yet to come
    np.testing.assert_allclose(calibration.half_widths[:, 0], [0.21, 0.41, 0.61, 0.81, 10.0])


@pytest.mark.parametrize("tiny", [1, 3])
def test_a_tiny_donor_does_not_set_the_width(tiny):
    p, m, sd, donor = cohort(0, OLD[:6], n=200)
    keep = np.arange(len(p)) < len(p) - 200 + tiny
    without = metrics.calibrate_intervals(p[donor != "P5"], m, donor, sd=sd)
    found = metrics.calibrate_intervals(p[keep], m, donor, sd=sd)
    row = found.row(0.9)
    assert (found.n == 1000 + tiny).all() and donor[keep].nunique() == 6
    np.testing.assert_allclose(found.half_widths[row], without.half_widths[row], rtol=0.03)
    p, m, sd, donor = cohort(1, NEW)
    lower, upper = metrics.conformal_intervals(p, found, sd=sd)
    assert metrics.interval_coverage(m, lower, upper, donor)["coverage"].mean() == pytest.approx(0.9, abs=0.02)


def test_few_groups_are_said_to_cover_less():
    p, m, _, donor = cohort(0, OLD, n=5)
    few = donor.isin(OLD[:9])
    assert "cover less" not in metrics.calibrate_intervals(p, m, donor).statement
    assert "so few cover less than the nominal level" in metrics.calibrate_intervals(p[few], m, donor).statement


def test_there_and_back_as_json():
    p, m, _, donor = cohort(0, OLD[:2], n=6)
    calibration = metrics.calibrate_intervals(p, m.assign(g3=np.nan), donor, within_patient=True)
    back = metrics.IntervalCalibration.from_dict(json.loads(json.dumps(calibration.to_dict(), allow_nan=False)))
    for name in ("half_widths", "reference_widths", "n"):
        np.testing.assert_array_equal(getattr(back, name), getattr(calibration, name))
    assert back.statement == calibration.statement and "further sections of the same patient" in back.statement
    with pytest.raises(ValueError, match=re.escape("lacks ['n']")):
        metrics.IntervalCalibration.from_dict({k: v for k, v in calibration.to_dict().items() if k != "n"})


def test_what_is_wrong_is_named():
    p, m, sd, donor = cohort(0, OLD[:2], n=20)
    calibration = metrics.calibrate_intervals(p, m, donor)
    for call, message in (
        (lambda: metrics.calibrate_intervals(p, m, donor * 0 + "P"), "at least two groups"),
        (lambda: metrics.calibrate_intervals(p, m, donor, levels=(0, 0.9)), r"0.9 for 90 %, got \[0\]"),
        (lambda: metrics.calibrate_intervals(p, m, donor, levels=(90,)), r"0.9 for 90 %, got \[90\]"),
        (lambda: metrics.calibrate_intervals(p, m, donor[:5]), "35 units have no group"),
        (lambda: metrics.interval_coverage(m, m, m, donor[:5]), "35 units have no group"),
        (lambda: metrics.calibrate_intervals(p, m, donor, sd=sd * 0), "sd must be positive"),
        (lambda: metrics.conformal_intervals(p, calibration, level=0.42), "0.42 was not calibrated"),
        (lambda: metrics.conformal_intervals(p, calibration, sd=sd), "leave sd= out"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


def test_without_a_prediction_is_what_the_mean_alone_gets():
    """A prediction that says nothing is not narrower than none; the old reference, tail to tail, let it look so."""
    rng = np.random.default_rng(0)
    y = pd.DataFrame({"sparse": rng.exponential(1.0, 400) * (rng.random(400) < 0.4), "dense": rng.normal(5, 1, 400)})
    groups = pd.Series(np.repeat(["a", "b", "c", "d"], 100))
    constant = pd.DataFrame(np.tile(y.mean(), (400, 1)), columns=y.columns)
    calibration = past.metrics.calibrate_intervals(constant, y, groups)
    lower, upper = past.metrics.conformal_intervals(constant, calibration, level=0.9)
    np.testing.assert_allclose((upper - lower).iloc[0], calibration.reference_widths[calibration.row(0.9)], rtol=1e-9)
