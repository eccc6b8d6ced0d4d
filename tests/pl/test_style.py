from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastpy.pl._style import CATEGORICAL, categorical, finish, new_axes, nice_length, scale_bar, style


@given(st.floats(1e-2, 1e6))
def test_a_nice_length_is_round_and_at_most_a_quarter(width):
    length = nice_length(width)
    assert width / 10.0001 <= length <= width / 3.9999
    mantissa = length / 10.0 ** np.floor(np.log10(length * 1.0001))
    assert min(abs(mantissa - step) for step in (1, 2, 5)) < 1e-6


@pytest.mark.parametrize(("width", "text", "length"), [(400, "100 µm", 100), (9000, "2 mm", 2000), (90, "20 µm", 20)])
def test_the_scale_bar_has_its_length_in_the_axes_unit(width, text, length):
    ax = plt.subplots()[1]
    ax.set_xlim(50, 50 + width)
    ax.set_ylim(width, 0)
    scale_bar(ax)
    (bar,) = [patch for patch in ax.patches if patch.get_gid() == "scale_bar"]
    assert bar.get_width() == length
    assert [label.get_text() for label in ax.texts] == [text]
    # inside the view, at the bottom, where y points down
    assert 50 < bar.get_x() < 50 + width / 10
    assert 0.8 * width < bar.get_y() < width


def test_colours_do_not_repeat():
    assert categorical(3) == list(CATEGORICAL[:3])
    assert len(set(categorical(25))) == 25


def test_the_readers_settings_are_left_alone():
    before = dict(mpl.rcParams)
    with style():
        assert mpl.rcParams["legend.frameon"] is False
    assert dict(mpl.rcParams) == before


def test_finish_saves_and_stays_quiet_without_windows(tmp_path, recwarn):
    ax = new_axes(None, (2, 2))
    finish(ax.figure, tmp_path / "a.png", True)
    assert (tmp_path / "a.png").stat().st_size > 0
    assert not recwarn
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        finish(ax.figure, tmp_path / "nowhere" / "a.png", None)
