"""Simulated donors: the attainable is attained by nobody, shuffled images give nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

import pastpy as past
from pastpy.bench import FeatureMethod, ridge, simulated
from pastpy.cli import main


def truth(sdata):
    """What is visible of a cell, found by its position; a method that reads images perfectly."""
    where = sdata.tables["cells_true"].obsm["spatial"]
    return VISIBLE[tuple(where[0].round(3))]


VISIBLE: dict[tuple[float, ...], np.ndarray] = {}


def test_share_of_the_attainable():
    cohort = past.datasets.simulate_tissue(8 * 300, 30, 8, 3)
    for part in past.datasets.split_donors(cohort).values():
        table = part.tables["cells_true"]
        look = (table.obs["look"].to_numpy()[:, None] == np.array(sorted(set(cohort["cells_true"].obs["look"])))) * 1.0
        seen = np.column_stack([table.obsm["true_visible"], table.obsm["true_neighbourhood"]])
        values = np.column_stack([look, seen, *(look[:, [k]] * seen for k in range(look.shape[1]))])
        VISIBLE[tuple(table.obsm["spatial"][0].round(3))] = values
    methods = {
        "reads all": FeatureMethod(truth, ridge(alpha=30.0, n_components=None)),
        "looks away": FeatureMethod(
            lambda s: np.random.default_rng(0).normal(size=(s.tables["cells_true"].n_obs, 5)), ridge(alpha=1.0)
        ),
    }
    found = simulated(methods, n_donors=8, cells_a_donor=300, n_genes=30, seed=3, intervals="reads all")
    share = found.facts["share_of_attainable"]
    assert 0.75 < share["reads all"] < 1 and abs(share["looks away"]) < 0.15
    # the row is the r of the layer that the simulator gives
    table = cohort["cells_true"]
    held = table[table.obs["donor"] == "donor_3"]
    y = np.log1p(1e4 * held.X.toarray() / np.maximum(held.X.sum(axis=1).A1[:, None], 1))
    r = [np.corrcoef(held.layers["bayes_log1p"][:, g], y[:, g])[0, 1] for g in range(30)]
    assert found.table().loc["attainable", "donor_3"] == pytest.approx(np.nanmean(r), abs=0.01)
    assert found.facts["folds"]["fold0"]["test"] == ["donor_3", "donor_7"]
    assert found.facts["intervals"]["coverage"] == pytest.approx(0.9, abs=0.03)


def test_command_with_all_baselines(tmp_path, capsys):
    out = tmp_path / "simulated.json"
    sizes = ["--n-donors", "4", "--cells-a-donor", "60", "--n-genes", "12", "--seed", "5"]
    assert main(["bench", "simulated", "--out", str(out), *sizes]) == 0
    read = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == read
    rows = set(read["scores"]["pearson"])
    assert rows >= {"gene mean", "domain mean", "colour ridge", "backbone ridge", "one component", "MLP", "shuffled"}
    assert read["share_of_attainable"]["gene mean"] is None and read["cohort"]["n_donors"] == 4
    assert out.with_suffix(".csv").is_file() and out.with_suffix(".png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_donors": 3}, "n_donors must be at least 4"),
        ({"intervals": "x"}, "none of the methods"),
        ({"methods": {"attainable": None}, "intervals": None}, "cannot be called"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulated(**arguments)
