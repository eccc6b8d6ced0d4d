"""The alignment check catches what it says, and lets right pairs pass; faults are put on real and simulated cells."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from anndata import AnnData
from geopandas import GeoDataFrame
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import Categorical, DataFrame
from scipy.ndimage import gaussian_filter
from shapely import Point
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, get_transformation, set_transformation

import pastpy as past
from pastpy._elements import image_levels, set_mpp, unit_geometry
from pastpy.pp._alignment import guard
from pastpy.pp._alignment_fit import ORIENTATIONS, Pose, fit_windows, point_density, point_scene, poses
from pastpy.pp._alignment_shift import expression_profiles
from pastpy.pp._alignment_size import BLOB_LIMITS, blob_width, profile_width
from pastpy.pp._alignment_verdict import Verdict, _with_array, judge
from pastpy.pp._watershed import haematoxylin

ELEMENTS = {"image_key": "he", "shapes_key": "nuclei", "table_key": "cells", "coordinate_system": "global"}


def affine(rows) -> Affine:
    return Affine(np.vstack([rows, [0, 0, 1]]), input_axes=("x", "y"), output_axes=("x", "y"))


def fault(name: str, width: float, height: float, mpp: float) -> Affine | Identity:
    """Transformation of level-0 pixels that puts a fault on shapes."""
    return {
        "none": Identity(),
        "15 µm shift": affine([[1, 0, 9 / mpp], [0, 1, 12 / mpp]]),
        "x/y swap": affine([[0, 1, 0], [1, 0, 0]]),
        "horizontal flip": affine([[-1, 0, width], [0, 1, 0]]),
        "vertical flip": affine([[1, 0, 0], [0, -1, height]]),
        "half turn": affine([[-1, 0, width], [0, -1, height]]),
        "positions ×2": affine([[2, 0, 0], [0, 2, 0]]),
        "positions ×½": affine([[0.5, 0, 0], [0, 0.5, 0]]),
    }[name]


#: What undoes each fault.
UNDONE = {
    "15 µm shift": ("identity", 1.0),
    "x/y swap": ("swap_xy", 1.0),
    "horizontal flip": ("flip_x", 1.0),
    "vertical flip": ("flip_y", 1.0),
    "half turn": ("rotate_180", 1.0),
    "positions ×2": ("identity", 0.5),
    "positions ×½": ("identity", 2.0),
}


def faulty(sdata: SpatialData, name: str, shapes_key: str, table_key: str) -> SpatialData:
    """The same image and table with displaced shapes; the table forgets that pastpy made it."""
    level = image_levels(sdata, "he")[0]
    shapes = ShapesModel.parse(sdata.shapes[shapes_key].copy())
    set_transformation(
        shapes, fault(name, level.sizes["x"], level.sizes["y"], sdata.attrs["past"]["mpp"]["he"]), "global"
    )
    table = sdata.tables[table_key].copy()
    table.uns.pop("past", None)
    moved = SpatialData(images={"he": sdata["he"]}, shapes={shapes_key: shapes}, tables={table_key: table})
    moved.attrs["past"] = {"mpp": dict(sdata.attrs["past"]["mpp"])}
    return moved


@pytest.fixture(scope="module")
def segmented() -> SpatialData:
    """Part of the shipped sample with its nuclei, found once."""
    pixels = past.datasets.breast_st()["he"].values[:, 500:1800, 300:1600]
    sdata = SpatialData(images={"he": Image2DModel.parse(pixels, dims=("c", "y", "x"))})
    set_mpp(sdata, "he", 0.69)
    past.pp.segment_nuclei(sdata, progress=False)
    return sdata


@pytest.fixture(scope="module")
def simulated() -> SpatialData:
    return past.datasets.simulate_tissue(n_cells=1500, n_genes=10, seed=3)


def check_catches(sdata: SpatialData, name: str, shapes_key: str, table_key: str) -> None:
    found = past.pp.check_alignment(faulty(sdata, name, shapes_key, table_key), n_windows=8).loc[shapes_key]
    assert found["verdict"] == "suspicious", found["reason"]
    assert (found["orientation"], found["scale"]) == UNDONE[name]
    if name == "15 µm shift":
        np.testing.assert_allclose(found[["shift_x_um", "shift_y_um"]].astype(float), [9, 12], atol=1.0)
        assert "15.0 µm off" in found["reason"] or "14." in found["reason"] or "15." in found["reason"]


@pytest.mark.parametrize("name", list(UNDONE))
def test_faults_of_real_nuclei_are_caught(segmented, name):
    check_catches(segmented, name, "nuclei", "cells")


@pytest.mark.parametrize("name", ["15 µm shift", "x/y swap", "horizontal flip", "positions ×½"])
def test_faults_of_simulated_cells_are_caught(simulated, name):
    check_catches(simulated, name, "nuclei_true", "cells_true")


@pytest.mark.parametrize("kind", ["segmented", "simulated"])
def test_right_pairs_pass(kind, request):
    sdata = request.getfixturevalue(kind)
    (shapes_key,) = [n for n in sdata.shapes if n.startswith("nuclei")]
    (table_key,) = [n for n in sdata.tables if n.startswith("cells")]
    found = past.pp.check_alignment(faulty(sdata, "none", shapes_key, table_key), table_key=table_key).loc[shapes_key]
    assert found["verdict"] == "ok", found["reason"]
    assert (found["orientation"], found["scale"], found["on_image"]) == ("identity", 1.0, 1.0)
    assert np.hypot(found["shift_x_um"], found["shift_y_um"]) < 1.0
    assert found["resolution_um"] == 1.0 and BLOB_LIMITS.least < found["nuclear_width_um"] < BLOB_LIMITS.most


@pytest.mark.parametrize(("factor", "how"), [(2.0, "large"), (0.5, "small")])
def test_twofold_wrong_mpp_is_caught(segmented, factor, how):
    found = past.pp.check_alignment(segmented, mpp=0.69 * factor).iloc[0]
    assert found["verdict"] == "suspicious"
    assert f"µm/px may be too {how}" in found["reason"]
    assert found["orientation"] == "identity" and found["shift_x_um"] == pytest.approx(0, abs=1)


def test_small_nuclei_of_skin_make_no_alarm_but_half_of_the_mpp_does(shared_data):
    sdata = past.io.read_wsi(shared_data / "svs" / "cmu-1-small-region.svs")
    past.pp.segment_nuclei(sdata, progress=False)
    found = past.pp.check_alignment(sdata).loc["nuclei"]
    # as wide as large nuclei would be at half of their µm/px: "ok" would be luck
    assert found["verdict"] != "suspicious" and found["orientation"] == "identity", found["reason"]
    found = past.pp.check_alignment(sdata, mpp=0.25).loc["nuclei"]
    assert found["verdict"] == "suspicious" and "µm/px may be too small" in found["reason"]


def test_cells_of_another_place_are_unknown(segmented):
    """Shuffled in place, they lie on tissue but on no nuclei."""
    rng = np.random.default_rng(0)
    shapes = ShapesModel.parse(rng.uniform(0, 1300, (4000, 2)), geometry=0, radius=5, index=np.arange(1, 4001))
    obs = DataFrame({"region": Categorical(["nuclei"] * 4000), "cell_id": np.arange(1, 4001)}).set_axis(
        np.arange(4000).astype(str)
    )
    table = TableModel.parse(
        AnnData(np.zeros((4000, 0)), obs=obs), region="nuclei", region_key="region", instance_key="cell_id"
    )
    sdata = SpatialData(images={"he": segmented["he"]}, shapes={"nuclei": shapes}, tables={"cells": table})
    set_mpp(sdata, "he", 0.69)
    found = past.pp.check_alignment(sdata).loc["nuclei"]
    assert found["verdict"] == "unknown"
    assert "match the image's nuclei in no orientation" in found["reason"]
    assert found["orientation"] is None and np.isnan(found["shift_x_um"])


def turned(degrees: float, width: float, height: float) -> Affine:
    """A turn about the centre, in pixels."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn, centre = np.array([[c, -s], [s, c]]), np.array([width, height]) / 2
    return affine(np.column_stack([turn, centre - turn @ centre]))


