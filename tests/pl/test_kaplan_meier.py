from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from matplotlib.colors import to_hex

import pastpy as past

COLUMNS = {"duration_col": "months", "event_col": "event"}


@pytest.fixture
def patients() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "months": [2.0, 4.0, 4.0, 10.0, 3.0, 12.0, 20.0, 20.0],
            "event": [1, 1, 0, 1, 0, 1, 1, 0],
            "risk": ["high"] * 4 + ["low"] * 4,
        },
        index=[f"p{i}" for i in range(8)],
    )


def curve(ax, name: str) -> np.ndarray:
    (line,) = [line for line in ax.lines if line.get_label().startswith(name)]
    return np.column_stack(line.get_data())


def at_risk(ax, name: str) -> dict[float, int]:
    return {text.xy[0]: int(text.get_text()) for text in ax.texts if text.get_gid() == f"at_risk:{name}"}


def test_curves_by_hand(patients):
    ax = past.pl.kaplan_meier(patients, groups="risk", **COLUMNS)
    # high: 4 at risk at 2, 3 at 4 (one of them censored then), 1 at 10
    np.testing.assert_allclose(curve(ax, "high"), [[0, 1], [2, 3 / 4], [4, 3 / 4 * 2 / 3], [10, 0]])
    np.testing.assert_allclose(curve(ax, "low"), [[0, 1], [3, 1], [12, 2 / 3], [20, 1 / 3]])


def test_numbers_at_risk_by_hand(patients):
    ax = past.pl.kaplan_meier(patients, groups="risk", **COLUMNS)
    high, low = at_risk(ax, "high"), at_risk(ax, "low")
    assert list(high) == list(low) == list(ax.get_xticks())
    assert {0.0, 5.0, 10.0, 20.0} <= set(high)
    assert [high[t] for t in (0.0, 5.0, 10.0, 20.0)] == [4, 1, 1, 0]
    assert [low[t] for t in (0.0, 5.0, 10.0, 20.0)] == [4, 3, 3, 2]
    without = past.pl.kaplan_meier(patients, groups="risk", at_risk=False, **COLUMNS)
    assert not without.texts


def test_bands_and_p_are_those_of_lifelines(patients):
    ax = past.pl.kaplan_meier(patients, groups="risk", **COLUMNS)
    high, low = (patients[patients["risk"] == name] for name in ("high", "low"))
    p = logrank_test(high["months"], low["months"], high["event"], low["event"]).p_value
    assert ax.get_legend().get_title().get_text() == f"log-rank p = {p:.2g}"
    band = KaplanMeierFitter().fit(high["months"], high["event"]).confidence_interval_
    drawn = ax.collections[0].get_paths()[0].get_extents()
    assert drawn.ymin == pytest.approx(np.nanmin(band.to_numpy()))


def test_the_legend_names_groups_with_their_size(patients):
    ax = past.pl.kaplan_meier(patients, groups="risk", **COLUMNS)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["high (n = 4)", "low (n = 4)"]
    (line,) = [line for line in ax.lines if line.get_label().startswith("low")]
    row = [text for text in ax.texts if text.get_text() == "low"]
    assert [to_hex(text.get_color()) for text in row] == [to_hex(line.get_color())]


def test_simulated_outcomes_say_so(patients):
    renamed = patients.rename(columns={"months": "SIMULATED_months", "event": "SIMULATED_event"})
    ax = past.pl.kaplan_meier(renamed, groups="risk", duration_col="SIMULATED_months", event_col="SIMULATED_event")
    assert ax.get_title() == "SIMULATED outcomes"
    assert ax.get_xlabel() == "SIMULATED months"
    only_event = patients.rename(columns={"event": "SIMULATED_event"})
    ax = past.pl.kaplan_meier(only_event, groups="risk", duration_col="months", event_col="SIMULATED_event")
    assert ax.get_title() == "SIMULATED outcomes"
    assert "SIMULATED" not in past.pl.kaplan_meier(patients, groups="risk", **COLUMNS).get_title()


def test_groups_as_series_are_aligned_and_ordered(patients):
    series = pd.Series(
        pd.Categorical(patients["risk"], categories=["low", "never", "high"]), index=patients.index
    ).iloc[::-1]
    ax = past.pl.kaplan_meier(patients, groups=series, **COLUMNS)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["low (n = 4)", "high (n = 4)"]
    np.testing.assert_allclose(curve(ax, "high")[1], [2, 3 / 4])
    by_list = past.pl.kaplan_meier(patients, groups=patients["risk"].tolist(), **COLUMNS)
    np.testing.assert_allclose(curve(by_list, "high"), curve(ax, "high"))


def test_one_group_has_no_test(patients):
    ax = past.pl.kaplan_meier(patients, groups=["all"] * 8, **COLUMNS)
    assert ax.get_legend().get_title().get_text() == ""
    assert at_risk(ax, "all")[0.0] == 8


@pytest.mark.parametrize(
    ("change", "keywords", "error", "message"),
    [
        ({}, {"duration_col": "days"}, KeyError, "no column 'days' for duration_col="),
        ({}, {"groups": "stage"}, KeyError, "no column 'stage' for groups="),
        ({}, {"groups": ["a", "b"]}, ValueError, "2 values for 8 patients"),
        ({"risk": None}, {}, ValueError, r"patients \['p0'.* have no group"),
        ({"months": np.nan}, {}, ValueError, "'months' of patients"),
        ({"event": 3}, {}, ValueError, "not 0 or 1"),
    ],
)
def test_bad_input(patients, change, keywords, error, message):
    with pytest.raises(error, match=message):
        past.pl.kaplan_meier(patients.assign(**change), **{"groups": "risk", **COLUMNS, **keywords})
    assert plt.get_fignums() == []


def test_picture(patients, same_picture):
    renamed = patients.rename(columns={"months": "SIMULATED_months", "event": "SIMULATED_event"})
    ax = past.pl.kaplan_meier(renamed, groups="risk", duration_col="SIMULATED_months", event_col="SIMULATED_event")
    same_picture(ax.figure, "kaplan_meier")
