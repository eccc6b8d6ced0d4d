"""Workers of a Dask cluster give the rows that this process gives."""

from __future__ import annotations

import numpy as np
import pytest

import pastpy as past
from pastpy.engine import memory

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
