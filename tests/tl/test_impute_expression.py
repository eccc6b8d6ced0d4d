"""Predicted expression: definition, slots, intervals, and refusals before anything is computed."""

from __future__ import annotations

import dataclasses
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import spatialdata
from anndata import AnnData
from scipy import stats
from spatialdata.models import TableModel

import pastpy as past
from pastpy._provenance import forget, recorded
from pastpy.tl import _impute_expression
from pastpy.tl._impute_expression import predictive_spread

GENES = ["GENE3", "ERBB2"]


def impute(sdata, model, **arguments):
    past.tl.impute_expression(sdata, model, progress=False, **arguments)
    return sdata["cells"]


def test_frame_in_its_slot(toy_sdata, tiny_model):
    table = impute(toy_sdata(), tiny_model, genes=GENES, modality="image")
    frame = table.obsm["past_expression"]
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == GENES and frame.index.equals(table.obs_names)
    assert (frame.dtypes == np.float32).all() and np.isfinite(frame.to_numpy()).all()
    assert frame["GENE3"].std() > 0
    scores = table.uns["past"]["impute_expression"]["scores"]
    assert scores["gene"] == GENES and scores["statement"] == "not measured on another patient"


def test_values_are_shares_of_the_whole_vocabulary(toy_sdata, tiny_model):
    sdata = toy_sdata()
    everything = impute(sdata, tiny_model, genes=tiny_model.gene_names, modality="image").obsm["past_expression"]
    np.testing.assert_allclose(np.expm1(everything).sum(axis=1), 1e4, rtol=1e-4)
    some = impute(sdata, tiny_model, genes=GENES, modality="image", target_sum=500).obsm["past_expression"]
    np.testing.assert_allclose(np.expm1(some), np.expm1(everything[GENES]) / 20, rtol=1e-4)


def test_default_genes_are_the_trusted_ones_best_first(toy_sdata, tiny_model):
    table = impute(toy_sdata(), tiny_model)
    assert list(table.obsm["past_expression"].columns) == tiny_model.gene_names


def test_without_trusted_genes_they_must_be_named(toy_sdata, tiny_model, monkeypatch):
    monkeypatch.setattr(tiny_model.card, "genes", tiny_model.card.genes.assign(trusted=False))
    with pytest.raises(ValueError, match="'tiny' trusts no gene, so there is no default: name them with genes= "):
        past.tl.impute_expression(toy_sdata(), tiny_model, progress=False)


def test_unknown_genes_are_nan(toy_sdata, tiny_model):
    with pytest.warns(UserWarning, match=r"1 of 2 genes are not in the vocabulary of 'tiny'.*\['NOSUCH'\]"):
        table = impute(toy_sdata(), tiny_model, genes=["NOSUCH", "ERBB2"])
    assert np.isnan(table.obsm["past_expression"]["NOSUCH"]).all()
    assert np.isfinite(table.obsm["past_expression"]["ERBB2"]).all()


def test_other_names_of_known_genes(toy_sdata, tiny_model):
    with pytest.warns(
        UserWarning, match="2 of 3 genes go by another name in 'tiny': HER2 as ERBB2, ENSG00000170421.13 as KRT8"
    ):
        table = impute(toy_sdata(), tiny_model, genes=["HER2", "ENSG00000170421.13", "ERBB2"], modality="image")
    frame = table.obsm["past_expression"]
    assert list(frame.columns) == ["HER2", "ENSG00000170421.13", "ERBB2"]
    np.testing.assert_array_equal(frame["HER2"], frame["ERBB2"])
    scores = table.uns["past"]["impute_expression"]["scores"]
    assert scores["gene_of_model"] == ["ERBB2", "KRT8", "ERBB2"]
    assert scores["validation_r"][0] == scores["validation_r"][2] and scores["trusted"] == [True] * 3


def test_measured_genes_are_used_unless_told_otherwise(toy_sdata, tiny_model):
    sdata = toy_sdata()
    both = impute(sdata, tiny_model, genes=GENES).obsm["past_expression"].copy()
    image = impute(sdata, tiny_model, genes=GENES, modality="image").obsm["past_expression"].copy()
    alone = impute(sdata, tiny_model, genes=GENES, modality="expression").obsm["past_expression"].copy()
    assert np.abs(both - image).to_numpy().max() > 1e-3
    assert np.abs(both - alone).to_numpy().max() > 1e-3
    table = sdata["cells"].copy()
    past.tl.impute_expression(table, tiny_model, genes=GENES, progress=False)
    np.testing.assert_allclose(table.obsm["past_expression"], alone, rtol=1e-5)


