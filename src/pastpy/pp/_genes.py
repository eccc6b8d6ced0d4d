"""Names of genes: one name a gene, whatever the data call it, and a report of what was not understood."""

from __future__ import annotations

import re
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

#: What anndata and R make of the second of two names that are the same.
_NUMBERED = re.compile(r"(.+)[-.]\d{1,2}")
#: Columns of ``var`` in which readers put Ensembl ids.
_ID_COLUMNS = ("gene_ids", "gene_id", "ensembl_id", "ensembl")
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

    A name is looked up as current symbol, Ensembl id (a version and ``_PAR_Y`` are ignored), previous symbol, alias,
    and as symbol or id whatever its case, in this order. Names that several genes share there stay as they are. An
    unknown name that ends in a number as readers add to names that stand twice (``"KRT8-1"`` beside ``"KRT8"``) means
    what the name without it means.

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
    (``"symbol"``, ``"ensembl_id"``, ``"previous"``, ``"alias"``, ``"case"``, ``"numbered"``, ``"ambiguous"``,
    ``"unknown"``);
    ``symbol`` and ``ensembl_id``, empty where unknown; ``candidates``, what an ambiguous name could mean;
    ``duplicate``, whether another name means the same; with ``model=``, ``in_model``. ``attrs["species"]``, and with
    ``model=`` the share of the model's genes that are among the names, ``attrs["model_coverage"]``.

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
    return _report(_checked_names(genes), None, vocabulary=vocabulary, species=species, to=to, model=model)


def _report(
    names: list[str],
    ids: list[str] | None,
    *,
    vocabulary: str | os.PathLike[str],
    species: Literal["human", "mouse"] | None,
    to: Literal["symbol", "ensembl_id"],
    model: PAST | str | None,
) -> DataFrame:
    """As :func:`gene_report`; ``ids``, an Ensembl id for each name, tell what names do not."""
    import pandas as pd

    if to not in _TO:
        raise ValueError(f"to must be one of {_TO}, got {to!r}")
    of = species or guess_species(names, vocabulary)
    known = load_vocabulary(vocabulary, of)
    row, match, candidates = known.resolve(names)
    if ids is not None:
        _by_id(known, ids, row, match)
    _by_number(names, row, match)
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
        frame.attrs["model_coverage"] = len(own.intersection(frame["gene"])) / len(own)
    frame.insert(5, "duplicate", frame["gene"].duplicated(keep=False))
    frame.attrs["species"] = of
    return frame


def _by_id(known: GeneVocabulary, ids: list[str], row: np.ndarray, match: list[str]) -> None:
    """Fill in what a second column of names tells of unknown ones."""
    unknown = [i for i, kind in enumerate(match) if kind == UNKNOWN]
    rows, kinds, _ = known.resolve([ids[i] for i in unknown])
    for i, found, kind in zip(unknown, rows, kinds, strict=True):
        if kind == "ensembl_id":
            row[i], match[i] = found, kind


def _by_number(names: list[str], row: np.ndarray, match: list[str]) -> None:
    """Fill in unknown names that are another of the names and a number."""
    place = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(names):
        numbered = _NUMBERED.fullmatch(name)
        base = place.get(numbered[1], -1) if numbered and match[i] == UNKNOWN else -1
        if base >= 0 and row[base] >= 0:
            row[i], match[i] = row[base], "numbered"


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

    See :func:`gene_report` for how a name is understood, and for the report alone. Where a name is unknown and ``var``
    has the gene's Ensembl id (``gene_ids``, ``gene_id``, ``ensembl_id`` or ``ensembl``), that tells. Genes that are not
    understood keep their name and their counts, and a warning names them.

    Parameters
    ----------
    data
        The object, or a table.
    vocabulary, species, to, model
        As in :func:`gene_report`.
    duplicates
        What is done with columns that mean the same gene: ``"sum"`` adds their counts, in X and in every layer, into
        the first of them (as int64 where the integers of the matrix are too small for a sum); ``"keep"`` leaves their
        names as they are and says so; ``"raise"`` refuses them.
    table_key
        Name of the table; default: pastpy's ``cells``, else the only one.

    Returns
    -------
    None. Renames ``table.var_names`` and writes

    - ``table.var["past_gene_before"]``: the name, or names joined by ``"|"``, that the gene had before the first call;
    - ``table.var["past_gene_match"]``: how it was matched, by the first call that understood it;
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
    import pandas as pd

    table = table_of(data, table_key)
    if duplicates not in _DUPLICATES:
        raise ValueError(f"duplicates must be one of {_DUPLICATES}, got {duplicates!r}")
    names = _checked_names(table.var_names, table_key)
    ids = next((table.var[c].astype(str).tolist() for c in _ID_COLUMNS if c in table.var), None)
    report = _report(names, ids, vocabulary=vocabulary, species=species, to=to, model=model)
    same = report["duplicate"].to_numpy()
    if same.any() and duplicates == "raise":
        raise ValueError(
            f"{int(same.sum())} columns share a gene with another one: {_some_duplicates(report)}; pass "
            "duplicates='sum' to add their counts, or 'keep' to leave their names"
        )
    gene = report["gene"].to_numpy(dtype=object)
    called, matched = _since_first(table.var, report)
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
    if duplicates == "sum":
        grouped = pd.Series(called).groupby(report["gene"].to_numpy(), sort=False)
        called = grouped.agg("|".join).to_numpy()
    table.var_names = gene[first]
    table.var[_keys.GENE_BEFORE] = called
    table.var[_keys.GENE_MATCH] = matched[first]
    record(table, "harmonize_genes", facts)
    _tell(report, to, duplicates)


def _since_first(var: DataFrame, report: DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """What each column was called, and how that was understood, before the first call for this table."""
    called, matched = report.index.to_numpy(dtype=object), report["match"].to_numpy(dtype=object)
    if _keys.GENE_BEFORE not in var or _keys.GENE_MATCH not in var:
        return called, matched
    before, by = (var[column].astype(object).to_numpy() for column in (_keys.GENE_BEFORE, _keys.GENE_MATCH))
    understood = ~np.isin(by.astype(str), (UNKNOWN, AMBIGUOUS))
    return before, np.where(understood, by, matched)


def _checked_names(genes: Sequence[str], table_key: str | None = None) -> list[str]:
    if isinstance(genes, str):
        raise TypeError(f"genes must be a list of names, got the one string {genes!r}")
    names = [str(gene) for gene in genes]
    if not names:
        which = "this table" if table_key is None else f"table {table_key!r}"
        raise ValueError(f"there is no gene to name: {which} has 0 genes; name another with table_key=")
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
    wide = np.float64 if values.dtype.kind == "f" else np.int64
    out = matrix.astype(wide) @ adder.astype(wide)
    out = out.tocsr() if issparse(out) else np.asarray(out)
    top = int(np.max(out.data if issparse(out) else out, initial=0))
    small = values.dtype.kind == "b" or (values.dtype.kind in "iu" and top > np.iinfo(values.dtype).max)
    return out if small else out.astype(values.dtype)


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
        of_model = f"{report.attrs['model_coverage']:.1%} of the genes of the model"
        said.append(f"the model knows {int(report['in_model'].sum())} of {len(report)}, {of_model}")
    if said:
        warnings.warn(f"genes: {'; '.join(said)}", UserWarning, stacklevel=3)
