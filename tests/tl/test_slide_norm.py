"""Models that take features relative to the slide, from image to slots."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from spatialdata.models import Image2DModel

import pastpy as past
from pastpy.models import PAST
from pastpy.train.augment import View
from pastpy.train.data import pooled_tokens

CALL = {"modality": "image", "progress": False}


@pytest.fixture
def relative(two_passes: PAST) -> PAST:
    """A model with two passes that standardises by slide."""
    torch.manual_seed(1)
    model = PAST(replace(two_passes.config, slide_norm=True, summary_tokens=2, summary_width=8), two_passes.card)
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def restained(sdata):
    """The same tissue with a paler, bluer stain."""
    pixels = sdata["he"].data.compute().astype(float) / 255
    pixels = np.clip(pixels, 1 / 255, 1) ** np.array([0.85, 0.8, 0.75])[:, None, None] * 255
    image = Image2DModel.parse(pixels.round().astype(np.uint8), dims=("c", "y", "x"), c_coords=["r", "g", "b"])
    attrs = dict(sdata.attrs)
    sdata["he"] = image
    sdata.attrs.update(attrs)
    return sdata


def embedded(sdata, model: PAST, **changes) -> np.ndarray:
    past.tl.embed(sdata, model, **{**CALL, **changes})
    return sdata["cells"].obsm["X_past_image"]


def test_dense_and_crop_mode_agree_and_say_what_was_used(toy_sdata, relative):
    dense, crop = (toy_sdata(size=512, n_cells=300, seed=3) for _ in range(2))
    found, expected = embedded(dense, relative), embedded(crop, relative, mode="crop")
    np.testing.assert_allclose(found, expected, atol=2e-4)
    facts = dense["cells"].uns["past"]["embed"]
    assert 0 < facts["slide_cells"] <= 300


def test_stain_matters_less(toy_sdata, relative):
    # as if both had been trained on this slide as it is
    pooled = torch.from_numpy(pooled_tokens(toy_sdata(size=512, n_cells=300, seed=3), relative, "cells", View()))
    relative.feature_mean.copy_(pooled.mean(dim=0))
    relative.feature_std.copy_(pooled.std(dim=0))
    plain = PAST(replace(relative.config, slide_norm=False), relative.card).eval()
    plain.load_state_dict(relative.state_dict())
    moved = {}
    for name, model in (("relative", relative), ("plain", plain)):
        a, b = toy_sdata(size=512, n_cells=300, seed=3), restained(toy_sdata(size=512, n_cells=300, seed=3))
        moved[name] = 1 - (embedded(a, model) * embedded(b, model)).sum(axis=1).mean()
    assert moved["relative"] < 0.7 * moved["plain"]


def test_a_run_goes_on_to_the_same_bits(toy_sdata, relative, tmp_path):
    whole = embedded(toy_sdata(size=512, n_cells=200, seed=4), relative)
    store = tmp_path / "run.zarr"
    for _ in range(2):  # the second call finds all fields done
        again = embedded(toy_sdata(size=512, n_cells=200, seed=4), relative, resume=store)
        np.testing.assert_array_equal(again, whole)


def test_a_slide_on_which_no_cell_lies_gives_no_rows(toy_sdata, relative):
    sdata = toy_sdata(size=128, n_cells=20, seed=5)
    sdata["nuclei"] = sdata["nuclei"].set_geometry(sdata["nuclei"].geometry.translate(5000, 5000))
    with pytest.warns(UserWarning):
        found = embedded(sdata, relative, on_misaligned="ignore")
    assert np.isnan(found).all()


def test_the_image_decides_not_the_order_of_the_rows(toy_sdata, relative):
    sdata, turned = (toy_sdata(size=512, n_cells=300, seed=6) for _ in range(2))
    order = np.random.default_rng(0).permutation(300)
    turned["cells"] = turned["cells"][order].copy()
    np.testing.assert_allclose(embedded(turned, relative), embedded(sdata, relative)[order], atol=1e-5)
