"""``segment_nuclei`` from image to shapes and table."""

from __future__ import annotations

import json
import warnings

import dask.array as da
import numpy as np
import pytest
import shapely
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import Affine, Scale, get_transformation, set_transformation

import pastpy as past
from pastpy._elements import set_mpp, unit_geometry
from pastpy.metrics._detection import detection
from pastpy.pp import NucleiParameters, segment_nuclei


def bare(toy, **changes):
    """The painted tissue of the fixtures with its image only, and the true centroids in µm."""
    sdata = toy(**changes)
    truth = sdata["cells"].obsm["spatial"]
    del sdata.tables["cells"], sdata.shapes["nuclei"]
    return sdata, truth


def with_image(pixels, mpp=0.5, **arguments):
    sdata = SpatialData(images={"he": Image2DModel.parse(pixels, dims=("c", "y", "x"), **arguments)})
    set_mpp(sdata, "he", mpp)
    return sdata


def glass(side=200):
    return np.full((3, side, side), 240, dtype=np.uint8)


def test_painted_nuclei_are_found_and_written(toy_sdata):
    sdata, truth = bare(toy_sdata)
    assert segment_nuclei(sdata) is None
    shapes, table = sdata.shapes["nuclei"], sdata.tables["cells"]
    assert detection(table.obsm["spatial"], truth, max_distance=1.0).f1 > 0.97
    assert table.shape == (len(shapes), 0)
    assert shapes.index.tolist() == table.obs["cell_id"].tolist() == list(range(1, len(shapes) + 1))
    assert table.obs["region"].unique().tolist() == ["nuclei"]
    assert shapes.geometry.is_valid.all()
    np.testing.assert_allclose(table.obs["area_um2"], shapes.area * 0.25)
    np.testing.assert_allclose(table.obsm["spatial"], shapely.get_coordinates(shapes.centroid) * 0.5)
    assert table.obs["eccentricity"].between(0, 1).all()
    assert table.obs["haematoxylin_od"].gt(NucleiParameters().floor_od).all()


def test_positions_are_those_the_resolver_gives(toy_sdata):
    sdata, _ = bare(toy_sdata, mpp=0.69)
    segment_nuclei(sdata)
    units = unit_geometry(sdata, "cells", "nuclei", "he", mpp=0.69)
    np.testing.assert_allclose(units.spatial_um, sdata["cells"].obsm["spatial"])
    np.testing.assert_allclose(units.area_um2, sdata["cells"].obs["area_um2"])


def test_the_size_of_blocks_changes_nothing(breast):
    results = []
    for block_px in (4096, 256, 333):
        sdata = SpatialData(images={"he": breast["he"][:, 300:900, 200:900]})
        set_mpp(sdata, "he", 0.69)
        segment_nuclei(sdata, block_px=block_px)
        results.append((sdata["nuclei"].geometry.to_numpy(), sdata["cells"].obs))
    one, *many = results
    assert len(one[0]) > 500
    for polygons, obs in many:
        assert obs.equals(one[1])
        assert shapely.equals_exact(polygons, one[0], 0.0).all()


def test_every_coordinate_system_of_the_image_is_taken_over(toy_sdata):
    turned = Affine(
        [[0.0, -0.5, 40.0], [0.5, 0.0, -3.0], [0.0, 0.0, 1.0]], input_axes=("x", "y"), output_axes=("x", "y")
    )
    sdata, truth = bare(toy_sdata, transformation=turned)
    set_transformation(sdata["he"], Scale([2.0, 2.0], axes=("x", "y")), to_coordinate_system="other")
    segment_nuclei(sdata)
    known = get_transformation(sdata["nuclei"], get_all=True)
    assert set(known) == {"global", "other"}
    for system, transformation in get_transformation(sdata["he"], get_all=True).items():
        axes = {"input_axes": ("x", "y"), "output_axes": ("x", "y")}
        np.testing.assert_array_equal(known[system].to_affine_matrix(**axes), transformation.to_affine_matrix(**axes))
    assert detection(sdata["cells"].obsm["spatial"], truth, max_distance=1.0).f1 > 0.97


def test_a_lazy_pyramid_gives_what_the_array_gives(toy_sdata):
    sdata, _ = bare(toy_sdata)
    pixels = sdata["he"].data.compute()
    segment_nuclei(sdata)
    lazy = with_image(da.from_array(pixels, chunks=(3, 100, 90)), scale_factors=[2, 2])
    segment_nuclei(lazy)
    assert shapely.equals_exact(lazy["nuclei"].geometry.to_numpy(), sdata["nuclei"].geometry.to_numpy(), 0.0).all()


def test_a_callable_gets_blocks_and_its_labels_are_merged(toy_sdata):
    sdata, truth = bare(toy_sdata)
    seen = []

    def dark(rgb, mpp):
        from scipy import ndimage as ndi

        seen.append((rgb.shape, rgb.dtype, mpp))
        return ndi.label(rgb[..., 0] < 160)[0]

    segment_nuclei(sdata, method=dark, block_px=128)
    assert len(seen) == 4
    assert {(shape[2], str(dtype), mpp) for shape, dtype, mpp in seen} == {(3, "uint8", 0.5)}
    assert detection(sdata["cells"].obsm["spatial"], truth, max_distance=0.5).f1 == 1
    assert sdata["cells"].uns["past"]["segment_nuclei"]["method"].endswith("dark")


@pytest.mark.parametrize(
    "wrong",
    [lambda rgb, mpp: np.zeros((3, 3), int), lambda rgb, mpp: rgb[..., 0] * -1.0],
    ids=["shape", "type"],
)
def test_a_callable_that_returns_no_labels_is_refused(toy_sdata, wrong):
    sdata, _ = bare(toy_sdata)
    with pytest.raises(ValueError, match="integer labels"):
        segment_nuclei(sdata, method=wrong)
    assert "nuclei" not in sdata


