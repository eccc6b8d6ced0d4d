"""Pooling around the middle of crops, as a fixed linear map of the tokens: differentiable, and exportable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pastpy.engine.pool import UnitShapes, pool_tokens

if TYPE_CHECKING:
    from pastpy.engine.pool import Region

__all__ = ["crop_weights", "pool_crops"]

#: Radius of the disc that stands for a nucleus where only a crop is known, µm.
NUCLEUS_RADIUS_UM = 4.0


def pool_crops(encoder: Any, pixels: torch.Tensor, regions: Sequence[Region], *, target_mpp: float) -> torch.Tensor:
    """Tokens pooled under and around a cell in the middle of each crop.

    Parameters
    ----------
    encoder
        Image encoder, as :class:`pastpy.engine.TokenEncoder`, that also takes normalised pixels when called.
    pixels
        float32 (n, 3, h, w), normalised, at ``target_mpp``.
    regions
        What to pool.
    target_mpp
        µm per pixel.

    Returns
    -------
    float32 (n, regions, channels); NaN for a region outside the crop.
    """
    grids = encoder(pixels).float()
    height, width = pixels.shape[-2:]
    shape = (int(grids.shape[-2]), int(grids.shape[-1]))
    weights = crop_weights(encoder, (height, width), shape, regions, target_mpp=target_mpp).to(grids.device)
    return weights @ grids.flatten(2).transpose(1, 2)


def crop_weights(
    encoder: Any, crop_px: tuple[int, int], grid: tuple[int, int], regions: Sequence[Region], *, target_mpp: float
) -> torch.Tensor:
    """How much each token of a crop counts in each region of a cell in its middle.

    Parameters
    ----------
    encoder
        Gives the geometry of the tokens.
    crop_px
        Height and width of the crop, px.
    grid
        Rows and columns of tokens.
    regions
        What is pooled.
    target_mpp
        µm per pixel.

    Returns
    -------
    float32 (regions, rows · columns); rows sum to one, or are NaN for a region outside the crop.
    """
    import numpy as np

    height, width = crop_px
    cell = UnitShapes(
        np.array([[width / 2, height / 2]]), np.array([NUCLEUS_RADIUS_UM / target_mpp]), np.zeros((0, 4)),
        np.zeros(2, int),
    )  # fmt: skip
    n = grid[0] * grid[1]
    pooled = pool_tokens(
        np.eye(n, dtype=np.float32).reshape(n, *grid), cell, regions, stride=encoder.stride,
        token_centre=encoder.token_centre, target_mpp=target_mpp, inside=(0, 0, width, height),
    )  # fmt: skip
    return torch.from_numpy(pooled[0])
