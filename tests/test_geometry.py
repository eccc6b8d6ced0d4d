"""The way from a cell's place in µm to pixels, end to end: SpatialData, resolver, pyramid, reader, pool."""

from __future__ import annotations

import numpy as np
import pytest
import spatialdata
import torch
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import Categorical, DataFrame
from scipy.ndimage import gaussian_filter
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from tests.transformations import chains
from xarray import DataArray

from pastpy import _elements
from pastpy.engine import (
    CropStep,
    Field,
    FieldReader,
    MemorySink,
    Outlines,
    Region,
    UnitShapes,
    run,
    run_step,
)  # fmt: skip
from pastpy.engine.levels import level_geometry
from pastpy.engine.plan import plan_crops

REACH = 200.0
NUMBER = st.floats(-REACH, REACH)
SYSTEMS = ("global", "aligned")
XY = {"input_axes": ("x", "y"), "output_axes": ("x", "y")}


@st.composite
def slides(draw):
    """All that varies: sizes odd and even, pyramids, µm/px of image and fields, transformations, where the cell is."""
    width, height = draw(st.integers(120, 190)), draw(st.integers(120, 190))
    zoom = draw(st.floats(0.7, 4.5))
    return {
        "size": (width, height),
        "factors": draw(st.sampled_from([None, [2], [2, 2], [3], [4]])),
        "channel_last": draw(st.booleans()),
        "mpp": draw(st.floats(0.2, 1.0)),
        "zoom": zoom,
        "place": (draw(st.floats(0.3, 0.7)) * width, draw(st.floats(0.3, 0.7)) * height),
        "image": {system: draw(chains(REACH)) for system in SYSTEMS},
        "shapes": {system: draw(chains(REACH)) for system in SYSTEMS},
    }


def carry(m: np.ndarray, xy) -> np.ndarray:
    return np.asarray(xy, dtype=float) @ m[:2, :2].T + m[:2, 2]


def texture(width: int, height: int) -> np.ndarray:
    """Smooth noise between 0 and 1, as tissue has, so that levels can be told to fit."""
    noise = gaussian_filter(np.random.default_rng(0).random((height, width)), 2)
    return (noise - noise.min()) / np.ptp(noise)


def build(slide, pixels: np.ndarray, system: str) -> SpatialData:
    """Image and one cell whose two chains of transformations meet in ``system`` at the slide's place."""
    image_to, shapes_to = slide["image"][system], slide["shapes"][system]
    intrinsic = carry(np.linalg.inv(shapes_to[1]), carry(image_to[1], [slide["place"]]))
    last = slide["channel_last"]
    image = Image2DModel.parse(
        pixels.transpose(1, 2, 0) if last else pixels,
        dims=("y", "x", "c") if last else ("c", "y", "x"),
        scale_factors=slide["factors"],
        transformations={s: t for s, (t, _) in slide["image"].items()},
    )
    shapes = ShapesModel.parse(
        intrinsic, geometry=0, radius=1.0, transformations={s: t for s, (t, _) in slide["shapes"].items()}
    )
    table = AnnData(np.ones((1, 1)), obs=DataFrame({"region": Categorical(["nuclei"]), "cell_id": [0]}, index=["0"]))
    sdata = SpatialData(
        images={"he": image},
        shapes={"nuclei": shapes},
        tables={"cells": TableModel.parse(table, region="nuclei", region_key="region", instance_key="cell_id")},
    )
    _elements.set_mpp(sdata, "he", slide["mpp"])
    return sdata


def engine_inputs(sdata: SpatialData, slide, system: str, radius_px: float = 1.0) -> tuple[FieldReader, Outlines]:
    mpp, target_mpp = slide["mpp"], slide["mpp"] * slide["zoom"]
    units = _elements.unit_geometry(sdata, "cells", "nuclei", "he", mpp=mpp, coordinate_system=system)
    np.testing.assert_allclose(units.spatial_um, np.multiply([slide["place"]], mpp), atol=1e-3 * mpp)
    reader = FieldReader(_elements.image_levels(sdata, "he"), mpp=mpp, target_mpp=target_mpp)
    radius = np.full_like(units.radius, radius_px * slide["zoom"])
    return reader, Outlines(units.geometry, radius, units.centroids, 1 / slide["zoom"])


