from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex

import pastpy as past


@pytest.fixture
def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predicted and measured expression of 60 spots × 30 genes; the agreement falls from gene to gene."""
    rng = np.random.default_rng(0)
    genes, spots = [f"G{i}" for i in range(30)], [f"s{i}" for i in range(60)]
    measured = pd.DataFrame(rng.gamma(2, 0.7, (60, 30)), index=spots, columns=genes)
    predicted = measured * np.linspace(1.5, -0.4, 30) + rng.normal(0, 0.6, (60, 30))
    return predicted, measured


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_few_genes_are_points_with_their_r(frames):
    predicted, measured = frames
    ax = past.pl.expression_vs_measured(predicted, measured, ["G3", "G20"])
    for collection, gene in zip(ax.collections, ["G3", "G20"], strict=True):
        np.testing.assert_allclose(collection.get_offsets(), np.column_stack([measured[gene], predicted[gene]]))
    r = [np.corrcoef(predicted[gene], measured[gene])[0, 1] for gene in ("G3", "G20")]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [f"G3, r = {r[0]:.2f}", f"G20, r = {r[1]:.2f}"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("measured, log1p", "predicted, log1p")
    assert ax.get_title() == "Predicted against measured, 60 cells or spots"


def test_many_genes_are_sorted_bars(frames):
    predicted, measured = frames
    ax = past.pl.expression_vs_measured(predicted, measured)
    r = np.array([np.corrcoef(predicted[gene], measured[gene])[0, 1] for gene in measured])
    heights = np.array([bar.get_height() for bar in ax.patches])
    np.testing.assert_allclose(heights, np.sort(r)[::-1])
    colours = [to_hex(bar.get_facecolor()) for bar in ax.patches]
    assert len(set(colours)) == 2
    assert [colour == colours[0] for colour in colours] == (heights >= 0).tolist()
    best = measured.columns[np.argsort(-r)[:5]]
    assert texts(ax)[0].strip() == f"mean r = {r.mean():.2f}"
    assert texts(ax)[1].startswith(f"best: {best[0]} {r.max():.2f}, {best[1]} ")
    assert ax.get_xlabel() == "30 genes, sorted"


def test_rows_and_columns_are_matched_by_name(frames):
    predicted, measured = frames
    shuffled = predicted.sample(frac=1, random_state=1).iloc[:, ::-1].assign(extra=0.0)
    one = past.pl.expression_vs_measured(predicted, measured)
    other = past.pl.expression_vs_measured(shuffled, measured.assign(other=1.0))
    assert [bar.get_height() for bar in one.patches] == pytest.approx([bar.get_height() for bar in other.patches])
    fewer = past.pl.expression_vs_measured(predicted.iloc[:20], measured)
    assert "20 cells or spots" in fewer.get_title()


def test_counts_are_warned_of(frames):
    predicted, measured = frames
    with pytest.warns(UserWarning, match="whole numbers up to 40, which look like counts"):
        past.pl.expression_vs_measured(predicted, measured.round().assign(G0=40.0))
    with pytest.raises(TypeError, match="got AnnData; of an AnnData pass .to_df"):
        past.pl.expression_vs_measured(AnnData(predicted), measured)


def test_genes_without_r_are_counted(frames):
    predicted, measured = frames
    predicted["G0"], measured["G1"] = np.nan, 0.0
    predicted.loc["s0", "G2"] = np.nan
    ax = past.pl.expression_vs_measured(predicted, measured)
    assert ax.get_xlabel() == "28 genes, sorted; 2 without r"
    r = np.corrcoef(predicted["G2"].iloc[1:], measured["G2"].iloc[1:])[0, 1]
    assert np.isclose([bar.get_height() for bar in ax.patches], r).any()
    ax = past.pl.expression_vs_measured(predicted, measured, ["G1", "G2"])
    assert ax.get_legend().get_texts()[0].get_text() == "G1, r unknown"


@pytest.mark.parametrize(
    ("change", "genes", "error", "message"),
    [
        (lambda p, m: (p, m), ["ERBB2"], KeyError, r"\['ERBB2'\] are not among the 30 genes of predicted"),
        (lambda p, m: (p, m.drop(columns="G3")), "G3", KeyError, "of measured"),
        (lambda p, m: (p.add_prefix("ENSG"), m), None, ValueError, "share 0 genes and 60 units"),
        (lambda p, m: (p.reset_index(drop=True), m), None, ValueError, "share 30 genes and 0 units"),
        (lambda p, m: (p * 0, m), None, ValueError, "no gene varies"),
        (lambda p, m: (p.iloc[[0, 0, 1, 2]], m), None, ValueError, "unit 's0' more than once"),
        (lambda p, m: (p.to_numpy(), m), None, TypeError, "predicted must be a DataFrame"),
    ],
)
def test_bad_input(frames, change, genes, error, message):
    with pytest.raises(error, match=message):
        past.pl.expression_vs_measured(*change(*frames), genes)
    assert plt.get_fignums() == []


@pytest.mark.parametrize(("genes", "name"), [(None, "expression_bars"), (["G0", "G12", "G25"], "expression_points")])
def test_pictures(frames, same_picture, genes, name):
    same_picture(past.pl.expression_vs_measured(*frames, genes).figure, name)
