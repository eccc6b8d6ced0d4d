"""``harmonize_genes`` and ``gene_report``: names with known answers, and what happens to counts."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csc_matrix, csr_matrix, issparse

from pastpy.models import load
from pastpy.pp import gene_report, harmonize_genes
from pastpy.pp._gene_vocabulary import load_vocabulary, vocabulary_source

# Names of genes that changed or are used beside the symbol, with what HGNC and MGI call them.
HUMAN = {
    "ERBB2": ("ERBB2", "symbol"),
    "HER2": ("ERBB2", "alias"),
    "MARCH1": ("MARCHF1", "previous"),
    "C1orf112": ("FIRRM", "previous"),
    "ENSG00000141736": ("ERBB2", "ensembl_id"),
    "ENSG00000141510.18": ("TP53", "ensembl_id"),
    "krt8": ("KRT8", "case"),
    "NegControlProbe_00042": ("NegControlProbe_00042", "unknown"),
}
MOUSE = {
    "Krt8": ("Krt8", "symbol"),
    "Atp5e": ("Atp5f1e", "alias"),
    "ENSMUSG00000061361.3": ("Or2l13b", "ensembl_id"),
    "BLANK_7": ("BLANK_7", "unknown"),
}


def table(names, counts=None):
    counts = np.arange(1, 1 + 2 * len(names)).reshape(2, -1) if counts is None else counts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata tells of names that are there twice
        return AnnData(counts, var=pd.DataFrame(index=list(names)))


@pytest.mark.parametrize(("species", "truth"), [("human", HUMAN), ("mouse", MOUSE)])
@pytest.mark.parametrize("told", [True, False])
def test_names_with_known_answers(species, truth, told):
    report = gene_report(list(truth), species=species if told else None)
    assert report.attrs["species"] == species
    assert dict(zip(report.index, zip(report["gene"], report["match"], strict=True), strict=True)) == truth
    known = report["match"] != "unknown"
    assert report.loc[known, "ensembl_id"].str.fullmatch(r"ENS(MUS)?G\d{11}").all()


def test_to_ensembl_and_back():
    symbols = ["ERBB2", "KRT8", "TP53", "CD8A"]
    ids = gene_report(symbols, to="ensembl_id")["gene"]
    assert ids["ERBB2"] == "ENSG00000141736"
    assert gene_report(ids.tolist())["gene"].tolist() == symbols


def test_a_name_of_several_genes_is_left_and_its_candidates_are_named():
    report = gene_report(["STRA13", "KRT8"], species="human")
    assert report.loc["STRA13", "gene"] == "STRA13" and report.loc["STRA13", "match"] == "ambiguous"
    assert set(report.loc["STRA13", "candidates"].split("|")) >= {"BHLHE40", "CENPX"}


def test_every_current_symbol_and_unique_id_means_itself():
    for species in ("human", "mouse"):
        known = load_vocabulary("past", species)
        once = pd.Series(known.symbol)[~pd.Series(known.symbol).duplicated(keep=False)]
        assert len(once) > 40_000
        row, match, _ = known.resolve(once.tolist())
        assert set(match) == {"symbol"} and np.array_equal(row, once.index)


def test_where_the_shipped_file_is_from():
    source = vocabulary_source("past")
    assert source["species"]["human"]["licence"] == "CC0-1.0"
    assert source["species"]["mouse"]["licence"].startswith("CC-BY-4.0")
    assert all(s["downloaded"] == "2026-06-25" and s["files"] for s in source["species"].values())


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix, csc_matrix])
def test_counts_of_one_gene_are_added(kind):
    cells = table(["HER2", "KRT8", "ERBB2", "BLANK_1", "KRT8"], np.array([[1, 2, 4, 8, 16], [0, 1, 0, 1, 0]]))
    cells.X = kind(cells.X)
    cells.layers["raw"] = kind(2 * np.asarray(cells.X.todense() if issparse(cells.X) else cells.X))
    with pytest.warns(UserWarning, match=r"1 names are not in the vocabulary.*BLANK_1.*4 columns.*ERBB2 \(HER2, ERBB2"):
        assert harmonize_genes(cells) is None
    assert cells.var_names.tolist() == ["ERBB2", "KRT8", "BLANK_1"]
    for matrix, factor in ((cells.X, 1), (cells.layers["raw"], 2)):
        dense = np.asarray(matrix.todense() if issparse(matrix) else matrix)
        assert dense.tolist() == [[5 * factor, 18 * factor, 8 * factor], [0, factor, factor]]
        assert matrix.dtype == np.int64
    assert cells.var["past_gene_before"].tolist() == ["HER2|ERBB2", "KRT8|KRT8", "BLANK_1"]
    assert cells.var["past_gene_match"].tolist() == ["alias", "symbol", "unknown"]
    facts = cells.uns["past"]["harmonize_genes"]
    assert facts["unknown"] == ["BLANK_1"] and facts["species"] == "human"
    assert facts["duplicated"] == ["HER2", "KRT8", "ERBB2", "KRT8"]
    assert json.loads(json.dumps(facts)) == facts


@given(st.lists(st.sampled_from([*HUMAN, "BLANK_1", "QARS"]), min_size=1, max_size=12), st.integers(0, 9))
def test_no_count_is_lost(names, seed):
    cells = table(names, np.random.default_rng(seed).integers(0, 5, (3, len(names))))
    total = cells.X.sum(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        harmonize_genes(cells, species="human")
    assert cells.var_names.is_unique
    assert np.array_equal(cells.X.sum(axis=1), total)
    assert sorted("|".join(cells.var["past_gene_before"]).split("|")) == sorted(names)


def test_duplicates_may_be_kept_or_refused():
    cells = table(["HER2", "ERBB2", "C1orf112"])
    with pytest.raises(ValueError, match=r"2 columns share a gene.*ERBB2 \(HER2, ERBB2\)"):
        harmonize_genes(cells, duplicates="raise")
    assert cells.var_names.tolist() == ["HER2", "ERBB2", "C1orf112"] and "past" not in cells.uns
    with pytest.warns(UserWarning, match="2 columns that share a gene keep their names"):
        harmonize_genes(cells, duplicates="keep")
    assert cells.var_names.tolist() == ["HER2", "ERBB2", "FIRRM"]


def test_only_counts_are_added_and_a_refusal_changes_nothing():
    cells = table(["HER2", "ERBB2"])
    cells.layers["log1p"] = np.log1p(cells.X)
    with pytest.raises(ValueError, match="layer 'log1p' holds other values than counts"):
        harmonize_genes(cells)
    assert cells.var_names.tolist() == ["HER2", "ERBB2"] and cells.X.tolist() == [[1, 2], [3, 4]]
    assert "past" not in cells.uns and "past_gene_match" not in cells.var


def test_names_of_a_model_win(toy_sdata):
    class Model:
        gene_names = ("HER2", "MARCH1", "GENE0")

    report = gene_report(["ERBB2", "MARCHF1", "GENE0", "KRT8"], species="human", model=Model())
    assert report["gene"].tolist() == ["HER2", "MARCH1", "GENE0", "KRT8"]
    assert report["in_model"].tolist() == [True, True, True, False]
    with pytest.raises(TypeError, match="a pastpy model with genes"):
        gene_report(["ERBB2"], species="human", model=object())


def test_shipped_model_is_covered_by_old_and_new_names():
    from pastpy import models

    names = models.load("past-mini").gene_names
    current = gene_report(names, species="human")
    assert (current["match"] != "unknown").mean() > 0.98
    new = current.loc[~current["duplicate"], "gene"].tolist()
    back = gene_report(new, species="human", model="past-mini")
    assert back["in_model"].all()
    assert np.isin(new, names).mean() < 1  # without the model's names, some would be lost


def test_a_spatialdata_table_and_its_annotation(toy_sdata):
    sdata = toy_sdata(n_genes=3)
    sdata["cells"].var_names = ["HER2", "ERBB2", "KRT8"]
    with pytest.warns(UserWarning, match="2 columns"):
        harmonize_genes(sdata)
    assert sdata["cells"].var_names.tolist() == ["ERBB2", "KRT8"]
    assert sdata["cells"].obs["region"].unique().tolist() == ["nuclei"]


def test_versioned_mouse_ids_of_a_real_table(shared_data):
    ids = pd.read_csv(shared_data / "mob" / "MOB1.tsv", sep="\t", index_col=0, nrows=1).columns
    report = gene_report(ids)
    assert report.attrs["species"] == "mouse"
    assert (report["match"] == "ensembl_id").mean() > 0.97


@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".tsv.gz", ".parquet"])
def test_own_vocabulary(tmp_path, suffix):
    own = pd.DataFrame({"species": ["mouse"], "symbol": ["Foo"], "alias": ["Bar|NA"]})
    path = tmp_path / f"own{suffix}"
    if suffix == ".parquet":
        own.to_parquet(path)
    else:
        own.to_csv(path, sep="\t" if "tsv" in suffix else ",", index=False)
    report = gene_report(["Foo", "Bar", "NA", "KRT8"], vocabulary=path)
    assert report["gene"].tolist() == ["Foo", "Foo", "Foo", "KRT8"]
    assert report["ensembl_id"].eq("").all()
    with pytest.raises(ValueError, match=r"own.*no gene of species 'human'"):
        gene_report(["Foo"], vocabulary=path, species="human")


@pytest.mark.parametrize(
    ("names", "arguments", "error", "message"),
    [
        (["x1", "x2"], {}, ValueError, "species cannot be told: none of the 2 genes"),
        (["KRT8"], {"species": "rat"}, ValueError, "species must be one of"),
        (["KRT8"], {"to": "entrez"}, ValueError, "to must be one of"),
        (["KRT8"], {"vocabulary": "absent.tsv"}, FileNotFoundError, "no gene vocabulary 'absent.tsv'"),
        ([], {}, ValueError, "0 genes"),
        ("KRT8", {}, TypeError, "a list of names"),
    ],
)
def test_bad_arguments(names, arguments, error, message):
    with pytest.raises(error, match=message):
        gene_report(names, **arguments)


@pytest.mark.parametrize("content", [b"", b"PAR1\x00\x01", b"symbol\nKRT8\n"])
@pytest.mark.parametrize("suffix", [".parquet", ".tsv"])
def test_files_that_are_no_vocabulary(tmp_path, content, suffix):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"gene vocabulary .*bad"):
        gene_report(["KRT8"], vocabulary=path, species="human")


def test_unknown_choice_of_duplicates():
    with pytest.raises(ValueError, match="duplicates must be one of"):
        harmonize_genes(table(["KRT8"]), duplicates="first")


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    ("dtype", "one", "other"), [("uint8", 200, 100), ("int8", 100, 100), ("uint16", 60000, 60000), ("bool", 1, 1)]
)
def test_sums_do_not_overflow(sparse, dtype, one, other):
    counts = np.array([[one, other]], dtype=dtype)
    cells = AnnData(csr_matrix(counts) if sparse else counts)
    cells.var_names = ["HER2", "ERBB2"]
    with pytest.warns(UserWarning, match="were added"):
        harmonize_genes(cells)
    found = cells.X.toarray() if sparse else cells.X
    assert found.tolist() == [[one + other]] and found.dtype == np.int64


def test_a_sum_that_fits_keeps_its_type():
    cells = AnnData(np.array([[20, 10]], dtype=np.uint8))
    cells.var_names = ["HER2", "ERBB2"]
    with pytest.warns(UserWarning, match="were added"):
        harmonize_genes(cells)
    assert cells.X.tolist() == [[30]] and cells.X.dtype == np.uint8


def test_a_second_call_keeps_what_genes_were_called_first(toy_sdata):
    cells = table(["HER2", "ERBB2", "C1orf112", "NOVEL1"])
    with pytest.warns(UserWarning):
        harmonize_genes(cells)
    with pytest.warns(UserWarning):
        harmonize_genes(cells, to="ensembl_id")
    assert cells.var["past_gene_before"].tolist() == ["HER2|ERBB2", "C1orf112", "NOVEL1"]
    assert cells.var["past_gene_match"].tolist() == ["alias", "previous", "unknown"]


def test_names_that_readers_made_unique():
    cells = table(["KRT8", "KRT8-1", "NOVEL1", "NOVEL1-1", "HLA-DRB1"])
    report = gene_report(cells.var_names)
    assert report["match"].tolist() == ["symbol", "numbered", "unknown", "unknown", "symbol"]
    assert report["gene"].tolist() == ["KRT8", "KRT8", "NOVEL1", "NOVEL1-1", "HLA-DRB1"]
    cells.var["gene_ids"] = ["ENSG00000170421", "ENSG00000141736", "", "", ""]
    with pytest.warns(UserWarning, match="NOVEL1-1"):
        harmonize_genes(cells)
    assert cells.var_names.tolist() == ["KRT8", "ERBB2", "NOVEL1", "NOVEL1-1", "HLA-DRB1"]


def test_ids_in_any_form():
    names = ["ensg00000141736", "ENSG00000141510.18_PAR_Y", " KRT8 "]
    assert gene_report(names, species="human")["gene"].tolist() == ["ERBB2", "TP53", "KRT8"]


def test_coverage_of_the_model_is_of_its_own_genes():
    model = load("past-mini")
    report = gene_report([*model.gene_names[:10], "NOVEL1"], model=model)
    assert report.attrs["model_coverage"] == pytest.approx(10 / len(model.gene_names))
    assert report["in_model"].mean() == pytest.approx(10 / 11)