class CentreOfMass:
    """A crop encoder whose feature is where the first channel's mass lies from the crop's centre, pixels."""

    crop_px = 33

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        mass = pixels[:, 0]
        at = torch.arange(self.crop_px) + 0.5 - self.crop_px / 2
        total = mass.sum(dim=(1, 2))
        return (
            torch.stack([(mass.sum(dim=1) * at).sum(dim=1), (mass.sum(dim=2) * at).sum(dim=1)], dim=1) / total[:, None]
        )


class Means:
    """A token encoder: the mean colour of squares."""

    stride = alignment = 2
    halo, token_centre, channels = 2, 1.0, 3

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, self.stride)


def as_output(pooled: torch.Tensor, units: np.ndarray) -> dict[str, torch.Tensor]:
    return {"out": pooled}


@settings(max_examples=60)
@given(slides(), st.sampled_from(SYSTEMS))
def test_what_is_painted_at_a_cell_is_at_the_centre_of_its_crop(slide, system):
    (width, height), (x, y) = slide["size"], slide["place"]
    sigma = 1.0 + 1.5 * slide["zoom"]
    columns, rows = np.arange(width) + 0.5 - x, np.arange(height)[:, None] + 0.5 - y
    blob = np.exp(-(columns**2 + rows**2) / (2 * sigma**2))
    pixels = np.stack([blob, texture(width, height), np.zeros_like(blob)]).astype(np.float32)
    sdata = build(slide, pixels, system)
    reader, shapes = engine_inputs(sdata, slide, system)
    sink = MemorySink(1)
    run_step(reader, shapes, CropStep(CentreOfMass(), as_output), sink, device="cpu", progress=False)
    assert np.abs(sink["out"]).max() <= 0.5 + 0.02  # a crop's corner is a whole pixel; 0.02: the blob is cut


@settings(max_examples=60)
@given(slides(), st.sampled_from(SYSTEMS), st.booleans(), st.booleans())
def test_what_is_pooled_lies_around_the_cell(slide, system, one_each, disc):
    """Two channels say where a pixel is: their mean over the region is the region's centre."""
    (width, height), (x, y) = slide["size"], slide["place"]
    column, row = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = np.stack([column, row, texture(width, height)]).astype(np.float32)
    sdata = build(slide, pixels, system)
    reader, shapes = engine_inputs(sdata, slide, system, radius_px=5.0)
    target_mpp = slide["mpp"] * slide["zoom"]
    region = Region("context", "disc", 6.0 * target_mpp) if disc else Region("nucleus", "shape")
    sink = MemorySink(1)
    run(
        reader, shapes, Means(), [region], as_output, sink, target_mpp=target_mpp, device="cpu", one_each=one_each,
        progress=False,
    )  # fmt: skip
    seen = sink["out"][0, 0, :2] * [width, height]
    np.testing.assert_allclose(seen / slide["zoom"], np.array([x, y]) / slide["zoom"], atol=0.5)


@settings(max_examples=60)
@given(slides(), st.data())
def test_um_and_pixels_of_any_level_are_one_place(slide, data):
    """A blob's centre of mass in a level's pixels is its place in µm, and the way back is the identity."""
    (width, height), (x, y) = slide["size"], slide["place"]
    columns, rows = np.arange(width) + 0.5 - x, np.arange(height)[:, None] + 0.5 - y
    blob = np.exp(-(columns**2 + rows**2) / 72)
    sdata = build(slide, np.stack([blob, texture(width, height), blob]).astype(np.float32), "global")
    levels = _elements.image_levels(sdata, "he")
    level = data.draw(st.integers(0, len(levels) - 1))
    mass = levels[level].values[0]
    at = np.array([(mass.sum(axis=a) * (np.arange(mass.shape[1 - a]) + 0.5)).sum() for a in (0, 1)]) / mass.sum()
    to_um = _elements.level_affine(sdata, "he", level)
    level_mpp = slide["mpp"] * to_um[0, 0] / slide["mpp"]
    np.testing.assert_allclose(carry(to_um, [at]), np.multiply([[x, y]], slide["mpp"]), atol=0.5 * level_mpp)
    points = data.draw(st.lists(st.tuples(NUMBER, NUMBER), min_size=1))
    np.testing.assert_allclose(carry(np.linalg.inv(to_um), carry(to_um, points)), points, atol=1e-6)


