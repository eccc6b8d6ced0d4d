"""Numbers: how well predictions agree with measurements, and outlines with outlines."""

from __future__ import annotations

from pastpy.metrics._ceiling import noise_ceiling
from pastpy.metrics._detection import DetectionScore, PanopticScore, detection, panoptic_quality
from pastpy.metrics._expression import expression
from pastpy.metrics._gene_sets import gene_sets, spatially_variable, variable_genes

__all__ = [
    "DetectionScore",
    "PanopticScore",
    "detection",
    "expression",
    "gene_sets",
    "noise_ceiling",
    "panoptic_quality",
    "spatially_variable",
    "variable_genes",
]
