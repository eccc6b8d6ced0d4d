"""From a configuration to an image encoder: which adapter a backbone needs, and how it is trained."""

from __future__ import annotations

import hashlib
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pastpy.models.adapters import DenseEncoder, PatchTokens, StageFeatures, WindowEncoder
from pastpy.models.config import MAX_STRIDE_UM
from pastpy.models.image import ImageEncoder
from pastpy.models.lora import add_lora

if TYPE_CHECKING:
    from pastpy.models.config import PASTConfig

__all__ = ["backbone_sha256", "build_encoder"]

#: What :class:`pastpy.engine.TokenEncoder` asks for, and the side of the crops it wants, ``None`` for any.
_GEOMETRY = ("stride", "alignment", "halo", "token_centre", "channels", "tokens", "crop_px")
#: How far pixel statistics may be from those that a backbone was trained with.
_STATISTICS_TOLERANCE = 0.02


def build_encoder(config: PASTConfig, backbone: nn.Module | None = None) -> Any:
    """Image encoder of a configuration.

    Parameters
    ----------
    config
        Names the backbone, how it is read and how it is trained.
    backbone
        The network itself: any ``nn.Module`` that gives a grid of features, or a token encoder. By default it is made
        by its name with random weights, or read from the local cache of the Hugging Face hub.

    Returns
    -------
    A module with the attributes of :class:`pastpy.engine.TokenEncoder`.

    Raises
    ------
    ValueError
        If the tokens would be too far apart, or pixel statistics are not those of the backbone.
    FileNotFoundError
        If a named backbone is not on this machine.
    """
    from pastpy.models.backbones import create_backbone

    if backbone is None:
        if config.backbone == "module":
            raise ValueError(
                f"model {config.name!r} has a backbone of your own: hand it over, PAST(config, card, backbone=network) "
                "or pastpy.models.load(folder, backbone=network)"
            )
        backbone = create_backbone(config.backbone, options=config.backbone_options)
    encoder = _adapt(config, backbone)
    _check_stride(config, encoder)
    if config.backbone_training == "lora":
        add_lora(encoder, config.lora_rank)
    elif config.backbone_training == "full":
        encoder.requires_grad_(True)
    return encoder


def _adapt(config: PASTConfig, backbone: Any) -> Any:
    if all(hasattr(backbone, name) for name in _GEOMETRY):
        return backbone
    _check_statistics(config, backbone)
    statistics: dict[str, Any] = {"mean": config.image_mean, "std": config.image_std}
    if hasattr(backbone, "patch_embed") and hasattr(backbone, "num_prefix_tokens"):
        tokens = PatchTokens(backbone, config.window_px)
        return WindowEncoder(
            tokens, window_px=tokens.window_px, stride=tokens.stride, channels=backbone.embed_dim, **statistics
        )
    if hasattr(backbone, "conv_stem") and hasattr(backbone, "blocks") and not _pools_globally(backbone):
        return ImageEncoder(config, backbone)
    if hasattr(backbone, "forward_intermediates") and config.backbone_stage is not None:
        backbone = StageFeatures(backbone, config.backbone_stage)
    if config.window_px is not None:
        return _windowed(backbone, config.window_px, statistics)
    return DenseEncoder(backbone, **statistics)


def _pools_globally(network: nn.Module) -> bool:
    """Whether a network has squeeze-and-excitation layers, through which every token sees the whole field."""
    return any("Squeeze" in type(layer).__name__ for layer in network.modules())


def _windowed(network: nn.Module, window_px: int, statistics: dict[str, Any]) -> WindowEncoder:
    from pastpy.models.adapters import last_grid

    with torch.no_grad():
        grid = last_grid(network(torch.zeros(1, 3, window_px, window_px)))
    return WindowEncoder(
        network, window_px=window_px, stride=window_px // grid.shape[-1], channels=grid.shape[1], **statistics
    )


def _check_stride(config: PASTConfig, encoder: Any) -> None:
    spacing = encoder.stride * config.target_mpp
    if spacing <= MAX_STRIDE_UM * (1 + 1e-6):
        return
    message = (
        f"backbone {config.backbone!r} gives tokens {spacing:.3g} µm apart ({encoder.stride} px at {config.target_mpp} "
        f"µm/px), and cells need {MAX_STRIDE_UM:g} µm or finer; set target_mpp={MAX_STRIDE_UM / encoder.stride:.3g}, "
        "an earlier stage or a smaller patch"
    )
    if not config.coarse_tokens:
        raise ValueError(f"{message}, or coarse_tokens=True to go on with a warning")
    warnings.warn(message, UserWarning, stacklevel=4)


def _check_statistics(config: PASTConfig, backbone: Any) -> None:
    """Refuse pixel statistics that a backbone with its own weights was not trained with."""
    known = getattr(backbone, "pretrained_cfg", None) or {}
    if config.backbone_training == "full" or not {"mean", "std"} <= set(known):
        return
    pairs = ((config.image_mean, known["mean"]), (config.image_std, known["std"]))
    if any(abs(a - b) > _STATISTICS_TOLERANCE for ours, its in pairs for a, b in zip(ours, its, strict=True)):
        raise ValueError(
            f"backbone {config.backbone!r} was trained on pixels normalised with mean {tuple(known['mean'])} and std "
            f"{tuple(known['std'])}; set image_mean and image_std to these"
        )


def backbone_sha256(encoder: nn.Module) -> str:
    """SHA-256 of the weights of an image encoder without low-rank additions, hexadecimal; names do not enter."""
    digest = hashlib.sha256()
    for name, value in encoder.state_dict().items():
        if "lora_" not in name:
            plain = value.detach().cpu().contiguous()
            digest.update(str(tuple(plain.shape)).encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