def test_cells_turned_by_a_degree_are_not_blamed_on_the_mpp():
    sdata = faulty(past.datasets.simulate_tissue(n_cells=2500, n_genes=1, seed=7), "none", "nuclei_true", "cells_true")
    level = image_levels(sdata, "he")[0]
    set_transformation(sdata["nuclei_true"], turned(1, level.sizes["x"], level.sizes["y"]), "global")
    found = past.pp.check_alignment(sdata).loc["nuclei_true"]
    assert found["verdict"] == "suspicious" and BLOB_LIMITS.least < found["nuclear_width_um"] < BLOB_LIMITS.most
    assert "cells scatter around their nuclei" in found["reason"] and "µm/px" not in found["reason"]


def test_a_wrong_mpp_that_leaves_blobs_usual_is_no_scatter(simulated):
    found = past.pp.check_alignment(simulated, mpp=0.5 * 1.5, table_key="cells_true").loc["nuclei_true"]
    assert found["nuclear_width_um"] < BLOB_LIMITS.most
    assert found["verdict"] == "suspicious" and "µm/px may be too large" in found["reason"]


# DAPI


def with_dapi(sdata: SpatialData, transformation) -> SpatialData:
    """The object with the nuclei as a fluorescence image at another µm/px, laid by a transformation."""
    labels = np.zeros((1, 910, 910), np.float32)
    centres = np.floor(
        np.column_stack([c(sdata["nuclei"].geometry.centroid) for c in (lambda g: g.x, lambda g: g.y)]) * 0.7
    )
    x, y = np.clip(centres, 0, 909).astype(int).T
    labels[0, y, x] = 1000.0
    pixels = np.clip(gaussian_filter(labels, (0, 2.5, 2.5)) * 20, 0, 60000).astype(np.uint16)
    both = faulty(sdata, "none", "nuclei", "cells")
    both.images["dapi"] = Image2DModel.parse(
        pixels, dims=("c", "y", "x"), c_coords=["DAPI"], scale_factors=[2],
        transformations={"global": Sequence([Scale([1 / 0.7, 1 / 0.7], axes=("x", "y")), transformation])},
    )  # fmt: skip
    return both


