"""Frozen image encoders of the baselines: ImageNet EfficientNet-Lite0 in three stages, and colour with texture."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pastpy.models.image import _geometry, cut_and_folded
from pastpy.models.imagenet import load_imagenet_lite0

__all__ = ["ColourTexture", "ImageNetStages"]


class ImageNetStages(nn.Module):
    """Stages 2, 3 and 4 of EfficientNet-Lite0 with ImageNet weights, side by side at stride 8: 232 channels.

    The geometry (:class:`pastpy.engine.TokenEncoder`) is that of the deepest stage; tokens of the coarser stages stand
    for the four finer ones that they cover.

    References
    ----------
    Tan & Le, EfficientNet, ICML 2019, arXiv:1905.11946.
    """

    stride, alignment, channels = 8, 16, 232
    token_centre = 4.0

    def __init__(self) -> None:
        super().__init__()
        self.network = cut_and_folded(load_imagenet_lite0(), 4)
        self.halo = -(-_geometry(self.network)[2] // self.alignment) * self.alignment

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode RGB pixels in [0, 1], float32 (b, 3, h, w), as (b, 232, h/8, w/8)."""
        x = ((pixels * 255 - 127) / 128).contiguous(memory_format=torch.channels_last)
        stages = []
        for i, layer in enumerate(self.network):
            x = layer(x)
            # stem, its norm, then the blocks: 2, 3 and 4 of them have 40, 80 and 112 channels
            if i >= 4:
                stages.append(x)
        side = stages[0].shape[-2:]
        return torch.cat([s if s.shape[-2:] == side else F.interpolate(s, size=side) for s in stages], dim=1)


class ColourTexture(nn.Module):
    """Optical density of red, green and blue, its square, and its gradient at three scales: 15 channels at stride 8.

    Pooled over a region these are means, spreads and how much edge there is, fine to coarse: what stain and density of
    nuclei look like without any learned network.
    """

    stride, alignment, halo, channels = 8, 8, 16, 15
    token_centre = 4.0
    _SCALES = (1, 2, 4)

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode RGB pixels in [0, 1], float32 (b, 3, h, w), as (b, 15, h/8, w/8)."""
        density = -torch.log10(pixels.clamp(min=1 / 255))
        parts = [density, density**2]
        for scale in self._SCALES:
            smooth = F.avg_pool2d(density, scale) if scale > 1 else density
            right = F.pad(smooth, (0, 1, 0, 0), mode="replicate").diff(dim=-1)
            down = F.pad(smooth, (0, 0, 0, 1), mode="replicate").diff(dim=-2)
            edge = torch.sqrt(right**2 + down**2 + 1e-12)
            parts.append(F.avg_pool2d(edge, self.stride // scale))
        return torch.cat([F.avg_pool2d(p, self.stride) for p in parts[:2]] + parts[2:], dim=1)
