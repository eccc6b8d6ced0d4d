"""What a panel of single cells says of genes that it lacks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pastpy.train.coexpression import coexpression
from pastpy.train.data import Section

#: Two kinds of cells: counts of each gene in a cell. "go" and "went" go with the first kind, "come" with the second,
#: "noise" with neither, since both kinds have as many counts. "rare" is of the panel, but spots hardly count it.
KINDS = {
    "a1": (30, 1), "a2": (20, 2), "b1": (1, 30), "b2": (2, 20), "rare": (15, 0.0),
    "go": (25, 2), "went": (9, 1), "come": (1, 32), "noise": (8, 8),
}  # fmt: skip
PANEL = ["b2", "a1", "rare", "a2", "b1"]
VOCABULARY = sorted(KINDS)


@pytest.fixture
def sections() -> list[Section]:
    """Three sections of 80 spots of 20 cells each; one counts everything three times as often."""
    rng = np.random.default_rng(0)
    rates = np.array([KINDS[g] if g != "rare" else (0.0, 0.0) for g in VOCABULARY])
    out = []
    for name, depth in (("s1", 1.0), ("s2", 3.0), ("s3", 0.5)):
        share = rng.uniform(0.1, 0.9, 80)
        counts = rng.poisson(20 * depth * (np.outer(share, rates[:, 0]) + np.outer(1 - share, rates[:, 1])))
        nothing = np.zeros((1, 0, 1, 1), dtype=np.float32)
        out.append(
            Section(name, nothing, np.zeros(0, int), csr_matrix(counts.astype(np.float32)), VOCABULARY, nothing[0])
        )
    return out


@pytest.fixture
def cells() -> tuple[csr_matrix, list[str]]:
    """300 single cells, one in a hundred without counts; they were measured for one gene that nobody asks for."""
    rng = np.random.default_rng(1)
    genes = [*reversed(PANEL), "elsewhere"]
    rates = np.array([KINDS.get(g, (5, 5)) for g in genes])
    counts = rng.poisson(rates[:, rng.integers(2, size=300)].T / 4)
    counts[::100] = 0
    return csr_matrix(counts.astype(np.float32)), genes


def test_genes_go_with_the_kind_of_cell_that_spots_show_them_with(sections, cells):
    found = coexpression(sections, cells, PANEL, VOCABULARY)
    assert sorted(found.genes) == ["come", "go", "went"], "no gene of the panel, and none that goes with nothing"
    first, second = (
        np.log1p(1e4 * np.array([KINDS[g][kind] for g in PANEL]) / sum(KINDS[g][kind] for g in PANEL))
        for kind in (0, 1)
    )
    difference = dict(zip(found.genes, (first - second) @ found.weights, strict=True))
    assert difference["go"] > 0.5 and difference["went"] > 0.5 and difference["come"] < -0.5
    assert not found.weights[PANEL.index("rare")].any(), "what spots hardly count is not asked"
    assert np.isfinite(found.weights).all() and found.weights.dtype == np.float32


def test_one_section_and_spots_without_counts_are_enough(sections, cells):
    counts = sections[0].counts.toarray()
    counts[:3] = 0
    sections[0].counts = csr_matrix(counts)
    with np.errstate(invalid="ignore"):
        found = coexpression(sections[:1], cells, PANEL, VOCABULARY)
    assert {"go", "come"} <= set(found.genes) and np.isfinite(found.weights).all()


def test_no_other_gene_is_no_error(sections, cells):
    found = coexpression(sections, cells, PANEL, PANEL)
    assert found.genes == [] and found.weights.shape == (len(PANEL), 0)
