"""Running sums give what the literal sum over points gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pastpy.engine.discs import DiscMeans, TokenGrid


def literal(tokens, grid: TokenGrid, x: float, y: float, radius: float, per_token: int) -> np.ndarray:
    """Every point of every token of the image, one by one."""
    (top, bottom), (left, right) = grid.used
    total, n = np.zeros(tokens.shape[2]), 0
    for row in range(top * per_token, bottom * per_token):
        for column in range(left * per_token, right * per_token):
            px, py = (grid.corner + (k + 0.5) * grid.stride / per_token for k in (column, row))
            if (px - x) ** 2 + (py - y) ** 2 <= radius**2:
                total, n = total + tokens[row // per_token, column // per_token], n + 1
    return total / n if n else np.full(tokens.shape[2], np.nan)


@given(st.integers(0, 500), st.sampled_from([2, 4]), st.floats(0.5, 90), st.sampled_from([4.0, 6.5]))
def test_means_are_those_of_the_points(seed, per_token, radius, centre):
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(7, 9, 2)).astype(np.float32)
    x0, y0 = rng.uniform(-20, 30, 2)
    grid = TokenGrid(7, 9, 8, centre, (x0, y0, x0 + rng.uniform(1, 60), y0 + rng.uniform(1, 60)))
    centres = rng.uniform(-10, 80, (3, 2))
    found = DiscMeans(tokens, grid).of(centres, radius, per_token=per_token)
    expected = [literal(tokens, grid, *c, radius, per_token) for c in centres]
    np.testing.assert_allclose(found, expected, atol=2e-6)


@given(st.floats(-30, 90), st.floats(1, 90), st.sampled_from([4.0, 6.5]))
def test_tokens_are_used_where_their_squares_touch_the_image(low, size, centre):
    grid = TokenGrid(7, 9, 8, centre, (low, low, low + size, low + size))
    begins = centre - 4 + 8 * np.arange(9)
    touching = np.flatnonzero((begins < low + size) & (begins + 8 > low))
    (top, bottom), (left, right) = grid.used
    assert touching.tolist() == list(range(left, right))
    assert touching[touching < 7].tolist() == list(range(top, bottom))


def test_tokens_beyond_the_image_spoil_nothing():
    tokens = np.ones((4, 6, 1), dtype=np.float32)
    tokens[:, :2] = np.nan
    grid = TokenGrid(4, 6, 8, 4.0, (16, 0, 48, 32))
    assert DiscMeans(tokens, grid).of(np.array([[20.0, 16.0]]), 30.0, per_token=2).tolist() == [[1.0]]
    assert np.isnan(DiscMeans(tokens, grid).of(np.array([[-90.0, 16.0]]), 30.0, per_token=2)).all()