@pytest.mark.parametrize("size", [(1001, 803), (999, 640), (512, 777)])
@pytest.mark.parametrize("corner", [None, (53, 41), (10, 130)])
def test_levels_lie_where_their_pixels_do(breast, size, corner):
    """Real tissue, halved with a row dropped, and then cut at any pixel: known from coordinates painted along."""
    width, height = size
    he = _elements.image_levels(breast, "he")[0].values[:, :height, :width].astype(np.float32) / 255
    column, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    image = {"scale_factors": [2, 2], "dims": ("c", "y", "x")}
    pixels = np.concatenate([he, np.stack([column, row]).astype(np.float32)])
    sdata = SpatialData(images={"he": Image2DModel.parse(pixels, **image)})
    if corner is not None:
        sdata = spatialdata.bounding_box_query(
            sdata, axes=("x", "y"), min_coordinate=list(corner), max_coordinate=[corner[0] + 401, corner[1] + 402],
            target_coordinate_system="global",
        )  # fmt: skip
    levels = _elements.image_levels(sdata, "he")
    zero = levels[0].values[3:, 0, 0] - 0.5
    for i, level in enumerate(levels):
        lies = level_geometry([one[:3] for one in levels], i)
        painted = level.values[3:, [0, -1], [0, -1]] - zero[:, None]
        last = np.array([level.sizes["x"], level.sizes["y"]])
        told = (
            np.stack([0.5 * np.array(lies.scale), (last - 0.5) * lies.scale], axis=1) + np.array(lies.offset)[:, None]
        )
        np.testing.assert_allclose(told, painted, atol=1e-3)


@pytest.mark.parametrize("factor", [1.5, 2.0, 2.02, 3.3])
def test_resized_levels_keep_the_ratio_of_sizes(breast, factor):
    from skimage.transform import resize

    he = _elements.image_levels(breast, "he")[0].values.transpose(1, 2, 0)
    small = resize(he, [round(s / factor) for s in he.shape[:2]], anti_aliasing=True)
    levels = [DataArray(a.transpose(2, 0, 1), dims=("c", "y", "x")) for a in (he, small.astype(np.float32))]
    lies = level_geometry(levels, 1)
    assert lies.offset == (0.0, 0.0)
    np.testing.assert_allclose(lies.scale, [he.shape[1] / small.shape[1], he.shape[0] / small.shape[0]])


def test_a_blank_image_has_the_ratio_of_sizes():
    levels = [DataArray(np.ones((3, n, n), np.uint8), dims=("c", "y", "x")) for n in (101, 50)]
    assert level_geometry(levels, 1).scale == (2.02, 2.02)


def test_crops_at_the_edge_keep_their_cell_in_the_middle():
    """Beyond the image a crop is black; the cell stays where it is."""
    pixels = np.zeros((3, 100, 100), np.float32)
    pixels[0, 3, 5] = 1.0
    reader = FieldReader([DataArray(pixels, dims=("c", "y", "x"))], mpp=0.5, target_mpp=0.5)
    shapes = UnitShapes(np.array([[5.5, 3.5]]), np.array([1.0]), np.zeros((0, 4)), np.zeros(2, dtype=np.int64))
    sink = MemorySink(1)
    run_step(reader, shapes, CropStep(CentreOfMass(), as_output), sink, device="cpu", progress=False)
    np.testing.assert_allclose(sink["out"], 0, atol=1e-6)
    (field,) = plan_crops(reader, shapes, crop_px=33)
    assert isinstance(field, Field) and field.x < 0


def test_levels_that_are_not_there(toy_sdata):
    with pytest.raises(IndexError, match="levels 0 to 0, not 1"):
        _elements.level_affine(toy_sdata(size=96, n_cells=4), "he", 1)
