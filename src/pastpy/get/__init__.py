"""Results of the tools as objects that scanpy and squidpy take."""

from __future__ import annotations

from pastpy.get._expression import expression

__all__ = ["expression"]
