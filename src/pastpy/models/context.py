"""Where a context token lies from its cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["ContextPlace"]

#: From a cell's size to that of the widest context, µm.
WAVELENGTHS_UM = (12.0, 24.0, 48.0, 96.0, 192.0)


class ContextPlace(nn.Module):
    """Where each region lies from its cell, as an addition to its token: Fourier features and a linear layer.

    Parameters
    ----------
    offsets_um
        x and y of each region, µm.
    dim
        Width of the tokens.

    References
    ----------
    Tancik et al., Fourier Features, NeurIPS 2020, arXiv:2006.10739.
    """

    features: torch.Tensor

    def __init__(self, offsets_um: Sequence[tuple[float, float]], dim: int) -> None:
        super().__init__()
        # wavelengths from a cell's size to that of the widest context
        angle = torch.tensor(offsets_um)[:, None] * 2 * torch.pi / torch.tensor(WAVELENGTHS_UM)[:, None]
        features = torch.cat([angle.sin(), angle.cos()], dim=1).flatten(1)
        self.register_buffer("features", features, persistent=False)
        self.linear = nn.Linear(features.shape[1], dim)

    def forward(self) -> torch.Tensor:
        """float32 (regions, dim)."""
        return self.linear(self.features)
