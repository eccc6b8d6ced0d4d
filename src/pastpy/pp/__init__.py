"""Preparation: what is on the slide, and whether the data fit together."""

from __future__ import annotations

from pastpy.pp._alignment import check_alignment
from pastpy.pp._genes import gene_report, harmonize_genes
from pastpy.pp._normalize_stain import normalize_stain
from pastpy.pp._nuclei import segment_nuclei
from pastpy.pp._stain_qc import stain_qc
from pastpy.pp._tissue import find_tissue
from pastpy.pp._tissue_mask import TissueMaskParameters
from pastpy.pp._watershed import NucleiParameters

__all__ = [
    "NucleiParameters",
    "TissueMaskParameters",
    "check_alignment",
    "find_tissue",
    "gene_report",
    "harmonize_genes",
    "normalize_stain",
    "segment_nuclei",
    "stain_qc",
]