@pytest.mark.parametrize("name", ["none", "15 µm shift", "x/y swap", "horizontal flip"])
def test_dapi_is_compared_where_there_is_one(segmented, name):
    sdata = with_dapi(segmented, fault(name, 1300, 1300, 0.69))
    found = past.pp.check_alignment(sdata, image_key="he", dapi_key="dapi", n_windows=8).loc["nuclei"]
    assert (found["orientation"], found["scale"]) == UNDONE.get(name, ("identity", 1.0))
    assert found["verdict"] == ("ok" if name == "none" else "suspicious") and found["reason"].startswith("DAPI lies")
    expected = [9, 12] if name == "15 µm shift" else [0, 0]
    np.testing.assert_allclose(found[["shift_x_um", "shift_y_um"]].astype(float), expected, atol=1.0)


def test_of_two_images_the_one_that_is_not_dapi_is_the_he(segmented):
    sdata = with_dapi(segmented, Identity())
    assert past.pp.check_alignment(sdata, dapi_key="dapi", n_windows=4).loc["nuclei", "image"] == "he"
    sdata.images["other"] = sdata["he"]
    with pytest.raises(KeyError, match=r"2 images, \['he', 'other'\]: say which with image_key="):
        past.pp.check_alignment(sdata, dapi_key="dapi")


def test_dapi_far_off_is_not_blamed_on_the_cells(segmented):
    sdata = with_dapi(segmented, affine([[1, 0, 70_000], [0, 1, 0]]))
    found = past.pp.check_alignment(sdata, dapi_key="dapi", n_windows=4).loc["nuclei"]
    assert found["verdict"] == "unknown"
    assert found["reason"].startswith("DAPI matches the H&E's nuclei in no orientation; it may not overlap the H&E")


def test_a_dapi_image_must_have_the_channel(segmented):
    with pytest.raises(ValueError, match=r"image 'he' has 3 channels .*none is called 'DAPI'"):
        past.pp.check_alignment(segmented, dapi_key="he")


# Spots


