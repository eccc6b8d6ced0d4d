"""Protocols: how predictions are scored."""

from __future__ import annotations

from pastpy.bench._agreement import deconvolution_agreement, retrieval_recall
from pastpy.bench._baselines import FeatureMethod, baselines, gene_mean, ridge, tuned_ridge
from pastpy.bench._card import predictable_genes, predictable_genes_markdown
from pastpy.bench._features import window_features
from pastpy.bench._fold_models import FoldModels
from pastpy.bench._folds import Fold
from pastpy.bench._hest import hest
from pastpy.bench._intervals import IntervalResult, nested_intervals
from pastpy.bench._loso import LosoResult, run_loso
from pastpy.bench._nuclei import nuclei_loto, run_nuclei
from pastpy.bench._pretrained import PretrainedModel
from pastpy.bench._probe import linear_probe, robustness_index
from pastpy.bench._simulated import simulated
from pastpy.bench._spots import to_spots

__all__ = [
    "FeatureMethod",
    "Fold",
    "FoldModels",
    "IntervalResult",
    "LosoResult",
    "PretrainedModel",
    "baselines",
    "deconvolution_agreement",
    "gene_mean",
    "hest",
    "linear_probe",
    "nested_intervals",
    "nuclei_loto",
    "predictable_genes",
    "predictable_genes_markdown",
    "retrieval_recall",
    "ridge",
    "robustness_index",
    "run_loso",
    "run_nuclei",
    "simulated",
    "to_spots",
    "tuned_ridge",
    "window_features",
]
