"""Fixed masks of dropout outside training."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import torch

from pastpy.models import PAST, ModelCard, PASTConfig
from pastpy.models.subnetworks import SubnetworkDropout, subnetwork


def make(dropout: float) -> PAST:
    torch.manual_seed(0)
    config = PASTConfig(name="tiny", dim=16, embedding_dim=8, dropout=dropout, summary_tokens=1, summary_width=12)
    model = PAST(config, ModelCard(pd.DataFrame({"gene": ["A", "B", "C"]}), {}))
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def test_masks_keep_the_mean_and_are_the_same_for_all_rows():
    layer = SubnetworkDropout(0.3, layer=1).eval()
    x = torch.ones(4, 20_000)
    with subnetwork(2):
        dropped = layer(x)
    assert (dropped == dropped[0]).all() and dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert dropped.mean() == pytest.approx(1, abs=0.02)
    assert (layer(x) == 1).all(), "outside, nothing is dropped"


def test_layers_and_subnetworks_have_masks_of_their_own():
    x = torch.ones(1, 200)

    def mask(layer: int, number: int) -> torch.Tensor:
        with subnetwork(number):
            return SubnetworkDropout(0.5, layer).eval()(x)

    assert (mask(0, 1) == mask(0, 1)).all()
    assert (mask(0, 1) != mask(1, 1)).any() and (mask(0, 1) != mask(0, 2)).any()


def test_training_drops_at_random_as_ever():
    layer = SubnetworkDropout(0.5, layer=0).train()
    with subnetwork(0):
        assert (layer(torch.ones(1, 200)) != layer(torch.ones(1, 200))).any()


def test_a_cell_does_not_depend_on_its_company_and_threads_not_on_each_other():
    model, pooled = make(0.4), torch.randn(6, 3, 40)

    def predicted(number: int | None, rows: slice) -> torch.Tensor:
        with torch.inference_mode():
            if number is None:
                return model.predict_expression(model.image_tokens(pooled[rows]))
            with subnetwork(number):
                return model.predict_expression(model.image_tokens(pooled[rows]))

    numbers = [None, 0, 1, 2] * 8
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: predicted(number, slice(None)), numbers))
    for number, found in zip(numbers, together, strict=True):
        torch.testing.assert_close(found[:2], predicted(number, slice(2)))
    assert (together[0] - together[1]).abs().max() > 1e-3


def test_without_dropout_all_subnetworks_of_one_member_are_the_network():
    model, pooled = make(0.0), torch.randn(2, 3, 40)
    with subnetwork(1):
        found = model.image_tokens(pooled)
    torch.testing.assert_close(found, model.image_tokens(pooled))
