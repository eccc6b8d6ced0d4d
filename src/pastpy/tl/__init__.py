"""Tools: embed, impute, stain, aggregate, model survival."""

from __future__ import annotations

from pastpy.tl._embed import embed
from pastpy.tl._impute_expression import impute_expression

__all__ = ["embed", "impute_expression"]
