"""One embedding from either modality or both."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
import torch

from pastpy.models import PAST, ModelCard, PASTConfig
from pastpy.models.joint import drop_modality, normalised_sum

NAN = float("nan")


@pytest.fixture(scope="module", params=["sum", "attention"])
def model(request) -> PAST:
    torch.manual_seed(0)
    config = PASTConfig(name="tiny", dim=16, embedding_dim=8, fusion_layers=1, joint=request.param)
    model = PAST(config, ModelCard(pd.DataFrame({"gene": ["A", "B", "C"]}), {}))
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def test_either_modality_both_or_neither(model):
    image, expression = torch.randn(4, 3, 16), torch.randn(4, 4, 16)
    image[1], expression[2] = NAN, NAN
    image[3], expression[3] = NAN, NAN
    with torch.inference_mode():
        found = model.embed_joint(image, expression)
        torch.testing.assert_close(found[1:2], model.embed_joint(expression_tokens=expression[1:2]))
        torch.testing.assert_close(found[2:3], model.embed_joint(image[2:3]))
        alone = model.embed_joint(image[:1])
    torch.testing.assert_close(found[:3].norm(dim=1), torch.ones(3))
    assert found[3].isnan().all()
    assert (found[0] - alone[0]).abs().max() > 1e-3


def test_one_missing_context_token_leaves_the_rest(model):
    image = torch.randn(2, 3, 16)
    image[0, 2] = NAN
    with torch.inference_mode():
        found = model.embed_joint(image)
        torch.testing.assert_close(found[1:], model.embed_joint(image[1:]))
    assert found.isfinite().all()


def test_sum_is_of_unit_vectors():
    image, expression = torch.tensor([[10.0, 0.0], [NAN, NAN]]), torch.tensor([[0.0, 0.1], [NAN, NAN]])
    found = normalised_sum(image, expression)
    torch.testing.assert_close(found[0], torch.full((2,), 0.5**0.5))
    assert found[1].isnan().all()


def test_modalities_are_dropped_one_at_a_time():
    image, expression = torch.zeros(4000, 2, 3), torch.zeros(4000, 4, 3)
    image[:500], expression[500:1000] = NAN, NAN
    kept_image, kept_expression = drop_modality(image, expression, 0.5, torch.Generator().manual_seed(0))
    lost = [t.isnan().flatten(1).all(dim=1) for t in (kept_image, kept_expression)]
    assert not (lost[0] & lost[1]).any()
    for part in lost:
        assert 0.22 < part[1000:].float().mean() < 0.28
    again = drop_modality(image, expression, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(again[0].isnan(), kept_image.isnan())
    assert not drop_modality(image, expression, 0.0, torch.Generator())[0][500:].isnan().any()


def test_dropped_modalities_leave_gradients_finite(model):
    image, expression = torch.randn(6, 3, 16, requires_grad=True), torch.randn(6, 4, 16, requires_grad=True)
    joint = model.embed_joint(*drop_modality(image, expression, 1.0, torch.Generator().manual_seed(1)))
    joint.sum().backward()
    assert image.grad.isfinite().all() and expression.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


def test_config_of_the_fixture_is_what_it_says(model):
    assert (model.joint is None) == (model.config.joint == "sum")
    assert dataclasses.asdict(model.config)["joint"] == model.config.joint
