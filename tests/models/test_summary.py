"""Tokens that see all regions at once."""

from __future__ import annotations

import pandas as pd
import torch

from pastpy.models import PAST, ModelCard, PASTConfig


def make(**entries) -> PAST:
    torch.manual_seed(0)
    config = PASTConfig(name="tiny", dim=16, embedding_dim=8, dropout=0.0, **entries)
    return PAST(config, ModelCard(pd.DataFrame({"gene": ["A", "B", "C"]}), {})).eval()


def test_summary_tokens_stand_behind_those_of_the_regions():
    pooled = torch.randn(5, 3, 40)
    with_summary, without = make(summary_tokens=2, summary_width=12), make()
    without.image_encoder.load_state_dict(with_summary.image_encoder.state_dict())
    for name in ("region_in", "token_norm"):
        getattr(without.members[0], name).load_state_dict(getattr(with_summary.members[0], name).state_dict())
    tokens = with_summary.image_tokens(pooled)
    assert tokens.shape == (5, 5, 16) and with_summary.n_image_tokens == 5
    torch.testing.assert_close(tokens[:, :3], without.image_tokens(pooled))
    assert with_summary.embed_image(torch.zeros(2, 3, 96, 96)).shape == (2, 8)


def test_every_region_reaches_the_summary_and_only_its_own_token():
    model = make(summary_tokens=1)
    pooled = torch.randn(1, 3, 40)
    changed = pooled.clone()
    changed[:, 2] += 1
    before, after = model.image_tokens(pooled)[0], model.image_tokens(changed)[0]
    moved = ((after - before).abs().max(dim=1).values > 1e-4).tolist()
    assert moved == [False, False, True, True]


def test_a_missing_region_is_a_usual_one_to_the_summary():
    model = make(summary_tokens=1)
    pooled = torch.randn(2, 3, 40)
    pooled[0, 1] = float("nan")
    pooled[1] = float("nan")
    tokens = model.image_tokens(pooled)
    assert tokens.isnan().any(dim=2).tolist() == [[False, True, False, False], [True] * 4]
    usual = pooled[:1].clone()
    usual[0, 1] = model.feature_mean[1]
    torch.testing.assert_close(tokens[0, 3], model.image_tokens(usual)[0, 3])
