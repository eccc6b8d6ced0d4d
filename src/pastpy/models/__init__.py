"""Models: encoders, decoder, what is bundled with the package, and the released PAST."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pastpy.models.config import PASTConfig
from pastpy.models.registry import available, load

if TYPE_CHECKING:
    from pastpy.models.past import PAST, ModelCard
    from pastpy.models.released import ReleasedPAST
    from pastpy.models.released_import import convert_released
    from pastpy.models.tokenizer import tokenize

__all__ = ["PAST", "ModelCard", "PASTConfig", "ReleasedPAST", "available", "convert_released", "load", "tokenize"]

# modules that import torch, loaded when one of their names is asked for
_LAZY = {
    "PAST": "past",
    "ModelCard": "past",
    "ReleasedPAST": "released",
    "convert_released": "released_import",
    "tokenize": "tokenizer",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(f"pastpy.models.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'pastpy.models' has no attribute {name!r}")
