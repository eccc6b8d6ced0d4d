"""Numbers: how well predictions agree with measurements."""

from __future__ import annotations

from pastpy.metrics._expression import expression

__all__ = ["expression"]
