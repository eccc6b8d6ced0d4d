"""What slides that tests write in a scanner's layout have in common: their µm/px, and what is checked of each."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import pastpy as past
from pastpy._elements import image_levels
from pastpy.engine import Field, FieldReader

MPP = 0.25


def read(path):
    """Levels as (y, x, rgb), after a look at µm/px and objective."""
    sdata = past.io.read_wsi(path)
    assert sdata.attrs["past"] == {"mpp": {"he": pytest.approx(MPP)}, "objective_power": {"he": 20.0}}
    return [level.values.transpose(1, 2, 0).astype(int) for level in image_levels(sdata, "he")]


def check_place_of_pattern(path, *, x_um, y_um, scale):
    """A dark rectangle on white is read from x to x and y to y at ``scale`` times the slide's µm/px."""
    target = scale * MPP
    reader = FieldReader(image_levels(past.io.read_wsi(path), "he"), mpp=MPP, target_mpp=target)
    (left, right), (top, bottom) = x_um, y_um
    around = left - 5, top - 5, right - left + 10, bottom - top + 10
    field = Field(*(int(um / target) for um in around), np.arange(1))
    rows, columns = np.nonzero(reader.read(field).mean(axis=0) < 0.5)
    assert ((columns.min() + field.x) * target, (columns.max() + 1 + field.x) * target) == x_um
    assert ((rows.min() + field.y) * target, (rows.max() + 1 + field.y) * target) == y_um


def check_travels(path, whole):
    """Level 0 is the same in another process, though the file is open in this one."""
    data = image_levels(past.io.read_wsi(path), "he")[0].data
    np.asarray(data[:, :2, :2])
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(data))), whole.transpose(2, 0, 1))
