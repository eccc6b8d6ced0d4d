"""Tissue against glass, ink and black background, on painted and real slides."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import Scale, Sequence, Translation, get_transformation

import pastpy as past
from pastpy._elements import level0_affine, set_mpp
from pastpy.pp._overview import read_overview
from pastpy.pp._tissue import mask_polygons
from pastpy.pp._tissue_mask import TissueMaskParameters, tissue_mask, unusable_mask, white_level
from pastpy.train.data import read_section

PINK, GLASS = (190, 120, 175), (241, 239, 238)
INKS = {
    "blue": (40, 60, 170),
    "navy": (20, 30, 95),
    "dark navy": (20, 20, 70),
    "green": (25, 130, 70),
    "black": (25, 25, 28),
    "red": (200, 30, 45),
    "orange": (240, 140, 30),
    "yellow": (240, 220, 60),
}
MPP = 8.0


def slide(*, size=(300, 400), discs=((200, 150, 60),), ink=None, border=0) -> np.ndarray:
    """Glass with discs (x, y, radius) of tissue, a broad line of ink below them and a black border: uint8 (h, w, 3)."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    rgb = np.full((*size, 3), GLASS, dtype=float)
    for cx, cy, r in discs:
        rgb[np.hypot(x - cx, y - cy) <= r] = PINK
    if ink is not None:
        rgb[250:262] = INKS[ink]
    rgb = np.clip(rgb + np.random.default_rng(0).normal(0, 4, rgb.shape), 0, 255).astype(np.uint8)
    if border:
        rgb[:border], rgb[-border:], rgb[:, :border], rgb[:, -border:] = 0, 0, 0, 0
    return rgb


def sdata_of(rgb: np.ndarray, mpp: float = MPP, **options) -> SpatialData:
    sdata = SpatialData(images={"he": Image2DModel.parse(rgb.transpose(2, 0, 1), dims=("c", "y", "x"), **options)})
    set_mpp(sdata, "he", mpp)
    return sdata


def disc_mm2(radius_px: float) -> float:
    return np.pi * (radius_px * MPP / 1000) ** 2


def test_a_piece_of_tissue_has_its_place_and_area():
    sdata = sdata_of(slide())
    assert past.pp.find_tissue(sdata) is None
    tissue = sdata["tissue"]
    assert len(tissue) == 1 and tissue.index.tolist() == [1]
    assert tissue["area_mm2"].iloc[0] == pytest.approx(disc_mm2(60), rel=0.06)
    np.testing.assert_allclose(tissue[["x_um", "y_um"]].to_numpy(), [[1600, 1200]], atol=MPP)
    assert tissue.geometry.iloc[0].area * (MPP / 1000) ** 2 == pytest.approx(tissue["area_mm2"].iloc[0])


@pytest.mark.parametrize("ink", list(INKS))
def test_ink_and_black_background_are_no_tissue(ink):
    pieces = past.pp.find_tissue(sdata_of(slide(ink=ink, border=20)), copy=True)
    assert pieces["area_mm2"].tolist() == [pytest.approx(disc_mm2(60), rel=0.06)]


def test_ink_over_tissue_is_cut_out():
    rgb = slide(discs=((200, 200, 80),), ink="green")
    assert not tissue_mask(rgb, MPP)[250:262].any()
    assert tissue_mask(rgb, MPP)[200, 200]


def test_holes_are_holes_and_small_ones_are_filled():
    y, x = np.mgrid[:300, :400] + 0.5
    rgb = slide(discs=((200, 150, 100),))
    rgb[np.hypot(x - 200, y - 150) <= 30] = GLASS
    rgb[np.hypot(x - 260, y - 150) <= 2] = GLASS
    sdata = sdata_of(rgb)
    past.pp.find_tissue(sdata)
    (polygon,) = sdata["tissue"].geometry
    assert len(polygon.interiors) == 1 and not polygon.contains(shapely.Point(200, 150))
    assert polygon.area * (MPP / 1000) ** 2 == pytest.approx(disc_mm2(100) - disc_mm2(30), rel=0.06)


def test_background_at_the_border_is_no_hole():
    corner, inside = np.s_[:5, :5], np.s_[100:105, 100:105]
    rgb = np.full((200, 200, 3), PINK, np.uint8)
    rgb[corner] = rgb[inside] = GLASS
    mask = tissue_mask(rgb, MPP)
    assert mask[inside].all() and not mask[corner][:2, :2].any()


