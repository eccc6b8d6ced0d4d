"""Models whose encoder reads the image more than once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import pastpy as past
from pastpy.models import PAST, ModelCard


@pytest.fixture
def two_passes(tiny_model):
    torch.manual_seed(1)
    config = replace(tiny_model.config, coarse_mpp=2.0, coarse_radii_um=(20.0, 40.0), rank=3)
    model = PAST(config, ModelCard(tiny_model.card.genes, tiny_model.card.facts))
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def embedded(sdata, model, **options):
    return past.tl.embed(sdata, model, modality="image", copy=True, progress=False, **options).obsm["X_past_image"]


def test_the_coarse_pass_is_that_of_a_model_of_its_own(toy_sdata, two_passes):
    """What is joined to the fine tokens is what one pass at the coarse µm/px pools."""
    sdata = toy_sdata(size=384)
    coarse = two_passes.passes[1]
    config = replace(
        two_passes.config,
        target_mpp=2.0,
        regions=coarse.regions,
        coarse_mpp=None,
        coarse_radii_um=(),
        coarse_tokens=True,
    )
    with pytest.warns(UserWarning, match="16 µm apart"):
        alone = PAST(config, two_passes.card).eval()
    alone.image_encoder.load_state_dict(two_passes.image_encoder.state_dict())
    with torch.no_grad():
        for i in range(2):
            alone.region_in[i].load_state_dict(two_passes.region_in[3 + i].state_dict())
        alone.token_norm.load_state_dict(two_passes.token_norm.state_dict())
        alone.image_projection.weight[:] = two_passes.image_projection.weight[:, 3 * 16 :]
        # without what the fine regions say
        two_passes.image_projection.weight[:, : 3 * 16] = 0
        alone.image_projection.bias.copy_(two_passes.image_projection.bias)
    np.testing.assert_allclose(embedded(sdata, two_passes), embedded(sdata, alone), atol=1e-5)


def test_dense_equals_crop_and_resumed(toy_sdata, two_passes, tmp_path):
    sdata = toy_sdata(size=384)
    dense = embedded(sdata, two_passes)
    np.testing.assert_allclose(embedded(sdata, two_passes, mode="crop"), dense, atol=1e-4)
    for _ in range(2):
        np.testing.assert_array_equal(embedded(sdata, two_passes, resume=tmp_path / "run.zarr"), dense)
    assert {p.name for p in tmp_path.iterdir()} == {"run.zarr", "run.coarse.zarr"}
    assert np.isfinite(dense).all() and dense.std(axis=0).min() > 0


def test_expression_is_predicted_from_both(toy_sdata, two_passes):
    sdata = toy_sdata(size=384)
    before = past.tl.impute_expression(sdata, two_passes, modality="image", copy=True, progress=False)
    with torch.no_grad():
        two_passes.region_in[4].weight.mul_(-1)
    after = past.tl.impute_expression(sdata, two_passes, modality="image", copy=True, progress=False)
    assert (before.obsm["past_expression"] - after.obsm["past_expression"]).abs().to_numpy().max() > 1e-3
