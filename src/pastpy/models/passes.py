"""Passes: how often an image is encoded, at which µm per pixel, and what is pooled each time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pastpy.engine.pool import Region
    from pastpy.models.config import PASTConfig

__all__ = ["ImagePass", "image_passes"]


@dataclass(frozen=True)
class ImagePass:
    """One pass of a model's image encoder over an image.

    Attributes
    ----------
    name
        ``"fine"`` or ``"coarse"``.
    target_mpp
        µm per pixel at which the image is read.
    zoom
        Pixels of the fine pass along the side of one pixel of this pass.
    regions
        What is pooled for every cell, in the order of its image tokens.
    stride_um
        Distance between neighbouring tokens, µm.
    receptive_field_um
        Side of the square around a token outside which it sees nothing, µm; rounded up to whole tokens.
    """

    name: str
    target_mpp: float
    zoom: int
    regions: tuple[Region, ...]
    stride_um: float
    receptive_field_um: float


def image_passes(config: PASTConfig, encoder: Any) -> tuple[ImagePass, ...]:
    """Passes of an image encoder, as :class:`pastpy.engine.TokenEncoder`, in a model of this configuration."""
    fine, coarse = config.target_mpp, config.coarse_mpp
    plan = [("fine", 1, fine, config.regions)]
    if coarse is not None:
        plan.append(("coarse", round(coarse / fine), coarse, config.coarse_regions))
    seen = encoder.stride + 2 * encoder.halo
    return tuple(
        ImagePass(name, mpp, zoom, regions, stride_um=encoder.stride * mpp, receptive_field_um=seen * mpp)
        for name, zoom, mpp, regions in plan
    )
