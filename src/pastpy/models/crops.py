"""Pooling around the middle of crops, as a fixed linear map of the tokens: differentiable, and exportable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from pastpy.engine.pool import UnitShapes, pool_tokens

if TYPE_CHECKING:
    from pastpy.models.passes import ImagePass

__all__ = ["crop_weights", "pass_pixels", "pool_crops"]

#: Radius of the disc that stands for a nucleus where only a crop is known, µm.
NUCLEUS_RADIUS_UM = 4.0


def pool_crops(encoder: Any, pixels: torch.Tensor, passes: Sequence[ImagePass]) -> torch.Tensor:
    """Tokens pooled under and around a cell in the middle of each crop.

    Parameters
    ----------
    encoder
        Image encoder, as :class:`pastpy.engine.TokenEncoder`, that also takes normalised pixels when called.
    pixels
        float32 (n, 3, h, w), normalised, at the µm per pixel of the first pass; later passes see their means.
    passes
        Passes of the encoder, and what each pools.

    Returns
    -------
    float32 (n, regions of all passes, channels); NaN for a region outside the crop, and for outlines.
    """
    pooled = []
    for each in passes:
        grids = encoder(pass_pixels(encoder, pixels, each)).float()
        weights = crop_weights(encoder, pixels.shape[-2:], grids.shape[-2:], each).to(grids.device)
        absent = weights[:, :1].isnan()
        # filled afterwards, so that no gradient is NaN
        found = weights.nan_to_num() @ grids.flatten(2).transpose(1, 2)
        pooled.append(found.masked_fill(absent, float("nan")))
    return torch.cat(pooled, dim=1)


def pass_pixels(encoder: Any, pixels: torch.Tensor, each: ImagePass) -> torch.Tensor:
    """What one pass sees of crops: block means at its µm per pixel, and the window that the encoder wants of these."""
    seen = F.avg_pool2d(pixels, each.zoom) if each.zoom > 1 else pixels
    (top, height), (left, width) = (_window(encoder, side) for side in seen.shape[-2:])
    return seen[..., top : top + height, left : left + width]


def _window(encoder: Any, side: int) -> tuple[int, int]:
    """Start and length of what the encoder wants of the middle of a side; all of it where any length will do."""
    window = encoder.crop_px
    length = side if window is None else min(side, window)
    return (side - length) // 2, length


def crop_weights(encoder: Any, crop_px: Sequence[int], grid: Sequence[int], each: ImagePass) -> torch.Tensor:
    """How much each token of a crop counts in each region of a cell in its middle.

    Parameters
    ----------
    encoder
        Gives the geometry of the tokens.
    crop_px
        Height and width of the crop, px of the first pass.
    grid
        Rows and columns of the tokens that the pass makes of it.
    each
        The pass.

    Returns
    -------
    float32 (regions, rows · columns); rows sum to one, or are NaN for a region outside the crop, and for outlines.
    """
    import numpy as np

    (top, height), (left, width) = (_window(encoder, side // each.zoom) for side in crop_px)
    middle = [crop_px[1] / 2 / each.zoom - left, crop_px[0] / 2 / each.zoom - top]
    cell = UnitShapes(
        np.array([middle]), np.array([NUCLEUS_RADIUS_UM / each.target_mpp]), np.zeros((0, 4)), np.zeros(2, int)
    )
    n = grid[0] * grid[1]
    pooled = pool_tokens(
        np.eye(n, dtype=np.float32).reshape(n, *grid), cell, each.regions, stride=encoder.stride,
        token_centre=encoder.token_centre, target_mpp=each.target_mpp, inside=(0, 0, width, height),
    )  # fmt: skip
    return torch.from_numpy(pooled[0])
