"""Every unit is in one field, and the field holds all it needs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from xarray import DataArray

from pastpy.engine import FieldReader, Region, UnitShapes, read_crops
from pastpy.engine.plan import plan_crops, plan_fields, plan_units

positions = arrays(np.float64, st.tuples(st.integers(1, 40), st.just(2)), elements=st.floats(-50, 5000))


@given(positions, st.floats(0, 200), st.sampled_from([64, 256, 1024]), st.sampled_from([8, 16]), st.booleans())
def test_units_are_in_one_field_that_holds_them(xy, reach, core_px, alignment, one_each):
    fields = plan_fields(xy, np.full(len(xy), reach), core_px=core_px, halo=40, alignment=alignment, one_each=one_each)
    assert sorted(np.concatenate([f.units for f in fields])) == list(range(len(xy)))
    for field in fields:
        assert field.x % alignment == field.y % alignment == field.width % alignment == field.height % alignment == 0
        for x, y in xy[field.units]:
            assert field.x <= x - reach - 40 and x + reach + 40 <= field.x + field.width
            assert field.y <= y - reach - 40 and y + reach + 40 <= field.y + field.height
    if one_each:
        assert len(fields) == len(xy)


@given(positions, st.floats(0, 900), st.integers(100, 3000))
def test_fields_end_soon_behind_the_image(xy, reach, side):
    xy = xy[((xy >= 0) & (xy <= side)).all(axis=1)]
    options = {"core_px": 256, "halo": 40, "alignment": 8}
    free = plan_fields(xy, np.full(len(xy), reach), **options)
    bound = plan_fields(xy, np.full(len(xy), reach), **options, within=(side, side), margin=48)
    for a, b in zip(free, bound, strict=True):
        assert a.units.tolist() == b.units.tolist()
        assert b.x == max(a.x, -48) and b.y == max(a.y, -48)
        farthest = -(-(side + 48) // 8) * 8
        assert b.x + b.width == min(a.x + a.width, farthest) and b.y + b.height == min(a.y + a.height, farthest)


def test_wide_regions_are_read_in_wide_fields():
    """What lies around the cores is encoded for more than one field; with narrow cores it would be most of all."""
    reader, units = slide(9000)
    fields = plan_units(reader, units, Encoder(), [Region("far", "disc", 800.0)], target_mpp=0.5)
    assert len(fields) == 4
    assert sum(f.width * f.height for f in fields) < 2.5 * 9000**2


def test_unknown_positions_are_in_no_field():
    xy = np.array([[np.nan, 3.0], [5.0, 5.0]])
    (field,) = plan_fields(xy, np.ones(2), core_px=64, halo=0, alignment=8)
    assert field.units.tolist() == [1]
    assert plan_fields(xy[:1], np.ones(1), core_px=64, halo=0, alignment=8) == []


def test_consecutive_fields_are_neighbours():
    y, x = np.mgrid[:8, :8]
    xy = np.column_stack([x.ravel(), y.ravel()]) * 64.0 + 32
    fields = plan_fields(xy, np.zeros(64), core_px=64, halo=0, alignment=8)
    steps = [abs(a.x - b.x) + abs(a.y - b.y) for a, b in zip(fields, fields[1:], strict=False)]
    # row by row, a full sweep back of 7 cores would be needed after each row
    assert np.mean(steps) < 2 * 64


class Encoder:
    stride = alignment = 8
    halo, token_centre, channels = 40, 4.0, 1


def slide(side: int, n: int = 400) -> tuple[FieldReader, UnitShapes]:
    xy = np.random.default_rng(0).uniform(0, side, (n, 2))
    image = DataArray(np.zeros((3, side, side), np.uint8), dims=("c", "y", "x"))
    units = UnitShapes(xy, np.full(n, 5.0), np.zeros((0, 4)), np.zeros(n + 1, dtype=np.int64))
    return FieldReader([image], mpp=0.5, target_mpp=0.5), units


def test_small_slides_are_divided_for_processors_but_not_into_crumbs():
    regions = [Region("context", "disc", 30.0)]
    for side, expected in ((400, 1), (1500, 4), (3000, 4), (9000, 25)):
        fields = plan_units(*slide(side), Encoder(), regions, target_mpp=0.5)
        assert len(fields) == expected
        pixels = sum(f.width * f.height for f in fields)
        assert pixels < 1.6 * (side + 2 * (60 + 8 + 40 + 8)) ** 2


def test_units_beyond_the_image_are_in_no_field():
    reader, units = slide(500)
    units.centroids[:3] = [[-1, 5], [5, 501], [np.nan, np.nan]]
    for fields in (
        plan_units(reader, units, Encoder(), [Region("unit", "shape")], target_mpp=0.5),
        plan_crops(reader, units, crop_px=32, core_px=128),
    ):
        assert sorted(np.concatenate([f.units for f in fields])) == list(range(3, 400))


def test_crops_of_all_units_are_read():
    reader, units = slide(500)
    painted = np.random.default_rng(1).integers(0, 256, (3, 500, 500), dtype=np.uint8)
    reader.level.data[:] = painted
    padded = np.pad(painted, ((0, 0), (16, 16), (16, 16)))
    seen = 0
    for positions, crops in read_crops(reader, units, crop_px=32, core_px=128):
        assert crops.dtype == np.uint8
        for i, crop in zip(positions, crops, strict=True):
            x, y = np.round(units.centroids[i] - 16).astype(int) + 16
            np.testing.assert_array_equal(crop, padded[:, y : y + 32, x : x + 32])
        seen += len(positions)
    assert seen == 400
