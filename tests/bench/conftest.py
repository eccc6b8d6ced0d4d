"""Sections whose expression follows features that a method can see."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix


@pytest.fixture(scope="session")
def make_section():
    """``make_section(seed)``: SpatialData with a table of spots; three genes follow ``obsm["seen"]``."""
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    def make(seed: int, n: int = 60, n_genes: int = 30, noise: float = 0.3) -> SpatialData:
        rng = np.random.default_rng(seed)
        seen = rng.standard_normal((n, 3))
        log_rate = np.full((n, n_genes), 3.0)
        log_rate[:, :3] += seen + noise * rng.standard_normal((n, 3))
        log_rate[:, 3:] += 0.2 * rng.standard_normal((n, n_genes - 3))
        table = AnnData(
            csr_matrix(rng.poisson(np.exp(log_rate)).astype(np.float32)),
            obs=pd.DataFrame({"secret": "x"}, index=[f"u{i}" for i in range(n)]),
            var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]),
        )
        # positions carry what the method may use: they stay when the expression is taken away
        table.obsm["spatial"] = seen[:, :2]
        table.obsm["seen"] = seen
        return SpatialData(tables={"spots": TableModel.parse(table)})

    return make


@pytest.fixture(scope="session")
def cohort(make_section):
    """Six sections, two of each of three donors, and the donors."""
    sections = {f"s{i}": make_section(i) for i in range(6)}
    return sections, {s: f"P{i // 2}" for i, s in enumerate(sections)}
