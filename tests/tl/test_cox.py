from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from lifelines import CoxPHFitter

from pastpy.tl._cox import cox

OUTCOME = {"duration_col": "months", "event_col": "event"}
#: Standard errors that an estimate stays within 999 times of 1000.
SURE = 3.29


@pytest.fixture
def patients() -> pd.DataFrame:
    """120 patients whose hazard grows with one of two covariates, e^0.8 a unit."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"fraction_T": rng.normal(0, 1, 120), "expression_ERBB2": rng.normal(3, 2, 120)})
    time = rng.exponential(24, 120) / np.exp(0.8 * frame["fraction_T"])
    end = rng.uniform(5, 80, 120)
    frame["months"], frame["event"] = np.minimum(time, end), time <= end
    return frame.set_axis([f"p{i}" for i in range(120)])


def test_equals_lifelines(patients):
    ours = cox(patients, **OUTCOME)
    theirs = CoxPHFitter().fit(patients.astype({"event": int}), **OUTCOME)
    assert type(ours) is CoxPHFitter
    pd.testing.assert_frame_equal(ours.summary, theirs.summary)
    assert ours.concordance_index_ == theirs.concordance_index_
    penalised = cox(patients, penalizer=0.5, covariates=["fraction_T"], **OUTCOME)
    direct = CoxPHFitter(penalizer=0.5).fit(patients[["fraction_T", "months", "event"]], **OUTCOME)
    pd.testing.assert_series_equal(penalised.params_, direct.params_)


def test_finds_the_true_hazard_ratio(patients):
    row = cox(patients, **OUTCOME).summary.loc["fraction_T"]
    assert abs(row["coef"] - 0.8) < SURE * row["se(coef)"]
    assert row["coef"] > SURE * row["se(coef)"]


def test_standardized_ratios_are_per_standard_deviation(patients):
    plain, scaled = cox(patients, **OUTCOME), cox(patients, standardize=True, **OUTCOME)
    expected = plain.params_ * patients[["fraction_T", "expression_ERBB2"]].std()
    np.testing.assert_allclose(scaled.params_, expected, rtol=1e-5)


def test_simulated_outcomes_say_so(patients, capsys):
    simulated = patients.rename(columns={"months": "SIMULATED_months", "event": "SIMULATED_event"})
    fitter = cox(simulated, duration_col="SIMULATED_months", event_col="SIMULATED_event")
    assert "SIMULATED outcomes" in repr(fitter)
    fitter.print_summary(style="ascii")
    assert "SIMULATED_months" in capsys.readouterr().out
    assert "SIMULATED" not in repr(cox(patients, **OUTCOME))


def test_the_frame_is_unchanged(patients):
    before = patients.copy()
    cox(patients, standardize=True, **OUTCOME)
    pd.testing.assert_frame_equal(patients, before)


def test_missing_values_are_named(patients):
    patients.loc[["p3", "p7"], "fraction_T"] = [np.nan, np.inf]
    with pytest.raises(ValueError, match=r"\['fraction_T'\] have missing.*\['p3', 'p7'\] \(2 in all\)"):
        cox(patients, **OUTCOME)
    assert cox(patients, covariates=["expression_ERBB2"], **OUTCOME).params_.index.tolist() == ["expression_ERBB2"]


def test_constant_columns(patients):
    patients["age"] = 300.0
    with pytest.warns(UserWarning, match=r"\['age'\] are the same for all patients"):
        fitter = cox(patients, **OUTCOME)
    assert "age" not in fitter.params_
    with pytest.raises(ValueError, match=r"\['age'\] are the same for all 120 patients"):
        cox(patients, covariates=["fraction_T", "age"], **OUTCOME)
    with pytest.warns(UserWarning, match="age"), pytest.raises(ValueError, match="no covariate is left"):
        cox(patients[["age", "months", "event"]], **OUTCOME)


def test_how_many_cells_were_seen_is_no_covariate_unless_named(patients):
    patients["n_cells"] = np.arange(len(patients)) % 7 + 100.0
    assert "n_cells" not in cox(patients, **OUTCOME).params_
    named = cox(patients, covariates=["fraction_T", "n_cells"], **OUTCOME)
    assert list(named.params_.index) == ["fraction_T", "n_cells"]


def test_fractions_that_sum_to_one_need_a_choice_or_a_penalty(patients):
    rng = np.random.default_rng(1)
    shares = rng.dirichlet([2, 2, 2], 120)
    for i, label in enumerate("abc"):
        patients[f"fraction_{label}"] = shares[:, i]
    patients = patients.drop(columns="fraction_T")
    with pytest.raises(ValueError, match="4 covariates of 120 patients have only 3.*the 3 fractions sum to 1"):
        cox(patients, **OUTCOME)
    assert len(cox(patients, covariates=["fraction_a", "fraction_b"], **OUTCOME).params_) == 2
    assert len(cox(patients, penalizer=0.1, **OUTCOME).params_) == 4


def test_more_covariates_than_patients_need_a_penalty(patients):
    rng = np.random.default_rng(2)
    wide = patients.iloc[:8].join(
        pd.DataFrame(rng.normal(size=(8, 12)), index=patients.index[:8], columns=[f"expression_{i}" for i in range(12)])
    )
    with pytest.raises(ValueError, match="only 7 independent directions"):
        cox(wide, **OUTCOME)


@pytest.mark.parametrize(
    ("change", "keywords", "error", "message"),
    [
        ({}, {"duration_col": "days"}, KeyError, "no column 'days' for duration_col="),
        ({}, {"covariates": ["age"]}, KeyError, r"no columns \['age'\]"),
        ({}, {"covariates": "fraction_T"}, TypeError, r"use covariates=\['fraction_T'\]"),
        ({}, {"covariates": ["months"]}, ValueError, r"hold the outcome \['months'\]"),
        ({}, {"penalizer": -1}, ValueError, "penalizer must be at least 0"),
        ({"months": -1.0}, {}, ValueError, "'months' of patients .* is not a finite time"),
        ({"months": np.nan}, {}, ValueError, "'months' of patients"),
        ({"event": 2}, {}, ValueError, "'event' of patients .* is not 0 or 1"),
        ({"event": False}, {}, ValueError, "no event was seen"),
        ({"stage": "II"}, {}, TypeError, r"covariates \['stage'\] are not numeric"),
    ],
)
def test_bad_input(patients, change, keywords, error, message):
    with pytest.raises(error, match=message):
        cox(patients.assign(**change), **{**OUTCOME, **keywords})


def test_a_frame_is_asked_for():
    with pytest.raises(TypeError, match="expected a DataFrame"):
        cox({"months": [1]}, **OUTCOME)
    with pytest.raises(ValueError, match="holds no patient"):
        cox(pd.DataFrame({"months": [], "event": []}), **OUTCOME)


def test_a_simulated_cohort_gives_back_its_hazard():
    from anndata import AnnData

    import pastpy as past
    from pastpy.tl._aggregate_patients import aggregate_patients

    labels = pd.Categorical(["immune"] * 60 + ["tumour"] * 90 + ["stroma"] * 50)
    cells = AnnData(
        np.zeros((200, 1), dtype=np.float32), obs=pd.DataFrame({"label": labels}).set_axis(map(str, range(200)))
    )
    cohort = past.datasets.simulate_cohort(
        cells, label_key="label", expression_key=None, n_patients=150, niche="immune", log_hazard_ratio=1.0, seed=3
    )
    outcome = ["SIMULATED_months", "SIMULATED_event"]
    table = aggregate_patients(
        cohort, patient_key="patient_id", label_key="label", expression_key=None, outcome_columns=outcome
    )
    fitter = cox(table, duration_col=outcome[0], event_col=outcome[1], covariates=["fraction_immune"], standardize=True)
    row = fitter.summary.loc["fraction_immune"]
    assert abs(row["coef"] - 1.0) < SURE * row["se(coef)"]
    assert row["coef"] > SURE * row["se(coef)"]
