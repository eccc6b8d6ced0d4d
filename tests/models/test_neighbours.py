"""Neighbour context against a literal version."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pastpy.models import PAST, ModelCard, PASTConfig, nearest_cells
from pastpy.models.neighbours import NeighbourContext


@pytest.fixture
def context() -> NeighbourContext:
    torch.manual_seed(0)
    context = NeighbourContext(8, 2, 50.0)
    for parameter in context.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return context.eval()


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 8))
def test_nearest_cells_are_those_of_the_distance_matrix(seed, n, k):
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, 100, (n, 2))
    xy[rng.random(n) < 0.1] = np.nan
    index, distance = nearest_cells(xy, k, 30.0)
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    for i in range(n):
        expected = [j for j in np.argsort(apart[i], kind="stable")[:k] if apart[i, j] <= 30.0]
        found = index[i][index[i] >= 0]
        assert found.tolist() == expected
        np.testing.assert_allclose(distance[i][: len(found)], apart[i, expected], rtol=1e-5)


def test_cells_at_one_place_are_each_others_neighbours():
    index, distance = nearest_cells(np.zeros((4, 2)), 2, 1.0)
    assert all(i not in row and len(set(row)) == 2 for i, row in enumerate(index.tolist()))
    assert (distance == 0).all()


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 4))
def test_each_library_is_searched_alone(seed, n, n_libraries):
    rng = np.random.default_rng(seed)
    xy, library = rng.uniform(0, 60, (n, 2)), rng.integers(0, n_libraries, n)
    index, distance = nearest_cells(xy, 3, 30.0, library)
    for one in range(n_libraries):
        rows = np.flatnonzero(library == one)
        alone, apart = nearest_cells(xy[rows], 3, 30.0)
        assert index[rows].tolist() == [[rows[i] if i >= 0 else -1 for i in near] for near in alone]
        np.testing.assert_array_equal(distance[rows], apart)


def test_context_is_the_literal_sum(context):
    torch.manual_seed(1)
    tokens = torch.randn(4, 2, 8)
    tokens[3, 1] = float("nan")
    index = torch.tensor([[1, 3], [0, -1], [-1, -1], [0, 1]])
    distance = torch.tensor([[10.0, 40.0], [10.0, 0.0], [0.0, 0.0], [40.0, 30.0]])
    with torch.inference_mode():
        found = context(tokens, index, distance)
        layer, slope = context.attention, torch.nn.functional.softplus(context.slope)
        for cell in range(4):
            seen = [
                (j, t, float(d)) for j, d in zip(index[cell].tolist(), distance[cell], strict=True) if j >= 0
                for t in range(2) if not tokens[j, t].isnan().any()
            ]  # fmt: skip
            for t in range(2):
                if not seen or tokens[cell, t].isnan().any():
                    torch.testing.assert_close(found[cell, t], tokens[cell, t], equal_nan=True)
                    continue
                query = layer.query(context.norm(tokens[cell, t])).view(2, 4)
                others = [context.norm(tokens[j, s]) for j, s, _ in seen]
                heads = []
                for h in range(2):
                    keys = torch.stack([layer.key(o).view(2, 4)[h] for o in others])
                    values = torch.stack([layer.value(o).view(2, 4)[h] for o in others])
                    far = torch.tensor([d / 50.0 for *_, d in seen])
                    heads.append((keys @ query[h] / 2 - slope[h] * far).softmax(dim=0) @ values)
                torch.testing.assert_close(found[cell, t], tokens[cell, t] + layer.out(torch.cat(heads)))


def test_a_new_context_changes_nothing_and_can_learn():
    context = NeighbourContext(8, 2, 50.0)
    tokens, index = torch.randn(3, 2, 8), torch.tensor([[1], [0], [-1]])
    found = context(tokens, index, torch.ones(3, 1))
    torch.testing.assert_close(found, tokens)
    (found**2).sum().backward()
    assert context.attention.out.weight.grad.abs().max() > 0


def test_gradients_of_cells_without_neighbours_are_finite(context):
    tokens = torch.randn(3, 2, 8, requires_grad=True)
    context(tokens, torch.full((3, 4), -1), torch.zeros(3, 4)).sum().backward()
    assert tokens.grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in context.parameters())


def test_the_model_asks_for_neighbours_only_where_it_has_them():
    card = ModelCard(pd.DataFrame({"gene": ["A"]}), {})
    tokens, index, distance = torch.randn(2, 3, 16), torch.tensor([[1], [0]]), torch.ones(2, 1)
    with pytest.raises(ValueError, match="'plain' has no neighbour context"):
        PAST(PASTConfig(name="plain", dim=16), card).add_neighbours(tokens, index, distance)
    model = PAST(PASTConfig(name="near", dim=16, neighbours=1), card)
    torch.testing.assert_close(model.add_neighbours(tokens, index, distance), tokens)
