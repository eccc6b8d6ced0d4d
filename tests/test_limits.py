"""Limits of what a user may bring, through the public functions; the right answer is known for each.

Elsewhere: glass in ``tests/pp`` (find_tissue, segment_nuclei), channels and bits of files and OME-Zarr in
``tests/io/test_wsi.py``, some cells outside the image and tables without genes in ``tests/tl/test_embed.py``, an index
of shapes that repeats in ``tests/test_elements.py``, cores as pieces of tissue in ``tests/pp/test_tissue.py``, damaged
files in ``tests/fuzz``.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
import tifffile
import torch
import zarr
from spatialdata import SpatialData
from spatialdata._io.format import SpatialDataContainerFormats
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, set_transformation

import pastpy as past
from pastpy.cli import main
from pastpy.models import PAST, ModelCard

GENES = ["GENE3", "ERBB2"]
FRAMES = ("past_expression", "past_expression_std", "past_expression_lower", "past_expression_upper")


def embed(data, model, slot="X_past_image", **options) -> np.ndarray:
    table: Any = past.tl.embed(data, model, copy=True, progress=False, **options)
    return table.obsm[slot]


def impute(data, model, **options) -> np.ndarray:
    options = {"genes": GENES, "copy": True, "progress": False, **options}
    table: Any = past.tl.impute_expression(data, model, **options)
    return table.obsm["past_expression"].to_numpy()


def with_pixels(sdata: SpatialData, pixels: np.ndarray, dims=("c", "y", "x"), **options) -> SpatialData:
    sdata.images["he"] = Image2DModel.parse(pixels, dims=dims, **options)
    return sdata


def with_table(sdata: SpatialData, table: anndata.AnnData) -> SpatialData:
    del sdata.tables["cells"]
    sdata.tables["cells"] = table
    return sdata


def glass(size: int) -> np.ndarray:
    return np.full((3, size, size), 235, np.uint8)


# Empty tissue


def test_cells_on_glass_are_embedded_alike_and_the_check_says_why_it_cannot_tell(toy_sdata, tiny_model):
    sdata = with_pixels(toy_sdata(size=512, n_cells=400, shapes="circles"), glass(512))
    sdata["nuclei"]["radius"] = 6.0
    checked = past.pp.check_alignment(sdata).iloc[0]
    assert (checked["verdict"], checked["on_tissue"]) == ("unknown", 0.0) and "no tissue" in checked["reason"]
    rows = embed(sdata, tiny_model, modality="image")
    # one colour everywhere: the cells differ by how the grid of tokens lies under them, and that is nothing
    inside = ((sdata["cells"].obsm["spatial"] > 40) & (sdata["cells"].obsm["spatial"] < 216)).all(axis=1)
    assert inside.sum() > 100
    np.testing.assert_allclose(rows[inside], np.broadcast_to(rows[inside][0], rows[inside].shape), atol=1e-4)


def test_a_slide_of_glass_leaves_no_output(tmp_path, capsys):
    tifffile.imwrite(
        tmp_path / "glass.tif", glass(300).transpose(1, 2, 0), photometric="rgb", resolution=(20000, 20000),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    with pytest.raises(ValueError, match="no tissue found on image 'he'"):
        past.pp.find_tissue(past.io.read_wsi(tmp_path / "glass.tif"))
    assert main(["embed", str(tmp_path / "glass.tif"), "--out", str(tmp_path / "out.zarr")]) == 2
    assert capsys.readouterr().err.startswith("pastpy embed: error: no nucleus found on image 'he'")
    assert [path.name for path in tmp_path.iterdir()] == ["glass.tif"]


# One cell


def test_one_cell_has_the_row_that_it_has_among_many(toy_sdata, tiny_model, near):
    many, one = toy_sdata(), toy_sdata()
    with_table(one, one["cells"][7].copy())
    one.shapes["nuclei"] = one["nuclei"].iloc[[7]]
    for sdata in (many, one):
        past.tl.embed(sdata, tiny_model, progress=False)
        past.tl.impute_expression(sdata, tiny_model, genes=GENES, uncertainty=True, progress=False)
    for slot in ("X_past", "X_past_image", "X_past_expression", *FRAMES):
        np.testing.assert_allclose(one["cells"].obsm[slot], many["cells"].obsm[slot][7:8], atol=1e-5)
    alone = embed(many, near, library_key="cell_id")[7:8]  # each cell a library
    np.testing.assert_allclose(embed(one, near), alone, atol=1e-5)
    assert np.abs(embed(many, near)[7:8] - alone).max() > 1e-3


def test_one_nucleus_is_a_table_of_one_row(toy_sdata, tiny_model):
    painted = toy_sdata(size=96, n_cells=1)
    sdata = SpatialData(images={"he": painted["he"]}, attrs=painted.attrs)
    past.pp.segment_nuclei(sdata, progress=False)
    past.tl.embed(sdata, tiny_model, progress=False)
    np.testing.assert_allclose(sdata["cells"].obsm["spatial"], painted["cells"].obsm["spatial"], atol=0.5)
    assert sdata["cells"].obs["past_valid"].tolist() == [True]


# Cells outside the image


@pytest.mark.parametrize("mode", ["dense", "crop"])
def test_all_cells_outside_are_rows_of_nan(toy_sdata, tiny_model, mode):
    sdata = toy_sdata(n_genes=0)
    sdata.shapes["nuclei"] = sdata["nuclei"].set_geometry(sdata["nuclei"].translate(9999, 0))
    del sdata["cells"].obsm["spatial"]
    with pytest.warns(UserWarning, match="40 of 40 rows could not be embedded"):
        past.tl.embed(sdata, tiny_model, mode=mode, progress=False)
    past.tl.impute_expression(sdata, tiny_model, genes=GENES, mode=mode, progress=False)
    table = sdata["cells"]
    assert not table.obs["past_valid"].any()
    for slot in ("X_past", "past_expression"):
        assert np.isnan(np.asarray(table.obsm[slot])).all()


# NaN coordinates

NOWHERE = {
    "none": None,
    "empty": shapely.Polygon(),
    "NaN corner": shapely.Polygon([(50, 50), (60, 50), (60, np.nan), (50, 60)]),
    "infinite corner": shapely.Polygon([(50, 50), (60, 50), (np.inf, 60), (50, 60)]),
    "NaN point": shapely.Point(np.nan, np.nan),
    "NaN y": shapely.Point(50, np.nan),
    "infinite x": shapely.Point(np.inf, 50),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("place", NOWHERE)
def test_a_cell_without_a_place_is_nan_and_the_others_are_as_before(toy_sdata, tiny_model, place):
    geometry = NOWHERE[place]
    kind = "circles" if isinstance(geometry, shapely.Point) else "polygons"
    whole, sdata = toy_sdata(shapes=kind), toy_sdata(shapes=kind)
    shapes = sdata["nuclei"].copy()
    shapes["geometry"] = [geometry if i == 3 else g for i, g in enumerate(shapes.geometry)]
    sdata.shapes["nuclei"] = gpd.GeoDataFrame(shapes)
    del sdata["cells"].obsm["spatial"]
    with pytest.warns(UserWarning, match="1 of 40 rows could not be embedded"):
        past.tl.embed(sdata, tiny_model, modality="image", progress=False)
    past.tl.impute_expression(sdata, tiny_model, genes=GENES, modality="image", progress=False)
    table, others = sdata["cells"], np.arange(40) != 3
    assert table.obs["past_valid"].tolist() == others.tolist()
    for slot in ("X_past", "past_expression", "spatial"):
        assert np.isnan(np.asarray(table.obsm[slot])[3]).all()
    expected = embed(whole, tiny_model, modality="image")
    np.testing.assert_allclose(table.obsm["X_past"][others], expected[others], atol=1e-6)
    np.testing.assert_allclose(table.obsm["spatial"][others], whole["cells"].obsm["spatial"][others], atol=0.05)
    predicted = impute(whole, tiny_model, modality="image")
    np.testing.assert_allclose(table.obsm["past_expression"].to_numpy()[others], predicted[others], atol=1e-5)


def test_a_shape_that_is_no_cell_is_named(toy_sdata, tiny_model, monkeypatch):
    """A tissue's outline among the cells: fields are as wide as their shapes."""
    monkeypatch.setattr("pastpy.tl._inputs.LARGE_UM", 200.0)
    sdata = toy_sdata()
    shapes = sdata.shapes["nuclei"]
    shapes.geometry = [shapely.box(-400, -400, 656, 656), *shapes.geometry[1:]]
    name = sdata["cells"].obs_names[0]
    with pytest.warns(UserWarning, match=rf"shape of row {name!r} in 'nuclei' reaches \d\d\d µm .* up to 0.0 GB"):
        embed(sdata, tiny_model, modality="image", on_misaligned="ignore")


