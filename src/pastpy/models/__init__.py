"""Models: encoders, decoder, what is bundled with the package, and the released PAST."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pastpy.models.config import PASTConfig, context_grid
from pastpy.models.registry import available, load

if TYPE_CHECKING:
    from pastpy.models.adapters import DenseEncoder, WindowEncoder
    from pastpy.models.backbones import create_backbone
    from pastpy.models.encoders import build_encoder
    from pastpy.models.export import export_onnx
    from pastpy.models.fit import misfits
    from pastpy.models.neighbours import nearest_cells
    from pastpy.models.passes import ImagePass
    from pastpy.models.past import PAST, ModelCard
    from pastpy.models.released import ReleasedPAST
    from pastpy.models.released_import import convert_released
    from pastpy.models.slide import SlideStatistics
    from pastpy.models.tokenizer import tokenize

__all__ = [
    "PAST",
    "DenseEncoder",
    "ImagePass",
    "ModelCard",
    "PASTConfig",
    "ReleasedPAST",
    "SlideStatistics",
    "WindowEncoder",
    "available",
    "build_encoder",
    "context_grid",
    "convert_released",
    "create_backbone",
    "export_onnx",
    "load",
    "misfits",
    "nearest_cells",
    "tokenize",
]

# modules that import torch, loaded when one of their names is asked for
_LAZY = {
    "PAST": "past",
    "DenseEncoder": "adapters",
    "ImagePass": "passes",
    "ModelCard": "past",
    "ReleasedPAST": "released",
    "SlideStatistics": "slide",
    "WindowEncoder": "adapters",
    "build_encoder": "encoders",
    "convert_released": "released_import",
    "create_backbone": "backbones",
    "export_onnx": "export",
    "misfits": "fit",
    "nearest_cells": "neighbours",
    "tokenize": "tokenizer",
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(f"pastpy.models.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'pastpy.models' has no attribute {name!r}")
