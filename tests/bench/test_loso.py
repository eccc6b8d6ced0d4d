"""Leaving sections out: known scores, and no way to a higher one but a better prediction."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pastpy.bench import (
    FeatureMethod,
    hest,
    predictable_genes,
    predictable_genes_markdown,
    ridge,
    run_loso,
    tuned_ridge,
)
from pastpy.bench._baselines import _fit_domains, _fit_mlp, gene_mean
from pastpy.metrics import expression


def features(sdata):
    return sdata["spots"].obsm["spatial"]


SEEN = FeatureMethod(features, ridge(alpha=1.0, n_components=None))


@pytest.fixture(scope="module")
def result(cohort):
    sections, donors = cohort
    methods = {"seen": SEEN, "gene mean": gene_mean}
    return run_loso(sections, methods, donors=donors, hold_out="donor", n_genes=10, n_spatial=2)


def test_scores_are_those_of_the_predictions(result, cohort):
    sections, _ = cohort
    for section in sections:
        scores = result.scores.query("method == 'seen' and section == @section").set_index("gene")
        again = expression(result.predictions["seen"][section], result.measured[section])
        np.testing.assert_allclose(scores["pearson"], again.loc[scores.index, "pearson"])
    table = result.table()
    by_hand = result.scores.query("method == 'seen'").groupby("section")["pearson"].mean()
    assert table.loc["seen", "mean"] == pytest.approx(by_hand.mean())
    assert table.loc["seen", "lower"] < table.loc["seen", "mean"] < table.loc["seen", "upper"]
    assert np.isnan(table.loc["gene mean", "mean"])
    top = result.scores.query("method == 'seen' and gene in ['g0', 'g1']")["pearson"]
    assert top.min() > 0.7
    # two of the three genes are within reach, and not beyond the noise ceiling
    ceiling = result.scores.query("method == 'noise ceiling' and gene in ['g0', 'g1']")["pearson"]
    assert 0.9 < ceiling.mean() and top.mean() < ceiling.mean() + 0.02


def test_genes_are_chosen_on_training_sections(cohort, make_section):
    sections, donors = cohort
    odd = make_section(0)["spots"].copy()
    odd.X = odd.X.toarray()[::-1]
    odd.X[:, 20] = np.where(np.random.default_rng(0).random(odd.n_obs) < 0.5, 400, 1)
    from spatialdata import SpatialData

    changed = {**sections, "odd": SpatialData(tables={"spots": odd})}
    found = run_loso(changed, {"m": gene_mean}, donors={**donors, "odd": "P9"}, hold_out="donor", n_genes=5)
    assert "g20" not in found.genes["P9"] and all("g20" in genes for d, genes in found.genes.items() if d != "P9")


def test_silence_on_hard_genes_raises_no_mean(cohort):
    sections, donors = cohort

    def coward(fold):
        frames = SEEN(fold)
        for frame in frames.values():
            frame.loc[:, [g for g in frame.columns if g not in ("g0", "g1")]] = np.nan
        return frames

    found = run_loso(sections, {"all": SEEN, "coward": coward}, donors=donors, hold_out="donor", n_genes=10)
    table = found.table()
    assert table.loc["coward", "n_scored"] == 2 and table.loc["all", "n_scored"] == 10
    assert table.loc["coward", "mean"] <= table.loc["all", "mean"] + 0.03
    assert table.loc["coward", "mean"] < 0.3 < table.loc["coward", "best_50"] * 5


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda frames: {}, "returned no prediction for section 's0'"),
        (lambda frames: {s: f.iloc[1:] for s, f in frames.items()}, "lacks 1 units"),
        (lambda frames: {s: f.iloc[:, 1:] for s, f in frames.items()}, "and 1 genes"),
        (lambda frames: {s: f * np.inf for s, f in frames.items()}, "infinite"),
    ],
)
def test_incomplete_predictions_are_refused(cohort, spoil, message):
    sections, donors = cohort
    with pytest.raises(ValueError, match=message):
        run_loso(sections, {"m": lambda fold: spoil(SEEN(fold))}, donors=donors, hold_out="donor", n_genes=5)


def test_within_a_patient_is_labelled(cohort):
    sections, donors = cohort
    two = {s: sections[s] for s in ("s0", "s1", "s2")}
    found = run_loso(two, {"m": SEEN}, donors=dict.fromkeys(two, "P"), within_patient=True, n_genes=5)
    assert found.summary()["statement"].startswith("within patient")
    assert found.table().loc["m", "n_scored"] == 5


def test_report_is_json_table_and_picture(result, tmp_path):
    files = result.write(tmp_path / "loso.json")
    assert [f.name for f in files] == ["loso.json", "loso.csv", "loso.png"]
    read = json.loads(files[0].read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert read["scores"]["pearson"]["seen"]["mean"] == pytest.approx(result.table().loc["seen", "mean"], abs=1e-4)
    assert len(pd.read_csv(files[1])) == len(result.scores)
    with pytest.raises(FileNotFoundError, match="no folder"):
        result.write(tmp_path / "absent" / "loso.json")


# -- the recipe of the HEST-Benchmark --------------------------------------------------------------------------------


def test_hest_recipe_step_by_step(make_section):
    """The recipe written out: log1p of raw counts, scaler, PCA, ridge with α = 100 / (256 · 50), no intercept."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(3, 300))
    sections = {f"s{i}": make_section(10 + i, n=180, n_genes=80) for i in range(3)}
    wide = {s: sdata["spots"].obsm["seen"] @ mixing + rng.normal(size=(180, 300)) for s, sdata in sections.items()}
    genes = [f"g{i}" for i in range(50)]
    index = {float(sdata["spots"].obsm["spatial"][0, 0]): s for s, sdata in sections.items()}
    found = hest(
        sections, {"wide": lambda sdata: wide[index[float(sdata["spots"].obsm["spatial"][0, 0])]]},
        donors={s: s for s in sections}, genes=genes,
    )  # fmt: skip
    for held in sections:
        train = [s for s in sections if s != held]
        x = np.concatenate([wide[s] for s in train])
        y = np.concatenate([np.log1p(sections[s]["spots"][:, genes].X.toarray().astype(float)) for s in train])
        reduce = make_pipeline(StandardScaler(), PCA(256, random_state=0))
        head = Ridge(100 / (256 * 50), fit_intercept=False, solver="lsqr", max_iter=1000, random_state=0)
        head.fit(reduce.fit_transform(x), y)
        predicted = head.predict(reduce.transform(wide[held]))
        truth = np.log1p(sections[held]["spots"][:, genes].X.toarray())
        r = [np.corrcoef(predicted[:, g], truth[:, g])[0, 1] for g in range(50)]
        ours = found.scores.query("method == 'wide' and section == @held").set_index("gene")["pearson"]
        np.testing.assert_allclose(ours.loc[genes], r, atol=1e-6)
    assert found.facts["target"] == "log1p of raw counts"
    assert found.facts["components"] == {"wide": dict.fromkeys(sections, 256)}


