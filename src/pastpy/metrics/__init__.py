"""Numbers: how well predictions agree with measurements, and outlines with outlines."""

from __future__ import annotations

from pastpy.metrics._detection import DetectionScore, PanopticScore, detection, panoptic_quality
from pastpy.metrics._expression import expression

__all__ = ["DetectionScore", "PanopticScore", "detection", "expression", "panoptic_quality"]