def triangle(n_genes: int = 5) -> SpatialData:
    """A lopsided section on glass with spots on a grid of 200 µm over it, at 4 µm/px."""
    y, x = np.mgrid[:800, :900]
    tissue = (y > 150) & (y < 700) & (x > 100) & (x < 100 + (y - 150) * 1.2)
    rgb = np.where(tissue[..., None], [150, 90, 160], [240, 238, 237]).astype(np.uint8)
    rng = np.random.default_rng(0)
    rgb = np.clip(rgb + rng.normal(0, 6, rgb.shape), 0, 255).astype(np.uint8)
    at = np.stack(np.meshgrid(np.arange(25, 900, 50), np.arange(25, 800, 50)), axis=-1).reshape(-1, 2)
    at = at[tissue[at[:, 1], at[:, 0]]].astype(float)
    ids = np.arange(len(at))
    obs = DataFrame({"region": Categorical(["spot_circles"] * len(ids)), "spot_id": ids}, index=ids.astype(str))
    table = AnnData(rng.poisson(20, (len(ids), n_genes)).astype(np.float32), obs=obs)
    sdata = SpatialData(
        images={"he": Image2DModel.parse(rgb.transpose(2, 0, 1), dims=("c", "y", "x"))},
        shapes={"spot_circles": ShapesModel.parse(at, geometry=0, radius=12.5, index=ids)},
        tables={"spots": TableModel.parse(table, region="spot_circles", region_key="region", instance_key="spot_id")},
    )
    set_mpp(sdata, "he", 4.0)
    return sdata


def test_spots_on_lopsided_tissue_pass_with_the_limit_stated():
    found = past.pp.check_alignment(triangle()).loc["spot_circles"]
    assert (found["unit"], found["verdict"], found["orientation"]) == ("spot", "ok", "identity")
    assert found["resolution_um"] > 50 and "cannot be seen" in found["reason"]
    assert np.isnan(found["shift_x_um"]) and np.isnan(found["nuclear_width_um"])


def test_a_small_shift_of_spots_is_not_claimed_to_be_seen():
    sdata = triangle()
    set_transformation(sdata["spot_circles"], affine([[1, 0, 15 / 4], [0, 1, 0]]), "global")
    found = past.pp.check_alignment(sdata).loc["spot_circles"]
    assert found["verdict"] == "ok" and found["resolution_um"] > 15


@pytest.mark.parametrize("name", ["x/y swap", "horizontal flip", "vertical flip", "half turn", "positions ×½"])
def test_turned_spots_are_caught(name):
    sdata = triangle()
    set_transformation(sdata["spot_circles"], fault(name, 900, 800, 4.0), "global")
    found = past.pp.check_alignment(sdata).loc["spot_circles"]
    assert found["verdict"] == "suspicious", found["reason"]


def test_spots_where_tissue_fills_the_image_are_unknown(breast):
    found = past.pp.check_alignment(breast).loc["spot_circles"]
    assert found["verdict"] == "unknown" and "do not tell" in found["reason"]
    assert np.isnan(found["resolution_um"]) or found["resolution_um"] > 100


@pytest.fixture(scope="module")
def simulated_spots() -> SpatialData:
    return past.datasets.simulate_tissue(n_cells=5000, n_genes=100, seed=3, spots=True)


@pytest.mark.parametrize("off", [(0, 0), (36, 48), (-48, 36)])
def test_a_shift_of_spots_is_measured_with_its_error(simulated_spots, off):
    set_transformation(simulated_spots["spot_circles"], affine([[1, 0, off[0] / 0.5], [0, 1, off[1] / 0.5]]), "global")
    found = past.pp.check_alignment(simulated_spots, table_key="spots").loc["spot_circles"]
    assert (found["verdict"] == "suspicious") == any(off), found["reason"]
    assert 0 < found["shift_error_um"] < 10 and found["resolution_um"] < 60
    np.testing.assert_allclose(found[["shift_x_um", "shift_y_um"]].astype(float), off, atol=15)


