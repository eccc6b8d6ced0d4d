"""Protocols: how predictions are scored."""

from __future__ import annotations

from pastpy.bench._spots import to_spots

__all__ = ["to_spots"]
