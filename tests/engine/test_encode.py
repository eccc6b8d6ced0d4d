"""Tiles cover a field, agree with it, and go through the network in batches that fit the memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from xarray import DataArray

from pastpy import settings
from pastpy.engine import Field, FieldReader
from pastpy.engine.device import autocast
from pastpy.engine.encode import FieldEncoder, plan_tiles
from pastpy.engine.read import FieldPixels

CPU = torch.device("cpu")


class Blur:
    """Means of 8 × 8 pixels, blurred over three tokens: a token sees 8 px around its square."""

    stride = alignment = halo = 8
    token_centre, channels = 4.0, 3

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(nn.functional.avg_pool2d(pixels, 8), 3, stride=1, padding=1)


@given(st.integers(1, 300), st.integers(0, 5), st.sampled_from([8, 16, 224]), st.integers(64, 600))
def test_tiles_cover_a_side_once_and_are_of_one_size(n, halo, alignment, tile_px):
    length, halo = n * alignment, halo * 8
    tiles = plan_tiles(length, halo=halo, alignment=alignment, tile_px=tile_px)
    assert len({stop - start for start, stop, _, _ in tiles}) == 1
    covered = np.zeros(length, dtype=bool)
    for start, stop, first, last in tiles:
        assert 0 <= start <= first < last <= stop <= length
        assert all(v % alignment == 0 for v in (start, stop, first, last))
        assert first - start >= halo or first == 0
        assert stop - last >= halo or last == length
        covered[first:last] = True
    assert covered.all()
    assert tiles[0][1] <= max(tile_px, 2 * (halo + alignment) + alignment) or len(tiles) == 1


@pytest.mark.parametrize("mpp", [0.5, 0.25])
def test_tiles_give_the_tokens_of_the_field(mpp):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 900, 1300), dtype=np.uint8)
    reader = FieldReader([DataArray(pixels, dims=("c", "y", "x"))], mpp=mpp, target_mpp=0.5)
    field = Field(-8, 16, int(1304 * mpp / 0.5) // 8 * 8, 400, np.arange(0))
    (top, bottom), (left, right) = reader.window(field)
    found = FieldEncoder(Blur().tokens, device=CPU).tokens(
        FieldPixels(reader, field, pixels[:, top:bottom, left:right]), Blur()
    )
    expected = Blur().tokens(torch.from_numpy(reader.read(field))[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 1, 3, 100])
def test_batches_keep_the_order(batch_size):
    images = [np.full((3, 4, 4), i, dtype=np.uint8) for i in range(10)]
    encoder = FieldEncoder(lambda x: x.mean(dim=(1, 2, 3)) * 255, device=CPU, batch_size=batch_size)
    np.testing.assert_allclose(list(encoder.images(iter(images), (4, 4))), np.arange(10), atol=1e-4)


def test_autocast_reaches_the_network():
    seen = []

    def encode(pixels):
        seen.append(torch.mm(pixels[0, 0], pixels[0, 0]).dtype)
        return pixels

    with settings.context(precision="bfloat16"):
        (row,) = FieldEncoder(encode, device=CPU).images([np.ones((3, 4, 4), np.uint8)], (4, 4))
    assert seen == [torch.bfloat16] and row.dtype == np.float32
    with settings.context(precision="float32"), autocast(CPU):
        assert torch.mm(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.float32


def test_compiling_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **kw: asked.append(kw) or function)
    FieldEncoder(Blur().tokens, device=CPU)
    assert not asked
    with settings.context(compile=True):
        FieldEncoder(Blur().tokens, device=torch.device("cuda"))
    assert asked == [{"dynamic": True}]


def test_a_cpu_does_not_compile(monkeypatch):
    monkeypatch.setattr(torch, "compile", None)
    with settings.context(compile=True), pytest.warns(UserWarning, match="settings.compile is for GPUs"):
        encoder = FieldEncoder(Blur().tokens, device=CPU)
    (row,) = encoder.images([np.ones((3, 8, 8), np.uint8)], (8, 8))
    assert np.isfinite(row).all()
