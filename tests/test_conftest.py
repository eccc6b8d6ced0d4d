"""The fixtures do what they promise."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from pastpy import _elements


def test_connections_that_leave_the_machine_are_refused(network_attempts):
    with socket.socket() as client, pytest.raises(RuntimeError, match="network connection"):
        client.connect(("192.0.2.1", 80))
    assert network_attempts == [("192.0.2.1", 80)]
    network_attempts.clear()


def test_local_connections_work():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def test_a_process_group_on_this_machine_works():
    import torch

    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:0", rank=0, world_size=1)
    try:
        total = torch.ones(1)
        torch.distributed.all_reduce(total)
        assert total.item() == 1
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("shapes", ["polygons", "circles"])
def test_toy_nuclei_are_dark_where_the_shapes_are(toy_sdata, shapes):
    sdata = toy_sdata(shapes=shapes)
    where = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=0.5)
    np.testing.assert_allclose(where.spatial_um, sdata.tables["cells"].obsm["spatial"])
    np.testing.assert_allclose(where.area_um2, sdata.tables["cells"].obs["area_um2"], rtol=0.01)
    column, row = np.floor(where.centroids).astype(int).T
    red = sdata.images["he"].values[0]
    assert red[row, column].max() < 150 < np.median(red)


def test_toy_says_when_too_many_cells_are_asked(toy_sdata):
    with pytest.raises(ValueError, match="at most 4 cells"):
        toy_sdata(size=48, n_cells=5)
