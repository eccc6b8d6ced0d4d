"""Workers of a Dask cluster give the rows that this process gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xarray import DataArray

import pastpy as past
from pastpy.engine import CropStep, FieldReader, MemorySink, UnitShapes, Workers, memory, run_step
from pastpy.engine.spread import divide

pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client():
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.worker.memory.terminate": False}),
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture
def small_fields(monkeypatch):
    """Fields so small that even the toy tissue has several."""
    monkeypatch.setattr("pastpy.engine.plan.CORE_UM", 64.0)
    monkeypatch.setattr("pastpy.engine.plan.CORE_REACHES", 0)


@pytest.mark.usefixtures("small_fields")
@pytest.mark.parametrize(("model", "tissue"), [("tiny_model", {"mpp": 0.4}), ("two_passes", {"size": 384})])
def test_workers_give_the_same_rows(toy_sdata, client, request, model, tissue):
    sdata, model = toy_sdata(**tissue), request.getfixturevalue(model)
    past.tl.embed(sdata, model, modality="image", progress=False)
    past.tl.embed(sdata, model, modality="image", key_added="spread", client=client, progress=False)
    table = sdata["cells"]
    assert table.obsm["X_past"].tobytes() == table.obsm["X_spread"].tobytes()


@pytest.mark.usefixtures("small_fields")
def test_rows_from_workers_are_resumed(toy_sdata, tiny_model, client, tmp_path):
    sdata = toy_sdata()
    options = {"genes": ["ERBB2", "GENE1"], "resume": tmp_path / "run.zarr", "progress": False}
    past.tl.impute_expression(sdata, tiny_model, client=client, **options)
    first = sdata["cells"].obsm["past_expression"].to_numpy()
    past.tl.impute_expression(sdata, tiny_model, **options)
    np.testing.assert_array_equal(sdata["cells"].obsm["past_expression"].to_numpy(), first)
    assert np.isfinite(first).all()


@given(st.integers(0, 400), st.integers(1, 40))
def test_tasks_hold_every_field_once_and_end_small(n_fields, n_threads):
    parts = list(divide(n_fields, n_threads))
    assert [i for part in parts for i in part] == list(range(n_fields))
    sizes = [len(part) for part in parts]
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes[-2 * n_threads :]) <= {1}, "single fields for all threads to end together"


class Corners:
    """Gives the first pixel of a crop."""

    crop_px = 16

    def features(self, pixels):
        return pixels[:, :, 0, 0]


def as_pixel(features, units):
    return {"pixel": features}


def kept_bytes() -> int:
    from pastpy.engine import spread

    return spread._recent._bytes


def test_a_worker_decodes_a_chunk_once_for_all_its_tasks(client):
    import dask.array as da

    pixels = np.random.default_rng(0).integers(0, 256, (3, 256, 256), dtype=np.uint8)
    image = DataArray(da.from_array(pixels, chunks=(3, 64, 64)), dims=("c", "y", "x"))
    xy = np.stack(np.meshgrid(*[np.arange(8.0, 256, 16)] * 2), axis=-1).reshape(-1, 2)
    units = UnitShapes(xy, np.full(len(xy), 4.0), np.zeros((0, 4)), np.zeros(len(xy) + 1, dtype=np.int64))
    reader = FieldReader([image], mpp=0.5, target_mpp=0.5)
    decoded, rows = 0, []
    with Workers(client) as workers:
        for _ in range(2):
            sink = MemorySink(len(xy))
            stats = run_step(
                reader, units, CropStep(Corners(), as_pixel), sink, device="cpu", core_px=32, workers=workers,
                progress=False,
            )  # fmt: skip
            decoded += stats.chunks
            rows.append(sink["pixel"])
        assert any(client.run(kept_bytes).values())
    assert not any(client.run(kept_bytes).values()), "given back at the end"
    np.testing.assert_allclose(rows[0], pixels[:, ::16, ::16].reshape(3, -1).T / 255, rtol=1e-6)
    assert rows[0].tobytes() == rows[1].tobytes()
    assert 16 <= decoded <= 16 * len(client.nthreads()), "no worker decodes one of the 16 chunks twice"


def test_an_error_of_a_worker_is_that_of_the_call(toy_sdata, tiny_model, client):
    sdata = toy_sdata()
    sdata["he"].data = sdata["he"].data.astype(float)
    with pytest.raises(ValueError, match="float pixels up to"):
        past.tl.embed(sdata, tiny_model, modality="image", client=client, progress=False)


def test_something_else_is_no_client(toy_sdata, tiny_model):
    with pytest.raises(TypeError, match="must be a dask.distributed.Client, got str"):
        past.tl.embed(toy_sdata(), tiny_model, modality="image", client="tcp://1.2.3.4", progress=False)


def test_workers_are_set_up_as_dask_does_it(client):
    """The test above is of use only as long as this is what Dask asks for."""
    asked = client.run(lambda: __import__("os").environ.get("MALLOC_TRIM_THRESHOLD_"))
    assert set(asked.values()) == {memory._DASK_TRIM}
