"""Protocols: how predictions are scored."""

from __future__ import annotations

from pastpy.bench._baselines import FeatureMethod, baselines, ridge, tuned_ridge
from pastpy.bench._features import window_features
from pastpy.bench._folds import FitPredict, Fold
from pastpy.bench._loso import LosoResult, run_loso
from pastpy.bench._nuclei import nuclei_loto, run_nuclei
from pastpy.bench._spots import to_spots

__all__ = [
    "FeatureMethod",
    "FitPredict",
    "Fold",
    "LosoResult",
    "baselines",
    "nuclei_loto",
    "ridge",
    "run_loso",
    "run_nuclei",
    "to_spots",
    "tuned_ridge",
    "window_features",
]
