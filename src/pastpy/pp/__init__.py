"""Preparation: what is on the slide, and whether the data fit together."""

from __future__ import annotations

from pastpy.pp._nuclei import segment_nuclei
from pastpy.pp._watershed import NucleiParameters

__all__ = ["NucleiParameters", "segment_nuclei"]
