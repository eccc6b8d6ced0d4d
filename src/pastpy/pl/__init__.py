"""Plots: cells on the H&E, virtual stains, predicted against measured expression, survival."""

from __future__ import annotations

from pastpy.pl._cells import cells
from pastpy.pl._expression_vs_measured import expression_vs_measured
from pastpy.pl._kaplan_meier import kaplan_meier
from pastpy.pl._virtual_stain import virtual_stain

__all__ = ["cells", "expression_vs_measured", "kaplan_meier", "virtual_stain"]
