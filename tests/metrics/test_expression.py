"""Scores per gene with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pastpy import metrics
from pastpy.metrics._columns import nb_theta


@given(st.integers(0, 10_000), st.integers(4, 40))
def test_scores_equal_scipys(seed, n):
    rng = np.random.default_rng(seed)
    a, b = (
        pd.DataFrame(rng.integers(0, 6, (n, 3)) + rng.normal(0, 0.1, (n, 3)), columns=list("abc")) for _ in range(2)
    )
    found = metrics.expression(a, b)
    for gene in "abc":
        assert found.loc[gene, "pearson"] == pytest.approx(stats.pearsonr(a[gene], b[gene])[0], abs=1e-9)
        assert found.loc[gene, "spearman"] == pytest.approx(stats.spearmanr(a[gene], b[gene])[0], abs=1e-9)
        assert found.loc[gene, "mse"] == pytest.approx(((a[gene] - b[gene]) ** 2).mean())


def test_units_are_matched_by_name_and_nan_left_out():
    a = pd.DataFrame({"g": [1.0, 2, 3, 4, np.nan]}, index=list("vwxyz"))
    b = pd.DataFrame({"g": [9.0, 3, 2, 1, 7]}, index=list("zxwvu"))
    found = metrics.expression(a, b)
    assert (found.loc["g", "pearson"], found.loc["g", "n"]) == (pytest.approx(1.0), 3)


def test_constant_genes_are_not_scored():
    a = pd.DataFrame({"g": [0.1] * 5, "h": range(5)})
    found = metrics.expression(a, a.assign(g=range(5)))
    assert np.isnan(found.loc["g", "pearson"]) and np.isnan(found.loc["g", "spearman"])
    assert found.loc["h", "pearson"] == pytest.approx(1)


def test_bad_frames_are_named():
    a = pd.DataFrame({"g": [1.0, 2]})
    with pytest.raises(ValueError, match="share no unit"):
        metrics.expression(a, a.set_axis(["x", "y"], axis=0))
    with pytest.raises(ValueError, match="measured has a unit or a gene twice"):
        metrics.expression(a, a.set_axis([0, 0], axis=0))
    with pytest.raises(KeyError, match="not in both frames, e.g. \\['h'\\]"):
        metrics.expression(a, a, genes=["g", "h"])
    with pytest.raises(ValueError, match="share no gene"):
        metrics.expression(a, a.rename(columns={"g": "h"}))
    with pytest.raises(ValueError, match="1 genes more than once, e.g. \\['g'\\]"):
        metrics.expression(a, a, genes=["g", "g"])
    with pytest.raises(TypeError, match="got the text 'abc'"):
        metrics.expression(a, a, genes="abc")
    with pytest.raises(TypeError, match="predicted must be a DataFrame .* got ndarray"):
        metrics.expression(a.to_numpy(), a)
    with pytest.raises(TypeError, match=r"measured must be a DataFrame .* got AnnData; of an AnnData pass .to_df\(\)"):
        metrics.expression(a, AnnData(a.to_numpy()))
    with pytest.raises(ValueError, match="raster_um must be a positive number of µm, got 0"):
        metrics.expression(a, a, coordinates=pd.DataFrame({"x": [0.0, 1], "y": 0.0}), raster_um=0)


def frames(rng, n=30, genes=4):
    measured = pd.DataFrame(rng.random((n, genes)), columns=list("abcdefgh")[:genes])
    return measured + rng.normal(0, 0.3, measured.shape), measured


def test_a_row_a_unit_is_the_transposed():
    predicted, measured = frames(np.random.default_rng(0), n=6, genes=8)
    found = metrics.expression(predicted, measured, by="unit")
    turned = metrics.expression(predicted.T, measured.T)
    np.testing.assert_allclose(found["pearson"], turned["pearson"])
    np.testing.assert_allclose(found["mse"], turned["mse"])
    with pytest.raises(ValueError, match="by='unit' scores one unit at a time"):
        metrics.expression(predicted, measured, by="unit", groups={0: "P"})


@given(st.integers(0, 10_000))
def test_auroc_equals_sklearns(seed):
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    predicted = pd.DataFrame({"g": rng.integers(0, 5, 25).astype(float)})
    measured = pd.DataFrame({"g": np.r_[0.0, 1.0, np.maximum(rng.normal(size=23), 0)]})
    found = metrics.expression(predicted, measured).loc["g", "auroc"]
    assert found == pytest.approx(roc_auc_score(measured["g"] > 0, predicted["g"]))


def test_reasons_are_given_and_nothing_is_made_up():
    a = pd.DataFrame({"m": [1.0, 2, 3, 4], "p": 2.0, "few": [1.0, 2, np.nan, np.nan], "none": np.nan})
    b = a.assign(m=7.0, p=[1.0, 2, 3, 4], none=[1.0, 2, 3, 4])
    found = metrics.expression(a, b)
    assert found["reason"].tolist() == ["constant in measured", "constant in predicted", "fewer than 3 units"] + [
        "fewer than 3 units"
    ]
    assert found[["pearson", "spearman"]].isna().all(axis=None)
    assert found["n"].tolist() == [4, 4, 2, 0] and np.isnan(found.loc["none", "mse"])


def test_deviance_is_that_of_the_negative_binomial():
    rng = np.random.default_rng(0)
    theta, depth = 2.5, pd.Series(rng.integers(500, 2000, 200).astype(float))
    share = rng.gamma(2, 0.01, 200)
    counts = pd.DataFrame({"g": rng.negative_binomial(theta, theta / (theta + depth * share)).astype(float)})
    predicted = pd.DataFrame({"g": np.log1p(1e4 * share)})
    measured = np.log1p(counts.div(depth, axis=0) * 1e4)
    given_theta = pd.Series({"g": theta})
    found = metrics.expression(predicted, measured, counts=counts, depth=depth, theta=given_theta).loc["g"]
    mu, y = (depth * share).to_numpy(), counts["g"].to_numpy()

    def loglik(mean):
        return stats.nbinom.logpmf(y, theta, theta / (theta + np.maximum(mean, 1e-300)))

    assert found["nb_deviance"] == pytest.approx(2 * (loglik(y) - loglik(mu)).mean(), rel=1e-6)
    # the truth explains much, the mean share nothing, the truth of other units less than nothing
    mean = pd.DataFrame({"g": np.full(200, np.log1p(1e4 * y.sum() / depth.sum()))})
    shuffled = pd.DataFrame({"g": rng.permutation(predicted["g"])})
    d2 = [
        metrics.expression(p, measured, counts=counts, depth=depth).loc["g", "nb_d2"]
        for p in (predicted, mean, shuffled)
    ]
    assert d2[0] > 0.25 and d2[1] == pytest.approx(0, abs=1e-9) and d2[2] < 0


def nb_case(rng, n=50):
    """Predicted and measured expression, counts and depth."""
    counts = pd.DataFrame(rng.poisson(5, (n, 2)), columns=["g", "h"])
    depth = pd.Series(rng.integers(50, 100, n))
    return (
        pd.DataFrame(rng.random((n, 2)) + 5, columns=["g", "h"]),
        np.log1p(1e4 * counts.div(depth, axis=0)),
        counts,
        depth,
    )


def test_a_unit_without_counts_has_no_part_in_the_deviance():
    predicted, measured, counts, depth = nb_case(np.random.default_rng(0))
    counts.iloc[0], depth.iloc[0], measured.iloc[0] = 0, 0, np.nan
    found = metrics.expression(predicted, measured, counts=counts, depth=depth)
    rest = metrics.expression(predicted[1:], measured[1:], counts=counts[1:], depth=depth[1:])
    assert np.isfinite(found[["nb_deviance", "nb_d2"]]).all(axis=None)
    pd.testing.assert_frame_equal(found, rest)


@pytest.mark.parametrize("bad", [-1, 0.5])
def test_what_are_no_counts_is_refused(bad):
    predicted, measured, counts, depth = nb_case(np.random.default_rng(0))
    with pytest.raises(ValueError, match=f"counts= must be raw counts, whole and not negative, got {bad}"):
        metrics.expression(predicted, measured, counts=counts.astype(float).mask(counts == 4, bad), depth=depth)
    with pytest.raises(ValueError, match="depth= must be raw counts"):
        metrics.expression(predicted, measured, counts=counts, depth=depth * 0 + bad)


def test_knowing_the_donor_earns_nothing():
    rng = np.random.default_rng(1)
    donor = pd.Series(np.repeat(["P1", "P2", "P3", "P4"], 50))
    level = donor.map({"P1": 0.0, "P2": 3.0, "P3": 6.0, "P4": 9.0})
    measured = pd.DataFrame({"g": level + rng.normal(size=200)})
    predicted = pd.DataFrame({"g": level + rng.normal(size=200)})
    pooled = metrics.expression(predicted, measured).loc["g", "pearson"]
    within = metrics.expression(predicted, measured, groups=donor).loc["g"]
    assert pooled > 0.9 and abs(within["pearson"]) < 0.2
    assert within["pearson_lower"] < 0 < within["pearson_upper"] and within["n_groups"] == 4
    with pytest.raises(ValueError, match="199 units have no group"):
        metrics.expression(predicted, measured, groups={0: "P1"})


def test_summary_has_sets_units_and_groups():
    rng = np.random.default_rng(2)
    predicted, measured = frames(rng, n=60, genes=6)
    measured["c"] = 1.0
    donor = pd.Series(np.repeat(["P1", "P2", "P3"], 20))
    sets = {"first": ["a", "b"], "with absent": ["a", "c", "zzz"]}
    found = metrics.expression_summary(predicted, measured, donor, gene_sets=sets)
    by_gene = metrics.expression(predicted, measured, groups=donor)
    assert found.loc["first", "pearson"] == pytest.approx(by_gene.loc[["a", "b"], "pearson"].mean())
    assert found.loc["with absent", ["n_genes", "n_scored"]].tolist() == [3, 1]
    assert (found["pearson_lower"] < found["pearson"]).all() and (found["pearson"] < found["pearson_upper"]).all()


def test_silence_on_hard_genes_raises_no_mean():
    rng = np.random.default_rng(4)
    predicted, measured = frames(rng, n=60, genes=4)
    donor = pd.Series(np.repeat(["P1", "P2", "P3"], 20))
    measured["d"] = 1.0
    silent = predicted.assign(b=np.nan, c=3.0)
    found = metrics.expression_summary(silent, measured, donor)
    by_gene = metrics.expression(predicted, measured, groups=donor)
    # missing and constant predictions count as 0; a gene that is not measured to vary is no question
    assert found.loc["all genes", "pearson"] == pytest.approx(by_gene.loc["a", "pearson"] / 3)
    assert found.loc["all genes", "spearman"] == pytest.approx(by_gene.loc["a", "spearman"] / 3)
    assert found.loc["all genes", "n_scored"] == 1
    assert found.loc["all genes", "share_predicted"] == 0.75
    # a unit that nothing is said of counts as 0 as well
    half = predicted.copy()
    half.iloc[::2] = np.nan
    whole, units = (metrics.expression(x, measured, by="unit")["pearson"] for x in (predicted, half))
    found = metrics.expression_summary(half, measured, donor).loc["all genes", "unit_pearson"]
    assert found == pytest.approx(whole[1::2].mean() / 2) and units[::2].isna().all()
    # where there is no correlation at all, none is made up
    constant = metrics.expression_summary(measured * 0, measured, donor)
    assert constant[["pearson", "unit_pearson"]].isna().all(axis=None)


def test_a_prediction_out_of_range_is_the_worst_and_not_left_out():
    predicted, measured, counts, depth = nb_case(np.random.default_rng(0))
    predicted.loc[0, "g"] = 800.0
    donor = pd.Series(np.repeat(["P1", "P2"], 25))
    for groups in (None, donor):
        found = metrics.expression(predicted, measured, counts=counts, depth=depth, groups=groups)
        assert found.loc["g", ["nb_deviance", "nb_d2"]].tolist() == [np.inf, -np.inf]
        assert np.isfinite(found.loc["h", ["nb_deviance", "nb_d2"]].astype(float)).all()


def test_the_deviance_explained_is_beyond_the_mean_of_the_donor():
    rng = np.random.default_rng(0)
    donor, depth = pd.Series(np.repeat(["P1", "P2"], 50)), pd.Series(np.full(100, 1000))
    counts = pd.DataFrame({"g": rng.poisson(np.repeat([2, 60], 50)), "none": 0})
    share = counts.groupby(donor).transform("mean") / 1000
    found = metrics.expression(np.log1p(1e4 * share), np.log1p(10.0 * counts), counts=counts, depth=depth, groups=donor)
    assert found.loc["g", "nb_d2"] == pytest.approx(0, abs=1e-9)
    assert np.isnan(found.loc["none", "nb_d2"]) and found.loc["none", "reason"] == "constant in measured"


def test_a_set_of_genes_is_a_list_of_different_names():
    predicted, measured = frames(np.random.default_rng(0))
    donor = pd.Series(np.repeat(["P1", "P2"], 15))
    with pytest.raises(TypeError, match="got the text 'ab'"):
        metrics.expression_summary(predicted, measured, donor, gene_sets={"x": "ab"})
    with pytest.raises(ValueError, match="1 genes more than once"):
        metrics.expression_summary(predicted, measured, donor, gene_sets={"x": ["a", "a"]})


def test_the_deviance_follows_the_scale_of_the_prediction():
    predicted, measured, counts, depth = nb_case(np.random.default_rng(0))
    per_thousand = np.log1p(np.expm1(predicted) / 10)
    found = metrics.expression(per_thousand, measured, counts=counts, depth=depth, target_sum=1e3)
    expected = metrics.expression(predicted, measured, counts=counts, depth=depth)
    np.testing.assert_allclose(found["nb_deviance"], expected["nb_deviance"])


def test_dispersion_is_what_counting_does_not_explain():
    rng = np.random.default_rng(0)
    mu = np.full((20_000, 2), 10.0)
    found = nb_theta(np.column_stack([rng.poisson(10, 20_000), rng.negative_binomial(5, 5 / 15, 20_000)]), mu)
    # of Poisson counts the excess is noise about zero, whose inverse is large
    assert found[0] > 200 and found[1] == pytest.approx(5, rel=0.1)


def test_units_are_averaged_within_their_group_first():
    predicted, measured = frames(np.random.default_rng(3), n=40, genes=6)
    donor = pd.Series(np.repeat(["P1", "P2"], [35, 5]))
    per_unit = metrics.expression(predicted, measured, by="unit")["pearson"]
    found = metrics.expression_summary(predicted, measured, donor).loc["all genes", "unit_pearson"]
    assert found == pytest.approx(per_unit.groupby(donor).mean().mean())