def test_a_row_is_predicted_from_what_it_has(toy_sdata, tiny_model):
    sdata = toy_sdata()
    counts = sdata["cells"].X.tolil()
    counts[:5] = 0
    sdata["cells"].X = counts.tocsr()
    both = impute(sdata, tiny_model, genes=GENES).obsm["past_expression"].to_numpy()
    image = impute(sdata, tiny_model, genes=GENES, modality="image").obsm["past_expression"].to_numpy()
    np.testing.assert_allclose(both[:5], image[:5], rtol=1e-5)
    assert np.abs(both[5:] - image[5:]).max() > 1e-3
    no_pixels = sdata["nuclei"].copy()
    no_pixels.geometry = no_pixels.geometry.translate(9999, 0)
    sdata["nuclei"] = no_pixels
    with pytest.warns(UserWarning, match="held other coordinates"):
        moved = impute(sdata, tiny_model, genes=GENES).obsm["past_expression"]
    assert np.isnan(moved[:5]).all(axis=None) and np.isfinite(moved[5:]).all(axis=None)


def test_spread_is_that_of_the_negative_binomial():
    share, theta = np.array([[0.02, 1e-4]]), np.array([3.0, 0.7])
    spread = predictive_spread(share, theta, depth=5000, target_sum=1e4)
    rng = np.random.default_rng(0)
    mu = 5000 * share[0]
    draws = np.log1p(rng.negative_binomial(theta, theta / (theta + mu), (200_000, 2)) * 2)
    np.testing.assert_allclose(spread["_std"][0], draws.std(axis=0), rtol=0.06)
    for gene in range(2):
        low, high = (np.expm1(spread[side][0, gene]) / 2 for side in ("_lower", "_upper"))
        inside = stats.nbinom(theta[gene], theta[gene] / (theta[gene] + mu[gene]))
        assert inside.cdf(high + 0.1) - inside.cdf(low - 1.1) >= 0.9
        assert inside.cdf(high - 1.1) < 0.95 and inside.cdf(low - 1.1) <= 0.05


@pytest.mark.parametrize("target_sum", [np.float64(500), np.float16(500), 500])
def test_predictions_are_float32(toy_sdata, tiny_model, target_sum):
    found = impute(toy_sdata(), tiny_model, genes=GENES, uncertainty=True, target_sum=target_sum).obsm
    for suffix in ("", "_std", "_lower", "_upper"):
        assert set(found[f"past_expression{suffix}"].dtypes) == {np.dtype(np.float32)}


def test_spread_does_not_depend_on_how_many_genes_go_at_once(toy_sdata, tiny_model, monkeypatch):
    whole = impute(toy_sdata(), tiny_model, genes=GENES, uncertainty=True).obsm
    monkeypatch.setattr(_impute_expression, "_SPREAD_VALUES", 1)
    parts = impute(toy_sdata(), tiny_model, genes=GENES, uncertainty=True).obsm
    for suffix in ("", "_std", "_lower", "_upper"):
        pd.testing.assert_frame_equal(parts[f"past_expression{suffix}"], whole[f"past_expression{suffix}"])


def test_what_the_model_is_unsure_of_adds_to_the_counting_noise():
    share, theta = np.array([[0.02, 1e-4]]), np.array([3.0, 0.7])
    plain = predictive_spread(share, theta, depth=5000, target_sum=1e4)
    unsure = predictive_spread(share, theta, depth=5000, target_sum=1e4, log_spread=np.array([[0.3, 0.0]]))
    slope = 1e4 * 0.02 / (1 + 1e4 * 0.02)
    assert unsure["_std"][0, 0] == pytest.approx(np.hypot(plain["_std"][0, 0], 0.3 * slope), rel=1e-5)
    middle = np.log1p(1e4 * share)
    ratio = unsure["_std"] / plain["_std"]
    np.testing.assert_allclose(unsure["_upper"] - middle, (plain["_upper"] - middle) * ratio, rtol=1e-4)
    for name in plain:
        assert unsure[name][0, 1] == plain[name][0, 1]


def test_the_prediction_of_a_rare_gene_is_within_its_interval():
    share, theta = np.array([[1e-6, 1e-5, 1e-4]]), np.array([0.5, 0.5, 0.5])
    spread = predictive_spread(share, theta, depth=1000, target_sum=1e4, log_spread=np.full((1, 3), 0.8))
    middle = np.log1p(1e4 * share).astype(np.float32)
    assert (spread["_lower"] == 0).all()
    np.testing.assert_array_equal(spread["_upper"][0, :2], middle[0, :2], "nearly all counts are 0")
    assert spread["_upper"][0, 2] > middle[0, 2]


