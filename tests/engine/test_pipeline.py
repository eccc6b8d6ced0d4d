"""The same rows in whatever way the fields are cut, read and shared out, with each chunk decoded once."""

from __future__ import annotations

import threading
import weakref
from collections import Counter

import dask.array as da
import numpy as np
import pytest
import shapely
import torch
from torch import nn
from xarray import DataArray

from pastpy.engine import (
    CropStep,
    FieldReader,
    MemorySink,
    Outlines,
    PooledBefore,
    Region,
    UnitShapes,
    ZarrSink,
    run,
    run_step,
)
from pastpy.engine import pipeline as module
from pastpy.engine.progress import Progress

REGIONS = [Region("unit", "shape"), Region("around", "disc", 12.0)]
SIZE = 700


class Encoder(nn.Module):
    """Two convolutions: a token sees 12 px beyond its square."""

    stride = alignment = 8
    halo, token_centre, channels = 16, 4.0, 5

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.Tanh(), nn.Conv2d(4, 5, 3, padding=1))

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(pixels)


class Crops(nn.Module):
    """The mean colour of a crop, and that of its middle."""

    crop_px = 20

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixels.mean(dim=(2, 3)), pixels[:, :, 8:12, 8:12].mean(dim=(2, 3))], dim=1)


def head(pooled: torch.Tensor, units: np.ndarray) -> dict[str, torch.Tensor]:
    return {"pooled": pooled.flatten(1), "unit": torch.from_numpy(units)[:, None].float()}


def as_rows(features: torch.Tensor, units: np.ndarray) -> dict[str, torch.Tensor]:
    return {"pooled": features}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE + 60), dtype=np.uint8)


@pytest.fixture(scope="module")
def outlines() -> Outlines:
    rng = np.random.default_rng(1)
    xy = rng.uniform(-20, SIZE + 20, (300, 2))
    polygons = shapely.buffer(shapely.points(xy), rng.uniform(2, 9, 300), quad_segs=2)
    centre = shapely.centroid(polygons)
    centroids = np.column_stack([shapely.get_x(centre), shapely.get_y(centre)])
    polygons[7], centroids[7] = None, np.nan
    return Outlines(polygons, np.full(300, np.nan), centroids, 1.0)


def reader(pixels: np.ndarray, *, mpp: float = 0.5) -> FieldReader:
    return FieldReader([DataArray(pixels, dims=("c", "y", "x"))], mpp=mpp, target_mpp=0.5)


def rows(source: FieldReader, units: Outlines, sink=None, **options) -> np.ndarray:
    sink = MemorySink(300) if sink is None else sink
    arguments = {"target_mpp": 0.5, "device": "cpu", "progress": False, "core_px": 128, **options}
    run(source, units, Encoder(), REGIONS, head, sink, **arguments)
    found = sink["pooled"]
    there = np.isfinite(found).all(axis=1)
    np.testing.assert_array_equal(sink["unit"][there, 0], np.flatnonzero(there), "rows of the right units")
    return found


def test_units_on_the_image_get_a_row(pixels, outlines):
    found = rows(reader(pixels), outlines)
    x, y = outlines.centroids.T
    on_image = (x >= 0) & (y >= 0) & (x <= SIZE + 60) & (y <= SIZE)
    np.testing.assert_array_equal(np.isfinite(found).all(axis=1), on_image)


@pytest.mark.parametrize("options", [{"core_px": 64}, {"core_px": None}, {"one_each": True}, {"batch_size": 4}])
def test_fields_and_batches_change_nothing(pixels, outlines, options):
    np.testing.assert_allclose(rows(reader(pixels), outlines, **options), rows(reader(pixels), outlines), atol=1e-5)


def test_threads_change_nothing(pixels, outlines):
    before = torch.get_num_threads()
    alone = rows(reader(pixels), outlines)
    torch.set_num_threads(3)
    try:
        assert rows(reader(pixels), outlines).tobytes() == alone.tobytes()
        assert torch.get_num_threads() == 3, "the threads of torch are as they were"
    finally:
        torch.set_num_threads(before)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("pastpy")]


def test_flat_and_lazy_outlines_agree(pixels, outlines):
    flat = UnitShapes.from_geometry(outlines.geometry, outlines.radius, outlines.centroids, 1.0)
    assert rows(reader(pixels), flat).tobytes() == rows(reader(pixels), outlines).tobytes()
    np.testing.assert_allclose(outlines.extent, flat.extent)


@pytest.mark.parametrize("options", [{}, {"one_each": True}])
def test_what_earlier_passes_pooled_comes_after(pixels, outlines, options):
    alone = rows(reader(pixels), outlines, **options)
    first, second = (np.random.default_rng(i).normal(size=(300, i, 5)).astype(np.float32) for i in (1, 2))
    units = PooledBefore(PooledBefore(outlines, first.__getitem__), second.__getitem__)
    there = np.isfinite(alone).all(axis=1)
    expected = np.concatenate([alone.reshape(300, 2, 5), first, second], axis=1).reshape(300, -1)
    np.testing.assert_array_equal(rows(reader(pixels), units, **options)[there], expected[there])


