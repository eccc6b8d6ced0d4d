"""The simulated cohort holds the truth it states."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from anndata import AnnData
from lifelines import CoxPHFitter
from scipy.sparse import csr_matrix

from pastpy.datasets import simulate_cohort

SHARES = {"tumour": 0.45, "stroma": 0.35, "immune": 0.2}


@pytest.fixture(scope="module")
def cells():
    """1000 cells whose predicted expression and counts name the cell, so that a draw can be traced back."""
    labels = np.repeat(list(SHARES), [450, 350, 200])
    number = np.arange(1000)
    obs = pd.DataFrame({"label": pd.Categorical(labels), "number": number}, index=[f"c{i}" for i in number])
    table = AnnData(X=csr_matrix(number[:, None].astype(np.int32)), obs=obs, var=pd.DataFrame(index=["G"]))
    table.obsm["past_expression"] = pd.DataFrame({"ERBB2": number / 2.0}, index=obs.index)
    table.obsm["X_past"] = np.column_stack([number, -number]).astype(np.float32)
    table.obsm["spatial"] = np.zeros((1000, 2))
    table.layers["more"] = table.X * 3
    table.uns["past"] = {"embed": {"model": "past-mini"}}
    return table


def patients(cohort) -> pd.DataFrame:
    """A row a patient: outcome and standardised true share of the niche."""
    truth = cohort.uns["past"]["simulate_cohort"]
    share = pd.Series(truth["niche_share"], index=truth["patient_id"])
    out = cohort.obs.groupby("patient_id", observed=False)[["SIMULATED_months", "SIMULATED_event"]].first()
    assert (cohort.obs.groupby("patient_id", observed=False)["SIMULATED_months"].nunique() == 1).all()
    return out.assign(share=(share - share.mean()) / share.std(ddof=0))


def test_cells_come_with_all_that_belongs_to_them(cells):
    before = cells.copy()
    cohort = simulate_cohort(cells, label_key="label", n_patients=6, cells_per_patient=50)
    number = cohort.obs["number"].to_numpy()
    assert cohort.shape == (300, 1) and cohort.obs_names.is_unique
    assert list(cohort.obs["source_cell"]) == [f"c{i}" for i in number]
    np.testing.assert_array_equal(cohort.X.toarray().ravel(), number)
    np.testing.assert_array_equal(cohort.layers["more"].toarray().ravel(), 3 * number)
    np.testing.assert_array_equal(cohort.obsm["X_past"][:, 1], -number)
    np.testing.assert_array_equal(cohort.obsm["past_expression"]["ERBB2"], number / 2)
    assert list(cohort.obsm["past_expression"].index) == list(cohort.obs_names)
    assert "spatial" not in cohort.obsm
    assert cohort.obs["patient_id"].dtype == "category" and cohort.obs["patient_id"].value_counts().eq(50).all()
    assert cohort.uns["past"]["embed"] == {"model": "past-mini"}
    assert list(cells.obs) == list(before.obs) and "simulate_cohort" not in cells.uns["past"]


def test_composition_is_the_real_one_on_average_and_each_patients_own(cells):
    cohort = simulate_cohort(cells, label_key="label", n_patients=400, cells_per_patient=200)
    shares = pd.crosstab(cohort.obs["patient_id"], cohort.obs["label"], normalize="index")
    for label, p in SHARES.items():
        spread = np.sqrt(p * (1 - p) / 11)  # of a Dirichlet with concentration 10
        assert abs(shares[label].mean() - p) < 4 * spread / np.sqrt(400)
        assert shares[label].std() == pytest.approx(np.hypot(spread, np.sqrt(p * (1 - p) / 200)), rel=0.12)
    truth = cohort.uns["past"]["simulate_cohort"]
    assert truth["niche"] == "tumour"
    error = shares.loc[truth["patient_id"], "tumour"].to_numpy() - truth["niche_share"]
    assert np.abs(error).max() < 5 * np.sqrt(0.25 / 200)


@pytest.mark.parametrize("log_hazard_ratio", [1.5, -0.7, 0.0])
def test_cox_recovers_the_log_hazard_ratio(cells, log_hazard_ratio):
    cohort = simulate_cohort(
        cells, label_key="label", n_patients=1500, cells_per_patient=2, log_hazard_ratio=log_hazard_ratio, seed=3
    )
    fit = CoxPHFitter().fit(patients(cohort), "SIMULATED_months", "SIMULATED_event")
    low, high = fit.confidence_intervals_.loc["share"]
    assert low <= log_hazard_ratio <= high
    assert high - low < 0.35


def test_the_sign_holds_on_small_cohorts_over_seeds(cells):
    signs = []
    for seed in range(8):
        cohort = simulate_cohort(cells, label_key="label", n_patients=60, cells_per_patient=2, seed=seed)
        df = patients(cohort)
        signs.append(CoxPHFitter().fit(df, "SIMULATED_months", "SIMULATED_event").params_["share"] > 0)
    assert all(signs)


def test_times_of_the_average_patient_are_weibull(cells):
    cohort = simulate_cohort(
        cells, label_key="label", n_patients=2000, cells_per_patient=1, log_hazard_ratio=0, censoring=0
    )
    months = patients(cohort)["SIMULATED_months"]
    scale = 36 / np.log(2) ** (1 / 1.2)
    assert scipy.stats.kstest(months, scipy.stats.weibull_min(1.2, scale=scale).cdf).pvalue > 0.01


@pytest.mark.parametrize("censoring", [0.0, 0.05, 0.3, 0.8])
def test_share_censored(cells, censoring):
    cohort = simulate_cohort(cells, label_key="label", n_patients=1000, cells_per_patient=1, censoring=censoring)
    events = patients(cohort)["SIMULATED_event"]
    assert events.dtype == bool
    assert abs((1 - events.mean()) - censoring) <= 4 * np.sqrt(censoring * (1 - censoring) / 1000)


def test_seed(cells):
    first, again, other = (simulate_cohort(cells, label_key="label", n_patients=5, seed=s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(first.obs, again.obs)
    assert first.uns["past"] == again.uns["past"]
    assert not np.allclose(first.obs["SIMULATED_months"], other.obs["SIMULATED_months"])


def test_niche_by_name_and_by_default(cells):
    chosen = simulate_cohort(cells, label_key="label", niche="immune", n_patients=3)
    assert chosen.uns["past"]["simulate_cohort"]["niche"] == "immune"
    # 50:50 is a tie, settled by name order
    common = cells[np.r_[:225, 450:675]]
    assert simulate_cohort(common, label_key="label", n_patients=3).uns["past"]["simulate_cohort"]["niche"] == "stroma"


def test_survives_the_store(cells, tmp_path):
    from anndata import read_h5ad

    cohort = simulate_cohort(cells, label_key="label", n_patients=4, cells_per_patient=10)
    cohort.write_h5ad(tmp_path / "cohort.h5ad")
    back = read_h5ad(tmp_path / "cohort.h5ad")
    np.testing.assert_array_equal(back.obs["SIMULATED_event"], cohort.obs["SIMULATED_event"])
    assert back.uns["past"]["simulate_cohort"]["niche"] == "tumour"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"label_key": "kind"}, KeyError, "no column 'kind' in obs"),
        ({"expression_key": "foo"}, KeyError, "no 'foo' in obsm"),
        ({"expression_key": "X_past"}, TypeError, "must be a DataFrame"),
        ({"niche": "bone"}, KeyError, "niche .*bone.* is no label .*immune.*stroma.*tumour"),
        ({"n_patients": 1}, ValueError, "n_patients must be"),
        ({"cells_per_patient": 0}, ValueError, "cells_per_patient must be"),
        ({"n_patients": 2.5}, ValueError, "n_patients must be"),
        ({"log_hazard_ratio": np.nan}, ValueError, "log_hazard_ratio must be"),
        ({"censoring": 1.0}, ValueError, "censoring must be"),
        ({"censoring": -0.1}, ValueError, "censoring must be"),
    ],
)
def test_bad_arguments(cells, change, error, message):
    with pytest.raises(error, match=message):
        simulate_cohort(cells, **{"label_key": "label", **change})


def test_bad_labels(cells):
    some = cells[:10].copy()
    some.obs["hole"] = ["a"] * 9 + [None]
    with pytest.raises(ValueError, match="1 cells have no label"):
        simulate_cohort(some, label_key="hole")
    with pytest.raises(ValueError, match="at least two labels"):
        simulate_cohort(some, label_key="label")
    with pytest.raises(TypeError, match="must be an AnnData"):
        simulate_cohort(cells.obs, label_key="label")
