"""Tokens of the released model: known answers, a literal version, files, bad input."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from pastpy.models import tokenizer
from pastpy.models.tokenizer import nonzero_means, read_means, read_vocabulary, tokenize

GENES = ["a", "b", "c", "d"]
VOCABULARY = pd.Series({"d": 0, "c": 7, "a": 20, "b": 20_309})
MEANS = pd.Series({"a": 2.0, "b": 4.0, "c": 1.0, "d": 1.0})


def literal(counts: np.ndarray, genes: list[str], vocabulary: pd.Series, means: pd.Series) -> list[list[int]]:
    """The rule, cell by cell."""
    out = []
    for cell in counts:
        depth = sum(n for n, gene in zip(cell, genes, strict=True) if gene in vocabulary)
        ranked = [
            (-(n / depth * 1e4 / means[gene]), vocabulary[gene])
            for n, gene in zip(cell, genes, strict=True)
            if n and gene in vocabulary and gene in means
        ]
        tokens = [4, 9, 5, *(index + 30 for _, index in sorted(ranked)[:297])]
        out.append(tokens + [1] * (300 - len(tokens)))
    return out


def test_known_answer() -> None:
    tokens = tokenize(np.array([[4, 4, 1, 0]]), GENES, vocabulary=VOCABULARY, means=MEANS, assay="xenium")
    assert tokens.token_ids.shape == tokens.padding_mask.shape == (1, 300)
    assert str(tokens.token_ids.dtype) == "torch.int64" and str(tokens.padding_mask.dtype) == "torch.bool"
    # a: 4/2, then b: 4/4 and c: 1/1 tie, and c has the smaller index
    assert tokens.token_ids[0].tolist() == [4, 9, 5, 50, 37, 20_339] + [1] * 294
    assert tokens.padding_mask[0].tolist() == [False] * 6 + [True] * 294


@pytest.mark.parametrize(
    ("assay", "species", "prefix"), [("merfish", "mouse", [4, 7, 6]), ("cosmx", "human", [4, 8, 5])]
)
def test_prefix(assay: str, species: str, prefix: list[int]) -> None:
    tokens = tokenize(np.eye(4), GENES, vocabulary=VOCABULARY, means=MEANS, assay=assay, species=species)
    assert tokens.token_ids[:, :3].tolist() == [prefix] * 4


def test_means_are_those_of_cells_that_have_the_gene() -> None:
    counts = np.array([[1, 3, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0]])
    means = nonzero_means(counts, GENES, vocabulary=VOCABULARY)
    assert means.to_dict() == {"a": 2500.0, "b": 8750.0}
    computed = tokenize(counts, GENES, vocabulary=VOCABULARY, assay="xenium")
    given_means = tokenize(counts, GENES, vocabulary=VOCABULARY, means=means, assay="xenium")
    assert computed.token_ids.equal(given_means.token_ids)
    assert computed.coverage.without_mean == ("c", "d")


def test_unknown_genes_are_reported_and_left_out() -> None:
    counts = np.array([[5, 2, 1, 0], [0, 4, 0, 0], [0, 0, 0, 0]])
    tokens = tokenize(counts, ["?", "b", "a", "c"], vocabulary=VOCABULARY, means=MEANS.drop("b"), assay="xenium")
    coverage = tokens.coverage
    assert tokens.token_ids[0, :5].tolist() == [4, 9, 5, 50, 1]
    assert (coverage.n_genes, coverage.n_known) == (4, 2)
    assert (coverage.unknown, coverage.without_mean) == (("?",), ("b",))
    assert coverage.counts_share == pytest.approx(1 / 12)
    assert coverage.empty_cells.tolist() == [1, 2] and coverage.n_truncated == 0
    assert str(coverage) == (
        "2 of 4 genes have tokens (1 not in the vocabulary, 1 without a mean), with 8.3% of the counts; "
        "2 cells are empty, 0 truncated"
    )


def test_cells_without_counts_are_prefix_and_padding() -> None:
    tokens = tokenize(np.zeros((2, 4), int), GENES, vocabulary=VOCABULARY, means=MEANS, assay="xenium")
    assert tokens.token_ids[:, 3:].eq(1).all() and not tokens.padding_mask[:, :3].any()
    assert tokens.coverage.empty_cells.tolist() == [0, 1] and np.isnan(tokens.coverage.counts_share)


def test_long_cells_keep_their_first_297_genes() -> None:
    genes = [f"g{i}" for i in range(400)]
    vocabulary, means = pd.Series(range(400), index=genes), pd.Series(1.0, index=genes)
    counts = np.stack([np.arange(1, 401), np.r_[np.ones(297, int), np.zeros(103, int)]])
    tokens = tokenize(counts, genes, vocabulary=vocabulary, means=means, assay="xenium")
    assert tokens.token_ids[0, 3:].tolist() == list(range(429, 132, -1))
    assert tokens.token_ids[1, 3:].tolist() == list(range(30, 327))
    assert not tokens.padding_mask.any() and tokens.coverage.n_truncated == 1


@given(arrays(np.int64, (5, 8), elements=st.integers(0, 3)), st.integers(1, 1000), st.permutations(range(8)))
def test_against_the_literal_rule(counts: np.ndarray, depth: int, order: list[int]) -> None:
    genes = [f"g{i}" for i in range(8)]
    vocabulary = pd.Series([9, 3, 5, 0, 1, 30], index=genes[:6])
    means = pd.Series([0.1, 0.2, 0.3, 0.1, 0.7, 0.2, 5.0], index=[*genes[1:6], "other", genes[0]])
    wanted = literal(counts, genes, vocabulary, means)
    for values, names in (
        (counts, genes),
        (counts * depth, genes),
        (counts[:, order], [genes[i] for i in order]),
    ):
        tokens = tokenize(values, names, vocabulary=vocabulary, means=means, assay="xenium")
        assert tokens.token_ids.tolist() == wanted


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "coo_array", "csr_array", "backed", "float32"])
def test_any_matrix_in_blocks(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(40)]
    vocabulary = pd.Series(rng.permutation(400)[:40], index=genes)
    counts = rng.poisson(0.5, (25, 40))
    wanted = tokenize(counts, genes, vocabulary=vocabulary, assay="cosmx")
    values: Any = counts.astype(np.float32)
    if form == "backed":
        import anndata

        AnnData(sparse.csr_matrix(values)).write_h5ad(tmp_path / "t.h5ad")
        values = anndata.read_h5ad(tmp_path / "t.h5ad", backed="r").X
    elif form != "float32":
        values = getattr(sparse, form)(counts)
    monkeypatch.setattr(tokenizer, "_ROWS", 7)
    tokens = tokenize(values, genes, vocabulary=vocabulary, assay="cosmx")
    assert tokens.token_ids.equal(wanted.token_ids)
    assert tokens.coverage.counts_share == wanted.coverage.counts_share == 1.0


def test_input_is_left_as_it_was() -> None:
    counts = sparse.csr_matrix((np.array([0.0, 2.0]), np.array([1, 0]), np.array([0, 2])), shape=(1, 4))
    tokenize(counts, GENES, vocabulary=VOCABULARY, means=MEANS, assay="xenium")
    assert counts.data.tolist() == [0.0, 2.0] and counts.indices.tolist() == [1, 0]


def test_sparse_counts_stay_sparse() -> None:
    n_genes = 20_310
    genes = [f"g{i}" for i in range(n_genes)]
    vocabulary = pd.Series(np.arange(n_genes), index=genes)
    rng = np.random.default_rng(0)
    indices = np.sort(rng.integers(0, n_genes, (4096, 50)), axis=1)
    counts = sparse.csr_matrix((np.ones(indices.size), indices.ravel(), np.arange(4097) * 50), shape=(4096, n_genes))
    tracemalloc.start()
    tokenize(counts, genes, vocabulary=vocabulary, assay="xenium")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4096 * n_genes  # a dense block takes eight times this


def test_real_cells(shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "xenium_breast_cells" / "expr_mat_breast_demo.csv", index_col=0)
    counts = frame.drop(columns="cell_id")
    genes = counts.columns.tolist()
    vocabulary = pd.Series(np.arange(len(genes)), index=genes)
    tokens = tokenize(counts.to_numpy(), genes, vocabulary=vocabulary, assay="xenium")
    found = (counts.to_numpy() > 0).sum(axis=1)
    assert ((~tokens.padding_mask).sum(dim=1).numpy() - 3 == np.minimum(found, 297)).all()
    means = nonzero_means(counts.to_numpy(), genes, vocabulary=vocabulary)
    assert tokens.token_ids[:20].tolist() == literal(counts.to_numpy()[:20], genes, vocabulary, means)


@pytest.mark.parametrize("name", ["v.parquet", "v.tsv", "v.tsv.gz"])
def test_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    frame = pd.DataFrame({"gene_id": GENES, "index": [20, 20_309, 7, 0], "xenium": [2.0, 4.0, 1.0, np.nan]})
    if name == "v.parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, sep="\t", index=False)
    assert read_vocabulary(path).to_dict() == VOCABULARY.to_dict()
    assert read_means(path, assay="xenium").to_dict() == MEANS.drop("d").to_dict()
    counts = np.array([[4, 4, 1, 1]])
    tokens = tokenize(counts, GENES, vocabulary=path, means=path, assay="xenium")
    assert tokens.token_ids[0, 3:7].tolist() == [50, 37, 20_339, 1]
    assert tokens.coverage.without_mean == ("d",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gene\tindex\na\t0\n", "must have the columns 'gene_id' and 'index'"),
        ("gene_id\tindex\na\t0\na\t1\n", "gene 'a' stands more than once"),
        ("gene_id\tindex\na\t3\nb\t3\n", "index '3' stands more than once"),
        ("gene_id\tindex\na\t20310\n", "indices must lie in 0–20309"),
        ("gene_id\tindex\na\t0.5\n", "indices must be integers"),
    ],
)
def test_vocabularies_that_do_not_fit(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "v.tsv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_vocabulary(path)


def test_means_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*m\.tsv"):
        read_means(tmp_path / "m.tsv", assay="xenium")
    (tmp_path / "m.tsv").write_text("gene_id\tcosmx\na\t1\nb\t-1\n")
    with pytest.raises(ValueError, match="columns 'gene_id' and 'xenium'"):
        read_means(tmp_path / "m.tsv", assay="xenium")
    with pytest.raises(ValueError, match="means must be positive, got -1"):
        read_means(tmp_path / "m.tsv", assay="cosmx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assay": "visium"}, "assay='visium' is not one"),
        ({"species": "rat"}, "species='rat' is not one"),
        ({"modality": "bulk"}, "modality='bulk' is not one"),
        ({"genes": GENES[:3]}, "3 genes were given for counts with 4 columns"),
        ({"genes": ["a", "a", "b", "c"]}, "gene 'a' stands more than once"),
        ({"genes": ["ENSG1", "ENSG2", "ENSG3", "ENSG4"]}, "none of the 4 genes is in the vocabulary"),
        ({"means": pd.Series({"other": 1.0})}, "none of the 4 genes has a mean"),
        ({"counts": np.array([[0.5, 1, 0, 0]])}, "rows 0–0 hold values that are not counts"),
        ({"counts": np.array([[-1, 1, 0, 0]])}, "not counts"),
        ({"counts": np.array([[np.nan, 1, 0, 0]])}, "not counts"),
    ],
)
def test_bad_input(changes: dict[str, Any], message: str) -> None:
    arguments = {"counts": np.eye(4), "genes": GENES, "vocabulary": VOCABULARY, "means": MEANS, "assay": "xenium"}
    with pytest.raises(ValueError, match=message):
        tokenize(**{**arguments, **changes})
