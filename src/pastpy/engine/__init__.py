"""The read-once engine: plan fields, read each one, encode it, pool every unit's tokens, write rows in order.

The engine knows pixels, shapes and tokens. It does not know SpatialData, genes or any particular model: it takes an
encoder (:class:`~pastpy.engine.encode.TokenEncoder`) and a head (a function of the pooled tokens).
"""

from __future__ import annotations

from pastpy.engine.device import resolve_device
from pastpy.engine.encode import TokenEncoder
from pastpy.engine.pipeline import run
from pastpy.engine.plan import Field, plan_fields
from pastpy.engine.pool import Region, UnitShapes, pool_tokens
from pastpy.engine.read import FieldReader
from pastpy.engine.write import MemorySink, Sink

__all__ = [
    "Field",
    "FieldReader",
    "MemorySink",
    "Region",
    "Sink",
    "TokenEncoder",
    "UnitShapes",
    "plan_fields",
    "pool_tokens",
    "resolve_device",
    "run",
]
