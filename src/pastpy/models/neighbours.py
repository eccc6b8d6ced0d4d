"""Neighbour context: a cell's tokens attend to those of the nearest cells, the nearer the more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from pastpy.models.blocks import Attention

if TYPE_CHECKING:
    import numpy as np

__all__ = ["NeighbourContext", "nearest_cells"]

#: Cells that attend at once.
ROWS = 2048


class NeighbourContext(nn.Module):
    """Attention from a cell's tokens to its neighbours', with a learnt penalty on their distance in every head.

    It starts as the identity, and a cell without neighbours always keeps its tokens.

    Parameters
    ----------
    dim
        Width of the tokens.
    heads
        Attention heads.
    radius_um
        Unit of the distances, µm.

    References
    ----------
    Press et al., ALiBi, ICLR 2022, arXiv:2108.12409 (a linear penalty on distance).
    """

    def __init__(self, dim: int, heads: int, radius_um: float) -> None:
        super().__init__()
        self.radius_um = radius_um
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.slope = nn.Parameter(torch.linspace(-2.0, 2.0, heads))
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def forward(self, tokens: torch.Tensor, index: torch.Tensor, distance_um: torch.Tensor) -> torch.Tensor:
        """Tokens that know of their surroundings.

        Parameters
        ----------
        tokens
            float32 (n, t, dim), all cells; NaN where a token is not there.
        index
            int64 (n, k), positions of each cell's neighbours; −1 where there are fewer.
        distance_um
            float32 (n, k), their distances, µm.

        Returns
        -------
        float32 (n, t, dim).
        """
        absent = tokens[..., 0].isnan()
        normed = self.norm(tokens.masked_fill(absent[..., None], 0.0))
        parts = [
            self._attend(normed, absent, normed[rows], index[rows], distance_um[rows])
            for rows in torch.arange(len(tokens), device=tokens.device).split(ROWS)
        ]
        return tokens + torch.cat(parts) if parts else tokens

    def _attend(
        self,
        normed: torch.Tensor,
        absent: torch.Tensor,
        own: torch.Tensor,
        index: torch.Tensor,
        distance_um: torch.Tensor,
    ) -> torch.Tensor:
        at = index.clamp(min=0)
        unseen = (absent[at] | (index < 0)[..., None]).flatten(1)  # (n, k · t)
        penalty = -F.softplus(self.slope)[:, None] * (distance_um / self.radius_um)[:, None]  # (n, heads, k)
        bias = penalty.repeat_interleave(normed.shape[1], dim=2).masked_fill(unseen[:, None], float("-inf"))
        alone = unseen.all(dim=1)
        bias = bias.masked_fill(alone[:, None, None], 0.0)[:, :, None]
        return self.attention(own, normed[at].flatten(1, 2), bias).masked_fill(alone[:, None, None], 0.0)


def nearest_cells(
    spatial_um: np.ndarray, k: int, radius_um: float, library: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest cells of each cell within a radius, without itself.

    Parameters
    ----------
    spatial_um
        float (n, 2), µm; rows with NaN have no neighbours and are none.
    k
        Most neighbours of a cell.
    radius_um
        Farthest distance, µm.
    library
        int (n,), the section, core or region of each cell: cells of two libraries are no neighbours, however near.

    Returns
    -------
    int64 (n, k) positions, −1 where there are fewer, and float32 (n, k) distances, µm, 0 there.

    Examples
    --------
    >>> import pastpy as past
    >>> import numpy as np
    >>> index, distance = past.models.nearest_cells(np.array([[0.0, 0.0], [3.0, 4.0], [90.0, 0.0]]), 2, 50.0)
    >>> index.tolist(), distance[0].tolist()
    ([[1, -1], [0, -1], [-1, -1]], [5.0, 0.0])
    """
    import numpy as np
    from scipy.spatial import cKDTree

    n = len(spatial_um)
    index, distance = np.full((n, k), -1, dtype=np.int64), np.zeros((n, k), dtype=np.float32)
    if library is not None:
        for one in np.unique(library):
            own = np.flatnonzero(library == one)
            near, distance[own] = nearest_cells(spatial_um[own], k, radius_um)
            index[own] = np.where(near < 0, -1, own[near])
        return index, distance
    located = np.flatnonzero(np.isfinite(spatial_um).all(axis=1))
    if len(located) < 2 or k < 1:
        return index, distance
    found_distance, found = cKDTree(spatial_um[located]).query(
        spatial_um[located], k=range(1, k + 2), distance_upper_bound=np.nextafter(radius_um, np.inf)
    )
    # cells at one place may come before the cell itself, or push it out of its own list
    itself = found == np.arange(len(located))[:, None]
    itself[~itself.any(axis=1), -1] = True
    found, found_distance = found[~itself].reshape(-1, k), found_distance[~itself].reshape(-1, k)
    there = found < len(located)
    rows = located[np.nonzero(there)[0]], np.nonzero(there)[1]
    index[rows], distance[rows] = located[found[there]], found_distance[there]
    return index, distance
