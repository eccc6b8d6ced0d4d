"""Models: encoders, decoder, and what is bundled with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pastpy.models.config import PASTConfig
from pastpy.models.registry import available, load

if TYPE_CHECKING:
    from pastpy.models.past import PAST, ModelCard

__all__ = ["PAST", "ModelCard", "PASTConfig", "available", "load"]


def __getattr__(name: str) -> object:
    if name in ("PAST", "ModelCard"):
        from pastpy.models import past

        return getattr(past, name)
    raise AttributeError(f"module 'pastpy.models' has no attribute {name!r}")
