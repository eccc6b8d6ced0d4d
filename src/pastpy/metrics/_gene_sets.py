"""Sets of genes to score, chosen on training data only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

__all__ = ["gene_list", "gene_sets", "log_normalised", "spatially_variable", "variable_genes"]


def gene_list(genes: Sequence[str]) -> list[str]:
    """The given names as a list.

    Raises
    ------
    TypeError
        If it is one text, which would be read letter by letter.
    ValueError
        If a name stands there twice.
    """
    if isinstance(genes, str):
        raise TypeError(f"genes must be a list of names, got the text {genes!r}; pass [{genes!r}]")
    names = list(genes)
    twice = [name for name, n in Counter(names).items() if n > 1]
    if twice:
        raise ValueError(f"genes names {len(twice)} genes more than once, e.g. {twice[:5]}; name each once")
    return names


def log_normalised(
    table: AnnData, genes: list[str], *, layer: str | None = None, target_sum: float | None = _keys.TARGET_SUM
) -> pd.DataFrame:
    """Log1p of counts per ``target_sum`` (float64, units × genes); the depth is that of all the table's genes.

    ``None`` takes log1p of the raw counts. Rows without any count are NaN: nothing was measured there.

    Raises
    ------
    KeyError
        If a gene is not in the table.
    """
    import pandas as pd
    from scipy.sparse import csr_matrix

    columns = table.var_names.get_indexer(genes)
    absent = [g for g, column in zip(genes, columns, strict=True) if column < 0]
    if absent:
        raise KeyError(f"{len(absent)} genes are not in the table, e.g. {absent[:5]}")
    counts = csr_matrix(table.X if layer is None else table.layers[layer])
    total = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    values = counts[:, columns].toarray().astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = (np.ones_like(total) if target_sum is None else target_sum / total)[:, None]
        values = np.where(total[:, None] > 0, np.log1p(values * scale), np.nan)
    return pd.DataFrame(values, index=table.obs_names, columns=genes)


def variable_genes(
    training: Mapping[str, AnnData], *, n: int = 250, min_detected: float = 0.1, layer: str | None = None
) -> list[str]:
    """The ``n`` genes that vary most over the training units, most variable first.

    Parameters
    ----------
    training
        Tables with raw counts, by section. Genes that one of them lacks are left out.
    n
        Number of genes.
    min_detected
        Genes must be found in more than this share of the training units.
    layer
        Layer with raw counts; ``None`` means ``X``.

    Returns
    -------
    Gene names by falling variance of log1p of counts per 10,000, pooled over sections.

    Raises
    ------
    ValueError
        If the tables share no gene, or none is detected often enough.

    Examples
    --------
    >>> import pastpy as past
    >>> spots = past.datasets.breast_st()["spots"]
    >>> len(past.metrics.variable_genes({"a": spots}, n=20))
    20
    """
    genes = _shared(training)
    log = np.concatenate([log_normalised(t, genes, layer=layer).to_numpy() for t in training.values()])
    log = log[np.isfinite(log).all(axis=1)]
    detected = np.flatnonzero((log > 0).mean(axis=0) > min_detected) if len(log) else np.empty(0, dtype=int)
    if not len(detected):
        raise ValueError(
            f"none of the {len(genes)} shared genes is detected in more than {min_detected:.0%} of the training units; "
            "lower min_detected"
        )
    return [genes[i] for i in detected[np.argsort(-log[:, detected].var(axis=0), kind="stable")[:n]]]


def spatially_variable(
    training: Mapping[str, AnnData], genes: list[str], *, n: int = 50, layer: str | None = None
) -> list[str]:
    """The ``n`` of ``genes`` with the highest Moran's I, averaged over the training sections.

    Parameters
    ----------
    training
        Tables with raw counts and ``obsm["spatial"]``, by section.
    genes
        Candidates, in every table.
    n
        Number of genes.
    layer
        Layer with raw counts; ``None`` means ``X``.

    Raises
    ------
    KeyError
        If a table has no coordinates, or lacks a gene.

    References
    ----------
    Moran, Biometrika 37:17 (1950), doi:10.1093/biomet/37.1-2.17.

    Examples
    --------
    >>> import pastpy as past
    >>> spots = past.datasets.breast_st()["spots"]
    >>> candidates = past.metrics.variable_genes({"a": spots}, n=20)
    >>> set(past.metrics.spatially_variable({"a": spots}, candidates, n=5)) <= set(candidates)
    True
    """
    from pastpy.metrics._maps import morans_i

    total = np.zeros(len(genes))
    for name, table in training.items():
        if _keys.SPATIAL not in table.obsm:
            raise KeyError(f"section {name!r} has no obsm[{_keys.SPATIAL!r}]; read it with pastpy.io")
        where = np.asarray(table.obsm[_keys.SPATIAL], dtype=float)
        # a gene that is constant in a section is not structured there
        total += np.nan_to_num(morans_i(log_normalised(table, genes, layer=layer).to_numpy(), where))
    return [genes[i] for i in np.argsort(-total, kind="stable")[:n]]


def gene_sets(
    training: Mapping[str, AnnData],
    *,
    n_variable: int = 250,
    n_spatial: int = 50,
    min_detected: float = 0.1,
    layer: str | None = None,
) -> dict[str, list[str]]:
    """Named sets of genes to report scores for, from training data alone.

    Parameters
    ----------
    training
        Tables with raw counts, by section.
    n_variable, n_spatial
        Sizes of the sets.
    min_detected
        Genes must be found in more than this share of the training units, for all but the first set.
    layer
        Layer with raw counts; ``None`` means ``X``.

    Returns
    -------
    ``"all"``: genes of all sections; ``"variable"``: the most variable; ``"spatial"``: of these, the ones with the
    highest Moran's I (left out where a section has no coordinates).

    Examples
    --------
    >>> import pastpy as past
    >>> sets = past.metrics.gene_sets({"a": past.datasets.breast_st()["spots"]}, n_variable=30, n_spatial=10)
    >>> {name: len(genes) for name, genes in sets.items() if name != "all"}
    {'variable': 30, 'spatial': 10}
    """
    variable = variable_genes(training, n=n_variable, min_detected=min_detected, layer=layer)
    sets = {"all": _shared(training), "variable": variable}
    if all(_keys.SPATIAL in table.obsm for table in training.values()):
        sets["spatial"] = spatially_variable(training, variable, n=n_spatial, layer=layer)
    return sets


def _shared(training: Mapping[str, AnnData]) -> list[str]:
    if not training:
        raise ValueError("there is no training section to choose genes on")
    tables = list(training.values())
    rest = [set(t.var_names) for t in tables[1:]]
    genes = [g for g in tables[0].var_names if all(g in names for names in rest)]
    if not genes:
        raise ValueError(f"the sections {list(training)} share no gene; use one naming of genes")
    return genes
