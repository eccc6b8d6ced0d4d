"""No score is raised by silence, and none by changing what it is measured against."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pastpy.bench import FeatureMethod, predictable_genes, ridge, run_loso
from pastpy.bench._baselines import gene_mean
from pastpy.metrics import expression

GENES = [f"g{i}" for i in range(10)]
SEEN = FeatureMethod(lambda sdata: sdata["spots"].obsm["spatial"], ridge(alpha=1.0, n_components=None))


def extremes(fold):
    """SEEN, but only the ten lowest and highest predictions of every gene."""
    out = {}
    for section, frame in SEEN(fold).items():
        rank = frame.rank()
        out[section] = frame.where((rank <= 10) | (rank > len(frame) - 10))
    return out


def two_genes(fold):
    return {s: f[["g0", "g1"]].reindex(columns=f.columns) for s, f in SEEN(fold).items()}


def every_tenth_missing(fold):
    """As spots without cells under them."""
    return {s: f[np.arange(len(f)) % 10 > 0].reindex(f.index) for s, f in SEEN(fold).items()}


@pytest.fixture(scope="module")
def result(cohort):
    sections, donors = cohort
    methods = {
        "all": SEEN,
        "extremes": extremes,
        "two genes": two_genes,
        "tenth missing": every_tenth_missing,
        "gene mean": gene_mean,
    }
    return run_loso(sections, methods, donors=donors, hold_out="donor", genes=GENES)


def test_leaving_units_out_gains_nothing(result):
    table = result.table()
    assert table.loc["extremes", "mean"] < table.loc["all", "mean"]
    assert table["share_predicted"].round(3).to_dict() == {
        "all": 1.0, "extremes": 0.333, "two genes": 0.2, "tenth missing": 0.9, "gene mean": 1.0,
        "noise ceiling": pytest.approx(np.nan, nan_ok=True),
    }  # fmt: skip
    # nor does leaving out the genes with the largest errors
    error = result.table(value="mse")["mean"]
    assert error["all"] < error["two genes"] < error["gene mean"]


def test_a_unit_left_out_counts_as_the_training_mean(result, cohort):
    sections, donors = cohort
    for section in ("s0", "s5"):
        train = [result.measured[s] for s in sections if donors[s] != donors[section]]
        filled = result.predictions["tenth missing"][section].fillna(pd.concat(train).mean())
        by_hand = expression(filled, result.measured[section])
        scores = result.scores.query("method == 'tenth missing' and section == @section").set_index("gene")
        for value in ("pearson", "mse", "auroc", "n"):
            np.testing.assert_allclose(scores[value], by_hand.loc[scores.index, value], err_msg=value)
    # what the method said is kept as it was said
    assert result.predictions["tenth missing"]["s0"].isna().to_numpy().mean() == 0.1


def test_the_card_counts_silence_as_the_table_does(cohort):
    sections, donors = cohort

    def only_one_donor(fold):
        return {s: f if s in ("s0", "s1") else f * 0.0 + 1.0 for s, f in SEEN(fold).items()}

    found = run_loso(sections, {"m": only_one_donor}, donors=donors, hold_out="donor", genes=GENES[:5])
    card = predictable_genes(found, "m")
    assert "yes" not in set(card["trust"]) and (card["n_groups"] == 3).all()
    assert card["pearson"].mean() == pytest.approx(found.table().loc["m", "mean"])


def test_a_section_too_small_to_score_is_nobodys_fault(cohort, make_section):
    sections, donors = cohort
    small = {**sections, "tiny": make_section(50, n=2)}
    table = run_loso(small, {"m": SEEN}, donors={**donors, "tiny": "P9"}, hold_out="donor", n_genes=5).table()
    assert table["tiny"].isna().all()
    others = table.loc["m", list(sections)].mean()
    assert table.loc["m", "mean"] == pytest.approx(others) and np.isfinite(table.loc["m", "spatial"])


def test_a_method_cannot_rewrite_the_truth(cohort):
    sections, donors = cohort
    before = {s: sdata["spots"].X.copy() for s, sdata in sections.items()}

    def vandal(fold):
        frames = SEEN(fold)
        for table in fold.tables("train").values():
            table.X.data[:] = 1
            table.obsm["spatial"][:] = 0
        for table in fold.tables("test").values():
            table.obsm["spatial"][:] = 0
        fold.genes.reverse()
        fold.donors.clear()
        return frames

    alone = run_loso(sections, {"m": SEEN}, donors=donors, hold_out="donor", n_genes=5)
    beside = run_loso(sections, {"vandal": vandal, "m": SEEN}, donors=donors, hold_out="donor", n_genes=5)
    expected, scores = alone.scores.set_index("method"), beside.scores.set_index("method")
    for rival in ("m", "noise ceiling"):
        pd.testing.assert_frame_equal(scores.loc[rival], expected.loc[rival])
    np.testing.assert_array_equal(scores.loc["vandal", "pearson"], expected.loc["m", "pearson"])
    assert all(not (sections[s]["spots"].X != x).nnz for s, x in before.items())


def test_a_method_cannot_ask_to_be_scored_on_fewer_units(cohort):
    sections, donors = cohort

    def fewer(fold):
        for sdata in fold.test.values():
            sdata.tables["spots"] = sdata["spots"][:10].copy()
        return SEEN(fold)

    with pytest.raises(ValueError, match="the prediction lacks 50 units"):
        run_loso(sections, {"m": fewer}, donors=donors, hold_out="donor", n_genes=5)


def test_facts_tell_the_genes_that_were_scored(cohort, result):
    sections, donors = cohort
    given = result.facts
    assert (given["n_genes"], given["min_detected"], given["genes_chosen"]) == (10, "given", "given")
    chosen = run_loso(sections, {"m": gene_mean}, donors=donors, hold_out="donor", n_genes=5, min_detected=0.2).facts
    assert (chosen["n_genes"], chosen["min_detected"]) == (5, 0.2)
