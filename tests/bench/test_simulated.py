"""Simulated donors: the attainable is attained by nobody, shuffled images give nothing."""

from __future__ import annotations

import json

import numpy as np
import pytest

import pastpy as past
from pastpy.bench import FeatureMethod, Fold, PretrainedModel, _pretrained, gene_mean, ridge, simulated
from pastpy.bench._pretrained import _least_squares
from pastpy.cli import main
from pastpy.metrics import expression


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


@pytest.fixture(scope="module")
def mini_runs():
    """past-mini and the mean on four simulated donors, and the parts of the cohort."""
    model = past.models.load("past-mini")
    methods = {
        "mini": PretrainedModel(model), "shuffled": PretrainedModel(model, shuffle_seed=0), "gene mean": gene_mean
    }  # fmt: skip
    found = simulated(methods, n_donors=4, cells_a_donor=80, n_genes=15, seed=3, intervals=None)
    return model, found, past.datasets.split_donors(past.datasets.simulate_tissue(320, 15, 4, 3))


def test_pretrained_model_is_scored_on_the_scale_of_the_counts(mini_runs):
    model, found, parts = mini_runs
    mse = found.table(value="mse")["mean"]
    assert mse["mini"] < mse["gene mean"] and mse["shuffled"] < 1.05 * mse["gene mean"]
    # correlation is that of the model as it is
    genes = found.genes["fold0"]
    raw = PretrainedModel(model)(Fold("bare", {}, {"donor_3": parts["donor_3"]}, genes, {}, "cells_true"))["donor_3"]
    fitted = found.predictions["mini"]["donor_3"]
    r = expression(raw, found.measured["donor_3"])["pearson"]
    ours = found.scores.query("method == 'mini'").set_index("gene")["pearson"]
    np.testing.assert_allclose(ours.loc[genes], r.loc[genes], atol=1e-6)
    for gene in genes:
        slope = np.polyfit(raw[gene], fitted[gene], 1)[0]
        assert slope > 0 and np.allclose(fitted[gene] - slope * raw[gene], (fitted[gene] - slope * raw[gene]).mean())


def test_units_are_predicted_in_parts(mini_runs, monkeypatch):
    model, _, parts = mini_runs
    fold = Fold(
        "bare", {}, {"s": parts["donor_3"]}, list(parts["donor_3"]["cells_true"].var_names[:5]), {}, "cells_true"
    )
    whole = PretrainedModel(model)(fold)["s"]
    monkeypatch.setattr(_pretrained, "_UNITS", 7)
    np.testing.assert_allclose(PretrainedModel(model)(fold)["s"], whole, atol=1e-5)


def test_slope_never_turns_a_gene_round():
    x = np.array([[0.0, 0, 1], [1, 1, 1], [2, 2, 1], [np.nan, 3, 1]])
    y = np.column_stack([3 + 2 * x[:, 0], -x[:, 1], [1, 2, 3, 6]])
    slope, offset = _least_squares(x, y)
    assert slope == pytest.approx([2, 1e-3, 1e-3]) and offset == pytest.approx([3, -1.5 - 1.5e-3, 3 - 1e-3])


def test_control_reads_the_image_elsewhere(mini_runs):
    """Each row of the control has the prediction of another row's place, and its own name."""
    model, _, parts = mini_runs
    sdata = parts["donor_3"]
    before = sdata["cells_true"].obs[past._keys.INSTANCE_ID].copy()
    fold = Fold("bare", {}, {"s": sdata}, list(sdata["cells_true"].var_names[:5]), {}, "cells_true")
    plain, moved = PretrainedModel(model)(fold)["s"], PretrainedModel(model, shuffle_seed=1)(fold)["s"]
    order = np.random.default_rng(1).permutation(len(plain))
    np.testing.assert_allclose(moved.to_numpy(), plain.to_numpy()[order], rtol=1e-4, atol=1e-4)
    assert moved.index.equals(plain.index)
    assert sdata["cells_true"].obs[past._keys.INSTANCE_ID].equals(before)


def test_command_with_all_baselines(tmp_path, capsys):
    out = tmp_path / "simulated.json"
    sizes = ["--n-donors", "4", "--cells-a-donor", "60", "--n-genes", "12", "--seed", "5"]
    assert main(["bench", "simulated", "--out", str(out), *sizes]) == 0
    read = json.loads(out.read_text())
    said = capsys.readouterr().out
    assert read["title"] in said and "| MLP |" in said and len(said.splitlines()) < 30
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