def test_images_smaller_than_the_least_piece_and_hole(breast):
    """90 pixels of 0.69 µm are 62 µm: 0.004 mm²."""
    blank = sdata_of(np.full((90, 90, 3), 243, np.uint8), 0.69)
    assert len(past.pp.find_tissue(blank, copy=True)) == 0
    tissue = breast["he"].values[:, 1000:1090, 1000:1090].transpose(1, 2, 0)
    assert past.pp.find_tissue(sdata_of(tissue, 0.69), copy=True)["area_mm2"].sum() > 0.0035


#: Darker lamps, and lamps and filters with a cast.
LIGHTS = [(0.88, 0.88, 0.88), (0.85, 0.85, 0.85), (0.8, 0.8, 0.8), (1, 1, 0.87), (0.85, 0.95, 1)]


@pytest.mark.parametrize("light", LIGHTS)
def test_tissue_is_the_same_in_another_light(light, shared_data):
    pieces = past.pp.find_tissue(sdata_of((slide(ink="blue") * light).astype(np.uint8)), copy=True)
    assert pieces["area_mm2"].tolist() == [pytest.approx(disc_mm2(60), rel=0.06)]
    he = past.io.read_wsi(shared_data / "svs" / "cmu-1-small-region.svs")["he"]
    levels = [he["scale0"]["image"]]
    rgb = read_overview(levels, mpp=0.499, target_mpp=MPP, name="he").rgb
    share = tissue_mask((rgb * light).astype(np.uint8), MPP).mean()
    assert share == pytest.approx(tissue_mask(rgb, MPP).mean(), abs=0.01) and 0.39 < share < 0.42


@pytest.mark.parametrize("glass", [(235, 230, 205), (190, 190, 195), (205, 228, 240)])
def test_empty_glass_of_any_tint_has_no_tissue(glass):
    noise = np.random.default_rng(0).normal(0, 2, (200, 200, 3))
    assert not tissue_mask(np.clip(glass + noise, 0, 255).astype(np.uint8), MPP).any()


def test_the_level_of_glass_is_found_beside_more_tissue():
    rgb = slide(discs=((200, 150, 140),))
    np.testing.assert_allclose(white_level(rgb), GLASS, atol=1)
    np.testing.assert_allclose(white_level(np.rint(rgb * 0.8).astype(np.uint8)), np.multiply(GLASS, 0.8), atol=1.5)
    np.testing.assert_array_equal(white_level(np.full((50, 50, 3), PINK, np.uint8)), 255)


def test_every_core_of_a_microarray_is_a_row():
    discs = [(x, y, 35) for y in (60, 160) for x in (60, 160, 260)]
    pieces = past.pp.find_tissue(sdata_of(slide(discs=[*discs, (350, 60, 3)])), copy=True)
    assert pieces.index.tolist() == [1, 2, 3, 4, 5, 6]
    found = pieces[["y_um", "x_um"]].to_numpy() / MPP
    expected = np.array([(y, x) for x, y, _ in discs])
    for place in expected:
        assert np.hypot(*(found - place).T).min() < 1
    small = past.pp.find_tissue(
        sdata_of(slide(discs=discs)), copy=True, parameters=TissueMaskParameters(min_area_mm2=1.0)
    )
    assert len(small) == 0 and small.columns.tolist() == ["area_mm2", "x_um", "y_um"]


def test_polygons_lie_in_the_images_coordinate_system():
    to_global = Sequence([Scale([2, 2], axes=("x", "y")), Translation([70, -30], axes=("x", "y"))])
    sdata = sdata_of(slide(), transformations={"global": to_global})
    past.pp.find_tissue(sdata)
    np.testing.assert_allclose(level0_affine(sdata, sdata["tissue"], "he", name="tissue"), np.eye(3), atol=1e-9)
    centre = sdata["tissue"].geometry.iloc[0].centroid
    assert (centre.x, centre.y) == (pytest.approx(200, abs=1), pytest.approx(150, abs=1))
    assert set(get_transformation(sdata["tissue"], get_all=True)) == {"global"}


