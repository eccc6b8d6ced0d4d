"""Nicheformer-style tokens of the released model: a cell's genes, most unusually abundant first.

A cell's counts are scaled to 10,000 and divided by each gene's mean over the cells of the same technology in which it
was found; its non-zero genes, in descending order of that, are its tokens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from scipy.sparse import csr_matrix

__all__ = ["Coverage", "Tokens", "nonzero_means", "read_means", "read_vocabulary", "tokenize"]

#: Tokens of a cell, of which the first three name modality, assay and species.
LENGTH = 300
PREFIX_LENGTH = 3
PAD = 1
#: Token of the vocabulary's gene 0; smaller ids have other meanings.
FIRST_GENE = 30
N_GENES = 20_310
SCALE = 1e4

MODALITIES = {"spatial": 4}
ASSAYS = {"merfish": 7, "cosmx": 8, "xenium": 9}
SPECIES = {"human": 5, "mouse": 6}

#: Cells ranked at once.
_ROWS = 4096


@dataclass(frozen=True)
class Coverage:
    """What of the data the tokens speak of.

    Attributes
    ----------
    n_genes, n_known
        Genes of the data, and how many of them have a token and a mean.
    unknown
        Genes of the data that the vocabulary lacks.
    without_mean
        Genes of the vocabulary that the means lack; they are left out, as they cannot be ranked.
    counts_share
        Share of all counts that lies in the known genes; NaN where there are no counts.
    empty_cells
        int64, positions of cells without a count in a known gene: prefix and padding only. Their embeddings mean
        nothing.
    n_truncated
        Cells with more known genes than fit.
    """

    n_genes: int
    n_known: int
    unknown: tuple[str, ...]
    without_mean: tuple[str, ...]
    counts_share: float
    empty_cells: np.ndarray
    n_truncated: int

    def __str__(self) -> str:
        return (
            f"{self.n_known} of {self.n_genes} genes have tokens ({len(self.unknown)} not in the vocabulary, "
            f"{len(self.without_mean)} without a mean), with {self.counts_share:.1%} of the counts; "
            f"{len(self.empty_cells)} cells are empty, {self.n_truncated} truncated"
        )


class Tokens(NamedTuple):
    """Cells as tokens: ``token_ids`` int64 (n, 300), ``padding_mask`` bool (n, 300), True at padding; ``coverage``."""

    token_ids: torch.Tensor
    padding_mask: torch.Tensor
    coverage: Coverage


def read_vocabulary(path: str | os.PathLike[str]) -> pd.Series:
    """Read a vocabulary: a table with the columns ``gene_id`` and ``index``.

    Parameters
    ----------
    path
        ``.parquet``, else tab-separated text with a header, ``.gz`` allowed. ``index`` counts from 0 to at most 20,309.

    Returns
    -------
    int64 Series, gene id → index.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing, a gene or an index stands twice, or an index is out of range.

    Examples
    --------
    >>> read_vocabulary("vocabulary.parquet")["ENSG00000141736"]  # doctest: +SKIP
    4711
    """
    frame = _read_table(Path(path), "index")
    return check_vocabulary(frame.set_index("gene_id")["index"], str(path))


def read_means(path: str | os.PathLike[str], *, assay: str) -> pd.Series:
    """Read non-zero means: a table with the column ``gene_id`` and one per technology (``xenium``, ``cosmx``, …).

    Parameters
    ----------
    path
        ``.parquet``, else tab-separated text with a header, ``.gz`` allowed.
    assay
        The column to read.

    Returns
    -------
    float64 Series, gene id → mean over the cells that have the gene, of counts per 10,000.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing, a gene stands twice, or a mean is not positive.
    """
    return _check_means(_read_table(Path(path), assay).set_index("gene_id")[assay], str(path))


def nonzero_means(counts: Any, genes: Sequence[str], *, vocabulary: pd.Series) -> pd.Series:
    """Mean of each gene over the cells that have it, of counts per 10,000 known ones.

    Parameters
    ----------
    counts
        Raw counts (n, g), sparse (also on disk) or dense; read a few thousand rows at a time.
    genes
        Ids of the g genes, as in the vocabulary.
    vocabulary
        Gene id → index, from :func:`read_vocabulary`.

    Returns
    -------
    float64 Series, gene id → mean; genes that no cell has are absent.

    Raises
    ------
    ValueError
        If the values are not counts, or no gene is known.

    Examples
    --------
    >>> import pandas as pd
    >>> nonzero_means(np.array([[1, 3], [0, 2]]), ["a", "b"], vocabulary=pd.Series({"a": 0, "b": 1})).tolist()
    [2500.0, 8750.0]
    """
    import pandas as pd

    columns = _columns(counts, genes, check_vocabulary(vocabulary, "vocabulary"))
    total, cells = np.zeros(len(columns)), np.zeros(len(columns))
    for _, block in _blocks(counts):
        _, scaled = _scaled(block, columns >= 0)
        keep = columns[block.indices] >= 0
        total += np.bincount(block.indices[keep], scaled[keep], minlength=len(columns))
        cells += np.bincount(block.indices[keep], minlength=len(columns))
    found = cells > 0
    return pd.Series(total[found] / cells[found], index=pd.Index(genes)[found], name="mean")


def tokenize(
    counts: Any,
    genes: Sequence[str],
    *,
    vocabulary: pd.Series | str | os.PathLike[str],
    assay: str,
    means: pd.Series | str | os.PathLike[str] | None = None,
    species: str = "human",
    modality: str = "spatial",
) -> Tokens:
    """Turn cells into the released model's tokens.

    Genes of equal rank are ordered by their index in the vocabulary.

    Parameters
    ----------
    counts
        Raw counts (n, g), sparse (also on disk) or dense; read a few thousand rows at a time.
    genes
        Ids of the g genes, as in the vocabulary.
    vocabulary
        Gene id → index, or a file of :func:`read_vocabulary`.
    assay
        ``"merfish"``, ``"cosmx"`` or ``"xenium"``.
    means
        Gene id → non-zero mean of that technology, or a file of :func:`read_means`; by default computed from these
        counts (:func:`nonzero_means`), which ranks a small or one-sided sample unlike the training corpus would.
    species
        ``"human"`` or ``"mouse"``.
    modality
        ``"spatial"``.

    Returns
    -------
    ``token_ids`` int64 (n, 300), ``padding_mask`` bool (n, 300), and the :class:`Coverage`.

    Raises
    ------
    ValueError
        If a name is unknown, the values are not counts, a gene stands twice, or no gene has a token and a mean.

    References
    ----------
    Tejada-Lapuerta et al., Nicheformer, doi:10.1038/s41592-025-02814-z.

    Examples
    --------
    >>> import numpy as np
    >>> import pastpy as past
    >>> import pandas as pd
    >>> vocabulary, means = pd.Series({"a": 0, "b": 1, "c": 2}), pd.Series({"a": 10.0, "b": 1.0, "c": 1.0})
    >>> counts, genes = np.array([[4, 1, 0]]), ["a", "b", "c"]
    >>> tokens = past.models.tokenize(counts, genes, vocabulary=vocabulary, means=means, assay="xenium")
    >>> tokens.token_ids[0, :6].tolist()
    [4, 9, 5, 31, 30, 1]
    """
    import torch

    prefix = [_lookup(MODALITIES, modality, "modality"), _lookup(ASSAYS, assay, "assay")]
    prefix.append(_lookup(SPECIES, species, "species"))
    known = _vocabulary(vocabulary)
    if means is None:
        means = nonzero_means(counts, genes, vocabulary=known)
    elif isinstance(means, str | os.PathLike):
        means = read_means(means, assay=assay)
    columns = _columns(counts, genes, known)
    mean = _check_means(means, "means").reindex(list(genes)).to_numpy(dtype=float)
    ranked = (columns >= 0) & np.isfinite(mean)
    if not ranked.any():
        raise ValueError(f"none of the {len(columns)} genes has a mean; they are like {list(genes)[:3]}")
    token_ids = np.full((counts.shape[0], LENGTH), PAD, dtype=np.int64)
    token_ids[:, :PREFIX_LENGTH] = prefix
    found, all_counts, known_counts = np.zeros(len(token_ids), dtype=int), 0.0, 0.0
    for start, block in _blocks(counts):
        stop = start + block.shape[0]
        found[start:stop] = _rank(block, columns, mean, ranked, token_ids[start:stop])
        all_counts += block.data.sum()
        known_counts += block.data[ranked[block.indices]].sum()
    names = np.asarray(genes, dtype=object)
    coverage = Coverage(
        n_genes=len(columns), n_known=int(ranked.sum()), unknown=tuple(names[columns < 0]),
        without_mean=tuple(names[(columns >= 0) & ~ranked]),
        counts_share=float(known_counts / all_counts) if all_counts else float("nan"),
        empty_cells=np.flatnonzero(found == 0), n_truncated=int((found > LENGTH - PREFIX_LENGTH).sum()),
    )  # fmt: skip
    ids = torch.from_numpy(token_ids)
    return Tokens(ids, ids == PAD, coverage)


def _rank(block: csr_matrix, columns: np.ndarray, mean: np.ndarray, ranked: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write the ranked genes of a block of cells into ``out``; how many genes each cell has."""
    rows, scaled = _scaled(block, columns >= 0)
    keep = ranked[block.indices]
    rows, indices = rows[keep], block.indices[keep]
    gene, value = columns[indices], scaled[keep] / mean[indices]
    order = np.lexsort((gene, -value, rows))
    lengths = np.bincount(rows, minlength=block.shape[0])
    # lexsort leaves the rows where they were, so a gene's rank is its place after its row's start.
    rank = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    fits = rank < LENGTH - PREFIX_LENGTH
    out[rows[fits], PREFIX_LENGTH + rank[fits]] = gene[order][fits] + FIRST_GENE
    return lengths