@pytest.mark.parametrize(("mpp", "chunk"), [(0.5, 64), (0.25, 100), (0.7, 256)])
def test_each_chunk_is_decoded_once(pixels, outlines, mpp, chunk):
    made: Counter = Counter()

    def block(block_info=None):
        location = block_info[None]["array-location"]
        made[tuple(location)] += 1
        return pixels[tuple(slice(*part) for part in location)]

    sides = da.core.normalize_chunks((3, chunk, chunk), pixels.shape)
    lazy = da.map_blocks(block, chunks=sides, dtype=np.uint8, meta=np.empty(0, np.uint8))
    scaled = Outlines(outlines.geometry, outlines.radius, outlines.level0_centroids, mpp / 0.5)
    sink = MemorySink(300)
    source = FieldReader([DataArray(lazy, dims=("c", "y", "x"))], mpp=mpp, target_mpp=0.5)
    stats = run(
        source, scaled, Encoder(), REGIONS, head, sink, target_mpp=0.5, device="cpu", core_px=128, progress=False
    )
    assert stats.chunks == sum(made.values())
    assert set(made.values()) == {1}
    assert sink["pooled"].tobytes() == rows(reader(pixels, mpp=mpp), scaled).tobytes()


def test_few_fields_are_in_memory_at_a_time(pixels, outlines, monkeypatch):
    """Counted in the thread that begins fields and writes rows, so that no other thread's haste or delay matters."""
    under_way, most, read = 0, 0, []

    class Counting(module.Prefetch):
        def start(self, i):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            future = super().start(i)
            read.append(weakref.ref(future))
            return future

    class Sink(MemorySink):
        def write(self, *arguments) -> None:
            nonlocal under_way
            under_way -= 1
            super().write(*arguments)

    monkeypatch.setattr(module, "Prefetch", Counting)
    monkeypatch.setattr(module, "_MAX_LANES", 1)
    rows(reader(pixels), outlines, Sink(300), core_px=64)
    assert most == 1 + module._READ_AHEAD + 1 < len(read)
    assert under_way == 0 and not any(future() for future in read), "what was read is dropped"


def test_an_interrupted_run_goes_on_where_it_stopped(pixels, outlines, tmp_path):
    class Failing(ZarrSink):
        left = 9

        def write(self, *arguments) -> None:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            super().write(*arguments)

    with pytest.raises(KeyboardInterrupt):
        rows(reader(pixels), outlines, Failing(tmp_path / "run.zarr", 300, {}))
    sink = ZarrSink(tmp_path / "run.zarr", 300, {})
    assert rows(reader(pixels), outlines, sink).tobytes() == rows(reader(pixels), outlines).tobytes()
    stats = run(
        reader(pixels), outlines, Encoder(), REGIONS, head, ZarrSink(tmp_path / "run.zarr", 300, {}),
        target_mpp=0.5, device="cpu", core_px=128, progress=False,
    )  # fmt: skip
    assert (stats.cells, stats.fields, stats.chunks) == (0, 0, 0)


def test_crops_are_centred_and_black_beyond_the_image(pixels, outlines):
    sink = MemorySink(300)
    run_step(reader(pixels), outlines, CropStep(Crops(), as_rows), sink, device="cpu", core_px=100, progress=False)
    padded = np.pad(pixels, ((0, 0), (40, 40), (40, 40))) / 255
    for i in np.flatnonzero(np.isfinite(sink["pooled"][:, 0])):
        x, y = np.round(outlines.centroids[i] - 10).astype(int) + 40
        crop = padded[:, y : y + 20, x : x + 20]
        expected = np.r_[crop.mean(axis=(1, 2)), crop[:, 8:12, 8:12].mean(axis=(1, 2))]
        np.testing.assert_allclose(sink["pooled"][i], expected, atol=1e-5)


def test_no_units_is_no_error(pixels):
    nothing = Outlines(np.full(3, None), np.full(3, np.nan), np.full((3, 2), np.nan), 1.0)
    sink = MemorySink(3)
    stats = run(reader(pixels), nothing, Encoder(), REGIONS, head, sink, target_mpp=0.5, device="cpu", progress=False)
    assert stats.cells == 0 and "pooled" not in sink


def test_progress_counts_cells_and_fields(capsys, monkeypatch):
    monkeypatch.setattr("pastpy.engine.progress.show_progress", lambda asked: asked)
    with Progress(100, 4, finished=(40, 1), show=True) as bar:
        bar.advance(30)
        bar.advance(30)
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100/100" in last and "cells/s" in last and "field 3 of 4" in last
    with Progress(100, 4, show=False) as bar:
        bar.advance(30)
    assert capsys.readouterr().err == ""


def test_progress_is_quiet_where_nobody_looks(capsys):
    with Progress(100, 4, show=True) as bar:
        bar.advance(30)
    assert capsys.readouterr().err == ""
