"""Units drawn in a few places."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pastpy.engine import sample_units


@given(
    n=st.integers(0, 400), n_places=st.integers(1, 12), each=st.integers(1, 9), seed=st.integers(0, 1000),
    scale=st.floats(1, 5000),
)  # fmt: skip
def test_units_are_drawn_once_in_as_many_places_as_asked(n, n_places, each, seed, scale):
    rng = np.random.default_rng(seed)
    xy = rng.normal(0, scale, (n, 2))
    xy[rng.random(n) < 0.1] = np.nan
    drawn = sample_units(xy, place=100.0, n_places=n_places, each=each, seed=seed)
    assert (np.diff(drawn) > 0).all() and np.isfinite(xy[drawn]).all()
    places, counts = np.unique(np.floor(xy[drawn] / 100), axis=0, return_counts=True)
    assert len(places) <= n_places and (counts <= each).all()
    assert np.isfinite(xy[:, 0]).any() == (len(drawn) > 0)
    np.testing.assert_array_equal(drawn, sample_units(xy, place=100.0, n_places=n_places, each=each, seed=seed))


def test_the_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(0)
    xy, order = rng.uniform(0, 300, (2000, 2)), rng.permutation(2000)
    drawn, again = (sample_units(at, place=100.0, n_places=4, each=10) for at in (xy, xy[order]))
    assert set(order[again].tolist()) == set(drawn.tolist())


def test_few_units_are_all_drawn():
    xy = np.random.default_rng(0).uniform(0, 1000, (40, 2))
    assert len(sample_units(xy, place=50.0)) == 40


def test_places_are_spread_by_where_units_are():
    rng = np.random.default_rng(0)
    left, right = rng.uniform(0, 1000, (30_000, 2)), rng.uniform(0, 1000, (10_000, 2)) + [5000, 0]
    drawn = sample_units(np.concatenate([left, right]), place=20.0, n_places=200, each=3)
    assert abs(np.mean(drawn < 30_000) - 0.75) < 0.05
