"""Workers of a Dask cluster give the rows that this process gives."""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xarray import DataArray

import pastpy as past
from pastpy.engine import CropStep, FieldReader, MemorySink, UnitShapes, Workers, memory, run_step
from pastpy.engine.spread import Stretches
from pastpy.pp import _overview

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
def test_workers_compute_as_precisely_as_the_caller_asks(toy_sdata, two_passes, client):
    sdata = toy_sdata(size=384)
    for precision in ("float32", "bfloat16"):
        with past.settings.context(precision=precision):
            past.tl.embed(sdata, two_passes, modality="image", key_added=precision, client=client, progress=False)
            past.tl.embed(sdata, two_passes, modality="image", key_added="here", progress=False)
        assert sdata["cells"].obsm[f"X_{precision}"].tobytes() == sdata["cells"].obsm["X_here"].tobytes()
    assert sdata["cells"].obsm["X_float32"].tobytes() != sdata["cells"].obsm["X_bfloat16"].tobytes()


@pytest.mark.usefixtures("small_fields")
def test_rows_from_workers_are_resumed(toy_sdata, tiny_model, client, tmp_path):
    sdata = toy_sdata()
    options = {"genes": ["ERBB2", "GENE1"], "resume": tmp_path / "run.zarr", "progress": False}
    past.tl.impute_expression(sdata, tiny_model, client=client, **options)
    first = sdata["cells"].obsm["past_expression"].to_numpy()
    past.tl.impute_expression(sdata, tiny_model, **options)
    np.testing.assert_array_equal(sdata["cells"].obsm["past_expression"].to_numpy(), first)
    assert np.isfinite(first).all()


@given(st.integers(0, 400), st.lists(st.sampled_from("abc"), min_size=1))
def test_every_field_is_given_out_once_and_a_single_one_last(n_fields, asking):
    stretches, parts = Stretches(n_fields, ["a", "b"]), []
    while any(given := [stretches.take(worker) for worker in asking]):
        parts += [part for part in given if part]
    assert sorted(i for part in parts for i in part) == list(range(n_fields))
    assert not parts or len(parts[-1]) == 1, "for workers to end together"


def test_a_worker_keeps_to_its_neighbourhood():
    stretches = Stretches(64, ["a", "b"])
    first = {worker: stretches.take(worker) for worker in "abc"}
    after = {worker: stretches.take(worker) for worker in "abc"}
    assert all(first[worker].stop == after[worker].start for worker in "abc")
    assert first["b"].start == 32, "as much for each that is there at the start"
    assert first["c"].start == 18, "half of what the first had left for one that comes later"


def test_few_fields_are_shared_out_evenly():
    stretches = Stretches(9, ["a", "b"])
    parts = {worker: [*stretches.take(worker), *stretches.take(worker)] for worker in "ab"}
    assert [len(part) for part in parts.values()] == [3, 4]


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


def noted(block: np.ndarray, log: str, block_info=None) -> np.ndarray:
    with open(log, "a") as file:
        file.write(f"{os.getpid()} {block_info[0]['chunk-location']}\n")
    return block


def test_the_check_before_a_run_and_its_passes_share_what_a_worker_decodes(
    toy_sdata, two_passes, monkeypatch, tmp_path
):
    import dask.array as da

    monkeypatch.setattr(_overview, "_WHOLE_PX", 0)
    sdata, log = toy_sdata(size=384), tmp_path / "log"
    lazy = da.from_array(sdata["he"].data.compute(), chunks=(3, 64, 64))
    sdata["he"].data = lazy.map_blocks(noted, log=str(log), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    log.unlink(missing_ok=True)
    with cluster_of(1) as client:
        past.tl.embed(sdata, two_passes, modality="image", client=client, progress=False)
    process_and_chunk = [line.split(maxsplit=1) for line in log.read_text().splitlines()]
    by_worker = [chunk for process, chunk in process_and_chunk if process != str(os.getpid())]
    assert len(by_worker) == len(set(by_worker)) == 36


def test_workers_read_the_same_overview(client, monkeypatch):
    import dask.array as da

    monkeypatch.setattr(_overview, "_WHOLE_PX", 0)
    monkeypatch.setattr(_overview, "_BLOCK", 50)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 300, 420), dtype=np.uint8)
    lazy = DataArray(da.from_array(pixels, chunks=(3, 64, 64)), dims=("c", "y", "x"))
    asked = {"mpp": 1.0, "target_mpp": 2.0, "name": "he"}
    here = _overview.read_overview([lazy], **asked)
    with Workers(client) as workers, monkeypatch.context() as patch:
        patch.setattr(_overview, "whole_fields", None)
        there = _overview.read_overview([lazy], **asked, workers=workers)
    assert here.rgb.shape == (150, 210, 3) and here.rgb.tobytes() == there.rgb.tobytes()


