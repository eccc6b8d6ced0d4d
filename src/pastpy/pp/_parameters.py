"""Checks that parameter sets of the preprocessing share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_positive"]


def check_positive(parameters: DataclassInstance, *, may_be_zero: Collection[str]) -> None:
    """Raise ``ValueError``, naming the field, unless all fields are finite and positive, or 0 where that is allowed."""
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        if not np.isfinite(value) or value < 0 or (value == 0 and field.name not in may_be_zero):
            raise ValueError(f"{field.name} must be a positive finite number, got {value!r}")