def test_a_row_without_an_id_is_nan(toy_sdata, tiny_model):
    whole, sdata = toy_sdata(), toy_sdata()
    for row in (3, 8):
        sdata["cells"].obs["cell_id"] = sdata["cells"].obs["cell_id"].astype(float).where(np.arange(40) != row)
    rows = embed(sdata, tiny_model)
    assert np.flatnonzero(np.isnan(rows).any(axis=1)).tolist() == [3, 8]
    others = np.delete(np.arange(40), [3, 8])
    np.testing.assert_array_equal(rows[others], embed(whole, tiny_model)[others])


# Ids


def test_ids_that_repeat_are_named_and_nothing_is_written(toy_sdata, tiny_model):
    sdata = toy_sdata()
    sdata["cells"].obs["cell_id"] = [*range(1, 37), 5, 5, 6, 40]
    for call in (past.tl.embed, past.tl.impute_expression):
        with pytest.raises(
            ValueError, match=r"obs\['cell_id'\] of table 'cells' has 2 ids of 'nuclei' more than once \(5, 6\)"
        ):
            call(sdata, tiny_model, progress=False)
    with pytest.raises(ValueError, match="more than once"):
        past.pl.cells(sdata, "GENE0", show=False)
    assert list(sdata["cells"].obsm) == ["spatial"] and "past" not in sdata["cells"].uns


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_names_of_rows_may_repeat_as_rows_are_told_by_position(toy_sdata, tiny_model):
    sdata = toy_sdata()
    expected = impute(sdata, tiny_model)
    sdata["cells"].obs_names = ["a"] * 40
    np.testing.assert_array_equal(impute(sdata, tiny_model), expected)


