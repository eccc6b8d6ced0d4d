"""Nested intervals cover what they promise on tissue that had no part in them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pastpy.bench import FeatureMethod, nested_intervals, predictable_genes, ridge, run_loso
from pastpy.bench._baselines import gene_mean
from pastpy.bench._intervals import width_ratio

SEEN = FeatureMethod(lambda sdata: sdata["spots"].obsm["spatial"], ridge(alpha=1.0, n_components=None))


@pytest.fixture(scope="module")
def donors(make_section):
    sections = {f"s{i}": make_section(100 + i, n=40, n_genes=20) for i in range(12)}
    names = list(sections)
    folds = [([s for s in names if s not in names[i::3]], names[i::3]) for i in range(3)]
    return sections, {"donors": {s: s for s in names}, "folds": folds, "n_genes": 12}


def test_coverage_on_exchangeable_donors(donors):
    sections, options = donors
    found = nested_intervals(sections, SEEN, **options)
    assert found.facts["coverage"] == pytest.approx(0.9, abs=0.03)
    assert found.facts["coverage_lower"] < 0.9 < found.facts["coverage_upper"] and found.facts["n_held_out"] == 12
    # where the method says something its intervals are narrower, elsewhere one abstains
    ratio = found.genes.assign(r=found.genes["mean_width"] / found.genes["reference_width"]).groupby("gene")["r"].mean()
    assert (ratio[["g0", "g1"]] < 0.8).all() and (ratio.drop(["g0", "g1"]) > 0.8).all()
    assert 0 < found.facts["abstained"] < 1
    constant = nested_intervals(sections, gene_mean, **options)
    assert constant.facts["coverage"] == pytest.approx(0.9, abs=0.03) and constant.facts["abstained"] > 0.9


def test_the_training_mean_is_as_wide_as_itself(donors):
    sections, options = donors
    found = nested_intervals(sections, gene_mean, **options)
    assert found.facts["width_ratio"] == pytest.approx(1.0) and found.facts["abstained"] == 1.0
    np.testing.assert_allclose(found.genes["mean_width"], found.genes["reference_width"])

    def quiet(fold):
        return {s: f.iloc[::2].reindex(f.index) for s, f in gene_mean(fold).items()}

    # nor does leaving out half of the units make it narrow
    assert nested_intervals(sections, quiet, **options).facts["width_ratio"] == pytest.approx(1.0)


def test_nothing_is_narrower_than_no_width():
    ratio = width_ratio(pd.DataFrame({"mean_width": [0.0, 1.0, 1.0], "reference_width": [0.0, 0.0, 2.0]}))
    np.testing.assert_equal(ratio.to_numpy(), [np.nan, np.nan, 0.5])


def test_a_method_cannot_rewrite_what_it_is_judged_on(donors):
    sections, options = donors
    before = sections["s0"]["spots"].X.copy()

    def vandal(fold):
        frames = SEEN(fold)
        for table in fold.tables("train").values():
            table.X.data[:] = 1
        fold.genes.clear()
        return frames

    assert nested_intervals(sections, vandal, **options).facts == nested_intervals(sections, SEEN, **options).facts
    assert not (sections["s0"]["spots"].X != before).nnz


def test_a_donor_unlike_the_others_is_not_covered(donors, make_section):
    sections, options = donors
    strange = {**sections, "odd": make_section(5, n=40, n_genes=20, noise=2.5)}
    found = nested_intervals(
        strange, SEEN, donors={s: s for s in strange}, folds=[(list(sections), ["odd"])], n_genes=12
    )
    of = found.genes.set_index("gene")["coverage"]
    assert of[["g0", "g1"]].max() < 0.7


def test_card_has_coverage(donors):
    sections, options = donors
    scored = run_loso(sections, {"seen": SEEN}, **options)
    card = predictable_genes(scored, "seen", intervals=nested_intervals(sections, SEEN, **options), min_r=0.4)
    assert card["coverage"].between(0.8, 1).all() and card.loc["g0", "width_ratio"] < 0.8


def test_one_training_donor_is_refused(donors):
    sections, options = donors
    with pytest.raises(ValueError, match="two donors"):
        nested_intervals(sections, SEEN, **{**options, "folds": [(["s0"], ["s1"])]})


def test_calibration_uses_training_donors_only(donors):
    sections, options = donors
    seen: list[tuple[set[str], set[str]]] = []

    def spy(fold):
        seen.append((set(fold.train), set(fold.test)))
        return SEEN(fold)

    train, test = options["folds"][0]
    nested_intervals(sections, spy, **{**options, "folds": [(train, test)]})
    assert len(seen) == 6 and seen[-1] == (set(train), set(test))
    for fit, held in seen[:-1]:
        assert not (fit | held) & set(test) and fit | held == set(train) and not fit & held
    assert np.sum([len(held) for _, held in seen[:-1]]) == len(train)
