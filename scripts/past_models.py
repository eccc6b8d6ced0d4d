"""Models of pastpy's own kind, for scripts that need what the one that PAST's authors released does not have."""

from __future__ import annotations

import os

import pastpy as past
from pastpy.models import PAST


def load_past(name_or_path: str | os.PathLike[str]) -> PAST:
    """A bundled model, or one from a folder that ``model.save`` wrote."""
    model = past.models.load(name_or_path)
    if not isinstance(model, PAST):
        raise TypeError(f"{name_or_path} is a {type(model).__name__}; give a bundled name or a folder of model.save")
    return model
