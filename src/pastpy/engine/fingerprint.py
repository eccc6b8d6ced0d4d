"""Fingerprints: short hashes that tell whether a model, an image or a plan is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn
    from xarray import DataArray

    from pastpy.engine.plan import Field
    from pastpy.engine.read import FieldReader

__all__ = ["array_fingerprint", "image_fingerprint", "model_fingerprint", "pixels_fingerprint", "plan_fingerprint"]

#: Up to this many pixels an image is read as a whole, above it in samples.
_WHOLE_PX = 2**24
#: Samples along each side, and the side of a sample in pixels.
_SAMPLES, _SAMPLE_PX = 12, 128
#: Side of what is read at a time where every pixel counts.
_TILE_PX = 4096


def array_fingerprint(*arrays: Any) -> str:
    """Hash of numpy arrays: types, shapes and values.

    Examples
    --------
    >>> import numpy as np
    >>> array_fingerprint(np.zeros(2)) == array_fingerprint(np.zeros(3))
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        values = np.ascontiguousarray(array)
        digest.update(f"{values.dtype.str}{values.shape}".encode())
        digest.update(values.view(np.uint8).data if values.size else b"")
    return digest.hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """Hash of a model's parameters and buffers, with their names."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(array_fingerprint(value.detach().cpu().float().numpy()).encode())
    return digest.hexdigest()


def image_fingerprint(reader: FieldReader) -> str:
    """Hash of the level that is read: all of it if it is small, else its size and 144 samples spread over it.

    A change that lies between the samples of a large image is not seen; another slide, another stain or another
    registration is.
    """
    level = reader.level
    height, width = level.sizes["y"], level.sizes["x"]
    if height * width <= _WHOLE_PX:
        return array_fingerprint(_pixels(level))
    starts = [np.linspace(0, n - _SAMPLE_PX, _SAMPLES).astype(int) for n in (height, width)]
    samples = [_pixels(level[:, y : y + _SAMPLE_PX, x : x + _SAMPLE_PX]) for y in starts[0] for x in starts[1]]
    return array_fingerprint(np.array([height, width]), *samples)


def pixels_fingerprint(level: DataArray) -> str:
    """Hash of all pixels of a level, (c, y, x), read tile by tile: for scores, which no unseen change may blur."""
    digest = hashlib.blake2b(repr(level.shape).encode(), digest_size=16)
    for y in range(0, level.sizes["y"], _TILE_PX):
        for x in range(0, level.sizes["x"], _TILE_PX):
            digest.update(array_fingerprint(_pixels(level[:, y : y + _TILE_PX, x : x + _TILE_PX])).encode())
    return digest.hexdigest()


def _pixels(part: DataArray) -> np.ndarray:
    """Pixels, read in this process: workers of a Dask client would only send them here."""
    return np.asarray(part.compute(scheduler="threads").data)


def plan_fingerprint(fields: Sequence[Field]) -> str:
    """Hash of the fields and which units they hold."""
    boxes = np.array([(f.x, f.y, f.width, f.height, len(f.units)) for f in fields], dtype=np.int64)
    units = np.concatenate([f.units for f in fields]) if fields else np.zeros(0, dtype=np.int64)
    return array_fingerprint(boxes, units)
