"""Tools: embed, impute, stain, aggregate, model survival."""

from __future__ import annotations

from pastpy.tl._aggregate_patients import aggregate_patients
from pastpy.tl._cox import cox
from pastpy.tl._embed import embed
from pastpy.tl._h_score import h_score
from pastpy.tl._impute_expression import impute_expression
from pastpy.tl._uncertainty import conformal
from pastpy.tl._virtual_stain import virtual_stain

__all__ = ["aggregate_patients", "conformal", "cox", "embed", "h_score", "impute_expression", "virtual_stain"]