def place(what, image, positions) -> str:
    from distributed import get_worker

    return get_worker().address


@contextmanager
def cluster_of(n_workers: int):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_workers_that_join_meanwhile_are_given_work():
    def slow(what, image, positions):
        time.sleep(0.3)
        return place(what, image, positions)

    with cluster_of(1) as client, Workers(client) as workers:
        busy = set()
        for _, address in workers._spread(slow, None, 60, lambda positions: (positions,)):
            busy.add(address)
            client.cluster.scale(2)
    assert len(busy) == 2


def test_work_of_a_lost_worker_goes_to_another(client):
    with Workers(client) as workers:
        alive = set(client.nthreads())
        workers._client = SimpleNamespace(
            **{name: getattr(client, name) for name in ("submit", "scatter", "wait_for_workers", "run", "status")},
            nthreads=lambda: {"tcp://127.0.0.1:1": 1},
        )
        found = {part.start: address for part, address in workers._spread(place, None, 9, lambda part: (part,))}
    assert set(found.values()) <= alive and found


def own_process(what, image, positions) -> int:
    time.sleep(0.05)
    return os.getpid()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on Windows")
@pytest.mark.parametrize(("n_workers", "n_killed"), [(1, 1), (2, 1), (2, 2)])
def test_killed_workers_cost_no_field_and_repeat_none(n_workers, n_killed):
    with cluster_of(n_workers) as client, Workers(client) as workers:
        killed, found = list(client.run(os.getpid).values())[:n_killed], []
        for part, process in workers._spread(own_process, np.zeros(1000), 60, lambda positions: (positions,)):
            if not found:
                for victim in killed:
                    os.kill(victim, signal.SIGKILL)
                # should a nanny on a busy machine not bring its worker back
                client.cluster.scale(n_workers + 1)
            found += [(i, process) for i in part]
    assert sorted(i for i, _ in found) == list(range(60))
    assert {process for _, process in found} - set(killed), "others went on"


def kill_the_worker(what, image, positions) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on Windows")
def test_fields_that_kill_their_workers_end_in_one_error(monkeypatch):
    monkeypatch.setattr("pastpy.engine.spread._ATTEMPTS", 1)
    with (
        cluster_of(1) as client,
        Workers(client) as workers,
        pytest.raises(RuntimeError, match="workers of client= were lost 1 times in a row.*too little memory"),
    ):
        list(workers._spread(kill_the_worker, None, 1, lambda positions: (positions,)))


def faulty(client, error, times):
    """The client, whose ``scatter`` fails at first."""
    failures = iter([error] * times)

    def scatter(*args, **options):
        for failure in failures:
            raise failure
        return client.scatter(*args, **options)

    names = ("submit", "wait_for_workers", "run", "status", "nthreads")
    return SimpleNamespace(**{name: getattr(client, name) for name in names}, scatter=scatter)


def test_data_is_sent_again_where_a_worker_is_lost_meanwhile(client, monkeypatch):
    from distributed.comm import CommClosedError

    monkeypatch.setattr("pastpy.engine.spread._LOOK_SECONDS", 0.0)
    with Workers(client) as workers:
        workers._client = faulty(client, CommClosedError("in <TCP>: closed"), 2)
        assert sum(len(part) for part, _ in workers._spread(place, None, 9, lambda part: (part,))) == 9
        workers._client = faulty(client, CommClosedError("in <TCP>: closed"), 3)
        with pytest.raises(RuntimeError, match="were lost 3 times in a row.*in <TCP>: closed"):
            next(workers._spread(place, None, 9, lambda part: (part,)))


def test_a_closed_client_is_refused(client):
    from distributed import Client

    with Client(client.scheduler.address, set_as_default=False) as closed:
        pass
    with pytest.raises(ValueError, match="client= is closed, expected one with a scheduler at work"):
        Workers(closed)


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
