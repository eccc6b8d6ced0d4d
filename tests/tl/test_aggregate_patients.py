from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from numpy.testing import assert_allclose

from pastpy.tl._aggregate_patients import aggregate_patients


def cells(patients: list[str], labels: list[str | None], expression: dict[str, list[float]], **obs) -> AnnData:
    names = [f"{patient}-{i}" for i, patient in enumerate(patients)]
    frame = pd.DataFrame({"patient_id": pd.Categorical(patients), "label": labels, **obs}, index=names)
    table = AnnData(np.zeros((len(names), 0), dtype=np.float32), obs=frame)
    table.obsm["past_expression"] = pd.DataFrame(expression, index=names)
    return table


@pytest.fixture
def table() -> AnnData:
    return cells(
        ["b", "a", "a", "a", "a"],
        ["T cell", "T cell", "tumour", "tumour", None],
        {"ERBB2": [1.0, 2.0, 4.0, np.nan, 3.0], "KRT8": [np.nan, 1.0, 1.0, 1.0, 2.0]},
        SIMULATED_months=[5, 7, 7, 7, 7],
        SIMULATED_event=[True, False, False, False, False],
    )


def test_one_row_a_patient_by_hand(table):
    out = aggregate_patients(
        table, patient_key="patient_id", label_key="label", outcome_columns=["SIMULATED_months", "SIMULATED_event"]
    )
    assert out.index.tolist() == ["a", "b"]
    assert out.index.name == "patient_id"
    assert out.columns.tolist() == [
        "n_cells",
        "fraction_T cell",
        "fraction_tumour",
        "expression_ERBB2",
        "expression_KRT8",
        "SIMULATED_months",
        "SIMULATED_event",
    ]
    # patient a: four cells, three of them labelled; ERBB2 known in three
    assert_allclose(out.loc["a"], [4, 1 / 3, 2 / 3, 3.0, 1.25, 7, 0])
    assert_allclose(out.loc["b"], [1, 1, 0, 1.0, np.nan, 5, 1])
    assert set(out.dtypes) == {np.dtype(float)}


def test_a_label_left_out_makes_a_table_for_lifelines():
    from lifelines import CoxPHFitter

    rng = np.random.default_rng(0)
    share = rng.uniform(0.1, 0.9, 60)
    objects = [
        cells(
            [f"p{i}"] * 20, ["T cell" if j < round(20 * s) else "tumour" for j in range(20)], {"ERBB2": [0.0] * 20},
            months=[float(rng.exponential(np.exp(2 - 3 * s)))] * 20, event=[1] * 20,
        )
        for i, s in enumerate(share)
    ]  # fmt: skip
    out = aggregate_patients(
        objects, patient_key="patient_id", label_key="label", reference_label="tumour", expression_key=None,
        outcome_columns=["months", "event"],
    )  # fmt: skip
    assert list(out) == ["n_cells", "fraction_T cell", "months", "event"]
    fitter = CoxPHFitter().fit(out.drop(columns="n_cells"), "months", "event")
    assert 1.5 < fitter.params_["fraction_T cell"] < 4.5


def test_a_reference_label_must_be_one(table):
    with pytest.raises(ValueError, match=r"reference_label='B cell' is none of the labels \['T cell', 'tumour'\]"):
        aggregate_patients(table, patient_key="patient_id", label_key="label", reference_label="B cell")
    with pytest.raises(ValueError, match="reference_label='B cell' is a label of label_key="):
        aggregate_patients(table, patient_key="patient_id", reference_label="B cell")


def test_a_patient_may_lie_in_several_objects(table):
    from spatialdata import SpatialData

    second = cells(["a", "c"], ["stroma", None], {"ERBB2": [7.0, 0.0], "KRT8": [6.0, np.nan]})
    both = aggregate_patients(
        [SpatialData(tables={"cells": table}), second], patient_key="patient_id", label_key="label"
    )
    assert both.index.tolist() == ["a", "b", "c"]
    assert_allclose(both["n_cells"], [5, 1, 1])
    assert_allclose(both["fraction_stroma"], [0.25, 0, np.nan])
    assert_allclose(both["expression_ERBB2"], [16 / 4, 1, 0])
    assert_allclose(both["expression_KRT8"], [11 / 5, np.nan, np.nan])
    pd.testing.assert_frame_equal(
        both, aggregate_patients([second, table], patient_key="patient_id", label_key="label")
    )


