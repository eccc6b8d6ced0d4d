"""Low-rank additions: nothing at first, and trained alone."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from pastpy.models.lora import LowRank, add_lora


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 1, stride=2)])
def test_addition_is_the_product_of_its_factors(layer):
    torch.manual_seed(0)
    added = LowRank(layer, 2)
    x = torch.randn(3, 6) if isinstance(layer, nn.Linear) else torch.randn(3, 6, 4, 4)
    torch.testing.assert_close(added(x), layer(x))
    nn.init.normal_(added.lora_b.weight)
    product = added.lora_b.weight.flatten(1) @ added.lora_a.weight.flatten(1)
    inputs = x if x.ndim == 2 else x[:, :, ::2, ::2].permute(0, 2, 3, 1)
    expected = added(x) if x.ndim == 2 else added(x).permute(0, 2, 3, 1)
    plain = layer(x) if x.ndim == 2 else layer(x).permute(0, 2, 3, 1)
    torch.testing.assert_close(expected, plain + inputs @ product.T)


def test_only_additions_are_trained():
    torch.manual_seed(0)
    network = timm.create_model("test_vit").eval()
    n_layers = sum(isinstance(m, nn.Linear) for m in network.modules())
    pixels = torch.rand(1, 3, 160, 160)
    before = network.forward_features(pixels).detach()
    assert add_lora(network, 4) == n_layers
    assert all(("lora_" in name) == p.requires_grad for name, p in network.named_parameters())
    torch.testing.assert_close(network.forward_features(pixels), before)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.1)
    changed = network.forward_features(pixels).detach()
    assert (changed - before).abs().max() > 1e-2


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(ValueError, match="needs linear layers"):
        add_lora(nn.Conv2d(3, 4, 3), 2)
