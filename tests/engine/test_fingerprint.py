"""Hashes tell what has changed."""

from __future__ import annotations

import numpy as np
from xarray import DataArray

from pastpy.engine import fingerprint


def test_every_pixel_of_every_tile_counts(monkeypatch):
    monkeypatch.setattr(fingerprint, "_TILE_PX", 8)
    pixels = np.zeros((3, 20, 17), np.uint8)
    found = {fingerprint.pixels_fingerprint(DataArray(pixels, dims=("c", "y", "x")))}
    for y, x in ((0, 0), (7, 8), (19, 16)):
        other = pixels.copy()
        other[1, y, x] = 1
        found.add(fingerprint.pixels_fingerprint(DataArray(other, dims=("c", "y", "x"))))
    assert len(found) == 4
