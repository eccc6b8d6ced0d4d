"""Low-rank adaptation: small trained additions to the frozen linear layers of a backbone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["LowRank", "add_lora"]


class LowRank(nn.Module):
    """A frozen linear layer or 1 × 1 convolution, plus a trained product of two thin ones.

    The second factor starts at zero, so a new addition changes nothing.

    Parameters
    ----------
    base
        The layer.
    rank
        Width between the two factors.

    References
    ----------
    Hu et al., LoRA, ICLR 2022, arXiv:2106.09685.

    Examples
    --------
    >>> layer = nn.Linear(4, 3)
    >>> x = torch.ones(1, 4)
    >>> bool((LowRank(layer, 2)(x) == layer(x)).all())
    True
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        where: Any = {"device": base.weight.device, "dtype": base.weight.dtype}
        self.lora_a: nn.Linear | nn.Conv2d
        self.lora_b: nn.Linear | nn.Conv2d
        if isinstance(base, nn.Conv2d):
            self.lora_a = nn.Conv2d(base.in_channels, rank, 1, stride=base.stride, bias=False, **where)  # type: ignore[arg-type]
            self.lora_b = nn.Conv2d(rank, base.out_channels, 1, bias=False, **where)
        else:
            self.lora_a = nn.Linear(base.in_features, rank, bias=False, **where)
            self.lora_b = nn.Linear(rank, base.out_features, bias=False, **where)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Output of the layer and its addition."""
        return self.base(x) + self.lora_b(self.lora_a(x))


def add_lora(network: nn.Module, rank: int) -> int:
    """Freeze a network and give its linear layers and 1 × 1 convolutions trained low-rank additions, in place.

    Returns
    -------
    The number of layers that have one now.

    Raises
    ------
    ValueError
        If the network has no such layer.
    """
    network.requires_grad_(False)
    found = [
        (parent, name, child)
        for parent in network.modules()
        if not isinstance(parent, LowRank)
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear | nn.Conv2d) and _is_pointwise(child)
    ]
    if not found:
        raise ValueError("backbone_training='lora' needs linear layers, and this backbone has none; use 'full'")
    for parent, name, child in found:
        setattr(parent, name, LowRank(child, rank))
    return len(found)


def _is_pointwise(layer: nn.Linear | nn.Conv2d) -> bool:
    return isinstance(layer, nn.Linear) or (layer.kernel_size == (1, 1) and layer.groups == 1)