@pytest.mark.parametrize(("factor", "how"), [(2.0, "large"), (0.5, "small")])
def test_twofold_wrong_mpp_under_spots_is_caught(breast, factor, how):
    found = past.pp.check_alignment(breast, mpp=0.69 * factor).loc["spot_circles"]
    assert found["verdict"] == "suspicious" and f"µm/px may be too {how}" in found["reason"]


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_spots_that_are_not_as_wide_as_they_were_read(breast, factor):
    found = past.pp.check_alignment(breast, mpp=0.69 * factor).loc["spot_circles"]
    assert f"were read as 100: µm/px, or the scale of their positions, is {factor:.2g} times" in found["reason"]


@pytest.mark.parametrize(("mpp", "verdict", "said"), [(0.345, "suspicious", "would touch"), (0.69, "unknown", "")])
def test_spots_of_an_array_do_not_touch(breast, mpp, verdict, said):
    """What reading with half the µm/px gives: spots as wide as they should be, half as far apart."""
    circles = breast["spot_circles"].copy()
    circles["radius"] *= 0.69 / mpp
    sdata = SpatialData(
        images={"he": breast["he"]}, shapes={"spot_circles": circles}, tables={"spots": breast["spots"].copy()}
    )
    found = past.pp.check_alignment(sdata, mpp=mpp).loc["spot_circles"]
    assert found["verdict"] == verdict and said in found["reason"], found["reason"]


def test_spots_far_apart_are_only_remarked_on():
    far = SimpleNamespace(radius_um=50.0, read_width_um=100.0, pitch_um=400.0)
    found = _with_array(Verdict(verdict="ok", reason="fits"), far)
    assert found.verdict == "ok" and found.reason.startswith("fits; spots lie 4.0 widths apart, twice what arrays have")


def test_spots_of_the_olfactory_bulb_make_no_alarm(shared_data):
    """Their pixels are too coarse for nuclei."""
    from pastpy.bench._runs import read_mob

    for sdata in read_mob(shared_data).values():
        found = past.pp.check_alignment(sdata).iloc[0]
        assert found["verdict"] == "ok" and np.isnan(found["nuclear_width_um"])


def test_counts_that_tell_nothing_give_no_shift(simulated_spots):
    shuffled = SpatialData(
        images={"he": simulated_spots["he"]},
        shapes={"spot_circles": ShapesModel.parse(simulated_spots["spot_circles"].copy())},
        tables={"spots": simulated_spots["spots"].copy()},
    )
    set_transformation(shuffled["spot_circles"], Identity(), "global")
    table = shuffled["spots"]
    table.X = table.X[np.random.default_rng(0).permutation(table.n_obs)]
    assert np.isnan(past.pp.check_alignment(shuffled, mpp=0.5).loc["spot_circles", "shift_x_um"])
    assert expression_profiles(np.ones((20, 50))) is None and expression_profiles(-np.ones((50, 50))) is None


# What it is made of


@settings(max_examples=25)
@given(st.floats(-40, 40), st.floats(-40, 40), st.integers(0, 1000))
def test_a_shift_of_points_is_measured(dx, dy, seed):
    rng = np.random.default_rng(seed)
    points = rng.uniform(-60, 260, (600, 2))
    corners = np.array([[0.0, 0.0], [60.0, 80.0]])
    maps = [point_density(points, corner, 120) for corner in corners]
    fit = fit_windows(maps, corners, point_scene(points + [dx, dy]), reach_um=48)
    assert fit.found
    np.testing.assert_allclose(fit.shift_um, [dx, dy], atol=0.6)  # points are counted in squares of 1 µm


@pytest.mark.parametrize("seed", range(5))
def test_unrelated_points_are_not_found_to_fit(seed):
    rng = np.random.default_rng(seed)
    corners = np.zeros((8, 2))
    maps = [point_density(rng.uniform(-60, 320, (1500, 2)), corner, 256) for corner in corners]
    assert not fit_windows(maps, corners, point_scene(rng.uniform(-60, 320, (1500, 2))), reach_um=48).found
    assert fit_windows(maps, corners, point_scene(np.zeros((0, 2))), reach_um=48).windows == 0


