"""The objective: which losses a model's options bring in, and that padding takes no part in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from pastpy.models import PAST, ModelCard, PASTConfig
from pastpy.train import TrainConfig
from pastpy.train.losses import info_nce, siglip, soft_target_clip
from pastpy.train.objective import Batch, Objective, expression_tokens, thinned

N_GENES = 6
VARIABLE = torch.tensor([4, 0, 1])
ENTRIES = {"dim": 16, "embedding_dim": 8, "dropout": 0.0}


def config(entries: dict[str, Any] | None = None, **changes) -> TrainConfig:
    return TrainConfig(model={"name": "tiny", **ENTRIES, **(entries or {})}, **changes)


def make(entries: dict[str, Any] | None = None) -> PAST:
    torch.manual_seed(0)
    genes = pd.DataFrame({"gene": [f"GENE{i}" for i in range(N_GENES)]})
    model = PAST(PASTConfig(name="tiny", **{**ENTRIES, **(entries or {})}), ModelCard(genes, {}))
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((3, N_GENES), 5.0), generator=generator)
    return Batch(
        pooled=torch.randn(9, 3, 40, generator=generator),
        spot=torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2]),
        counts=counts,
        log_counts=torch.log1p(1e4 * counts / counts.sum(dim=1, keepdim=True)),
        cells=torch.poisson(torch.full((4, N_GENES), 2.0), generator=generator),
        cells_known=torch.tensor([True] * 4 + [False] * 2),
    )


def losses(model: PAST, training: TrainConfig, batch: Batch) -> dict[str, torch.Tensor]:
    return Objective(model, training, VARIABLE)(batch, torch.Generator().manual_seed(0))


def test_a_plain_model_has_the_plain_losses_and_their_weighted_sum(batch):
    training = config()
    found = losses(make(), training, batch)
    assert set(found) == {"image", "profile", "expression", "contrastive", "cells", "total"}
    expected = sum(training.weights[name] * value for name, value in found.items() if name != "total")
    torch.testing.assert_close(found["total"], expected)


def test_the_profile_is_compared_on_the_scale_of_the_scores(batch):
    model = make()
    share = model.log_profile(model.image_tokens(batch.pooled)).exp()
    spots = torch.stack([share[batch.spot == i].mean(dim=0) for i in range(3)])[:, VARIABLE]
    expected = (torch.log1p(1e4 * spots) - batch.log_counts[:, VARIABLE]).square().mean()
    torch.testing.assert_close(losses(model, config(), batch)["profile"], expected)


@pytest.mark.parametrize("name", ["info_nce", "soft_target_clip", "siglip"])
def test_the_contrastive_loss_is_the_one_asked_for(name, batch):
    model = make({"logit_bias": True})
    found = losses(model, config({"logit_bias": True}, contrastive=name), batch)
    tokens = model.image_tokens(batch.pooled)
    spots = torch.stack([tokens[batch.spot == i].mean(dim=0) for i in range(3)])

    seen = expression_tokens(model, thinned(batch.counts, torch.Generator().manual_seed(0)))
    pair = [F.normalize(x, dim=1) for x in (model.project_image(spots), model.project_expression(seen))]
    scale = model.logit_scale.exp()
    expected = {
        "info_nce": info_nce(*pair, scale),
        "soft_target_clip": soft_target_clip(*pair, scale),
        "siglip": siglip(*pair, scale, model.logit_bias),
    }[name]
    torch.testing.assert_close(found["contrastive"], expected)


def test_options_of_the_model_reach_its_parameters(batch):
    entries = {
        "zero_inflation": True, "joint": "attention", "technologies": ("st", "xenium"), "gene_tokens": True,
        "expression_layers": 1, "fusion_layers": 1, "logit_bias": True, "rank": 2,
    }  # fmt: skip
    model = make(entries)
    found = losses(model, config(entries, contrastive="siglip"), batch)
    assert set(found) == {"image", "profile", "expression", "contrastive", "joint", "cells", "total"}
    found["total"].backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(n.startswith("image_encoder.") for n in without), without
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    assert model.members[0].cell_encoder.technology.weight.grad.abs().sum(dim=1).gt(0).tolist() == [False, True, True]


def test_padded_gene_tokens_are_not_looked_at(batch):
    """A spot's loss does not depend on how many genes the longest spot of its batch has."""
    model = make({"gene_tokens": True})
    counts = batch.counts.clone()
    counts[0] = torch.tensor([3.0, 0, 0, 0, 0, 0])
    alone = expression_tokens(model, counts[:1])
    together = expression_tokens(model, counts)[:1]
    assert together.shape[1] > alone.shape[1]
    objective = Objective(model, config({"gene_tokens": True}), VARIABLE)
    known = torch.ones(N_GENES, dtype=torch.bool)
    a, b = (objective._cells(counts[:1], known, seen) for seen in (alone, together))
    torch.testing.assert_close(a, b)


def test_inflated_zeros_lower_the_expected_share_and_not_the_sum():
    model = make({"zero_inflation": True})
    tokens = torch.randn(4, 3, 16)
    with torch.inference_mode():
        share, zero = model.log_profile(tokens).exp(), model.zero_logits(tokens)
        expected = share * (1 - torch.sigmoid(zero))
        torch.testing.assert_close(
            model.predict_expression(tokens), expected / expected.sum(dim=1, keepdim=True), rtol=1e-5, atol=1e-6
        )


@pytest.mark.parametrize(
    ("entries", "changes", "message"),
    [
        ({}, {"contrastive": "triplet"}, "contrastive='triplet' is unknown"),
        ({}, {"contrastive": "siglip"}, "needs logit_bias=true"),
        ({"neighbours": 4}, {}, "needs backbone_training='frozen' and neighbours=0, got 'frozen' and 4"),
        ({"backbone_training": "lora"}, {}, "got 'lora' and 0"),
        ({"technologies": ["xenium"]}, {}, r"among the model's technologies \['xenium'\]"),
    ],
)
def test_what_fit_cannot_train_is_refused(entries, changes, message):
    with pytest.raises(ValueError, match=message):
        _ = config(entries, **changes).model_config


def test_a_joint_embedding_without_a_weight_is_refused():
    with pytest.raises(ValueError, match="give 'joint' a weight"):
        Objective(make({"joint": "attention"}), replace(config(), weights={"image": 1.0}), VARIABLE)


def test_sizes_and_plain_values_are_taken():
    training = TrainConfig(
        model={"name": "mine", "size": "small", "neighbours": 0, "coarse_mpp": 2.0, "coarse_radii_um": [25]}
    )
    found = training.model_config
    assert (found.dim, found.coarse_radii_um, len(found.regions)) == (128, (25,), 11)
