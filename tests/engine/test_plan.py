"""Every unit is in one field, and the field holds all it needs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pastpy.engine import plan_fields

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