@given(st.sampled_from(sorted(ORIENTATIONS)), st.floats(0, 100), st.floats(0, 70))
def test_every_orientation_is_undone_by_one(name, x, y):
    size = (100.0, 70.0)
    point = np.array([[x, y]])
    turned = size if np.array(ORIENTATIONS[name])[0, 0] else size[::-1]
    there = Pose(name, 1.0).apply(point, turned)
    assert any(np.allclose(pose.apply(there, size), point) for pose in poses() if pose.scale == 1)
    np.testing.assert_allclose(Pose(name, 2.0).undo(Pose(name, 2.0).apply(point, size), size), point, atol=1e-9)


def painted_nuclei(diameter: float) -> np.ndarray:
    """Haematoxylin of 256 µm at 0.5 µm/px with a round nucleus every 20 µm."""
    y, x = np.mgrid[:512, :512] * 0.5
    near = np.hypot((x + 10) % 20 - 10, (y + 10) % 20 - 10)
    return haematoxylin(np.where((near < diameter / 2)[..., None], [80, 60, 140], [235, 200, 220]).astype(np.uint8))


@settings(max_examples=20)
@given(st.floats(4, 10), st.floats(0.5, 2))
def test_the_width_of_painted_nuclei_follows_the_claimed_mpp(diameter, factor):
    od = painted_nuclei(diameter)
    assert blob_width([od, od], 0.5 * factor) == pytest.approx(diameter * factor, rel=0.2)
    centres = np.stack(np.meshgrid(np.arange(0, 512, 40), np.arange(0, 512, 40)), axis=-1).reshape(-1, 2)
    width = profile_width([od, od], 0.5 * factor, [centres, centres])
    assert width == pytest.approx(diameter * factor, abs=1.1 * factor)  # rings are a pixel wide


def test_widths_beyond_the_scales_that_are_tried_are_unknown():
    od = painted_nuclei(3.0)
    assert np.isnan(blob_width([od, od], 0.25))  # claimed 1.5 µm wide


def test_a_window_without_blobs_has_no_width():
    flat = haematoxylin(np.full((512, 512, 3), 200, np.uint8))
    noise = haematoxylin(np.random.default_rng(0).integers(150, 250, (512, 512, 3)).astype(np.uint8))
    assert np.isnan(blob_width([flat, flat], 0.5)) and np.isnan(blob_width([noise, noise], 0.5))
    assert np.isnan(blob_width([], 0.5)) and np.isnan(blob_width([flat[:12, :12]] * 2, 0.5))
    assert np.isnan(profile_width([flat], 0.5, [np.full((50, 2), 256.0)]))  # too few
    assert np.isnan(profile_width([flat], 0.5, [np.full((150, 2), 256.0)]))  # nothing under them


def test_outlines_of_whole_cells_need_not_centre_on_nuclei(segmented):
    """Cells are wider than nuclei, and their centres lie some µm off: no fault, and no reason to doubt the µm/px."""
    sdata = faulty(segmented, "none", "nuclei", "cells")
    rng = np.random.default_rng(0)
    nuclei = sdata["nuclei"]
    off = rng.normal(0, 3.5 / 0.69, (len(nuclei), 2))
    whole = [Point(p.x + x, p.y + y).buffer(9.5 / 0.69) for p, (x, y) in zip(nuclei.centroid, off, strict=True)]
    outlines = GeoDataFrame(geometry=whole, index=nuclei.index)
    transformations = get_transformation(nuclei, get_all=True)
    del sdata.shapes["nuclei"]
    sdata.shapes["nuclei"] = ShapesModel.parse(outlines, transformations=transformations)
    found = past.pp.check_alignment(sdata).loc["nuclei"]
    assert found["verdict"] != "suspicious", found["reason"]


# Guard


def guarded(sdata, on_misaligned):
    """The guard on the nuclei of an object, as ``tl.embed`` calls it."""
    guard(sdata, **ELEMENTS, units=unit_geometry(sdata, **ELEMENTS, mpp=0.69), on_misaligned=on_misaligned)


