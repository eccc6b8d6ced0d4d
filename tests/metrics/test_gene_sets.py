"""Sets of genes come from training tables alone."""

from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from pastpy import metrics


def table(seed, names=("wave", "noisy", "flat", "rare", "rest")) -> AnnData:
    rng = np.random.default_rng(seed)
    xy = np.array([(x, y) for x in range(12) for y in range(12)], dtype=float) * 10
    n = len(xy)
    values = {
        "wave": np.where(xy[:, 0] > 55, 60, 6), "noisy": np.where(rng.random(n) < 0.5, 60, 6), "flat": np.full(n, 20),
        "rare": np.r_[np.full(5, 300), np.zeros(n - 5)], "own": np.full(n, 3),
    }  # fmt: skip
    values["rest"] = 2000 - sum(values[k] for k in ("wave", "noisy", "flat", "rare"))
    out = AnnData(csr_matrix(np.column_stack([values[k] for k in names]).astype(np.float32)))
    out.var_names, out.obsm["spatial"] = list(names), xy
    return out


def test_known_sets():
    training = {"a": table(0), "b": table(1, ("own", "rest", "rare", "flat", "noisy", "wave"))}
    sets = metrics.gene_sets(training, n_variable=2, n_spatial=1)
    assert set(sets["all"]) == {"wave", "noisy", "flat", "rare", "rest"}
    assert set(sets["variable"]) == {"wave", "noisy"} and sets["spatial"] == ["wave"]
    # a gene in too few units is not chosen, however much it varies
    assert metrics.variable_genes(training, n=1, min_detected=0.0) == ["rare"]
    assert "rare" not in metrics.variable_genes(training, n=5)


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match="no training section"):
        metrics.variable_genes({})
    with pytest.raises(ValueError, match="share no gene"):
        metrics.variable_genes({"a": table(0, ("wave", "rest")), "b": table(0, ("flat",))})
    with pytest.raises(ValueError, match="lower min_detected"):
        metrics.variable_genes({"a": table(0)}, min_detected=1.0)
    bare = table(0)
    del bare.obsm["spatial"]
    with pytest.raises(KeyError, match="section 'a' has no obsm"):
        metrics.spatially_variable({"a": bare}, ["wave"])
    assert "spatial" not in metrics.gene_sets({"a": bare})


def test_an_unknown_gene_is_named():
    with pytest.raises(KeyError, match="1 genes are not in the table, e.g. \\['typo'\\]"):
        metrics.spatially_variable({"a": table(0)}, ["wave", "typo"], n=2)
