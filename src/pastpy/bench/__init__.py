"""Protocols: how predictions are scored."""

from __future__ import annotations

from pastpy.bench._nuclei import nuclei_loto, run_nuclei
from pastpy.bench._spots import to_spots

__all__ = ["nuclei_loto", "run_nuclei", "to_spots"]
