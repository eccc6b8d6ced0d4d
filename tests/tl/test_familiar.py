"""Tissue that a model was not trained on is named while it is embedded."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

import pastpy as past
from pastpy.metrics import feature_reference
from pastpy.tl._familiar import DISTANCE, familiar_tissue


@pytest.fixture
def model(tiny_model, toy_sdata, monkeypatch):
    """``tiny_model``, whose card says that it was trained on two toy tissues."""
    from pastpy.train.augment import View
    from pastpy.train.data import pooled_tokens

    features = [pooled_tokens(toy_sdata(size=384, seed=s), tiny_model, "cells", View())[:, 2] for s in (11, 12)]
    groups = np.repeat(["a", "b"], [len(f) for f in features])
    tissue = {"region": "context", **feature_reference(np.concatenate(features), groups).to_dict()}
    card = replace(tiny_model.card, facts={**tiny_model.card.facts, "tissue": tissue})
    monkeypatch.setattr(tiny_model, "card", card)
    return tiny_model


def inverted(sdata):
    """The same object with the colours of a photographic negative."""
    he = sdata["he"]
    sdata["he"] = he.copy(data=255 - he.data)
    return sdata


def test_tissue_like_the_training_is_let_pass(toy_sdata, model):
    sdata = toy_sdata(size=384, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        past.tl.embed(sdata, model, modality="image", progress=False)
    shift = sdata["cells"].uns["past"]["embed"]["shift"]
    assert shift["share_beyond"] < shift["limit"] and 1 < shift["percentile"] < 99


@pytest.mark.parametrize("call", [past.tl.embed, past.tl.impute_expression])
def test_other_tissue_is_named(toy_sdata, model, call):
    sdata = inverted(toy_sdata(size=384, seed=3))
    with pytest.warns(UserWarning, match="model 'tiny', image 'he': this tissue looks far from what the model"):
        call(sdata, model, modality="image", on_misaligned="ignore", progress=False)
    (entry,) = sdata["cells"].uns["past"].values()
    assert entry["shift"]["share_beyond"] > 0.9


def test_values_do_not_depend_on_it(toy_sdata, model):
    sdata, other = toy_sdata(size=384, seed=3), toy_sdata(size=384, seed=3)
    past.tl.embed(sdata, model, modality="image", progress=False)
    model.card.facts.pop("tissue")
    past.tl.embed(other, model, modality="image", progress=False)
    np.testing.assert_array_equal(sdata["cells"].obsm["X_past_image"], other["cells"].obsm["X_past_image"])
    assert familiar_tissue(model) is None and "shift" not in other["cells"].uns["past"]["embed"]


def test_it_survives_a_kill(toy_sdata, model, tmp_path):
    """The distances are streamed with the results, so a call that goes on judges all rows."""
    sdata, again = toy_sdata(size=384, seed=3), toy_sdata(size=384, seed=3)
    past.tl.embed(sdata, model, modality="image", resume=tmp_path / "run.zarr", progress=False)
    assert (tmp_path / "run.zarr" / DISTANCE).is_dir()
    past.tl.embed(again, model, modality="image", resume=tmp_path / "run.zarr", progress=False)
    assert again["cells"].uns["past"]["embed"]["shift"] == sdata["cells"].uns["past"]["embed"]["shift"]


def test_tissue_may_be_like_either_kind_of_training_data(toy_sdata, model):
    """A model that was also trained on negatives knows them, and still not what is like neither."""
    from pastpy.train.augment import View
    from pastpy.train.data import pooled_tokens

    other = [pooled_tokens(inverted(toy_sdata(size=384, seed=s)), model, "cells", View())[:, 2] for s in (21, 22)]
    groups = np.repeat([0, 1], [len(f) for f in other])
    model.card.facts["tissue"]["simulated"] = feature_reference(np.concatenate(other), groups).to_dict()
    for sdata in (toy_sdata(size=384, seed=3), inverted(toy_sdata(size=384, seed=3))):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            past.tl.embed(sdata, model, modality="image", on_misaligned="ignore", progress=False)
    swapped = toy_sdata(size=384, seed=3)
    swapped["he"] = swapped["he"].copy(data=swapped["he"].data[::-1])
    with pytest.warns(UserWarning, match="far from what the model"):
        past.tl.embed(swapped, model, modality="image", on_misaligned="ignore", progress=False)