def test_hest_scores_all_spots_of_a_fold_together(cohort):
    sections, donors = cohort
    genes = [f"g{i}" for i in range(10)]
    folds = [(["s2", "s3", "s4", "s5"], ["s0", "s1"]), (["s0", "s1", "s4", "s5"], ["s2", "s3"]),
             (["s0", "s1", "s2", "s3"], ["s4"])]  # fmt: skip
    encoders = {"seen": features}
    found = hest(sections, encoders, donors=donors, folds=folds, genes=genes)
    means = []
    for i, (_, test) in enumerate(folds):
        predicted = np.concatenate([found.predictions["seen"][s].to_numpy() for s in test])
        truth = np.concatenate([np.log1p(sections[s]["spots"][:, genes].X.toarray()) for s in test])
        r = [np.corrcoef(predicted[:, g], truth[:, g])[0, 1] for g in range(10)]
        scores = found.scores.query("method == 'seen' and fold == @i", local_dict={"i": f"fold{i}"}).set_index("gene")
        np.testing.assert_allclose(scores.loc[genes, "pearson"], r, atol=1e-6)
        assert scores["n"].eq(60 * len(test)).all()
        means.append(np.mean(r))
    table = found.table()
    assert table.loc["seen", "mean"] == pytest.approx(np.mean(means))
    assert {"fold0", "fold1", "s4"} <= set(table.columns) and not {"s0", "s1"} & set(table.columns)
    assert found.summary()["components"] == {"seen": {"fold0": 2, "fold1": 2, "fold2": 2}}
    # a donor at a time, each with two sections, is the same by default
    by_donor = hest(sections, encoders, donors=donors, genes=genes).scores
    assert set(by_donor["section"]) == {"P0", "P1", "P2"} and len(by_donor) == 2 * 3 * 10
    with pytest.raises(ValueError, match=r"\['s0'\] are held out by several folds"):
        hest(sections, encoders, donors=donors, folds=[folds[0], (["s4", "s5"], ["s0"])], genes=genes)


