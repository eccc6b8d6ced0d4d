"""Image encoder: a convolutional backbone cut at an early stage; its tokens are dense and see little around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

if TYPE_CHECKING:
    from pastpy.models.config import PASTConfig

__all__ = ["ImageEncoder"]

#: Pixels of a strip on a CPU: half of a tile of 512 px.
STRIP_PX = 512 * 256


class ImageEncoder(nn.Module):
    """Turns pixels into a grid of tokens.

    Parameters
    ----------
    config
        Names the backbone, the stage at which it is cut, and the pixel statistics.
    full
        The whole network; made anew, with random weights, by default.

    Attributes
    ----------
    stride, alignment, halo, token_centre, channels
        Geometry of the tokens, as :class:`pastpy.engine.TokenEncoder` defines it; computed from the layers.

    References
    ----------
    Tan & Le, EfficientNet, ICML 2019, arXiv:1905.11946.
    """

    mean: torch.Tensor
    std: torch.Tensor
    #: A token sees only its surroundings, so a crop may be of any size.
    crop_px: int | None = None

    def __init__(self, config: PASTConfig, full: Any = None) -> None:
        super().__init__()
        import timm

        if config.backbone_stage is None:
            raise ValueError(f"backbone {config.backbone!r} is cut at a stage; set backbone_stage")
        if full is None:
            full = timm.create_model(config.backbone, pretrained=False, **config.backbone_options)
        self.network = cut_and_folded(full, config.backbone_stage)
        self.register_buffer("mean", torch.tensor(config.image_mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.image_std).view(1, -1, 1, 1), persistent=False)
        self.stride, self.token_centre, self.halo = _geometry(self)
        self.alignment = self.stride
        self.channels = int(full.feature_info[_feature_index(full, config.backbone_stage)]["num_chs"])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode normalised pixels, float32 (b, 3, h, w), as (b, channels, h/stride, w/stride)."""
        # a size that "same" padding rounds up would be padded otherwise in a strip than in the whole
        divisible = pixels.shape[2] % self.stride == 0
        if pixels.device.type != "cpu" or torch.compiler.is_compiling() or not divisible:
            return self.network(pixels)
        wide, rest = widest_and_rest(self.network)
        return rest(in_strips(wide, pixels))

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode RGB pixels in [0, 1], float32 (b, 3, h, w)."""
        normalised = (pixels - self.mean) / self.std
        return self(normalised.contiguous(memory_format=torch.channels_last))


def cut_and_folded(full: Any, stage: int) -> nn.Sequential:
    """Stem and blocks of a timm EfficientNet up to a stage, each batch norm folded into the convolution before it.

    Folding leaves the outputs as they are, with running statistics, and takes a third off the time on a CPU.
    """
    network = nn.Sequential(full.conv_stem, full.bn1, *list(full.blocks)[: stage + 1]).eval()
    for module in list(network.modules()):
        conv = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                conv = name
            elif isinstance(child, nn.BatchNorm2d) and conv is not None:
                setattr(module, conv, fuse_conv_bn_eval(getattr(module, conv), child))
                # timm's batch norms carry the activation
                setattr(module, name, getattr(child, "act", nn.Identity()))
    return network.to(memory_format=torch.channels_last)


def widest_and_rest(network: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
    """An EfficientNet's layers up to the first block of its second stage, and those after.

    That block spreads the second finest grid over six times the channels: no other activation is nearly as large.
    """
    first, later = network[:3], list(network[3:])
    if not later:
        return first, nn.Sequential()
    widest, *second = later[0].children()
    return nn.Sequential(*first, widest), nn.Sequential(*second, *later[1:])


def in_strips(layers: nn.Sequential, pixels: torch.Tensor, strip_px: int = STRIP_PX) -> torch.Tensor:
    """What ``layers`` make of the pixels, computed in horizontal strips that overlap by what the layers see.

    On a CPU their largest activations then stay small enough for an allocator to keep, and put less load on the memory
    that other threads use. Results are the same.

    Parameters
    ----------
    layers
        Convolutions, whose strides divide the height of the pixels.
    pixels
        float32 (b, 3, h, w).
    strip_px
        Most pixels of a strip, without its overlap.
    """
    stride, _, margin = _geometry(layers)
    batch, _, height, width = pixels.shape
    rows = max(strip_px // (batch * width), margin) // stride * stride
    if rows >= height:
        return layers(pixels)
    parts = []
    for start in range(0, height, rows):
        end = min(start + rows, height)
        above, below = max(start - margin, 0), min(end + margin, height)
        found = layers(pixels[:, :, above:below])
        parts.append(found[:, :, (start - above) // stride : (end - above) // stride])
    return torch.cat(parts, dim=2)


def _feature_index(full: Any, stage: int) -> int:
    for i, info in enumerate(full.feature_info):
        if info["module"] == f"blocks.{stage}":
            return i
    stages = [info["module"] for info in full.feature_info]
    raise ValueError(f"backbone_stage={stage} is not one of this backbone's feature stages {stages}")


def _geometry(encoder: nn.Module) -> tuple[int, float, int]:
    """Stride, centre of the first token and halo, from the convolutions in the order in which they are applied.

    The longest path through the network is the chain of its convolutions (residual branches see less). TensorFlow-style
    "same" padding puts the odd pixel on the right: with stride 2 a token's centre moves off the middle of its square.
    """
    stride, centre, reach = 1, 0.5, 0.5
    for conv in encoder.modules():
        if not isinstance(conv, nn.Conv2d):
            continue
        kernel, step = conv.kernel_size[0], conv.stride[0]
        before = max(kernel - step, 0) // 2 if "Same" in type(conv).__name__ else int(conv.padding[0])
        centre += stride * ((kernel - 1) / 2 - before)
        reach += stride * (kernel - 1) / 2
        stride *= step
    off_centre = abs(centre - stride / 2)
    return stride, centre, int(-(-(reach + off_centre) // stride) * stride)
