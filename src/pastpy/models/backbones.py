"""Image backbones by name: timm, the Hugging Face hub, LazySlide. Nothing is fetched unless that is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

__all__ = ["create_backbone", "is_offline"]

HUB, LAZYSLIDE = ("hf-hub:", "hf_hub:"), "lazyslide:"


def is_offline() -> bool:
    """Whether ``PASTPY_OFFLINE`` is set: then nothing is fetched, even where that is asked for."""
    return os.environ.get("PASTPY_OFFLINE", "0") not in ("", "0")


def create_backbone(name: str, *, options: dict[str, Any] | None = None, allow_download: bool = False) -> nn.Module:
    """An image backbone.

    Parameters
    ----------
    name
        A folder with a timm model (``config.json`` and weights), ``"hf-hub:organisation/name"`` (from the local cache
        of the hub), ``"lazyslide:name"`` (a model of LazySlide's registry; needs the extra ``lazyslide``), or a timm
        name, which gives random weights.
    options
        Further arguments of ``timm.create_model`` or of LazySlide's model; ``{"model_path": …}`` makes the latter read
        a local file.
    allow_download
        Fetch what is not here. Many pathology backbones are gated: accept their terms and log in first.

    Raises
    ------
    FileNotFoundError
        If the model is not on this machine and may not be fetched; the message says how to get it.
    ModuleNotFoundError
        If LazySlide's models are asked for and are not installed.
    ValueError
        If there is no such model, or ``allow_download`` contradicts ``PASTPY_OFFLINE``.

    Examples
    --------
    >>> import pastpy as past
    >>> type(past.models.create_backbone("vit_tiny_patch16_224")).__name__
    'VisionTransformer'
    """
    import timm

    options = options or {}
    if allow_download and is_offline():
        raise ValueError("allow_download=True contradicts PASTPY_OFFLINE=1; unset one of them")
    if Path(name).is_dir():
        return timm.create_model(f"local-dir:{name}", pretrained=True, **options).eval()
    if name.startswith(HUB):
        folder = _hub_folder(name.split(":", 1)[1], allow_download)
        return timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()
    if name.startswith(LAZYSLIDE):
        return _lazyslide(name.removeprefix(LAZYSLIDE), options, allow_download)
    if not timm.is_model(name):
        raise ValueError(f"backbone {name!r} is no folder and no timm model; hub models are named 'hf-hub:…'")
    return timm.create_model(name, pretrained=False, **options).eval()


def _hub_folder(repository: str, allow_download: bool) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(
            repository, local_files_only=not allow_download, allow_patterns=["config.json", "*.safetensors", "*.bin"]
        )
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"backbone {repository!r} is not in the local cache of the Hugging Face hub; accept its terms, then run: "
            f"hf download {repository} (see pastpy.models.available() for its licence)"
        ) from error


def _lazyslide(name: str, options: dict[str, Any], allow_download: bool) -> nn.Module:
    try:
        from lazyslide_models import MODEL_REGISTRY
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"backbone 'lazyslide:{name}' needs LazySlide: pip install 'pastpy[lazyslide]'"
        ) from error
    if name not in MODEL_REGISTRY:
        raise ValueError(f"LazySlide has no model {name!r}; see lazyslide_models.list_models('vision')")
    if not allow_download and "model_path" not in options:
        raise FileNotFoundError(
            f"LazySlide fetches {name!r} when it is made; give backbone_options={{'model_path': file}}, or make it "
            "with pastpy.models.create_backbone(…, allow_download=True) and hand it over as backbone="
        )
    model = MODEL_REGISTRY[name](**options)
    inner: Any = getattr(model, "model", None)
    if hasattr(inner, "patch_embed") or hasattr(inner, "feature_info"):
        return inner  # one of timm's networks: its own tokens, and gradients
    if hasattr(model, "encode_image_dense"):
        from pastpy.models.lazyslide import LazySlideTokens

        return LazySlideTokens(model)
    raise ValueError(f"LazySlide's {name!r} gives one vector an image; a backbone must give patch tokens")
