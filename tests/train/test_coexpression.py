"""What a panel of single cells says of genes that it lacks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from pastpy.train.coexpression import coexpression
from pastpy.train.data import Section, SingleCells

#: Two kinds of cells: counts of each gene in a cell. "go" and "went" go with the first kind, "come" with the second,
#: "noise" with neither, since both kinds have as many counts. "rare" is of the panel, but spots hardly count it.
KINDS = {
    "a1": (30, 1), "a2": (20, 2), "b1": (1, 30), "b2": (2, 20), "rare": (15, 0.0),
    "go": (25, 2), "went": (9, 1), "come": (1, 32), "noise": (8, 8),
}  # fmt: skip
PANEL = ["b2", "a1", "rare", "a2", "b1"]
VOCABULARY = sorted(KINDS)


def section(name: str, counts: np.ndarray, proportions: pd.DataFrame | None = None) -> Section:
    nothing = np.zeros((1, 0, 1, 1), dtype=np.float32)
    sparse = csr_matrix(counts.astype(np.float32))
    return Section(name, nothing, np.zeros(0, int), sparse, VOCABULARY, nothing[0], proportions)


@pytest.fixture
def sections() -> list[Section]:
    """Three sections of 80 spots of 20 cells each; one counts everything three times as often."""
    rng = np.random.default_rng(0)
    rates = np.array([KINDS[g] if g != "rare" else (0.0, 0.0) for g in VOCABULARY])
    out = []
    for name, depth in (("s1", 1.0), ("s2", 3.0), ("s3", 0.5)):
        share = rng.uniform(0.1, 0.9, 80)
        counts = rng.poisson(20 * depth * (np.outer(share, rates[:, 0]) + np.outer(1 - share, rates[:, 1])))
        out.append(section(name, counts))
    return out


@pytest.fixture
def cells() -> SingleCells:
    """300 single cells, one in a hundred without counts; they were measured for one gene that nobody asks for."""
    rng = np.random.default_rng(1)
    genes = [*reversed(PANEL), "elsewhere"]
    rates = np.array([KINDS.get(g, (5, 5)) for g in genes])
    kind = rng.integers(2, size=300)
    counts = rng.poisson(rates[:, kind].T / 4)
    counts[::100] = 0
    return SingleCells(csr_matrix(counts.astype(np.float32)), genes, np.array(["a", "b"], dtype=object)[kind])


def of_kinds(found) -> pd.DataFrame:
    """What is to be expected of the genes in a cell of either kind."""
    totals = np.array([sum(KINDS[g][kind] for g in PANEL) for kind in (0, 1)])
    profiles = np.log1p(1e4 * np.array([KINDS[g] for g in PANEL]) / totals)
    return pd.DataFrame(profiles.T @ found.weights, index=["a", "b"], columns=found.genes)


def test_genes_go_with_the_kind_of_cell_that_spots_show_them_with(sections, cells):
    found = coexpression(sections, cells, PANEL, VOCABULARY)
    assert sorted(found.genes) == ["come", "go", "went"], "no gene of the panel, and none that goes with nothing"
    expected = of_kinds(found)
    difference = expected.loc["a"] - expected.loc["b"]
    assert difference["go"] > 0.5 and difference["went"] > 0.5 and difference["come"] < -0.5
    assert not found.weights[PANEL.index("rare")].any(), "what spots hardly count is not asked"
    assert np.isfinite(found.weights).all() and found.weights.dtype == np.float32


def test_one_section_and_spots_without_counts_are_enough(sections, cells):
    counts = sections[0].counts.toarray()
    counts[:3] = 0
    sections[0].counts = csr_matrix(counts)
    found = coexpression(sections[:1], cells, PANEL, VOCABULARY)
    assert {"go", "come"} <= set(found.genes) and np.isfinite(found.weights).all()


def test_proportions_tell_what_the_panel_in_spots_does_not(cells):
    """Spots count the panel's genes alike whatever they hold; proportions say where "go" and "come" come from."""
    rng = np.random.default_rng(2)
    rates = np.array([KINDS[g] if g in ("go", "went", "come", "noise") else (9, 9) for g in VOCABULARY])
    known = []
    for name in ("s1", "s2", "s3"):
        a = rng.uniform(0.1, 0.9, 100)
        counts = rng.poisson(20 * (np.outer(a, rates[:, 0]) + np.outer(1 - a, rates[:, 1])))
        counts[5] = 0
        proportions = pd.DataFrame({"b": 1 - a, "a": a, "neither": 0.0})
        proportions.iloc[3] = np.nan
        known.append(section(name, counts, proportions))
    # columns are found by name
    known[1].proportions = known[1].proportions[["a", "neither", "b"]]
    found = coexpression(known, cells, PANEL, VOCABULARY)
    unknown = coexpression([*known[:2], replace(known[2], proportions=None)], cells, PANEL, VOCABULARY)
    untyped = coexpression(known, replace(cells, types=None), PANEL, VOCABULARY)
    assert found.by_types and not unknown.by_types and not untyped.by_types
    going_with_types = {"go", "went", "come"}
    assert going_with_types <= set(found.genes)
    expected = of_kinds(found)
    difference = expected.loc["a"] - expected.loc["b"]
    assert difference["go"] > 0.5 and difference["went"] > 0.5 and difference["come"] < -0.5
    for less in (unknown, untyped):
        assert not going_with_types & set(less.genes), "all sections' proportions and the cells' types, or neither"


def test_proportions_that_foretell_nothing_count_for_little(sections, cells):
    rng = np.random.default_rng(3)
    alone = coexpression(sections, cells, PANEL, VOCABULARY)
    for each in sections:
        a = rng.uniform(0.1, 0.9, each.counts.shape[0])
        each.proportions = pd.DataFrame({"a": a, "b": 1 - a})
    found = coexpression(sections, cells, PANEL, VOCABULARY)
    assert found.by_types and sorted(found.genes) == sorted(alone.genes)
    for gene in found.genes:
        before, after = (each.weights[:, each.genes.index(gene)] for each in (alone, found))
        assert np.corrcoef(before, after)[0, 1] > 0.98, gene


@pytest.mark.parametrize("with_types", [False, True])
def test_no_other_gene_is_no_error(sections, cells, with_types):
    for each in sections if with_types else ():
        each.proportions = pd.DataFrame(0.5, index=range(each.counts.shape[0]), columns=["a", "b"])
    found = coexpression(sections, cells, PANEL, PANEL)
    assert found.genes == [] and found.weights.shape == (len(PANEL), 0)