@pytest.mark.parametrize("kind", ["integers", "strings"])
def test_categorical_ids_and_indices(toy_sdata, tiny_model, tmp_path, kind):
    plain, sdata = toy_sdata(), toy_sdata()
    ids = plain["cells"].obs["cell_id"]
    ids = ids if kind == "integers" else "cell-" + ids.astype(str)
    shapes = sdata["nuclei"].iloc[::-1]
    shapes.index = pd.CategoricalIndex(ids[::-1])
    sdata.shapes["nuclei"] = shapes
    sdata["cells"].obs["cell_id"] = pd.Categorical(ids, categories=sorted(ids, reverse=True))
    sdata["cells"].obs.index = pd.CategoricalIndex(sdata["cells"].obs_names)
    np.testing.assert_array_equal(embed(sdata, tiny_model), embed(plain, tiny_model))
    np.testing.assert_array_equal(impute(sdata, tiny_model), impute(plain, tiny_model))
    shapes.index = pd.Index(ids[::-1])  # parquet keeps no categories of an index
    sdata.shapes["nuclei"] = shapes
    sdata.write(tmp_path / "a.zarr")
    stored = spatialdata.read_zarr(tmp_path / "a.zarr")
    assert isinstance(stored["cells"].obs["cell_id"].dtype, pd.CategoricalDtype)
    np.testing.assert_array_equal(embed(stored, tiny_model), embed(plain, tiny_model))


# Pixels


@pytest.fixture(scope="module")
def pixels(toy_sdata) -> np.ndarray:
    return toy_sdata()["he"].values


PIXELS = {
    # alpha 255: opaque
    "rgba": lambda p: np.concatenate([p, np.full_like(p[:1], 255)]),
    "16 bits": lambda p: p.astype(np.uint16) * 257,
    "float32": lambda p: (p / 255).astype(np.float32),
    "channel last": lambda p: p.transpose(1, 2, 0),
}


@pytest.mark.parametrize("kind", PIXELS)
def test_the_same_picture_gives_the_same_cells(toy_sdata, tiny_model, pixels, tmp_path, kind):
    """Nuclei, embeddings and expression, in memory and from a store with a pyramid."""
    sdata = toy_sdata()
    dims = ("y", "x", "c") if kind == "channel last" else ("c", "y", "x")
    other = with_pixels(toy_sdata(), PIXELS[kind](pixels), dims)
    names = {"key_added": "found", "table_key_added": "found_cells", "progress": False}
    for each in (sdata, other):
        past.pp.segment_nuclei(each, **names)
    assert other["found"].geometry.equals(sdata["found"].geometry)
    # pixels are float32 between 0 and 1 everywhere: there the kinds differ by rounding alone
    tolerance = {"atol": 1e-5}
    np.testing.assert_allclose(embed(other, tiny_model), embed(sdata, tiny_model), **tolerance)
    np.testing.assert_allclose(impute(other, tiny_model), impute(sdata, tiny_model), **tolerance)
    with_pixels(other, PIXELS[kind](pixels), dims, scale_factors=[2]).write(tmp_path / "a.zarr")
    stored = spatialdata.read_zarr(tmp_path / "a.zarr")
    np.testing.assert_allclose(embed(stored, tiny_model), embed(sdata, tiny_model), **tolerance)