def test_genes_choose_and_none_leaves_expression_out(table):
    chosen = aggregate_patients(table, patient_key="patient_id", genes=["KRT8"])
    assert chosen.columns.tolist() == ["n_cells", "expression_KRT8"]
    without = aggregate_patients(table, patient_key="patient_id", expression_key=None)
    assert without.columns.tolist() == ["n_cells"]


def test_the_table_is_unchanged(table):
    before = table.copy()
    aggregate_patients(table, patient_key="patient_id", label_key="label")
    pd.testing.assert_frame_equal(table.obs, before.obs)
    pd.testing.assert_frame_equal(table.obsm["past_expression"], before.obsm["past_expression"])


def test_small_patients_are_named_and_left_out(table):
    with pytest.warns(UserWarning, match=r"1 of 2 patients have fewer than 2 cells.*\['b'\]"):
        out = aggregate_patients(table, patient_key="patient_id", min_cells=2)
    assert out.index.tolist() == ["a"]
    with pytest.raises(ValueError, match="no patient has 9 cells; the most is 4"):
        aggregate_patients(table, patient_key="patient_id", min_cells=9)


def test_an_outcome_has_one_value_a_patient(table):
    table.obs["SIMULATED_months"] = [5, 7, 7, 8, 7]
    with pytest.raises(ValueError, match=r"'SIMULATED_months'\] differs within patients \['a'\]"):
        aggregate_patients(table, patient_key="patient_id", outcome_columns=["SIMULATED_months"])
    table.obs["SIMULATED_months"] = [5, 7, 7, np.nan, 7]
    with pytest.raises(ValueError, match="differs within patients"):
        aggregate_patients(table, patient_key="patient_id", outcome_columns=["SIMULATED_months"])
    table.obs["stage"] = ["II", "I", "I", "I", "I"]
    with pytest.raises(ValueError, match="holds 'I', which is no number"):
        aggregate_patients(table, patient_key="patient_id", outcome_columns=["stage"])


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"patient_key": "donor"}, KeyError, r"no obs columns \['donor'\]"),
        ({"label_key": "type"}, KeyError, r"no obs columns \['type'\]"),
        ({"genes": ["ESR1"]}, KeyError, r"genes \['ESR1'\] are not among the 2 genes"),
        ({"genes": "KRT8"}, TypeError, r"use genes=\['KRT8'\]"),
        ({"outcome_columns": "SIMULATED_months"}, TypeError, "must be a list"),
        ({"expression_key": "foo"}, KeyError, "DataFrames in obsm"),
        ({"genes": ["KRT8", "ERBB2", "KRT8"]}, ValueError, r"genes \['KRT8'\] are named more than once in genes="),
        ({"label_key": "patient_id"}, ValueError, r"columns \['patient_id'\] are named more than once in patient_key="),
        ({"outcome_columns": ["SIMULATED_event"] * 2}, ValueError, r"columns \['SIMULATED_event'\] are named more"),
    ],
)
def test_bad_input(table, keywords, error, message):
    with pytest.raises(error, match=message):
        aggregate_patients(table, **{"patient_key": "patient_id", **keywords})


def test_cells_without_a_patient_are_refused(table):
    table.obs["patient_id"] = ["b", None, "a", "a", "a"]
    with pytest.raises(ValueError, match="1 cells have no patient"):
        aggregate_patients(table, patient_key="patient_id")
    with pytest.raises(ValueError, match="there are no cells: every table given has 0 rows"):
        aggregate_patients(table[:0], patient_key="patient_id")
    with pytest.raises(ValueError, match="no object given"):
        aggregate_patients([], patient_key="patient_id")
    with pytest.raises(TypeError, match="expected a SpatialData"):
        aggregate_patients(pd.DataFrame(), patient_key="patient_id")
