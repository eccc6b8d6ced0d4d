"""Patch tokens of a LazySlide model that is not one of timm's networks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

__all__ = ["LazySlideTokens"]


class LazySlideTokens(nn.Module):
    """A model of LazySlide's registry with ``encode_image_dense``, as a network that gives a grid of features.

    LazySlide runs its models without gradients, so such a backbone can only be frozen.

    Parameters
    ----------
    model
        The model; its ``model`` is the network underneath.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encode = model.encode_image_dense
        if isinstance(getattr(model, "model", None), nn.Module):
            self.inner = model.model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (b, 3, h, w) as (b, channels, rows, columns)."""
        patches = self.encode(pixels).patch_tokens
        rows = math.isqrt(patches.shape[1])
        if rows**2 != patches.shape[1]:
            raise ValueError(f"{patches.shape[1]} patch tokens are no square grid; pass square windows")
        return patches.transpose(1, 2).unflatten(2, (rows, rows)).clone()
