"""Numbers: how well predictions agree with measurements, and outlines with outlines."""

from __future__ import annotations

from pastpy.metrics._ceiling import noise_ceiling
from pastpy.metrics._conformal import (
    IntervalCalibration,
    calibrate_intervals,
    conformal_intervals,
    interval_coverage,
)
from pastpy.metrics._detection import DetectionScore, PanopticScore, detection, panoptic_quality
from pastpy.metrics._expression import expression
from pastpy.metrics._gene_sets import gene_sets, spatially_variable, variable_genes
from pastpy.metrics._shift import (
    FeatureReference,
    Shift,
    distance_shift,
    feature_distance,
    feature_reference,
    feature_shift,
)
from pastpy.metrics._summary import expression_summary

__all__ = [
    "DetectionScore",
    "FeatureReference",
    "IntervalCalibration",
    "PanopticScore",
    "Shift",
    "calibrate_intervals",
    "conformal_intervals",
    "detection",
    "distance_shift",
    "expression",
    "expression_summary",
    "feature_distance",
    "feature_reference",
    "feature_shift",
    "gene_sets",
    "interval_coverage",
    "noise_ceiling",
    "panoptic_quality",
    "spatially_variable",
    "variable_genes",
]