def test_provenance_survives_the_disk(toy_sdata, tmp_path):
    sdata, _ = bare(toy_sdata)
    segment_nuclei(sdata, parameters=NucleiParameters(max_area_um2=250.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr announces a change of its defaults
        sdata.write(tmp_path / "nuclei.zarr")
        back = read_zarr(tmp_path / "nuclei.zarr")
    record = sdata["cells"].uns["past"]["segment_nuclei"]
    assert json.loads(json.dumps(record)) == record
    assert record["mpp"] == 0.5 and record["parameters"]["max_area_um2"] == 250.0
    assert back["cells"].uns["past"]["segment_nuclei"]["parameters"] == record["parameters"]
    assert back["cells"].obs["area_um2"].equals(sdata["cells"].obs["area_um2"])
    assert back["nuclei"].index.tolist() == sdata["nuclei"].index.tolist()


def test_elements_are_replaced_only_on_request(toy_sdata):
    sdata, _ = bare(toy_sdata)
    segment_nuclei(sdata)
    before = sdata["nuclei"], sdata["cells"]
    with pytest.raises(ValueError, match="already has an element 'nuclei'; pass overwrite=True"):
        segment_nuclei(sdata)
    assert sdata["nuclei"] is before[0] and sdata["cells"] is before[1]
    segment_nuclei(sdata, overwrite=True, parameters=NucleiParameters(max_area_um2=30.0))
    assert len(sdata["nuclei"]) < len(before[0])
    segment_nuclei(sdata, key_added="others", table_key_added="other_cells")
    assert sdata["other_cells"].obs["region"].unique().tolist() == ["others"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"image_key": "ihc"}, KeyError, "no image named 'ihc'"),
        ({"method": "otsu"}, ValueError, "'watershed', 'instanseg', 'stardist', 'cellpose'.*or a callable"),
        ({"mpp": 8.3}, ValueError, "too coarse"),
        ({"mpp": -1}, ValueError, "positive number"),
        ({"block_px": 10}, ValueError, "block_px"),
        ({"key_added": "a/b"}, ValueError, "key_added='a/b' is no element name"),
        ({"key_added": 5}, ValueError, "key_added=5 is no element name"),
        ({"table_key_added": ""}, ValueError, "table_key_added='' is no element name"),
        ({"key_added": "he"}, ValueError, "an element 'he'; choose another name than key_added='he'"),
        ({"key_added": "HE", "overwrite": True}, ValueError, "an element 'he'; choose.* key_added='HE'"),
        ({"table_key_added": "HE"}, ValueError, "an element 'he'; choose another name than table_key_added='HE'"),
        ({"key_added": "cells"}, ValueError, "two names"),
        ({"key_added": "Cells"}, ValueError, "key_added='Cells' and table_key_added='cells'.*two names"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_read(arguments, error, message):
    def load(block):
        raise AssertionError("the image was read")

    lazy = da.from_array(glass(), chunks=100).map_blocks(load, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    sdata = with_image(lazy)
    with pytest.raises(error, match=message):
        segment_nuclei(sdata, **arguments)
    assert list(sdata.shapes) == list(sdata.tables) == []


def test_unknown_resolution_is_an_error(toy_sdata):
    sdata, _ = bare(toy_sdata, mpp=None)
    with pytest.raises(ValueError, match="µm/px of image 'he' is unknown"):
        segment_nuclei(sdata)


def test_an_empty_slide_is_an_error_that_says_what_to_check():
    sdata = with_image(glass())
    with pytest.raises(ValueError, match=r"no nucleus found on image 'he'.*mpp=0\.5.*H&E"):
        segment_nuclei(sdata)
    assert list(sdata.shapes) == list(sdata.tables) == []


def test_a_grey_image_is_an_error():
    with pytest.raises(ValueError, match="1 channels"):
        segment_nuclei(with_image(glass()[:1]))


def test_the_image_is_untouched(toy_sdata):
    sdata, _ = bare(toy_sdata)
    before, attrs = sdata["he"].data.compute(), json.dumps(sdata.attrs)
    segment_nuclei(sdata)
    np.testing.assert_array_equal(sdata["he"].data.compute(), before)
    assert json.dumps(sdata.attrs) == attrs


def test_density_and_size_on_real_breast_are_plausible(breast):
    sdata = SpatialData(images={"he": breast["he"][:, 500:1500, 500:1500]})
    past.pp.segment_nuclei(sdata, mpp=0.69)
    density = sdata["cells"].n_obs / (690e-3**2)
    # A section through dense breast cancer shows some thousand nuclei a mm² of some 20 to 80 µm².
    assert 2000 < density < 9000
    assert 20 < sdata["cells"].obs["area_um2"].median() < 80


def test_nucls_with_the_shipped_defaults(shared_data):
    from PIL import Image

    from pastpy.metrics._detection import DetectionScore
    from pastpy.pp._objects import measure_objects

    total = DetectionScore(0, 0, 0)
    for i in range(1, 11):
        folder = shared_data / "nucls" / "train"
        pixels = np.asarray(Image.open(folder / "images" / f"train_{i}.png").convert("RGB")).transpose(2, 0, 1)
        truth = np.load(folder / "labels" / f"train_{i}.npz", allow_pickle=False)["inst_map"]
        sdata = with_image(pixels, mpp=0.25)
        segment_nuclei(sdata)
        centroids = measure_objects(truth, np.zeros(truth.shape)).centroid * 0.25
        total += detection(sdata["cells"].obsm["spatial"], centroids, max_distance=3.0)
    assert total.tp + total.fn == 458
    assert total.f1 >= 0.84
