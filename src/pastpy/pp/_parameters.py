"""Checks that parameter sets of the preprocessing share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_positive", "check_whole", "is_finite"]


def is_finite(value: object) -> bool:
    """Whether a value is a number, neither NaN nor infinite; text is none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and bool(np.isfinite(value))


def check_whole(name: str, value: object, *, least: int) -> None:
    """Raise ``ValueError``, naming the argument, unless it is a whole number of at least ``least``."""
    if not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be at least {least}, and a whole number, got {value!r}")


def check_positive(parameters: DataclassInstance, *, may_be_zero: Collection[str]) -> None:
    """Raise ``ValueError``, naming the field, unless all fields are finite and positive, or 0 where that is allowed."""
    for field in fields(parameters):
        value = getattr(parameters, field.name)
        if not is_finite(value) or value < 0 or (value == 0 and field.name not in may_be_zero):
            raise ValueError(f"{field.name} must be a positive finite number, got {value!r}")
