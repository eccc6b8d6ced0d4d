"""The shipped sample is what its attribution says."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import spatialdata
from PIL import Image

import pastpy as past
from pastpy import _elements

DATA = Path(past.datasets.__file__).parent / "data"


def test_shapes_units_and_counts(breast):
    table, circles = breast.tables["spots"], breast.shapes["spot_circles"]
    assert breast.images["he"].shape == (3, 2000, 2000) and breast.images["he"].dtype == np.uint8
    assert table.shape == (49, 15821) and len(circles) == 49
    assert table.var_names.is_unique and {"ERBB2", "KRT8", "COL1A1"} <= set(table.var_names)
    assert np.issubdtype(table.X.dtype, np.integer) and table.X.min() >= 0
    np.testing.assert_array_equal(table.obs["n_counts"], np.asarray(table.X.sum(axis=1)).ravel())
    assert _elements.resolve_mpp(breast, "he") == 0.69


def test_every_spot_is_wholly_inside_and_100_um_wide(breast):
    where = _elements.unit_geometry(breast, "spots", "spot_circles", "he", mpp=0.69)
    np.testing.assert_allclose(2 * where.radius * where.mpp, 100)
    assert (where.centroids - where.radius[:, None] >= 0).all()
    assert (where.centroids + where.radius[:, None] <= 2000).all()
    # Spots sit on an array with 200 µm pitch, a little displaced each: so µm/px is right.
    obs = breast.tables["spots"].obs
    array = np.column_stack([obs["array_col"], obs["array_row"], np.ones(49)])
    pitch = np.linalg.lstsq(array, where.spatial_um)[0][:2]
    np.testing.assert_allclose(pitch, 200 * np.eye(2), atol=8)


def test_counts_and_pixels_equal_the_source(breast, shared_data):
    import pandas as pd

    counts = pd.read_csv(shared_data / "her2st" / "counts" / "C3.tsv.gz", sep="\t", index_col=0)
    table = breast.tables["spots"]
    assert list(table.var_names) == list(counts.columns)
    np.testing.assert_array_equal(table.X.toarray(), counts.loc[table.obs_names].to_numpy())

    x, y, width, height = breast.attrs["past"]["sample"]["window_px"]
    spots = pd.read_csv(shared_data / "her2st" / "spots" / "C3_selection.tsv", sep="\t")
    spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    source = spots.loc[table.obs_names, ["pixel_x", "pixel_y"]].to_numpy() - [x, y]
    np.testing.assert_allclose(table.obsm["spatial"] / 0.69, source, atol=1e-3)

    Image.MAX_IMAGE_PIXELS, before = None, Image.MAX_IMAGE_PIXELS
    try:
        with Image.open(shared_data / "her2st" / "images" / "C3.jpg") as image:
            crop = np.asarray(image.crop((x, y, x + width, y + height)), dtype=float)
    finally:
        Image.MAX_IMAGE_PIXELS = before
    error = np.mean((breast.images["he"].transpose("y", "x", "c").values - crop) ** 2)
    assert 10 * np.log10(255**2 / error) > 50  # dB: encoding again is invisible


def test_files_are_small_and_attributed(breast):
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 5e6
    text = (DATA / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for part in ("Andersson", "10.1038/s41467-021-26271-2", "zenodo.4751624", "CC BY 4.0", "Changes made", "cropped"):
        assert part in text
    sample = breast.attrs["past"]["sample"]
    assert sample["licence"] == "CC BY 4.0" and "Andersson" in sample["attribution"]
    assert (sample["patient"], sample["section"], sample["role"]) == ("C", "C3", "validation section")
    assert json.loads(json.dumps(sample)) == sample


def test_loads_fast_and_fresh(breast):
    breast.tables["spots"].X.data[:] = 0
    start = time.perf_counter()
    again = past.datasets.breast_st()
    assert time.perf_counter() - start < 2
    assert again.tables["spots"].X.sum() == again.tables["spots"].obs["n_counts"].sum() > 0


def test_round_trip(breast, tmp_path):
    breast.write(tmp_path / "breast.zarr")
    back = spatialdata.read_zarr(tmp_path / "breast.zarr")
    assert back.attrs == breast.attrs
    np.testing.assert_array_equal(back.images["he"].values, breast.images["he"].values)
    np.testing.assert_array_equal(back.tables["spots"].X.toarray(), breast.tables["spots"].X.toarray())