# -- baselines -------------------------------------------------------------------------------------------------------


def problem(seed, groups=4, n=50, d=12, genes=6):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(groups * n, d))
    y = x[:, :2] @ np.random.default_rng(99).normal(size=(2, genes)) + 0.5 * rng.normal(size=(groups * n, genes))
    return x, y, np.repeat(np.arange(groups).astype(str), n)


@pytest.mark.parametrize(
    ("fit", "least"),
    [
        (ridge(alpha=1.0), 0.8),
        (tuned_ridge(), 0.8),
        (lambda x, y, g: _fit_mlp(x, y, g, seed=0), 0.5),
        (lambda x, y, g: _fit_domains(x, y, g, n_domains=8, seed=0), 0.15),
    ],
)
def test_baselines_learn_what_is_there(fit, least):
    x, y, group = problem(0)
    x_new, y_new, _ = problem(1)
    predicted = fit(x, y, group)(x_new)
    r = np.mean([np.corrcoef(predicted[:, g], y_new[:, g])[0, 1] for g in range(y.shape[1])])
    assert r > least
    assert predicted.shape == y_new.shape


def test_penalty_is_chosen_inside_the_training_groups():
    rng = np.random.default_rng(0)
    group = np.repeat(list("abcd"), 30)
    # within a group the features say nothing of the outcome: only a large penalty does no harm
    x = rng.normal(size=(120, 40)) + 3 * np.eye(4)[np.unique(group, return_inverse=True)[1]] @ rng.normal(size=(4, 40))
    y = rng.normal(size=(120, 3))
    bold, shy = (ridge(alpha=alpha)(x, y, group)(x) for alpha in (1e-3, 1e6))
    assert np.abs(shy - y.mean(0)).max() < 0.05 < 0.5 < np.abs(bold - y.mean(0)).max()
    chosen = tuned_ridge(alphas=(1e-3, 1e6))(x, y, group)(x)
    np.testing.assert_allclose(chosen, shy)
    # one group gives nothing to choose by: the largest is taken
    one = tuned_ridge(alphas=(1e-3, 1e9))(x, y, np.full(120, "a"))(x)
    np.testing.assert_allclose(one, np.tile(y.mean(0), (120, 1)), atol=1e-3)


def test_one_component_is_one():
    x, y, group = problem(2)
    predicted = ridge(alpha=1.0, n_components=1)(x, y, group)(x)
    assert np.linalg.matrix_rank(predicted - predicted.mean(0), tol=1e-6) == 1


# -- card ------------------------------------------------------------------------------------------------------------


def test_card_trusts_what_is_predictable(result):
    card = predictable_genes(result, "seen", min_r=0.4)
    assert set(card.index[card["trust"] == "yes"]) == {"g0", "g1"}
    assert (card.loc[card["trust"] == "no", "pearson"] < 0.4).all()
    assert card.loc["g0", "share_of_ceiling"] == pytest.approx(card.loc["g0", "pearson"] / card.loc["g0", "ceiling"])
    few = replace(result, scores=result.scores.query("donor != 'P2'"))
    assert set(predictable_genes(few, "seen", min_r=0.4).loc[["g0", "g1"], "trust"]) == {"unsure"}
    text = predictable_genes_markdown(card, n=3)
    assert text.startswith(f"Trusted: 2 of {len(card)} genes") and "held-out donors" in text
    assert text.count("\n| g") == 4  # with the head
    with pytest.raises(KeyError, match="no method 'x'"):
        predictable_genes(result, "x")
