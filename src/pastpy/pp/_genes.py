"""Names of genes: one name a gene, whatever the data call it, and a report of what was not understood."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy import _keys
from pastpy._elements import table_of
from pastpy._provenance import record
from pastpy.pp._gene_vocabulary import (
    AMBIGUOUS,
    UNKNOWN,
    GeneVocabulary,
    guess_species,
    load_vocabulary,
    vocabulary_source,
)

if TYPE_CHECKING:
    import os

    from anndata import AnnData
    from pandas import DataFrame
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

    from pastpy.models import PAST

__all__ = ["gene_report", "harmonize_genes"]

_TO = ("symbol", "ensembl_id")
_DUPLICATES = ("sum", "keep", "raise")


def gene_report(
    genes: Sequence[str],
    *,
    vocabulary: str | os.PathLike[str] = "past",
    species: Literal["human", "mouse"] | None = None,
    to: Literal["symbol", "ensembl_id"] = "symbol",
    model: PAST | str | None = None,
) -> DataFrame:
    """Tell which gene each name means, and which names mean none.

    A name is looked up as current symbol, Ensembl id (a version is ignored), previous symbol, alias, and as symbol
    whatever its case, in this order. Names that several genes share there stay as they are.

    Parameters
    ----------
    genes
        The n names.
    vocabulary
        ``"past"``, the shipped one (HGNC and MGI), or a ``.parquet``, ``.tsv`` or ``.csv`` file (the last two may be
        gzipped) with the columns ``species`` and ``symbol``, and ``ensembl_id``, ``previous`` and ``alias`` where
        known; the last two with ``"|"`` between names.
    species
        ``"human"`` or ``"mouse"``; default: that of which more names are current symbols or Ensembl ids.
    to
        ``"symbol"`` or ``"ensembl_id"``: the kind of the new names.
    model
        A model, or the name of one. Genes that it knows get the model's name for them, be that a retired symbol.

    Returns
    -------
    A row a name, in their order, the name as index: ``gene``, the new name, or the old one where it has none; ``match``
    (``"symbol"``, ``"ensembl_id"``, ``"previous"``, ``"alias"``, ``"case"``, ``"ambiguous"``, ``"unknown"``);
    ``symbol`` and ``ensembl_id``, empty where unknown; ``candidates``, what an ambiguous name could mean;
    ``duplicate``, whether another name means the same; with ``model=``, ``in_model``. ``attrs["species"]``.

    Raises
    ------
    ValueError
        If there is no gene, the species cannot be told, or an argument is not one of the above.

    References
    ----------
    Seal et al., Nucleic Acids Res 51:D1003–D1009 (2023), https://doi.org/10.1093/nar/gkac888: HGNC.
    Baldarelli et al., Genetics 227:iyae031 (2024), https://doi.org/10.1093/genetics/iyae031: MGI.

    Examples
    --------
    >>> import pastpy as past
    >>> past.pp.gene_report(["HER2", "KRT8", "ENSG00000141510.18", "BLANK_1"])[["gene", "match"]]
                           gene       match
    HER2                  ERBB2       alias
    KRT8                   KRT8      symbol
    ENSG00000141510.18     TP53  ensembl_id
    BLANK_1             BLANK_1     unknown
    """
    import pandas as pd

    names = _checked_names(genes)
    if to not in _TO:
        raise ValueError(f"to must be one of {_TO}, got {to!r}")
    of = species or guess_species(names, vocabulary)
    known = load_vocabulary(vocabulary, of)
    row, match, candidates = known.resolve(names)
    symbol = np.append(known.symbol, "")[row]
    ensembl_id = np.append(known.ensembl_id, "")[row]
    new = symbol if to == "symbol" else ensembl_id
    gene = np.where(new == "", np.array(names, dtype=object), new)
    report = {"gene": gene, "match": match, "symbol": symbol, "ensembl_id": ensembl_id, "candidates": candidates}
    frame = pd.DataFrame(report, index=pd.Index(names), dtype=object)
    if model is not None:
        its = _gene_names(model)
        called = _called(known, its)
        # what the model has by this very name is that, whatever gene the vocabulary gives the name to
        own = frozenset(its)
        frame["gene"] = [n if n in own else called.get(r, g) for n, r, g in zip(names, row.tolist(), gene, strict=True)]
        frame["in_model"] = frame["gene"].isin(its)
    frame.insert(5, "duplicate", frame["gene"].duplicated(keep=False))
    frame.attrs["species"] = of
    return frame


def harmonize_genes(
    data: SpatialData | AnnData,
    *,
    vocabulary: str | os.PathLike[str] = "past",
    species: Literal["human", "mouse"] | None = None,
    to: Literal["symbol", "ensembl_id"] = "symbol",
    model: PAST | str | None = None,
    duplicates: Literal["sum", "keep", "raise"] = "sum",
    table_key: str | None = None,
) -> None:
    """Give every gene of a table one current name: symbols and Ensembl ids, retired symbols and aliases.

    See :func:`gene_report` for how a name is understood, and for the report alone. Genes that are not understood keep
    their name and their counts, and a warning names them.

    Parameters
    ----------
    data
        The object, or a table.
    vocabulary, species, to, model
        As in :func:`gene_report`.
    duplicates
        What is done with columns that mean the same gene: ``"sum"`` adds their counts, in X and in every layer, into
        the first of them; ``"keep"`` leaves their names as they are and says so; ``"raise"`` refuses them.
    table_key
        Name of the table; default: pastpy's ``cells``, else the only one.

    Returns
    -------
    None. Renames ``table.var_names`` and writes

    - ``table.var["past_gene_before"]``: the name, or names joined by ``"|"``, that the gene had;
    - ``table.var["past_gene_match"]``: how it was matched;
    - ``table.uns["past"]["harmonize_genes"]``: the parameters, the vocabulary's source, numbers by kind of match, and
      the names of unknown, ambiguous and duplicated genes.

    Raises
    ------
    KeyError
        If the table cannot be told.
    ValueError
        If the species cannot be told, there are duplicates and ``duplicates="raise"``, or counts would have to be
        added where there are other values than counts. The table is then unchanged.

    Examples
    --------
    >>> import numpy as np
    >>> import pastpy as past
    >>> from anndata import AnnData
    >>> cells = AnnData(np.array([[1, 2, 3]]))
    >>> cells.var_names = ["KRT8", "C1orf112", "ENSG00000141736.13"]
    >>> past.pp.harmonize_genes(cells)
    >>> cells.var_names.tolist()
    ['KRT8', 'FIRRM', 'ERBB2']
    """
    table = table_of(data, table_key)
    if duplicates not in _DUPLICATES:
        raise ValueError(f"duplicates must be one of {_DUPLICATES}, got {duplicates!r}")
    report = gene_report(table.var_names, vocabulary=vocabulary, species=species, to=to, model=model)
    same = report["duplicate"].to_numpy()
    if same.any() and duplicates == "raise":
        raise ValueError(
            f"{int(same.sum())} columns share a gene with another one: {_some_duplicates(report)}; pass "
            "duplicates='sum' to add their counts, or 'keep' to leave their names"
        )
    gene = report["gene"].to_numpy(dtype=object)
    if duplicates == "keep":
        gene = np.where(same, report.index.to_numpy(dtype=object), gene)
    facts = {
        "vocabulary": vocabulary_source(vocabulary),
        "species": report.attrs["species"],
        "to": to,
        "model": getattr(getattr(model, "config", None), "name", model),
        "duplicates": duplicates,
        "matches": {str(k): int(n) for k, n in report["match"].value_counts().items()},
        "unknown": report.index[report["match"] == UNKNOWN].tolist(),
        "ambiguous": report.index[report["match"] == AMBIGUOUS].tolist(),
        "duplicated": report.index[same].tolist(),
    }
    if same.any() and duplicates == "sum":
        _sum_columns(table, gene)
    first = ~report["gene"].duplicated().to_numpy() if duplicates == "sum" else np.ones(len(gene), dtype=bool)
    before = report.groupby("gene", sort=False)["match"].agg(lambda match: "|".join(match.index))
    table.var_names = gene[first]
    table.var[_keys.GENE_BEFORE] = before.to_numpy() if duplicates == "sum" else report.index.to_numpy()
    table.var[_keys.GENE_MATCH] = report["match"].to_numpy()[first]
    record(table, "harmonize_genes", facts)
    _tell(report, to, duplicates)


def _checked_names(genes: Sequence[str]) -> list[str]:
    if isinstance(genes, str):
        raise TypeError(f"genes must be a list of names, got the one string {genes!r}")
    names = [str(gene) for gene in genes]
    if not names:
        raise ValueError("there is no gene to name; this table has 0 genes")
    return names


def _gene_names(model: PAST | str) -> list[str]:
    from pastpy import models

    found: Any = models.load(model) if isinstance(model, str) else model
    if not hasattr(found, "gene_names"):
        raise TypeError(f"model must be a pastpy model with genes, or the name of one, got a {type(found).__name__}")
    return list(found.gene_names)


def _called(known: GeneVocabulary, names: list[str]) -> dict[int, str]:
    """The name that a model has for each gene of the vocabulary; of several, the current symbol."""
    row, match, _ = known.resolve(names)
    current_last = sorted(zip(row.tolist(), match, names, strict=True), key=lambda known_as: known_as[1] == "symbol")
    return {r: name for r, _, name in current_last if r >= 0}


def _some_duplicates(report: DataFrame) -> str:
    shared = report[report["duplicate"]].groupby("gene", sort=False)
    some = [f"{gene} ({', '.join(rows.index)})" for gene, rows in list(shared)[:3]]
    return "; ".join(some) + ("; …" if shared.ngroups > 3 else "")


def _sum_columns(table: AnnData, gene: np.ndarray) -> None:
    """Add the columns of a gene into its first one, in X and the layers, and drop the others."""
    import pandas as pd
    from scipy.sparse import csr_matrix

    number, _ = pd.factorize(gene)
    adder = csr_matrix((np.ones(len(gene), dtype=np.int8), (np.arange(len(gene)), number)))
    first = ~pd.Series(gene).duplicated().to_numpy()
    matrices = {None: table.X, **{k: v for k, v in table.layers.items() if k is not None}}
    summed = {k: _summed(m, adder, "X" if k is None else f"layer {k!r}") for k, m in matrices.items() if m is not None}
    # scanpy's filters change a table in place by the same method
    table._inplace_subset_var(first)
    for key, matrix in summed.items():
        if key is None:
            table.X = matrix
        else:
            table.layers[key] = matrix


def _summed(matrix: np.ndarray | csr_matrix, adder: csr_matrix, what: str) -> np.ndarray | csr_matrix:
    from scipy.sparse import issparse

    values = np.asarray(matrix.data if issparse(matrix) else matrix)
    if not (np.isfinite(values).all() and (values == np.rint(values)).all() and (values >= 0).all()):
        raise ValueError(
            f"{what} holds other values than counts, and columns of one gene cannot be added there; harmonise before "
            "normalising, or pass duplicates='keep'"
        )
    out = matrix @ adder.astype(matrix.dtype)
    return out.tocsr() if issparse(out) else np.asarray(out)


def _tell(report: DataFrame, to: str, duplicates: str) -> None:
    said = []
    for kind, why in ((UNKNOWN, "are not in the vocabulary"), (AMBIGUOUS, "could mean several genes")):
        names = report.index[report["match"] == kind].tolist()
        if names:
            said.append(f"{len(names)} names {why} and stay as they are, e.g. {names[:5]}")
    without = report[report["symbol"].ne("") & report["ensembl_id"].eq("")].index.tolist()
    if to == "ensembl_id" and without:
        said.append(f"{len(without)} genes have no Ensembl id and keep their names, e.g. {without[:5]}")
    if report["duplicate"].any():
        done = "were added" if duplicates == "sum" else "keep their names"
        said.append(f"{int(report['duplicate'].sum())} columns that share a gene {done}: {_some_duplicates(report)}")
    if "in_model" in report:
        said.append(f"the model knows {int(report['in_model'].sum())} of {len(report)}")
    if said:
        warnings.warn(f"genes: {'; '.join(said)}", UserWarning, stacklevel=3)
