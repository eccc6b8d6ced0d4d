"""Agreement of proportions, retrieval, probe and robustness index with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from pastpy.bench import deconvolution_agreement, linear_probe, retrieval_recall, robustness_index
from pastpy.bench._probe import _maps, _moved


def test_divergence_of_known_mixtures():
    p = pd.DataFrame({"a": [1.0, 2.0, 0.0], "b": [0.0, 2.0, 0.0]}, index=["x", "y", "empty"])
    q = pd.DataFrame({"b": [1.0, 0.5, 1.0], "a": [0.0, 0.5, 1.0]}, index=["x", "y", "empty"])
    found = deconvolution_agreement(p, q)
    # opposite corners are one bit apart, equal mixtures none; the spot without cells does not count
    assert found.loc["all types", "jensen_shannon"] == pytest.approx(0.5)
    assert found.loc["a", "rmse"] == pytest.approx(np.sqrt(0.5)) and found.loc["a", "n"] == 2
    m = 0.5 * (np.array([0.7, 0.3]) + np.array([0.2, 0.8]))
    bits = sum(0.5 * (v * np.log2(v / m)).sum() for v in (np.array([0.7, 0.3]), np.array([0.2, 0.8])))
    one = pd.DataFrame({"a": [0.7], "b": [0.3]}), pd.DataFrame({"a": [0.2], "b": [0.8]})
    assert deconvolution_agreement(*one).loc["all types", "jensen_shannon"] == pytest.approx(bits)


def test_bad_proportions_are_refused():
    p = pd.DataFrame({"a": [0.2], "b": [0.8]})
    with pytest.raises(ValueError, match="1 spots and 1 cell types are shared"):
        deconvolution_agreement(p, p[["a"]])
    with pytest.raises(ValueError, match="reference has negative"):
        deconvolution_agreement(p, -p)


@given(st.integers(0, 1000), st.integers(2, 30))
def test_recall_counts_ranks(seed, n):
    rng = np.random.default_rng(seed)
    query, reference = rng.normal(size=(2, n, 4))
    cosine = (query @ reference.T) / np.linalg.norm(query, axis=1)[:, None] / np.linalg.norm(reference, axis=1)
    rank = (cosine > np.diag(cosine)[:, None]).sum(axis=1) + 1
    found = retrieval_recall(query, reference, k=(1, 3), n_permutations=5)
    assert found.loc[1, "recall"] == pytest.approx((rank <= 1).mean())
    assert found.loc[3, "recall"] == pytest.approx((rank <= 3).mean())
    assert found.loc[3, "chance"] == pytest.approx(min(3 / n, 1)) and found.loc[1, "median_rank"] == np.median(rank)


def test_recall_of_a_constant_query_is_chance_not_luck():
    reference = np.random.default_rng(0).normal(size=(40, 5))
    found = retrieval_recall(np.ones((40, 5)), np.ones((40, 5)), k=(1, 10))
    assert found["recall"].tolist() == [0, 0] and found["median_rank"].tolist() == [20.5, 20.5]
    groups = np.repeat(["a", "b"], 20)
    within = retrieval_recall(reference, reference, k=(1,), groups=groups)
    assert within.loc[1, ["recall", "chance"]].tolist() == [1.0, 0.05] and within.loc[1, "p_value"] < 0.01
    noise = retrieval_recall(np.random.default_rng(1).normal(size=(40, 5)), reference, k=(10,))
    assert noise.loc[10, "p_value"] > 0.05
    with pytest.raises(ValueError, match="paired rows"):
        retrieval_recall(reference, reference[:5])


def cells(rng, group_shift=0.0, signal=1.5):
    kind = rng.integers(0, 3, 300)
    group = np.repeat([f"d{i}" for i in range(6)], 50)
    x = rng.normal(size=(300, 8))
    x[np.arange(300), kind] += signal
    return x + group_shift * rng.normal(size=(6, 8))[np.repeat(np.arange(6), 50)], kind, group


def test_probe_reads_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    x, kind, group = cells(rng)
    found = linear_probe(x, kind, group)
    assert found.loc["pooled", "balanced_accuracy"] > 0.6 and found.loc["pooled", "auroc"] > 0.8
    assert found.loc["pooled", "n"] == 300 and len(found) == 7
    chance = linear_probe(x, rng.permutation(kind), group).loc["pooled"]
    assert abs(chance["balanced_accuracy"] - 1 / 3) < 0.08 and abs(chance["auroc"] - 0.5) < 0.08
    # a label that is a property of the donor cannot be learnt from the other donors
    donor_label = np.where(np.isin(group, ["d0", "d1", "d2"]), "left", "right")
    marked = x + 5 * np.eye(8)[np.unique(group, return_inverse=True)[1]]
    assert linear_probe(marked, donor_label, group).loc["pooled", "balanced_accuracy"] < 0.7


def test_probe_refuses_what_cannot_be_learnt():
    x = np.zeros((4, 2))
    with pytest.raises(ValueError, match="two labels and two groups"):
        linear_probe(x, ["a"] * 4, ["x", "x", "y", "y"])
    with pytest.raises(ValueError, match="without group 'x' only the label 'b' is left"):
        linear_probe(x, ["a", "a", "b", "b"], ["x", "x", "y", "y"])


def test_robustness_tells_biology_from_centre():
    rng = np.random.default_rng(0)
    biology, _, centre = cells(rng, signal=4)[0], None, None
    x, kind, centre = cells(rng, signal=6)
    good = robustness_index(x, kind, centre, k=10, n_permutations=50)
    assert good["index"] > 0.95 and good["p_value"] < 0.03 and good["index"] > good["null_upper"]
    x, kind, centre = cells(rng, signal=0.3, group_shift=6)
    bad = robustness_index(x, kind, centre, k=10, n_permutations=50)
    assert bad["index"] < 0.05
    noise = robustness_index(rng.normal(size=(300, 8)), kind, centre, k=10, n_permutations=200)
    assert noise["null_mean"] - 0.1 < noise["index"] < noise["null_upper"] + 0.05 and noise["p_value"] > 0.01
    assert biology.shape == (300, 8)


def smooth_fields(seed, association=0.0):
    """Two sections of 12 × 12 units; features and types are smooth, and independent but for ``association``."""
    rng = np.random.default_rng(seed)
    where = np.stack(np.meshgrid(np.arange(12.0), np.arange(12.0)), axis=-1).reshape(-1, 2)
    features, kind = [], []
    for _ in range(2):
        *x, t = (gaussian_filter(rng.normal(size=(12, 12)), 1.5).ravel() for _ in range(7))
        x = np.column_stack(x) / np.std(x)
        x[:, 0] += association * t / t.std()
        features.append(x)
        kind.append(t > np.median(t))
    return np.concatenate(features), np.concatenate(kind), np.repeat(["a", "b"], 144), np.concatenate([where, where])


def share_rejected(association, with_coordinates, n=40):
    p = []
    for seed in range(n):
        x, kind, place, where = smooth_fields(seed, association)
        where = where if with_coordinates else None
        found = robustness_index(x, kind, place, k=10, coordinates=where, n_permutations=39, seed=seed)
        p.append(found["p_value"])
    return np.mean(np.array(p) <= 0.05)


def test_smooth_maps_that_are_independent_are_not_taken_for_biology():
    assert share_rejected(0.0, with_coordinates=True) < 0.15
    assert share_rejected(2.0, with_coordinates=True, n=10) > 0.8
    # the null of independent units does not hold here
    assert share_rejected(0.0, with_coordinates=False, n=20) > 0.4


def test_moved_maps_keep_smoothness_and_composition():
    kind = np.repeat([0, 1], 72)  # a straight border between two kinds
    (part,) = _maps(smooth_fields(0)[3][:144], np.zeros(144, int))
    for seed in range(10):
        moved = _moved(kind, [part], np.random.default_rng(seed)).reshape(12, 12)
        assert 36 <= moved.sum() <= 108
        # one border, or a second where the map is folded; wrapping around would always have two
        assert (np.diff(moved, axis=0) != 0).sum() <= 24 and (np.diff(moved, axis=1) == 0).all()
    one = _maps(np.zeros((1, 2)), np.zeros(1, int))
    assert _moved(np.array([3]), one, np.random.default_rng(0)).tolist() == [3]


def test_which_null_and_what_was_left_out_is_told():
    x, kind, place, where = smooth_fields(0)
    kind, place, where = kind.astype(object), place.astype(object), where.copy()
    kind[0], place[1], where[2], x[3] = None, np.nan, np.nan, np.nan
    found = robustness_index(x, kind, place, k=5, coordinates=where, n_permutations=3)
    assert found["null"] == "maps moved" and found["n"] == 284 and found["n_left_out"] == 4
    without = robustness_index(x, kind, place, k=5, n_permutations=3)
    assert without["null"] == "units shuffled" and without["n_left_out"] == 3
    by_hand = robustness_index(x[4:], kind[4:], place[4:], k=5, coordinates=where[4:], n_permutations=3)
    assert found["index"] == by_hand["index"]
    with pytest.raises(ValueError, match="coordinates has 5 rows and features 288"):
        robustness_index(x, kind, place, coordinates=where[:5])


def test_an_index_that_is_not_there_has_no_p_value():
    rng = np.random.default_rng(0)
    # all neighbours are of the same kind and the same centre: neither count goes up
    x = np.concatenate([rng.normal((9, 0), 0.1, (20, 2)), rng.normal((0, 9), 0.1, (20, 2))])
    same = np.repeat(["u", "v"], 20)
    found = robustness_index(x, same, same, k=5, n_permutations=9)
    assert np.isnan(found["index"]) and np.isnan(found["p_value"]) and np.isnan(found["null_mean"])


def test_probe_leaves_out_unknown_donors_and_types():
    x, kind, group = cells(np.random.default_rng(0))
    kind, group = kind.astype(object), group.astype(object)
    kind[:3], group[60:65] = None, np.nan
    found = linear_probe(x, kind, group)
    assert list(found.index) == [*(f"d{i}" for i in range(6)), "pooled"]
    assert found.loc[["d0", "d1", "pooled"], "n_left_out"].tolist() == [3, 0, 8]
    assert found.loc[["d0", "d1", "pooled"], "n"].tolist() == [47, 45, 292]


def test_robustness_by_hand():
    x = np.array([[1.0, 0], [1, 0.01], [0, 1], [0.01, 1]])
    kind, place = np.array(["t", "t", "s", "s"]), np.array(["a", "b", "a", "b"])
    assert robustness_index(x, kind, place, k=1, n_permutations=9)["index"] == 1.0
    assert robustness_index(x, place, kind, k=1, n_permutations=9)["index"] == 0.0
    with pytest.raises(ValueError, match="at least two kinds"):
        robustness_index(x, kind, ["a"] * 4, k=1)
    with pytest.raises(ValueError, match="only 2 to choose from"):
        robustness_index(x, kind, place, k=3, groups=place)
