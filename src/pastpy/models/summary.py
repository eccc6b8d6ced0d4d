"""Summary: tokens that see all regions of a cell at once."""

from __future__ import annotations

import torch
from torch import nn

from pastpy.models.subnetworks import SubnetworkDropout

__all__ = ["RegionSummary"]


class RegionSummary(nn.Module):
    """A network of two hidden layers over the features of all regions side by side.

    Each region's own token knows one region; what a nucleus of a certain size among many others means, only a layer
    over several of them can tell.

    Parameters
    ----------
    features
        Regions times channels.
    width
        Width of the hidden layers.
    tokens, dim
        Number and width of the tokens.
    dropout
        Dropout on the hidden layers.

    Examples
    --------
    >>> RegionSummary(6, 16, tokens=2, dim=4, dropout=0.0)(torch.zeros(5, 3, 2)).shape
    torch.Size([5, 2, 4])
    """

    def __init__(self, features: int, width: int, *, tokens: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.shape = (tokens, dim)
        self.network = nn.Sequential(
            nn.Linear(features, width), nn.GELU(), SubnetworkDropout(dropout, layer=1),
            nn.Linear(width, width), nn.GELU(), SubnetworkDropout(dropout, layer=2),
            nn.Linear(width, tokens * dim),
        )  # fmt: skip
        self.norm = nn.LayerNorm(dim)

    def forward(self, standardised: torch.Tensor) -> torch.Tensor:
        """Standardised features of all regions, float32 (n, regions, channels), as tokens, (n, tokens, dim)."""
        return self.norm(self.network(standardised.flatten(1)).unflatten(1, self.shape))
