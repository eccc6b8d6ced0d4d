"""pastpy: single-cell histopathology foundation models for SpatialData and AnnData.

Submodules load on first use, so that ``import pastpy`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from pastpy._settings import settings

if TYPE_CHECKING:
    from pastpy import bench, datasets, engine, get, io, metrics, models, pl, pp, tl, train

_SUBMODULES = ("bench", "datasets", "engine", "get", "io", "metrics", "models", "pl", "pp", "tl", "train")

__all__ = [*_SUBMODULES, "settings"]
__version__ = version("pastpy")


def __getattr__(name: str) -> object:
    if name in _SUBMODULES:
        return import_module(f"pastpy.{name}")
    raise AttributeError(f"module 'pastpy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