def test_guard(segmented):
    moved = faulty(segmented, "15 µm shift", "nuclei", "cells")
    with pytest.warns(UserWarning, match=r"'nuclei' and image 'he' do not seem to fit: cells lie 1\d\.\d µm off"):
        guarded(moved, "warn")
    with pytest.raises(ValueError, match="do not seem to fit"):
        guarded(moved, "raise")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guarded(moved, "ignore")
        guarded(faulty(segmented, "none", "nuclei", "cells"), "raise")
    with pytest.raises(ValueError, match="on_misaligned='no' is unknown"):
        guarded(moved, "no")


def test_guard_trusts_pastpys_own_nuclei_until_they_are_moved(segmented, monkeypatch):
    calls = []
    monkeypatch.setattr("pastpy.pp._alignment.judge", lambda *a, **k: calls.append(1) or judge(*a, **k))
    guarded(segmented, "raise")
    assert not calls
    moved = faulty(segmented, "15 µm shift", "nuclei", "cells")
    moved["cells"].uns["past"] = segmented["cells"].uns["past"]
    with pytest.raises(ValueError, match="do not seem to fit"):
        guarded(moved, "raise")
    assert calls


def test_guard_points_at_the_users_line(segmented):
    """As it would if it were called from deep within pastpy."""
    inside = {"__name__": "pastpy.tl._inside", "guard": guard}
    exec("def deeper(*a, **k):\n    guard(*a, **k)\n\ndef run(*a, **k):\n    deeper(*a, **k)", inside)
    moved = faulty(segmented, "15 µm shift", "nuclei", "cells")
    units = unit_geometry(moved, **ELEMENTS, mpp=0.69)
    with pytest.warns(UserWarning, match="do not seem to fit") as caught:
        inside["run"](moved, **ELEMENTS, units=units, on_misaligned="warn")
    assert [w.filename for w in caught] == [__file__]


# Limits


def test_too_little_to_tell(toy_sdata):
    assert past.pp.check_alignment(toy_sdata(size=96, n_cells=4)).loc["nuclei", "reason"].startswith("only 4 cells")
    sdata = toy_sdata(size=512, n_cells=200)
    sdata.images["he"] = Image2DModel.parse(np.full((3, 512, 512), 240, np.uint8), dims=("c", "y", "x"))
    found = past.pp.check_alignment(sdata).loc["nuclei"]
    assert (found["verdict"], found["reason"]) == ("unknown", "no tissue was found on the image")


def test_cells_beyond_the_image_are_suspicious(segmented):
    moved = faulty(segmented, "none", "nuclei", "cells")
    set_transformation(moved["nuclei"], affine([[1, 0, 1000], [0, 1, 0]]), "global")
    found = past.pp.check_alignment(moved).loc["nuclei"]
    assert found["verdict"] == "suspicious" and found["on_image"] < 0.5


def test_an_image_that_was_sliced_under_its_cells_is_caught(segmented):
    moved = faulty(segmented, "none", "nuclei", "cells")
    moved.images["he"] = moved.images["he"].isel(x=slice(29, None))
    found = past.pp.check_alignment(moved).loc["nuclei"]
    assert found["verdict"] == "suspicious" and found["shift_x_um"] == pytest.approx(29 * 0.69, abs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance_um": float("nan")}, "tolerance_um must be a positive finite number of µm, got nan"),
        ({"tolerance_um": "5"}, "tolerance_um must be a positive finite number of µm, got '5'"),
        ({"n_windows": 2.5}, "n_windows must be at least 2, and a whole number, got 2.5"),
        ({"seed": -1}, "seed must be at least 0, and a whole number, got -1"),
    ],
)
def test_arguments_out_of_range(toy_sdata, options, message):
    with pytest.raises(ValueError, match=message):
        past.pp.check_alignment(toy_sdata(size=96, n_cells=4), **options)


def test_bad_arguments(toy_sdata):
    with pytest.raises(ValueError, match="n_windows must be at least 2"):
        past.pp.check_alignment(toy_sdata(size=96, n_cells=4), n_windows=1)
    with pytest.raises(ValueError, match="µm/px of image 'he' is unknown"):
        past.pp.check_alignment(toy_sdata(size=96, n_cells=4, mpp=None))
    with pytest.raises(TypeError, match="expected a SpatialData"):
        past.pp.check_alignment(toy_sdata(size=96, n_cells=4)["cells"])