def test_a_channel_last_ome_zarr_gives_the_same_cells(toy_sdata, tiny_model, pixels, tmp_path):
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=pixels.transpose(1, 2, 0))
    axes = [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"] + [{"name": "c", "type": "channel"}]
    scale = [{"type": "scale", "scale": [0.5, 0.5, 1.0]}]
    datasets = [{"path": "0", "coordinateTransformations": scale}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    sdata, plain = past.io.read_wsi(tmp_path / "a.ome.zarr"), toy_sdata()
    sdata.shapes["nuclei"], sdata.tables["cells"] = plain["nuclei"], plain["cells"]
    np.testing.assert_array_equal(embed(sdata, tiny_model), embed(plain, tiny_model))


@pytest.mark.parametrize("names", ["bgr", "argb"])
def test_channels_are_read_by_their_names(toy_sdata, tiny_model, pixels, names):
    channels = dict(zip("rgba", [*pixels, np.full_like(pixels[0], 255)], strict=True))
    sdata = with_pixels(toy_sdata(), np.stack([channels[c] for c in names]), c_coords=list(names))
    np.testing.assert_array_equal(embed(sdata, tiny_model), embed(toy_sdata(), tiny_model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.astype(np.uint16), "'he' is uint16, but no pixel .* above 2.. of 65535.*image >> 0"),
        (lambda p: p.astype(np.int32) * 16, "looks like values of fewer bits.*image >> 4"),
        (lambda p: p.astype(np.float32), "float pixels up to 2.*; store them as uint8"),
    ],
    ids=["8 of 16 bits", "12 of 32 bits", "floats to 255"],
)
def test_values_of_fewer_bits_are_refused(toy_sdata, tiny_model, pixels, change, message):
    sdata = with_pixels(toy_sdata(), change(pixels))
    with pytest.raises(ValueError, match=message):
        past.tl.embed(sdata, tiny_model, progress=False)
    assert list(sdata["cells"].obsm) == ["spatial"]


@pytest.mark.parametrize("n", [1, 2])
def test_grey_images_are_refused_by_name(toy_sdata, tiny_model, pixels, n):
    sdata = with_pixels(toy_sdata(), pixels[:n])
    calls = [
        past.pp.find_tissue,
        past.pp.check_alignment,
        lambda s: past.tl.embed(s, tiny_model, progress=False),
        lambda s: past.tl.impute_expression(s, tiny_model, progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"image 'he' has {n} channels; an H&E image has 3 .* image_key="):
            call(sdata)
    assert list(sdata["cells"].obsm) == ["spatial"] and "tissue" not in sdata


# Stores


@pytest.mark.filterwarnings("ignore:SpatialData is not stored in the most current format")
@pytest.mark.parametrize(("version", "zarr_format"), [("0.1", 2), ("0.2", 3)])
def test_stores_of_zarr_2_and_3(toy_sdata, tiny_model, tmp_path, version, zarr_format):
    """The same results, written into the store, which stays of its format and can be read and written again."""
    path = tmp_path / "a.zarr"
    toy_sdata().write(path, sdata_formats=SpatialDataContainerFormats[version])
    past.tl.embed(path, tiny_model, progress=False)
    past.tl.impute_expression([path], tiny_model, genes=GENES, progress=False)
    stored = spatialdata.read_zarr(path)
    np.testing.assert_array_equal(stored["cells"].obsm["X_past"], embed(toy_sdata(), tiny_model, "X_past"))
    np.testing.assert_array_equal(stored["cells"].obsm["past_expression"], impute(toy_sdata(), tiny_model))
    assert set(stored["cells"].uns["past"]) == {"embed", "impute_expression"}
    for name in ("", "tables/cells", "images/he"):
        assert zarr.open_group(path / name, mode="r").metadata.zarr_format == zarr_format
    assert zarr.open_group(path, mode="r").attrs["spatialdata_attrs"]["version"] == version
    stored.attrs["note"] = "kept"
    past.io.write_table(stored, "cells")
    assert spatialdata.read_zarr(path).attrs["note"] == "kept"


def content(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


#: Root may write anywhere: for it the right to do so is taken away first, for good, which an exec makes take effect.
_AS_A_USER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

_READ_ONLY = """
import json, os, sys
import numpy as np
import spatialdata
import pastpy as past

store, model, said = *sys.argv[1:], {}

def refused(call):
    try:
        call()
    except PermissionError as error:
        return str(error)

def never(*args, **kwargs):
    raise AssertionError("computed before the store was looked at")

said["writable"] = os.access(store, os.W_OK)
model = past.models.load(model)
run_step, past.engine.run_step = past.engine.run_step, never
said["path"] = refused(lambda: past.tl.embed(store, model, progress=False))
past.engine.run_step = run_step
said["copy"] = past.tl.embed(store, model, copy=True, progress=False).obsm["X_past"].tolist()
sdata = spatialdata.read_zarr(store)
past.pp.segment_nuclei(sdata, key_added="found", table_key_added="found_cells", progress=False)
past.tl.embed(sdata, model, table_key="cells", progress=False)
said["memory"] = sdata["cells"].obsm["X_past"].tolist()
said["write_table"] = refused(lambda: past.io.write_table(sdata, "cells"))
print(json.dumps(said))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="takes the right to write from root with prctl")
def test_a_read_only_store(toy_sdata, tiny_model, tmp_path):
    store = tmp_path / "a.zarr"
    toy_sdata().write(store)
    tiny_model.save(tmp_path / "tiny")
    before = content(store)
    folders = [store, *(path for path in store.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _AS_A_USER, "-c", _READ_ONLY, str(store), str(tmp_path / "tiny")],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    if said["writable"]:
        pytest.skip("this machine does not let root give up its right to write")
    for name in ("path", "write_table"):
        assert f"the store {str(store)!r} is read-only" in said[name] and "copy=True" in said[name]
    expected = embed(toy_sdata(), tiny_model, "X_past")
    for name in ("copy", "memory"):
        np.testing.assert_allclose(said[name], expected, atol=1e-6)
    assert content(store) == before


# No genes


def test_without_genes_expression_is_predicted_from_the_image_alone(toy_sdata, tiny_model, tmp_path):
    bare, path = toy_sdata(n_genes=0), tmp_path / "a.zarr"
    np.testing.assert_array_equal(impute(bare, tiny_model), impute(toy_sdata(), tiny_model, modality="image"))
    for modality in ("expression", "both"):
        with pytest.raises(ValueError, match="table 'cells' has no genes.*modality='image'"):
            past.tl.impute_expression(bare, tiny_model, modality=modality, progress=False)
    with pytest.raises(ValueError, match="the AnnData has no genes"):
        past.tl.embed(bare["cells"].copy(), tiny_model, progress=False)
    with pytest.raises(ValueError, match="0 genes"):
        past.pp.harmonize_genes(bare["cells"])
    bare.write(path)
    past.tl.impute_expression(path, tiny_model, genes=GENES, table_added="predicted", progress=False)
    predicted = spatialdata.read_zarr(path)["predicted"]
    np.testing.assert_array_equal(predicted.X, impute(bare, tiny_model))


# Microarrays and several regions


@pytest.fixture(scope="module")
def near(tiny_model) -> PAST:
    """A model whose cells look at their four nearest neighbours."""
    torch.manual_seed(2)
    config = replace(tiny_model.config, neighbours=4, neighbour_radius_um=60.0)
    model = PAST(config, ModelCard(tiny_model.card.genes, tiny_model.card.facts))
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


@pytest.fixture
def microarray(toy_sdata) -> SpatialData:
    """One image, one table; two cores that touch, left and right, their rows mixed."""
    sdata = toy_sdata(n_cells=80)
    left = sdata["cells"].obsm["spatial"][:, 0] < 64
    sdata["cells"].obs["core"] = pd.Categorical(np.where(left, "A1", "A2"))
    return sdata


@pytest.mark.parametrize("call", [embed, impute])
def test_cells_do_not_look_into_another_core(microarray, toy_sdata, tiny_model, near, call):
    apart = call(microarray, near, modality="image", library_key="core")
    core = microarray["cells"].obs["core"].to_numpy()
    for name in ("A1", "A2"):
        rows = np.flatnonzero(core == name)
        alone = with_table(toy_sdata(n_cells=80), microarray["cells"][rows].copy())
        np.testing.assert_allclose(apart[rows], call(alone, near, modality="image"), atol=1e-5)
    together = call(microarray, near, modality="image")
    differ = np.abs(apart - together).max(axis=1) > 1e-3
    # only along the seam is there anything to see of the other core
    assert 0 < differ.sum() < 60
    seam = np.abs(microarray["cells"].obsm["spatial"][:, 0] - 64)
    assert seam[differ].max() < 60
    plain = call(microarray, tiny_model, modality="image", library_key="core")
    np.testing.assert_array_equal(plain, call(microarray, tiny_model, modality="image"))


def test_the_library_is_recorded_and_checked(microarray, tiny_model):
    past.tl.embed(microarray, tiny_model, library_key="core", progress=False)
    past.tl.impute_expression(microarray["cells"], tiny_model, genes=GENES, library_key="core", progress=False)
    facts = microarray["cells"].uns["past"]
    assert facts["embed"]["library_key"] == facts["impute_expression"]["library_key"] == "core"
    microarray["cells"].obs["core"] = microarray["cells"].obs["core"].where(np.arange(80) > 2)
    for data in (microarray, microarray["cells"]):
        with pytest.raises(KeyError, match=r"no obs column 'cores' \(library_key=\); it has \['region', 'cell_id'"):
            past.tl.embed(data, tiny_model, library_key="cores", progress=False)
        with pytest.raises(ValueError, match=r"obs\['core'\] of .* \(library_key=\) has no value in 3 of 80 rows"):
            past.tl.impute_expression(data, tiny_model, library_key="core", progress=False)


@pytest.fixture
def sections(toy_sdata) -> dict[str, SpatialData]:
    """Two slides of their own, of another µm/px each."""
    return {"a": toy_sdata(seed=3), "b": toy_sdata(seed=4, n_cells=30, mpp=0.4)}


@pytest.fixture
def joined(sections) -> SpatialData:
    """Both in one object, with one table, whose rows are mixed."""
    elements: dict[str, Any] = {}
    tables, resolutions = [], {}
    for name, section in sections.items():
        sdata = spatialdata.deepcopy(section)
        elements |= {f"he_{name}": sdata["he"], f"nuclei_{name}": sdata["nuclei"]}
        table = sdata["cells"].copy()
        table.obs["region"] = f"nuclei_{name}"
        tables.append(table)
        resolutions[f"he_{name}"] = sdata.attrs["past"]["mpp"]["he"]
    table = anndata.concat(tables, index_unique="-", keys=list(sections))
    table = table[np.random.default_rng(0).permutation(table.n_obs)].copy()
    table.obs["region"] = table.obs["region"].astype("category")
    elements["cells"] = TableModel.parse(
        table, region=["nuclei_a", "nuclei_b"], region_key="region", instance_key="cell_id"
    )
    sdata = SpatialData.init_from_elements(elements)
    sdata.attrs["past"] = {"mpp": resolutions}
    return sdata


IMAGES = {"nuclei_a": "he_a", "nuclei_b": "he_b"}


def rows_of(sdata: SpatialData, section: str, alone: SpatialData) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a section in the table of both, and the same rows in its own."""
    obs = sdata["cells"].obs
    rows = np.flatnonzero(obs["region"] == f"nuclei_{section}")
    return rows, pd.Index(alone["cells"].obs["cell_id"]).get_indexer(obs["cell_id"].iloc[rows])


def check_sections(table: anndata.AnnData, sdata: SpatialData, sections, model, slots) -> None:
    for name, alone in sections.items():
        rows, own = rows_of(sdata, name, alone)
        past.tl.embed(alone, model, progress=False)
        past.tl.impute_expression(alone, model, genes=GENES, progress=False)
        for slot in slots:
            expected = np.asarray(alone["cells"].obsm[slot])[own]
            np.testing.assert_allclose(np.asarray(table.obsm[slot])[rows], expected, atol=1e-4, err_msg=slot)


@pytest.mark.parametrize("kind", ["plain", "neighbours", "two passes"])
def test_each_section_is_worked_on_its_own_image(joined, sections, tiny_model, near, two_passes, kind):
    model = {"plain": tiny_model, "neighbours": near, "two passes": two_passes}[kind]
    del joined["cells"].obsm["spatial"]
    past.tl.embed(joined, model, image_key=IMAGES, progress=False)
    past.tl.impute_expression(joined, model, genes=GENES, image_key=IMAGES, progress=False)
    slots = ("X_past", "X_past_image", "X_past_expression", "past_expression", "spatial")
    check_sections(joined["cells"], joined, sections, model, slots)
    assert joined["cells"].obs["past_valid"].all()
    regions = joined["cells"].uns["past"]["embed"]["regions"]
    assert {name: (r["image_key"], r["mpp"]) for name, r in regions.items()} == {
        "nuclei_a": ("he_a", 0.5),
        "nuclei_b": ("he_b", 0.4),
    }


def test_sections_in_a_store_with_coordinate_systems_of_their_own(joined, sections, tiny_model, tmp_path):
    for name in sections:
        for element in (joined[f"he_{name}"], joined[f"nuclei_{name}"]):
            set_transformation(element, {name: Identity()}, set_all=True)
    joined.attrs["past"] = {}
    joined.write(tmp_path / "a.zarr")
    options = {
        "image_key": IMAGES,
        "mpp": {"nuclei_a": 0.5, "nuclei_b": 0.4},
        "coordinate_system": {"nuclei_a": "a", "nuclei_b": "b"},
        "resume": tmp_path / "runs" / "a.zarr",
        "progress": False,
    }
    past.tl.embed(tmp_path / "a.zarr", tiny_model, **options)
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["a.nuclei_a.zarr", "a.nuclei_b.zarr"]
    stored = spatialdata.read_zarr(tmp_path / "a.zarr")
    check_sections(stored["cells"], stored, sections, tiny_model, ("X_past", "spatial"))
    past.tl.embed(joined, tiny_model, **options)  # from what was kept
    np.testing.assert_array_equal(joined["cells"].obsm["X_past"], stored["cells"].obsm["X_past"])


def test_regions_of_one_image_need_no_image_key_and_are_no_neighbours(toy_sdata, near):
    sdata, plain = toy_sdata(n_cells=80), toy_sdata(n_cells=80)
    left = plain["cells"].obsm["spatial"][:, 0] < 64
    plain["cells"].obs["core"] = np.where(left, "left", "right")
    table, shapes = sdata["cells"].copy(), sdata["nuclei"]
    del sdata.tables["cells"], sdata.shapes["nuclei"]
    for name, rows in (("left", left), ("right", ~left)):
        sdata.shapes[name] = ShapesModel.parse(shapes[rows])
    table.obs["region"] = pd.Categorical(plain["cells"].obs["core"])
    del table.uns["spatialdata_attrs"]
    sdata.tables["cells"] = TableModel.parse(
        table, region=["left", "right"], region_key="region", instance_key="cell_id"
    )
    expected = embed(plain, near, library_key="core")
    np.testing.assert_allclose(embed(sdata, near), expected, atol=1e-5)
    one = embed(sdata, near, shapes_key="left")
    np.testing.assert_allclose(one[left], expected[left], atol=1e-5)
    assert np.isnan(one[~left]).all()


def test_sections_whose_image_is_not_said(joined, tiny_model):
    with pytest.raises(
        KeyError, match=r"2 images.*annotates 2 shapes.*image_key=\{'nuclei_a': …, 'nuclei_b': …\}.*shapes_key="
    ):
        past.tl.embed(joined, tiny_model, progress=False)
    for name, value in (("image_key", {"nuclei_a": "he_a"}), ("mpp", {"nuclei_a": 0.5})):
        options = {"image_key": IMAGES, name: value}
        with pytest.raises(KeyError, match=rf"{name}= has no entry for the shapes 'nuclei_b'; it has \['nuclei_a'\]"):
            past.tl.impute_expression(joined, tiny_model, progress=False, **options)
    with pytest.raises(KeyError, match="no image named 'he'"):
        past.tl.embed(joined, tiny_model, image_key={**IMAGES, "nuclei_b": "he"}, progress=False)
    assert "past" not in joined["cells"].uns
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the rows of b have no pixels
        found = embed(joined, tiny_model, shapes_key="nuclei_a", image_key="he_a")
    assert (np.isnan(found).all(axis=1) == (joined["cells"].obs["region"] == "nuclei_b")).all()