def test_dropout_makes_predictions_less_sure(toy_sdata, tiny_model):
    std = {}
    for p in (0.0, 0.5):
        model = deepcopy(tiny_model)
        model.members[0].dropout.p = p
        table = impute(toy_sdata(), model, genes=GENES, uncertainty=True, modality="image")
        std[p] = table.obsm["past_expression_std"].to_numpy()
        again = impute(toy_sdata(), model, genes=GENES, modality="image")
        np.testing.assert_array_equal(again.obsm["past_expression"], table.obsm["past_expression"])
    assert (std[0.5] > std[0.0]).all() and (std[0.5] > 1.01 * std[0.0]).any()


def test_uncertainty_slots(toy_sdata, tiny_model):
    table = impute(toy_sdata(), tiny_model, genes=GENES, uncertainty=True, modality="image")
    std, lower, upper = (table.obsm[f"past_expression_{s}"] for s in ("std", "lower", "upper"))
    assert list(std.columns) == list(lower.columns) == list(upper.columns) == GENES
    assert (std > 0).all(axis=None) and (lower <= upper).all(axis=None)
    assert table.uns["past"]["impute_expression"]["depth"] == 1000.0


def test_intervals_of_an_earlier_prediction_do_not_stay(toy_sdata, tiny_model):
    sdata = toy_sdata()
    table = impute(sdata, tiny_model, genes=GENES, uncertainty=True, modality="image")
    impute(sdata, tiny_model, genes=GENES, uncertainty=True, modality="image", key_added="kept")
    measured = table.obsm["past_expression"] + np.random.default_rng(0).normal(0, 0.1, (table.n_obs, 2))
    donors = pd.Series(np.arange(table.n_obs) % 2, index=table.obs_names).astype(str)
    calibration = past.metrics.calibrate_intervals(table.obsm["past_expression"], measured, donors)
    past.tl.conformal(sdata, calibration)
    impute(sdata, tiny_model, genes=["GENE1"], modality="image")
    assert list(table.obsm["past_expression"]) == ["GENE1"]
    assert not [key for key in table.obsm if key.startswith("past_expression_")]
    assert "past_abstained" not in table.obs and "conformal" not in table.uns["past"]
    assert len([key for key in table.obsm if key.startswith("kept_expression_")]) == 3


def test_what_is_stored_of_several_keys(toy_sdata, tiny_model, tmp_path):
    sdata = toy_sdata()
    for key, gene in (("a", "ERBB2"), ("b", "KRT8"), ("a", "GENE1"), ("c", "GENE3")):
        impute(sdata, tiny_model, genes=[gene], modality="image", key_added=key)
    sdata.write(tmp_path / "several.zarr")
    table = spatialdata.read_zarr(tmp_path / "several.zarr")["cells"]
    assert table.uns["past"]["impute_expression"]["key_added"] == "c"
    genes = {key: list(recorded(table, "impute_expression", key)["scores"]["gene"]) for key in "abc"}
    assert genes == {"a": ["GENE1"], "b": ["KRT8"], "c": ["GENE3"]}
    assert recorded(table, "impute_expression", "past") == {}
    forget(table, "impute_expression", "c")
    forget(table, "impute_expression", "a")
    assert list(recorded(table, "impute_expression", "b")["scores"]["gene"]) == ["KRT8"]
    forget(table, "impute_expression", "b")
    assert "impute_expression" not in table.uns["past"]


def test_a_stain_looks_up_the_prediction_that_it_shows(toy_sdata, tiny_model):
    sdata = toy_sdata()
    impute(sdata, tiny_model, genes=["ERBB2"], modality="image", key_added="a")
    impute(sdata, tiny_model, genes=["KRT8"], modality="image", key_added="b")
    past.tl.virtual_stain(sdata, "HER2", expression_key="a_expression")
    assert np.isfinite(sdata["cells"].obs["past_stain_class_HER2"]).all()


def test_genes_that_the_card_does_not_trust_are_named(toy_sdata, tiny_model, monkeypatch):
    genes = tiny_model.card.genes
    monkeypatch.setattr(tiny_model.card, "genes", genes.assign(trusted=genes["gene"] != "GENE3"))
    with pytest.warns(UserWarning, match=r"card of 'tiny' does not trust its prediction of 1 of 2 genes.*\['GENE3'\]"):
        impute(toy_sdata(), tiny_model, genes=GENES, modality="image")


