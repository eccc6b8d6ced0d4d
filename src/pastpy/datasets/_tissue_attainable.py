"""The best prediction of normalised expression that what the image shows allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pastpy.datasets._tissue_expression import ExpressionModel, Visible

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["bayes_log1p"]

_CHUNK = 4096


def bayes_log1p(
    model: ExpressionModel, visible: Visible, leaked: csr_array, base: float, target_sum: float
) -> np.ndarray:
    """E[log1p(target_sum · counts / sum of counts) | what the image shows], float32 (n, genes).

    A mixture over the types a look may be; given the type, a cell's own rate is log-normal, and counts are Poisson.
    These integrals are Gauss–Hermite sums. Two things are approximate: what leaks in is taken as log-normal with its
    mean and variance, and as proportional to the cell's hidden depth; of the sum of a cell's other genes the mean
    logarithm is taken. ``tests/datasets/test_tissue.py`` holds it to brute force with the defaults; with more spread of
    depth (``depth_sd`` of 1 and above) it gets low, by a seventh at the most that is allowed.

    Parameters
    ----------
    model
        The generative model.
    visible
        What the image shows.
    leaked
        (n, n), expected share of the transcripts of a column's cell that is counted in a row's.
    base
        Counts per unit of rate.
    target_sum
        Depth to which counts are normalised.
    """
    from scipy.sparse import diags_array

    kept = leaked.diagonal()
    foreign = leaked - diags_array(kept)
    incoming = np.maximum(base * (foreign @ model.expected(visible)), 1e-9)
    uneven = np.log1p(base**2 * (foreign.power(2) @ model.variance(visible)) / incoming**2)
    own = base * kept[:, None] * model.shown_effect(visible)
    table = _Log1pTable(target_sum, model.p.depth_sd)
    out = np.zeros(own.shape, dtype=np.float32)
    for t, rates in enumerate(model.type_rates()):
        rows = np.flatnonzero(visible.probability[:, t] > 0)
        for start in range(0, len(rows), _CHUNK):
            some = rows[start : start + _CHUNK]
            expected = _given_type(own[some] * rates, incoming[some], uneven[some], model.hidden_variance, table)
            out[some] += visible.probability[some, t, None] * expected
    return out


def _given_type(
    own: np.ndarray, incoming: np.ndarray, uneven: np.ndarray, variance: np.ndarray, table: _Log1pTable
) -> np.ndarray:
    total = own + incoming
    spread = own**2 * np.expm1(variance) + incoming**2 * np.expm1(uneven)
    rest = np.maximum(total.sum(1, keepdims=True) - total, 1e-9)
    # The mean logarithm of a sum of uneven things lies below the logarithm of the mean.
    log_rest = np.log(rest) - np.log1p((spread.sum(1, keepdims=True) - spread) / rest**2) / 2
    rest_at = table.rest_at(log_rest)
    out = np.zeros(own.shape, dtype=np.float32)
    own_at = [(own * np.exp(np.sqrt(variance) * z - variance / 2), w) for z, w in zip(*_hermite(5), strict=True)]
    for z, weight in zip(*_hermite(3), strict=True):
        foreign = incoming * np.exp(np.sqrt(uneven) * z - uneven / 2)
        for rate, w in own_at:
            out += np.float32(weight * w) * table(np.log(foreign + rate), *rest_at)
    return out


def _hermite(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for the mean over a standard normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return nodes, weights / weights.sum()


class _Log1pTable:
    """E[log1p(target · x / (x + rest))] for Poisson x, over log rate and log rest of a cell of depth 1.

    The mean over depth is in the table. Between its points the answer is linear.
    """

    #: First value, step and number of points.
    _RATE, _REST = (-14.0, 0.1, 221), (-8.0, 0.1, 221)

    def __init__(self, target_sum: float, depth_sd: float) -> None:
        from scipy.ndimage import map_coordinates
        from scipy.stats import poisson

        (rate_0, rate_step, n_rate), (rest_0, rest_step, n_rest) = self._RATE, self._REST
        rate = np.exp(rate_0 + rate_step * np.arange(n_rate))[:, None]
        rest = np.exp(rest_0 + rest_step * np.arange(n_rest))
        few = rate[:, 0] < 300
        x = np.arange(0, 450)
        chance = np.asarray(poisson.pmf(x[None], rate[few]))
        bare = np.log1p(target_sum * rate / (rate + rest))
        bare[few] = chance @ np.log1p(target_sum * x[:, None] / (x[:, None] + rest))
        deep = np.zeros_like(bare)
        for z, w in zip(*_hermite(9), strict=True):
            log_depth = depth_sd * z - depth_sd**2 / 2
            at = np.mgrid[:n_rate, :n_rest] + np.array([log_depth / rate_step, log_depth / rest_step])[:, None, None]
            deep += w * map_coordinates(bare, at, order=1, mode="nearest", prefilter=False)
        self._table = deep.astype(np.float32).ravel()

    @staticmethod
    def _place(value: np.ndarray, axis: tuple[float, float, int]) -> tuple[np.ndarray, np.ndarray]:
        first, step, n = axis
        at = np.clip((value - first) / step, 0, n - 1.001)
        low = at.astype(np.int32)
        return low, (at - low).astype(np.float32)

    def rest_at(self, log_rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where a log rest lies on its axis: point below, and how far beyond it."""
        return self._place(log_rest, self._REST)

    def __call__(self, log_rate: np.ndarray, column: np.ndarray, beyond: np.ndarray) -> np.ndarray:
        row, part = self._place(log_rate, self._RATE)
        width = self._REST[2]
        at = row * width + column
        low = self._table[at] * (1 - beyond) + self._table[at + 1] * beyond
        high = self._table[at + width] * (1 - beyond) + self._table[at + width + 1] * beyond
        return low * (1 - part) + high * part
