"""The read-once engine: plan fields, read each one, encode it, pool every unit's tokens, write rows in order.

The engine knows pixels, shapes and tokens. It does not know SpatialData, genes or any particular model: it takes an
encoder (:class:`~pastpy.engine.encode.TokenEncoder`) and a head (a function of the pooled tokens).
"""

from __future__ import annotations

from pastpy.engine.crops import read_crops
from pastpy.engine.device import resolve_device
from pastpy.engine.encode import TokenEncoder
from pastpy.engine.fingerprint import array_fingerprint, image_fingerprint, model_fingerprint
from pastpy.engine.pipeline import RunStats, run, run_step
from pastpy.engine.plan import Field
from pastpy.engine.pool import Region
from pastpy.engine.read import FieldReader
from pastpy.engine.sample import sample_units
from pastpy.engine.shapes import Outlines, PooledBefore, Units, UnitShapes
from pastpy.engine.spread import Workers
from pastpy.engine.steps import CropEncoder, CropStep, Head, Step, TokenStep
from pastpy.engine.store import ZarrSink
from pastpy.engine.write import MemorySink, Sink

__all__ = [
    "CropEncoder",
    "CropStep",
    "Field",
    "FieldReader",
    "Head",
    "MemorySink",
    "Outlines",
    "PooledBefore",
    "Region",
    "RunStats",
    "Sink",
    "Step",
    "TokenEncoder",
    "TokenStep",
    "UnitShapes",
    "Units",
    "Workers",
    "ZarrSink",
    "array_fingerprint",
    "image_fingerprint",
    "model_fingerprint",
    "read_crops",
    "resolve_device",
    "run",
    "run_step",
    "sample_units",
]