def test_a_table_of_its_own(toy_sdata, tiny_model, tmp_path):
    sdata = toy_sdata()
    past.tl.impute_expression(
        sdata, tiny_model, genes=GENES, uncertainty=True, table_added="imputed", modality="image", progress=False
    )
    assert "past_expression" not in sdata["cells"].obsm
    frame = impute(sdata, tiny_model, genes=GENES, modality="image").obsm["past_expression"]
    sdata.write(tmp_path / "a.zarr")
    stored = spatialdata.read_zarr(tmp_path / "a.zarr")["imputed"]
    np.testing.assert_allclose(stored.X, frame)
    assert set(stored.layers) >= {"std", "lower", "upper"}
    assert stored.uns["spatialdata_attrs"]["region"] == "nuclei"
    assert sdata["imputed"].X.base is None or sdata["imputed"].X.base.size == sdata["imputed"].X.size


def test_a_table_of_its_own_for_one_that_annotates_no_shapes(tiny_model):
    counts = AnnData(np.ones((3, len(tiny_model.gene_names)), dtype=np.float32))
    counts.var_names = tiny_model.gene_names
    sdata = spatialdata.SpatialData(tables={"cells": TableModel.parse(counts)})
    past.tl.impute_expression(
        sdata, tiny_model, genes=GENES, table_added="imputed", modality="expression", progress=False
    )
    assert sdata["imputed"].shape == (3, len(GENES))
    assert sdata["imputed"].obs.empty


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"table_added": "q/r"}, "table_added='q/r' is no element name"),
        ({"table_added": ""}, "table_added='' is no element name"),
        ({"table_added": "cells"}, "already has an element 'cells'; choose another name than table_added='cells'"),
        ({"table_added": "HE"}, "already has an element 'he'; choose another name than table_added='HE'"),
        ({"key_added": "a/b"}, "key_added='a/b' is no stem of slot names"),
        ({"key_added": ""}, "key_added='' is no stem"),
        ({"key_added": 5}, "key_added=5 is no stem"),
        ({"key_added": "PAST"}, r"slot 'PAST_valid', and the table has obs\['past_valid'\].*only in case"),
    ],
)
def test_names_that_cannot_be_stored_are_refused_first(toy_sdata, tiny_model, monkeypatch, names, message):
    monkeypatch.setattr("pastpy.tl._inputs.gather_images", lambda *a, **k: pytest.fail("computed before refusing"))
    sdata = toy_sdata()
    sdata["cells"].obs["past_valid"] = True
    with pytest.raises(ValueError, match=message):
        past.tl.impute_expression(sdata, tiny_model, genes=GENES, **names)


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        ("ERBB2", r"got the string 'ERBB2'; use genes=\['ERBB2'\]"),
        ([], "genes is empty"),
        (["ERBB2", None, 3], r"genes must be a list of gene symbols, and holds \[None, 3\]"),
        (["ERBB2", "ERBB2"], r"\['ERBB2'\] are given twice"),
        (["A/B"], r"\['A/B'\] are empty, reserved or contain a slash"),
        (["."], "reserved"),
        ([f"G{i}" for i in range(501)], "501 genes do not fit into obsm.*table_added="),
    ],
)
def test_genes_that_cannot_be_stored_are_refused_first(toy_sdata, tiny_model, monkeypatch, genes, message):
    monkeypatch.setattr("pastpy.tl._run_image.run_image", lambda *a, **k: pytest.fail("computed before refusing"))
    with pytest.raises(ValueError, match=message):
        past.tl.impute_expression(toy_sdata(), tiny_model, genes=genes)


def test_other_arguments_are_checked(toy_sdata, tiny_model):
    for target_sum in (0, np.inf, "many", None):
        with pytest.raises(ValueError, match="target_sum must be a positive number"):
            past.tl.impute_expression(toy_sdata(), tiny_model, target_sum=target_sum)
    with pytest.raises(ValueError, match="use one of them"):
        past.tl.impute_expression(toy_sdata(), tiny_model, table_added="x", copy=True)


def test_a_model_of_inflated_zeros_gives_no_spread(toy_sdata, tiny_model):
    from pastpy.models import PAST

    model = PAST(dataclasses.replace(tiny_model.config, zero_inflation=True), tiny_model.card).eval()
    with pytest.raises(ValueError, match="uncertainty=True knows no inflated zeros"):
        impute(toy_sdata(), model, genes=GENES, uncertainty=True)


def test_what_a_model_does_not_fit_is_warned_of(toy_sdata, tiny_model):
    with pytest.warns(UserWarning, match="model 'tiny': the image has 1 µm/px, and the model reads 0.5"):
        impute(toy_sdata(mpp=1.0), tiny_model, genes=GENES, modality="image")