def _scaled(block: csr_matrix, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row, and value scaled to 10,000 known counts a cell, of each entry.

    A count is divided by the depth before anything else, so that a cell sequenced twice as deep ranks exactly alike.
    """
    rows = np.repeat(np.arange(block.shape[0]), np.diff(block.indptr))
    counts = block.data.astype(float)
    depth = np.bincount(rows, counts * known[block.indices], minlength=block.shape[0])[rows]
    return rows, np.divide(counts, depth, out=np.zeros_like(counts), where=depth > 0) * SCALE


def _blocks(counts: Any) -> Iterator[tuple[int, csr_matrix]]:
    """Blocks of rows as canonical CSR without stored zeros, checked to be counts."""
    from scipy.sparse import csr_matrix, issparse

    counts = counts.tocsr() if issparse(counts) else counts
    for start in range(0, counts.shape[0], _ROWS):
        block = csr_matrix(counts[start : start + _ROWS], copy=True)
        block.sum_duplicates()
        block.eliminate_zeros()
        if not (np.isfinite(block.data).all() and (block.data > 0).all() and (block.data % 1 == 0).all()):
            raise ValueError(
                f"rows {start}–{start + block.shape[0] - 1} hold values that are not counts (non-negative integers); "
                "pass raw counts"
            )
        yield start, block


def _columns(counts: Any, genes: Sequence[str], vocabulary: pd.Series) -> np.ndarray:
    """Index in the vocabulary of each column's gene, −1 where unknown."""
    import pandas as pd

    index = pd.Index(genes)
    if len(index) != counts.shape[1]:
        raise ValueError(f"{len(index)} genes were given for counts with {counts.shape[1]} columns")
    if index.has_duplicates:
        raise ValueError(f"gene {index[index.duplicated()][0]!r} stands more than once; add up or rename its columns")
    columns = vocabulary.reindex(index, fill_value=-1).to_numpy()
    if not (columns >= 0).any():
        raise ValueError(
            f"none of the {len(index)} genes is in the vocabulary: they are like {index[:3].tolist()}, the "
            f"vocabulary's like {vocabulary.index[:3].tolist()}; use the same kind of gene id"
        )
    return columns


def _vocabulary(vocabulary: pd.Series | str | os.PathLike[str]) -> pd.Series:
    if isinstance(vocabulary, str | os.PathLike):
        return read_vocabulary(vocabulary)
    return check_vocabulary(vocabulary, "vocabulary")


def check_vocabulary(vocabulary: pd.Series, source: str) -> pd.Series:
    """A vocabulary as int64, or ``ValueError`` that says what is wrong with it."""
    import pandas as pd

    if not pd.api.types.is_integer_dtype(vocabulary.dtype):
        raise ValueError(f"{source}: indices must be integers, got {vocabulary.dtype}")
    for what, values in (("gene", vocabulary.index), ("index", pd.Index(vocabulary))):
        if values.has_duplicates:
            raise ValueError(f"{source}: {what} {str(values[values.duplicated()][0])!r} stands more than once")
    if len(vocabulary) and not vocabulary.between(0, N_GENES - 1).all():
        raise ValueError(f"{source}: indices must lie in 0–{N_GENES - 1}, got {vocabulary.min()}–{vocabulary.max()}")
    return vocabulary.astype(np.int64)


def _check_means(means: pd.Series, source: str) -> pd.Series:
    if means.index.has_duplicates:
        raise ValueError(f"{source}: gene {means.index[means.index.duplicated()][0]!r} stands more than once")
    means = means.dropna().astype(float)
    wrong = means[~(np.isfinite(means) & (means > 0))]
    if len(wrong):
        raise ValueError(f"{source}: means must be positive, got {wrong.iloc[0]} for gene {wrong.index[0]!r}")
    return means


def _read_table(path: Path, column: str) -> pd.DataFrame:
    import pandas as pd

    if not path.is_file():
        raise FileNotFoundError(f"no file {str(path)!r}; expected a table with the columns 'gene_id' and {column!r}")
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, sep="\t", dtype={"gene_id": str})
    if not {"gene_id", column} <= set(frame.columns):
        raise ValueError(f"{path} must have the columns 'gene_id' and {column!r}, it has {list(frame.columns)[:10]}")
    return frame


def _lookup(table: dict[str, int], name: str, what: str) -> int:
    if name not in table:
        raise ValueError(f"{what}={name!r} is not one the released model knows: {sorted(table)}")
    return table[name]
