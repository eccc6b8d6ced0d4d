"""What every protocol does inside: which data it looks at, what silence earns, which layer and group is used."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from spatialdata import SpatialData

from pastpy.bench import (
    FeatureMethod,
    Fold,
    FoldModels,
    LosoResult,
    deconvolution_agreement,
    nested_intervals,
    retrieval_recall,
    ridge,
    robustness_index,
    run_loso,
    to_spots,
    tuned_ridge,
    window_features,
)
from pastpy.bench._baselines import gene_mean
from pastpy.bench._hest import PATCH_MPP, PATCH_UM
from pastpy.metrics import noise_ceiling
from pastpy.metrics._gene_sets import log_normalised, spatially_variable, variable_genes
from pastpy.train import TrainConfig

SEEN = FeatureMethod(lambda sdata: sdata["spots"].obsm["spatial"], ridge(alpha=1.0, n_components=None))


# -- silence ---------------------------------------------------------------------------------------------------------


def test_silence_earns_no_similarity_of_maps(make_section):
    sections = {f"s{i}": make_section(i, n=144) for i in range(3)}
    donors = {s: s for s in sections}
    for sdata in sections.values():
        sdata["spots"].obsm["spatial"] = 10.0 * np.array([divmod(i, 12) for i in range(144)])
    genes = [f"g{i}" for i in range(10)]

    def noisy(fold):
        rng = np.random.default_rng(0)
        return {s: truth_of(sections, s, fold.genes) + rng.normal(size=(144, 10)) for s in fold.test}

    def two_genes(fold):
        return {s: f[["g0", "g1"]].reindex(columns=f.columns) for s, f in noisy(fold).items()}

    methods = {"all": noisy, "two genes": two_genes, "gene mean": gene_mean}
    found = run_loso(sections, methods, donors=donors, hold_out="donor", genes=genes, maps=True)
    table = found.table(value="ssim")
    said = found.scores.query("method == 'two genes' and gene in ['g0', 'g1']").groupby("section")["ssim"].sum()
    assert table.loc["two genes", "mean"] == pytest.approx(said.mean() / 10) and said.min() > 0.2
    assert table.loc["two genes", "n_scored"] == 2
    # as for a correlation, nothing is made up where a method says nothing at all
    assert np.isnan(table.loc["gene mean", "mean"])


@pytest.fixture(scope="module")
def single_donors(make_section):
    sections = {f"s{i}": make_section(200 + i, n=60, n_genes=20) for i in range(8)}
    options = {"donors": {s: s for s in sections}, "n_genes": 8, "folds": [([*sections][:6], [*sections][6:])]}
    return sections, options


def truth_of(sections, section, genes):
    return log_normalised(sections[section]["spots"], genes)


def test_units_left_out_improve_no_interval(single_donors):
    sections, options = single_donors

    def every_tenth(fold):
        return {s: f.iloc[::10].reindex(f.index) for s, f in SEEN(fold).items()}

    def where_right(fold):
        return {s: f.where((f - truth_of(sections, s, fold.genes)).abs() < 0.15) for s, f in SEEN(fold).items()}

    every = nested_intervals(sections, SEEN, **options).facts
    tenth = nested_intervals(sections, every_tenth, **options)
    assert every["share_predicted"] == 1 and tenth.facts["share_predicted"] == pytest.approx(0.1)
    assert (tenth.genes["share_predicted"] == 0.1).all() and (tenth.genes["n"] == 60).all()
    assert tenth.facts["width_ratio"] > every["width_ratio"] and tenth.facts["abstained"] >= every["abstained"]
    chosen = nested_intervals(sections, where_right, **options)
    assert chosen.facts["share_predicted"] < 0.9 and (chosen.genes["n"] == 60).all()
    # g0, of which much is known: knowing where one is right must not make all of it look known
    for found in (tenth, chosen):
        assert (found.genes["n"] == 60).all() and found.facts["coverage"] == pytest.approx(0.9, abs=0.06)


def test_silence_on_all_is_the_training_mean(single_donors):
    sections, options = single_donors
    silent = nested_intervals(sections, lambda fold: {s: f * np.nan for s, f in SEEN(fold).items()}, **options)
    mean = nested_intervals(sections, gene_mean, **options)
    pd.testing.assert_frame_equal(
        silent.genes.drop(columns="share_predicted"), mean.genes.drop(columns="share_predicted")
    )
    assert silent.facts["share_predicted"] == 0 and silent.facts["abstained"] == 1


# -- folds inside folds ----------------------------------------------------------------------------------------------


def test_inner_folds_have_names_of_their_own(cohort):
    sections, donors = cohort
    names = []

    def spy(fold):
        names.append((fold.name, tuple(fold.train)))
        return gene_mean(fold)

    for _ in range(2):
        nested_intervals(sections, spy, donors=donors, n_genes=5)
    assert names[: len(names) // 2] == names[len(names) // 2 :]
    assert len({name for name, _ in names}) == len(set(names)) == len(names) // 2 == 9
    assert {"P0", "P0 inner 0", "P0 inner 1"} <= {name for name, _ in names}


def test_models_of_folds_work_in_nested_intervals(cohort, tmp_path, monkeypatch, tiny_model):
    sections, donors = cohort
    trained = []

    def fit(config, out, *, data):
        trained.append(config.train_sections)
        tiny_model.save(out)
        return tiny_model

    monkeypatch.setattr("pastpy.train.fit", fit)
    models = FoldModels(TrainConfig.from_json("past-mini"), tmp_path, "data")

    def method(fold):
        models.model(fold)
        return gene_mean(fold)

    for _ in range(2):
        nested_intervals(sections, method, donors=donors, n_genes=5)
    assert len(trained) == 9


def test_no_donor_stands_on_both_sides_inside(cohort):
    sections, donors = cohort
    sides = []

    def spy(fold):
        sides.append((set(fold.train), set(fold.test)))
        return gene_mean(fold)

    nested_intervals(sections, spy, donors=donors, n_genes=5)
    assert len(sides) == 9
    for train, test in sides:
        assert not {donors[s] for s in train} & {donors[s] for s in test}


def test_one_abstains_where_the_interval_is_no_narrower_than_asked(single_donors):
    sections, options = single_donors
    ratio = nested_intervals(sections, SEEN, **options).genes.eval("mean_width / reference_width")
    for limit in (0.5, 0.7, 0.999):
        found = nested_intervals(sections, SEEN, max_ratio=limit, **options).facts
        assert found["abstained"] == pytest.approx((ratio >= limit).mean()) and found["max_ratio"] == limit


# -- what is chosen on the training side -----------------------------------------------------------------------------


def test_spatial_genes_are_chosen_on_training_sections(cohort):
    sections, donors = cohort
    # in the held-out donor's sections alone, g9 lies along x
    marked = dict(sections)
    for s in ("s0", "s1"):
        table = sections[s]["spots"].copy()
        counts = table.X.toarray()
        counts[:, 9] = np.round(200 * (table.obsm["spatial"][:, 0] > 0) + 20)
        table.X = counts
        marked[s] = SpatialData(tables={"spots": table})
    genes = [f"g{i}" for i in range(12)]
    options = {"donors": donors, "hold_out": "donor", "genes": genes, "n_spatial": 3}
    before, after = (run_loso(x, {"m": gene_mean}, **options).spatial_genes for x in (sections, marked))
    assert before["P0"] == after["P0"] and "g9" in after["P1"]
    training = {s: sections[s]["spots"] for s in ("s2", "s3", "s4", "s5")}
    assert after["P0"] == spatially_variable(training, genes, n=3)


def test_penalty_is_the_best_on_the_groups_left_out():
    # a weak signal in few of many features: only a large penalty tells it from noise
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=(120, 40)), np.repeat(list("abcd"), 30)
    y = 0.3 * x[:, :3] + rng.normal(size=(120, 3))
    alphas = (1e-3, 1e2, 1e5)
    score = []
    for alpha in alphas:
        r = []
        for left_out in np.unique(group):
            inner, outer = group != left_out, group == left_out
            p = ridge(alpha=alpha)(x[inner], y[inner], group[inner])(x[outer])
            r.append(np.mean([np.corrcoef(p[:, g], y[outer, g])[0, 1] for g in range(3)]))
        score.append(np.mean(r))
    best, worst = alphas[int(np.argmax(score))], alphas[int(np.argmin(score))]
    assert best != alphas[0] and best != worst  # on its own training rows, the smallest would be the best
    tuned = tuned_ridge(alphas=alphas)(x, y, group)(x)
    np.testing.assert_allclose(tuned, ridge(alpha=best)(x, y, group)(x))


def test_penalty_is_tuned_over_donors_not_sections(cohort):
    sections, donors = cohort
    seen = []

    def fit(x, y, group):
        seen.append(group)
        return lambda rows: np.zeros((len(rows), y.shape[1]))

    method = FeatureMethod(SEEN.extract, fit)
    run_loso(sections, {"m": method}, donors=donors, hold_out="donor", n_genes=5)
    assert [set(group) for group in seen] == [{"P1", "P2"}, {"P0", "P2"}, {"P0", "P1"}]
    two = {s: sections[s] for s in ("s0", "s1", "s2")}
    run_loso(two, {"m": method}, donors=dict.fromkeys(two, "P"), within_patient=True, n_genes=5)
    assert set(seen[3]) == {"s1", "s2"}


# -- tables ----------------------------------------------------------------------------------------------------------


def test_the_interval_is_over_donors(cohort):
    sections, donors = cohort
    found = run_loso(sections, {"m": SEEN}, donors=donors, hold_out="donor", genes=["g0", "g1", "g2"])
    row = found.table().loc["m"]
    per_donor = row[list(sections)].groupby(donors).mean()
    assert row["mean"] == pytest.approx(per_donor.mean())
    from scipy.stats import t

    half = t.ppf(0.975, 2) * per_donor.std() / np.sqrt(3)
    assert row["upper"] - row["lower"] == pytest.approx(2 * half, rel=0.05)
    within = replace(found, facts={**found.facts, "within_patient": True}).table().loc["m"]
    assert within["upper"] - within["lower"] != pytest.approx(2 * half, rel=0.05)


@pytest.mark.parametrize(("value", "best"), [("mse", 1.5), ("nb_deviance", 1.5), ("pearson", 3.5)])
def test_the_best_genes_have_the_smallest_errors_or_the_largest_scores(value, best):
    rows = {
        "method": "m", "fold": "f", "section": "s", "donor": "P", "gene": list("abcd"), "share_predicted": 1.0,
        "reason": "", value: [3.0, 1.0, 4.0, 2.0],
    }  # fmt: skip
    result = LosoResult(pd.DataFrame(rows), {"f": list("abcd")}, {"f": ["a"]}, {}, {}, {"within_patient": True})
    assert result.table(value=value, n_best=2).loc["m", "best_2"] == best


def test_all_is_read_from_the_layer(cohort):
    """Counts in a layer, with nonsense in X, give what counts in X give."""
    sections, donors = cohort
    moved = {}
    for i, (s, sdata) in enumerate(sections.items()):
        table = sdata["spots"].copy()
        table.layers["counts"] = table.X.copy()
        table.X = np.random.default_rng(i).poisson(2.0, table.shape).astype(np.float32)
        moved[s] = SpatialData(tables={"spots": table})
    options = {"donors": donors, "hold_out": "donor", "n_genes": 6, "n_spatial": 2}

    def leaving_out(fold):
        return {s: f.iloc[::2].reindex(f.index) for s, f in SEEN(fold).items()}

    methods = {"seen": SEEN, "leaving out": leaving_out}
    expected, found = run_loso(sections, methods, **options), run_loso(moved, methods, layer="counts", **options)
    pd.testing.assert_frame_equal(found.scores, expected.scores)
    assert (found.genes, found.spatial_genes) == (expected.genes, expected.spatial_genes)
    tables = {s: x["spots"] for s, x in moved.items()}
    assert variable_genes(tables, n=5, layer="counts") == variable_genes(
        {s: x["spots"] for s, x in sections.items()}, n=5
    )
    pd.testing.assert_frame_equal(noise_ceiling(tables["s0"], layer="counts"), noise_ceiling(sections["s0"]["spots"]))
    options.pop("n_spatial")
    ours, theirs = nested_intervals(moved, SEEN, layer="counts", **options), nested_intervals(sections, SEEN, **options)
    assert ours.facts == theirs.facts


# -- smaller ones ----------------------------------------------------------------------------------------------------


def test_equal_mixtures_diverge_by_nothing():
    p = pd.DataFrame(np.random.default_rng(0).dirichlet(np.ones(4), 2000), columns=list("abcd"))
    assert deconvolution_agreement(p, p).loc["all types", "jensen_shannon"] == pytest.approx(0.0, abs=1e-15)
    q = p.copy()
    p.loc[0], q.loc[0] = [1.0, 0, 0, 0], [0.0, 1, 0, 0]
    assert deconvolution_agreement(p, q).loc["all types", "jensen_shannon"] == pytest.approx(1 / 2000)


def test_a_pairing_as_good_as_the_observed_one_counts():
    x = np.ones((4, 2))
    # all rows tie at rank 2.5: every pairing recalls all of 3, as the observed one does
    assert retrieval_recall(x, x, k=(3,), n_permutations=9).loc[3, "p_value"] == 1.0


def test_neighbours_do_not_depend_on_length():
    x = np.array([[1.0, 0], [1, 0.01], [0, 1], [0.01, 1]])
    kind, place = np.array(["t", "t", "s", "s"]), np.array(["a", "b", "a", "b"])
    longer = x * np.array([[1.0], [1.0], [100.0], [1000.0]])
    assert robustness_index(longer, kind, place, k=1, n_permutations=9)["index"] == 1.0


def test_a_patch_is_224_px_of_half_a_micrometre():
    assert (PATCH_UM, PATCH_MPP, PATCH_UM / PATCH_MPP) == (112.0, 0.5, 224)


def test_the_diameter_is_no_radius():
    cells, spots = AnnData(np.zeros((3, 0))), AnnData(np.zeros((1, 0)))
    cells.obsm["spatial"], spots.obsm["spatial"] = np.array([[0.0, 4.9], [5.1, 0], [0, 9]]), np.zeros((1, 2))
    cells.obsm["past_expression"] = pd.DataFrame({"A": [0.1, 0.2, 0.3]}, index=cells.obs_names)
    assert to_spots(cells, spots, spot_diameter_um=10).obs["n_cells"].tolist() == [1]
    for wrong in (np.inf, 800.0):
        cells.obsm["past_expression"].loc["1", "A"] = wrong
        with pytest.raises(ValueError, match=r"infinite expression in 1 cells, e.g. \['1'\]"):
            to_spots(cells, spots, spot_diameter_um=10)


def test_features_at_another_resolution_are_not_taken_from_the_cache(breast):
    options = {"backbone": "colour", "windows_um": (50.0,)}
    first = window_features(breast, mpp=0.5, **options)
    again = window_features(breast, mpp=1.0, **options)
    np.testing.assert_allclose(again, window_features(breast, mpp=1.0, cache=False, **options), equal_nan=True)
    assert not np.allclose(first, again, equal_nan=True)


def test_fold_is_what_methods_are_told(cohort):
    sections, donors = cohort
    fold = Fold("f", {"s0": sections["s0"]}, {}, ["g0"], {"s0": donors["s0"]})
    pd.testing.assert_frame_equal(fold.targets()["s0"], truth_of(sections, "s0", ["g0"]))
