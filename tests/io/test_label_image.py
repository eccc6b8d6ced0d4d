"""Label images as shapes: exact outlines, kept ids, µm that are right whatever the transformation."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from spatialdata.models import Labels2DModel
from spatialdata.transformations import Affine, Identity, Scale, set_transformation
from xarray import DataArray

import pastpy as past
from pastpy import _elements
from pastpy.io._label_polygons import label_polygons


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_outlines_are_exact(labels):
    """Each pixel centre lies in the polygon of its label and in no other; areas are pixel counts."""
    ids, polygons = label_polygons(labels)
    np.testing.assert_array_equal(ids, np.unique(labels[labels > 0]))
    rows, columns = np.indices(labels.shape)
    centres = shapely.points(columns + 0.5, rows + 0.5)
    for label, polygon in zip(ids, polygons, strict=True):
        assert polygon.is_valid
        assert polygon.area == (labels == label).sum()
        np.testing.assert_array_equal(shapely.contains(polygon, centres), labels == label)


def test_pieces_holes_and_corners():
    labels = np.zeros((7, 9), dtype=np.int32)
    labels[1:6, 1:6] = 4
    labels[3, 3] = 0
    labels[2, 7] = labels[3, 8] = 9
    ids, (ring, pieces) = label_polygons(labels)
    assert ids.tolist() == [4, 9]
    assert len(ring.interiors) == 1 and ring.area == 24
    assert pieces.geom_type == "MultiPolygon" and pieces.area == 2


def disks(size=256):
    y, x = np.mgrid[:size, :size] + 0.5
    labels = np.zeros((size, size), dtype=np.uint16)
    for label, (cx, cy, r) in {3: (40, 60, 12), 7: (150, 90, 8), 1000: (200, 220, 15)}.items():
        labels[(x - cx) ** 2 + (y - cy) ** 2 <= r**2] = label
    return labels


def expected(labels, mpp):
    out = {}
    for label in (3, 7, 1000):
        rows, columns = np.nonzero(labels == label)
        out[label] = (np.array([columns.mean() + 0.5, rows.mean() + 0.5]) * mpp, len(rows) * mpp**2)
    return out


def check(sdata, want, *, atol=1e-6):
    table = sdata.tables["cells"]
    assert list(sdata.shapes["nuclei"].index) == list(table.obs["cell_id"]) == [3, 7, 1000]
    for row, (centre, area) in enumerate(want.values()):
        np.testing.assert_allclose(table.obsm["spatial"][row], centre, atol=atol)
        assert table.obs["area_um2"].iloc[row] == pytest.approx(area)
    where = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=0.5)
    np.testing.assert_allclose(where.spatial_um, table.obsm["spatial"])


def test_array_and_files(toy_sdata, tmp_path):
    labels = disks()
    tifffile.imwrite(tmp_path / "l.tif", labels)
    Image.fromarray(labels).save(tmp_path / "l.png")
    np.save(tmp_path / "l.npy", labels)
    for given_labels in (labels, tmp_path / "l.tif", tmp_path / "l.png", str(tmp_path / "l.npy")):
        sdata = toy_sdata(table_key="other", shapes_key="others")
        past.io.read_labels(sdata, given_labels)
        check(sdata, expected(labels, 0.5))


def test_coarser_labels(toy_sdata):
    labels = disks(128)
    labels[110:120, 100:120] = 1000
    labels[20:30, 90:120] = 7
    sdata = toy_sdata(table_key="other", shapes_key="others")
    past.io.read_labels(sdata, labels, labels_mpp=1.0)
    check(sdata, expected(labels, 1.0))


@pytest.mark.parametrize("image_place", [None, Scale([0.5, 0.5], axes=("x", "y"))])
@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_labels_element_with_any_transformation(toy_sdata, image_place, degrees):
    labels = disks()
    angle = np.deg2rad(degrees)
    # label pixels → image level-0 pixels: turned, flipped, of half the size
    to_image = np.array([[np.cos(angle), np.sin(angle), 60.0], [np.sin(angle), -np.cos(angle), 120.0], [0, 0, 2.0]]) / 2
    sdata = toy_sdata(table_key="other", shapes_key="others", transformation=image_place)
    place = np.diag([0.5, 0.5, 1.0]) if image_place is not None else np.eye(3)
    sdata.labels["mask"] = Labels2DModel.parse(labels, dims=("y", "x"), scale_factors=[2])
    affine = Affine(place @ to_image, input_axes=("x", "y"), output_axes=("x", "y"))
    set_transformation(sdata.labels["mask"], affine, "global")
    past.io.read_labels(sdata, "mask")
    want = {}
    for label, (centre, area) in expected(labels, 1.0).items():
        want[label] = ((to_image[:2, :2] @ centre + to_image[:2, 2]) * 0.5, area / 4 * 0.25)
    check(sdata, want)


def test_result_is_ready_for_tl(toy_sdata, tiny_model):
    sdata = toy_sdata(table_key="other", shapes_key="others")
    past.io.read_labels(sdata, disks())
    past.tl.embed(sdata, tiny_model, modality="image", progress=False)
    assert np.isfinite(sdata.tables["cells"].obsm["X_past_image"]).all()


def test_only_shapes(toy_sdata):
    sdata = toy_sdata()
    past.io.read_labels(sdata, disks(), key_added="mine", table_key_added=None)
    assert "mine" in sdata.shapes and list(sdata.tables) == ["cells"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((256, 256), int), "no object"),
        (np.ones((256, 256)), "float64"),
        (np.ones((3, 256, 256), int), "expected integers"),
        (-np.ones((256, 256), int), "negative"),
        (np.ones((100, 256), int), "256×100 px does not cover image 'he' of 256×256"),
    ],
)
def test_bad_labels(toy_sdata, labels, message):
    sdata = toy_sdata(table_key="other", shapes_key="others")
    with pytest.raises(ValueError, match=message):
        past.io.read_labels(sdata, labels)
    assert "nuclei" not in sdata and "cells" not in sdata


def test_bad_names_and_files(toy_sdata, tmp_path):
    sdata = toy_sdata()
    with pytest.raises(ValueError, match="already has an element 'nuclei'"):
        past.io.read_labels(sdata, disks())
    with pytest.raises(ValueError, match="no element name"):
        past.io.read_labels(sdata, disks(), key_added="a/b", table_key_added="c")
    with pytest.raises(ValueError, match="both be named 'a'"):
        past.io.read_labels(sdata, disks(), key_added="a", table_key_added="a")
    with pytest.raises(FileNotFoundError, match="neither a file nor labels"):
        past.io.read_labels(sdata, tmp_path / "x.tif", key_added="a", table_key_added="b")
    with pytest.raises(ValueError, match="labels_mpp"):
        past.io.read_labels(sdata, disks(), key_added="a", table_key_added="b", labels_mpp=-1)
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    tifffile.imwrite(tmp_path / "l.tif", disks())
    for name in ("o.npy", "l.tif"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2] if name == "l.tif" else whole)
        with pytest.raises(ValueError, match=name):
            past.io.read_labels(sdata, tmp_path / name, key_added="a", table_key_added="b")
    sdata.labels["mask"] = Labels2DModel.parse(disks(), dims=("y", "x"), transformations={"elsewhere": Identity()})
    with pytest.raises(ValueError, match="not in coordinate system"):
        past.io.read_labels(sdata, "mask", key_added="a", table_key_added="b")
    assert "a" not in sdata and "b" not in sdata


@pytest.mark.parametrize("wrap", [da.from_array, lambda a: DataArray(a, dims=("y", "x"))])
def test_lazy_arrays(toy_sdata, wrap):
    sdata = toy_sdata()
    labels = np.zeros([_elements.image_levels(sdata, "he")[0].sizes[a] for a in "yx"], dtype=np.uint16)
    labels[4:9, 10:20] = 3
    past.io.read_labels(sdata, wrap(labels), key_added="mine", table_key_added=None)
    assert sdata["mine"].geometry.iloc[0].bounds == (10, 4, 20, 9)


def test_labels_that_no_index_can_hold(toy_sdata):
    sdata = toy_sdata()
    labels = np.zeros([_elements.image_levels(sdata, "he")[0].sizes[a] for a in "yx"], dtype=np.uint64)
    labels[4:9, 10:20] = 2**63 + 1
    with pytest.raises(ValueError, match="beyond 64-bit integers"):
        past.io.read_labels(sdata, labels, key_added="mine", table_key_added=None)
