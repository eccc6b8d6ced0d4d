"""Calibrated intervals around predicted expression, in their slots."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import pastpy as past
from pastpy.metrics import calibrate_intervals


def table_and_calibration(scaled=False, n=300):
    rng = np.random.default_rng(0)
    index = pd.Index([f"c{i}" for i in range(n)])
    signal = rng.uniform(2, 6, n)
    predicted = pd.DataFrame({"told": signal, "guessed": np.full(n, 4.0), "unknown": np.full(n, 1.0)}, index=index)
    sd = pd.DataFrame({g: rng.uniform(0.2, 0.6, n) for g in predicted}, index=index)
    measured = predicted + (sd if scaled else 0.4) * rng.standard_normal(predicted.shape)
    measured["guessed"] = rng.permutation(signal)
    known = ["told", "guessed"]
    calibration = calibrate_intervals(
        predicted[known], measured[known], pd.Series(np.repeat(["P1", "P2"], n // 2), index=index),
        sd=sd[known] if scaled else None,
    )  # fmt: skip
    table = AnnData(np.zeros((n, 0)), obs=pd.DataFrame(index=index))
    table.obsm["past_expression"] = predicted
    return table, calibration, measured, sd


@pytest.mark.parametrize("scaled", [False, True])
def test_slots_and_coverage(scaled):
    table, calibration, measured, sd = table_and_calibration(scaled)
    if scaled:
        with pytest.raises(KeyError, match="past_expression_std"):
            past.tl.conformal(table, calibration)
        table.obsm["past_expression_std"] = sd
    assert past.tl.conformal(table, calibration) is None
    lower, upper = table.obsm["past_expression_lower"], table.obsm["past_expression_upper"]
    assert lower["unknown"].isna().all() and upper["unknown"].isna().all()
    inside = (measured["told"] >= lower["told"]) & (measured["told"] <= upper["told"])
    assert inside.mean() == pytest.approx(0.9, abs=0.03)
    record = table.uns["past"]["conformal"]
    assert record["level"] == 0.9 and record["groups"] == ["P1", "P2"] and record["genes"] == 2
    if not scaled:  # one of the two genes says something
        assert (table.obs["past_abstained"] == 0.5).all()
    strict = past.tl.conformal(table, calibration, max_ratio=0.0, copy=True)
    assert (strict.obs["past_abstained"] == 1).all()


def test_rows_without_prediction_are_abstained_from():
    table, calibration, _, _ = table_and_calibration()
    table.obsm["past_expression"].iloc[3] = np.nan
    past.tl.conformal(table, calibration)
    assert table.obs["past_abstained"].iloc[3] == 1 and np.isnan(table.obsm["past_expression_lower"].iloc[3, 0])


def test_what_is_wrong_is_named_and_nothing_changed():
    table, calibration, _, _ = table_and_calibration()
    with pytest.raises(ValueError, match="was not calibrated"):
        past.tl.conformal(table, calibration, level=0.42)
    table.obsm["past_expression"] = table.obsm["past_expression"][["unknown"]]
    with pytest.raises(ValueError, match="none of the 1 predicted genes was calibrated"):
        past.tl.conformal(table, calibration)
    assert list(table.obsm) == ["past_expression"] and "past" not in table.uns
