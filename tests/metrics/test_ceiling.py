"""The noise ceiling against simulated counts whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from pastpy import metrics


def rates(rng, n=2500, genes=40, depth=600.0):
    """Poisson rates: genes of falling abundance, each varying over units."""
    share = np.exp(rng.normal(np.linspace(0, -4, genes), 0.7, (n, genes)))
    return depth * share / share.sum(axis=1, keepdims=True)


def counts(rng, mean) -> AnnData:
    return AnnData(csr_matrix(rng.poisson(mean).astype(np.float32)))


def log(x) -> np.ndarray:
    return np.log1p(1e4 * x / x.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("depth", "most"), [(5000, 0.03), (600, 0.08)])
def test_ceiling_is_what_the_best_prediction_reaches(depth, most):
    rng = np.random.default_rng(0)
    mean = rates(rng, depth=depth)
    table = counts(rng, mean)
    found = metrics.noise_ceiling(table)["ceiling"].to_numpy()
    measured = log(table.X.toarray())
    # the best prediction: expectation of the measurement, here by drawing it again and again
    best = np.mean([log(rng.poisson(mean)) for _ in range(150)], axis=0)
    reached = np.array([np.corrcoef(best[:, g], measured[:, g])[0, 1] for g in range(40)])
    assert np.ptp(reached) > 0.05
    # the logarithm bends where genes have a few counts a unit: the stated error of the formula
    np.testing.assert_allclose(found, reached, atol=most)
    assert abs((found - reached).mean()) < 0.015


def test_thinned_to_a_depth_is_measured_at_that_depth():
    rng = np.random.default_rng(1)
    mean = rates(rng)
    table = counts(rng, mean)
    thinned = metrics.noise_ceiling(table, depth=150)["ceiling"]
    shallow = metrics.noise_ceiling(counts(rng, mean / 4))["ceiling"]
    full = metrics.noise_ceiling(table)["ceiling"]
    assert abs((thinned - shallow).mean()) < 0.03 < (full - thinned).mean()


def test_genes_without_information_have_none():
    rng = np.random.default_rng(2)
    x = np.column_stack([np.full(400, 20), rng.poisson(np.r_[np.full(200, 5), np.full(200, 50)]), np.zeros(400)])
    x = np.column_stack([x, 1000 - x.sum(axis=1)])
    found = metrics.noise_ceiling(AnnData(csr_matrix(x.astype(np.float32))), target_sum=None)
    # a gene that does not vary between units: its halves share nothing but the deal
    assert found["ceiling"].iloc[0] < 0.2 and found["ceiling"].iloc[1] > 0.9
    assert np.isnan(found["ceiling"].iloc[2]) and found["reason"].iloc[2] == "constant in measured"


def test_what_is_wrong_is_named():
    table = counts(np.random.default_rng(0), np.full((5, 3), 9.0))
    with pytest.raises(KeyError, match="not in the table, e.g. \\['x'\\]"):
        metrics.noise_ceiling(table, genes=["x"])
    with pytest.raises(ValueError, match="at most the median depth"):
        metrics.noise_ceiling(table, depth=1e6)
    with pytest.raises(ValueError, match="n_splits must be at least 1, got 0"):
        metrics.noise_ceiling(table, n_splits=0)
    with pytest.raises(ValueError, match="1 genes more than once, e.g. \\['0'\\]"):
        metrics.noise_ceiling(table, genes=["0", "0"])
    with pytest.raises(TypeError, match="pass \\['0'\\]"):
        metrics.noise_ceiling(table, genes="0")
    twice = table.copy()
    twice.var_names = ["0", "1", "1"]
    with pytest.raises(ValueError, match="has a gene twice"):
        metrics.noise_ceiling(twice)
    table.X = table.X * 0.5
    with pytest.raises(ValueError, match="raw counts"):
        metrics.noise_ceiling(table)


@pytest.fixture(scope="module")
def uneven() -> AnnData:
    """Units of very different and small depth, in which one gene is most of what is counted; X is something else."""
    rng = np.random.default_rng(5)
    share = np.exp(rng.normal([2.0, 0.0, 0.0, 0.0], 0.6, (40_000, 4)))
    share /= share.sum(axis=1, keepdims=True)
    drawn = rng.poisson(np.exp(rng.normal(3.4, 0.9, (40_000, 1))) * share).astype(np.float32)
    table = AnnData(csr_matrix(np.ones_like(drawn)), layers={"counts": csr_matrix(drawn)})
    return table[drawn.sum(axis=1) > 5].copy()


@pytest.mark.parametrize("depth", [None, 15])
def test_a_gene_has_the_same_ceiling_alone_and_among_others(uneven, depth):
    together = metrics.noise_ceiling(uneven, layer="counts", depth=depth, n_splits=5)["ceiling"]
    for gene in uneven.var_names[:2]:
        alone = metrics.noise_ceiling(uneven, genes=[gene], layer="counts", depth=depth, n_splits=5)["ceiling"]
        assert alone[gene] == pytest.approx(together[gene], abs=0.03)