def test_finer_images_are_read_coarsely_and_give_level0_pixels():
    rgb = np.repeat(np.repeat(slide(), 4, axis=0), 4, axis=1)
    sdata = sdata_of(rgb, MPP / 4, scale_factors=[2])
    past.pp.find_tissue(sdata)
    centre = sdata["tissue"].geometry.iloc[0].centroid
    assert (centre.x, centre.y) == (pytest.approx(800, abs=4), pytest.approx(600, abs=4))
    assert sdata["tissue"]["area_mm2"].iloc[0] == pytest.approx(disc_mm2(60), rel=0.06)


@pytest.mark.parametrize("kind", ["uint16", "float", "rgba"])
def test_pixel_types(kind):
    rgb = slide()
    pixels = {
        "uint16": rgb.astype(np.uint16) * 257,
        "float": (rgb / 255).astype(np.float32),
        "rgba": np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 255, np.uint8)], axis=-1),
    }[kind]
    assert past.pp.find_tissue(sdata_of(pixels), copy=True)["area_mm2"].iloc[0] == pytest.approx(disc_mm2(60), rel=0.06)


def test_real_tissue_without_glass_is_tissue(breast):
    past.pp.find_tissue(breast)
    assert breast["tissue"]["area_mm2"].sum() > 0.85 * (2000 * 0.69 / 1000) ** 2


def test_pale_specks_of_tissue_are_no_glass(breast):
    rgb = read_overview([breast["he"]], mpp=0.69, target_mpp=MPP, name="he").rgb
    for y in range(0, 112, 28):
        for x in range(0, 112, 28):
            np.testing.assert_array_equal(white_level(rgb[y : y + 60, x : x + 60]), 255)


def test_real_section(shared_data):
    """The spots of her2st lie on tissue, and most of the slide is glass."""
    sdata = read_section(shared_data / "her2st", "C2", mpp=0.69, spot_diameter_um=100)
    past.pp.find_tissue(sdata)
    tissue = sdata["tissue"].geometry.union_all()
    assert np.mean([tissue.contains(spot) for spot in sdata["spot_circles"].geometry]) > 0.98
    assert 6.5 < sdata["tissue"]["area_mm2"].sum() < 8.5


def test_haematoxylin_and_eosin_are_no_ink(breast):
    rgb = read_overview([breast["he"]], mpp=0.69, target_mpp=MPP, name="he").rgb
    assert {name: round(float(m.mean()), 2) for name, m in unusable_mask(rgb).items()} == dict.fromkeys(
        ["black", "blue", "green", "red"], 0.0
    )


def test_limits_and_names():
    blank = sdata_of(np.full((100, 100, 3), GLASS, np.uint8))
    with pytest.raises(ValueError, match="no tissue found on image 'he'"):
        past.pp.find_tissue(blank)
    assert "tissue" not in blank and len(past.pp.find_tissue(blank, copy=True)) == 0
    sdata = sdata_of(slide())
    past.pp.find_tissue(sdata, key_added="pieces")
    with pytest.raises(ValueError, match="already has an element 'pieces'; pass overwrite=True"):
        past.pp.find_tissue(sdata, key_added="pieces")
    past.pp.find_tissue(sdata, key_added="pieces", overwrite=True)
    taken, unfit = "already has an element 'he'.*key_added={!r}", "key_added={!r} is no element name"
    for name, said in [("he", taken), ("HE", taken), ("a b", unfit), ("", unfit), (5, unfit)]:
        with pytest.raises(ValueError, match=said.format(name)):
            past.pp.find_tissue(sdata, key_added=name, overwrite=True)
    with pytest.raises(ValueError, match="least_od"):
        TissueMaskParameters(least_od=0.2)
    with pytest.raises(ValueError, match="min_area_mm2 must be"):
        TissueMaskParameters(min_area_mm2=float("nan"))


def test_polygons_of_a_mask_touch_at_corners_only():
    mask = np.zeros((6, 7), dtype=bool)
    mask[1:3, 1:3] = mask[3:5, 3:6] = True
    assert len(mask_polygons(mask)) == 2
    assert len(mask_polygons(np.zeros((3, 3), dtype=bool))) == 0
    assert mask_polygons(np.ones((4, 5), dtype=bool))[0].area == pytest.approx(20, rel=0.05)
