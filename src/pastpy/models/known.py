"""Models and image backbones that others publish: where they are, and what their licences allow.

Facts as the publishers state them, read in autumn 2026; terms change, so read them before use. ``None`` is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["KNOWN", "Known"]

_NC_ND = "CC-BY-NC-ND-4.0"


@dataclass(frozen=True)
class Known:
    """What is known of a model that does not come with pastpy.

    Attributes
    ----------
    name
        How to name it: for a backbone, what :class:`pastpy.models.PASTConfig` takes.
    kind
        ``"model"``, or ``"backbone"`` that encodes images only.
    backbone
        Its network.
    licence
        Licence of the weights.
    commercial_use
        Whether the licence allows commercial use; ``None`` where it does not say.
    gated
        Whether its publisher asks for an account and consent; ``None`` where that is not known.
    url
        Where its publisher offers it.
    """

    name: str
    kind: Literal["model", "backbone"]
    backbone: str
    licence: str
    commercial_use: bool | None
    gated: bool | None
    url: str


def _hub(repository: str, backbone: str, licence: str, commercial_use: bool | None, gated: bool | None) -> Known:
    return Known(
        f"hf-hub:{repository}", "backbone", backbone, licence, commercial_use, gated,
        f"https://huggingface.co/{repository}",
    )  # fmt: skip


KNOWN = (
    Known(
        "past-released", "model", "vit_large_patch16_224", "not stated for the weights; code AGPL-3.0", None, None,
        "https://arxiv.org/abs/2507.06418",
    ),
    _hub("MahmoodLab/UNI", "ViT-L/16", _NC_ND, False, True),
    _hub("MahmoodLab/UNI2-h", "ViT-H/14", _NC_ND, False, True),
    _hub("paige-ai/Virchow", "ViT-H/14", "Apache-2.0", True, True),
    _hub("paige-ai/Virchow2", "ViT-H/14", _NC_ND, False, True),
    _hub("bioptimus/H-optimus-0", "ViT-g/14", "Apache-2.0", True, None),
    _hub("bioptimus/H-optimus-1", "ViT-g/14", _NC_ND, False, True),
    Known(
        "lazyslide:conch", "backbone", "ViT-B/16", _NC_ND, False, True, "https://huggingface.co/MahmoodLab/CONCH"
    ),
    _hub("prov-gigapath/prov-gigapath", "ViT-g/14", "Apache-2.0 with conditions (research only)", False, True),
    Known(
        "lazyslide:phikonv2", "backbone", "ViT-L/16", "Owkin non-commercial", False, False,
        "https://huggingface.co/owkin/phikon-v2",
    ),
)  # fmt: skip
