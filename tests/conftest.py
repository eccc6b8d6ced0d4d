"""Fixtures for all tests: real data, the shipped sample, a small painted tissue, and no network."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from pastpy.models import PAST

os.environ["MPLBACKEND"] = "Agg"
# Threads that wait for work would keep the other test process's core busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# The same examples in every run, few enough for two cores; the first example pays for imports, so there is no deadline,
# and a busy machine draws examples slowly, which is no fault of a test.
settings.register_profile(
    "pastpy", deadline=None, derandomize=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pastpy")

#: Warnings inside dependencies, about their own future, that nothing here can act on.
_KNOWN_WARNINGS = (
    "ignore:Call to deprecated class Scaler:DeprecationWarning",  # ome-zarr, on import
    "ignore:zarr v3 autosharding:UserWarning",  # anndata, on every write
)

_LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "", None}


def pytest_configure(config: pytest.Config) -> None:
    """Silence the warnings named above."""
    for line in _KNOWN_WARNINGS:
        config.addinivalue_line("filterwarnings", line)


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):  # a path: a socket of this machine
        return True
    host = address[0].decode() if isinstance(address[0], bytes) else address[0]
    return host in _LOCAL or str(host).startswith("127.") or host == socket.gethostname()


@pytest.fixture(scope="session", autouse=True)
def network_attempts() -> Iterator[list[Any]]:
    """Refuse every connection that leaves this machine; yields the addresses that were tried."""
    attempts: list[Any] = []
    patch = pytest.MonkeyPatch()

    def guarded(original: Callable[..., Any]) -> Callable[..., Any]:
        def connect(self: socket.socket, address: Any) -> Any:
            if not _is_local(address):
                attempts.append(address)
                raise RuntimeError(f"a test tried to open a network connection to {address}")
            return original(self, address)

        return connect

    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    yield attempts
    patch.undo()


@pytest.fixture(autouse=True)
def _no_network(network_attempts: list[Any]) -> Iterator[None]:
    # Code that swallows the error above must not hide the attempt.
    network_attempts.clear()
    yield
    assert not network_attempts, f"network connections were tried: {network_attempts}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data for development; tests are skipped where it is absent."""
    named = os.environ.get("PASTPY_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (folder / "her2st").is_dir():
        pytest.skip(f"development data not found at {folder}; set PASTPY_SHARED_DATA to the folder that has her2st/")
    return folder


@pytest.fixture
def breast() -> SpatialData:
    """The shipped sample, read afresh (0.1 s) for each test, so a test may change it."""
    import pastpy as past

    return past.datasets.breast_st()


@pytest.fixture(scope="session")
def toy_sdata() -> Callable[..., SpatialData]:
    """Factory of small synthetic tissue: ``toy_sdata(**arguments) -> SpatialData``, a fresh object a call.

    See :func:`make_toy` for the arguments.
    """
    return make_toy


def make_toy(
    *,
    size: int = 256,
    n_cells: int = 40,
    n_genes: int = 12,
    shapes: Literal["polygons", "circles"] = "polygons",
    mpp: float | None = 0.5,
    image_key: str = "he",
    shapes_key: str = "nuclei",
    table_key: str = "cells",
    transformation: Any = None,
    seed: int = 0,
) -> SpatialData:
    """Paint H&E-like nuclei and give each one a table row.

    Parameters
    ----------
    size
        Height and width of the image in px. At most ``(size // 24) ** 2`` cells fit.
    n_cells
        Number of nuclei; they do not touch.
    n_genes
        Number of genes, named ``"GENE0"`` and so on.
    shapes
        ``"polygons"`` as ``pp.segment_nuclei`` gives, or ``"circles"`` as spots are.
    mpp
        µm per level-0 px, stored in ``attrs``; ``None`` leaves it unknown (areas and positions then use 1).
    image_key, shapes_key, table_key
        Names of the elements.
    transformation
        SpatialData transformation of image and shapes to ``global``; default: identity.
    seed
        Seed of everything.

    Returns
    -------
    SpatialData
        ``images[image_key]`` uint8 (3, size, size); ``shapes[shapes_key]`` in level-0 px, index ``cell_id`` from 1;
        ``tables[table_key]`` int32 CSR counts, ``obs`` with ``region``, ``cell_id``, ``area_um2``, ``cell_type``
        ("dark" nuclei express the first half of the genes, paler and larger "pale" ones the other half),
        ``obsm["spatial"]`` µm.
    """
    import geopandas as gpd
    import pandas as pd
    import shapely
    from anndata import AnnData
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity

    from pastpy._elements import set_mpp

    rng = np.random.default_rng(seed)
    side = size // 24
    if n_cells > side**2:
        raise ValueError(f"at most {side**2} cells fit on {size} px, got {n_cells}")
    slots = rng.choice(side**2, n_cells, replace=False)
    centre = np.column_stack([slots % side, slots // side]) * 24.0 + 12 + rng.uniform(-3, 3, (n_cells, 2))
    pale = rng.random(n_cells) < 0.5
    radius = np.where(pale, 8.0, 5.5) + rng.uniform(-0.5, 0.5, n_cells)

    y, x = np.mgrid[:size, :size] + 0.5
    image = np.array([226.0, 172.0, 205.0]) + rng.normal(0, 6, (size, size, 1))
    for (cx, cy), r, is_pale in zip(centre, radius, pale, strict=True):
        image[(x - cx) ** 2 + (y - cy) ** 2 <= r**2] = [128.0, 96.0, 168.0] if is_pale else [70.0, 44.0, 126.0]
    image = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)

    rate = np.where((np.arange(n_genes) < n_genes / 2) != pale[:, None], 6.0, 1.0)
    ids = np.arange(1, n_cells + 1)
    um = 1.0 if mpp is None else mpp
    obs = pd.DataFrame(
        {
            "region": pd.Categorical([shapes_key] * n_cells),
            "cell_id": ids,
            "area_um2": np.pi * (radius * um) ** 2,
            "cell_type": pd.Categorical(np.where(pale, "pale", "dark")),
        },
        index=ids.astype(str),
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    table = AnnData(X=csr_matrix(rng.poisson(rate).astype(np.int32)), obs=obs, var=var)
    table.obsm["spatial"] = centre * um

    to_global = {"global": transformation or Identity()}
    if shapes == "circles":
        element = ShapesModel.parse(centre, geometry=0, radius=radius, index=ids, transformations=to_global)
    else:
        polygons = shapely.buffer(shapely.points(centre), radius)
        element = ShapesModel.parse(gpd.GeoDataFrame(geometry=polygons, index=ids), transformations=to_global)
    sdata = SpatialData(
        images={
            image_key: Image2DModel.parse(
                image.transpose(2, 0, 1), dims=("c", "y", "x"), c_coords=["r", "g", "b"], transformations=to_global
            )
        },
        shapes={shapes_key: element},
        tables={table_key: TableModel.parse(table, region=shapes_key, region_key="region", instance_key="cell_id")},
    )
    if mpp is not None:
        set_mpp(sdata, image_key, mpp)
    return sdata


@pytest.fixture(scope="session")
def tiny_model() -> PAST:
    """An untrained model that knows the toy tissue's genes; its random weights tell cells apart."""
    import pandas as pd
    import torch

    from pastpy.models import PAST, ModelCard, PASTConfig

    torch.manual_seed(0)
    genes = pd.DataFrame({"gene": [f"GENE{i}" for i in range(12)] + ["ERBB2", "KRT8"]})
    genes = genes.assign(variable=True, trusted=True, validation_r=np.linspace(0.9, 0.3, 14), q05=0.0, q95=8.0)
    facts = {
        "licence": "BSD-3-Clause",
        "commercial_use": True,
        "depth": 1000.0,
        "transfer_statement": "not measured on another patient",
    }
    model = PAST(PASTConfig(name="tiny", dim=16, embedding_dim=8), ModelCard(genes, facts))
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


@pytest.fixture
def two_passes(tiny_model: PAST) -> PAST:
    """As ``tiny_model``, with a second pass of the encoder at 2 µm/px; made afresh for each test."""
    from dataclasses import replace

    import torch

    from pastpy.models import PAST, ModelCard

    torch.manual_seed(1)
    config = replace(tiny_model.config, coarse_mpp=2.0, coarse_radii_um=(20.0, 40.0), rank=3)
    model = PAST(config, ModelCard(tiny_model.card.genes, tiny_model.card.facts))
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()
