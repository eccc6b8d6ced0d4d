"""The joint space finds what a pair shares and leaves out how it was measured."""

from __future__ import annotations

import pytest
import torch

from pastpy.train.align import nuisance_cca

N, SHARED = 400, 2


@pytest.fixture
def paired():
    """Two modalities that share two directions; the last coordinate of each only moves with the variant.

    Groups do not differ: a difference between groups would be given up as a nuisance.
    """
    g = torch.Generator().manual_seed(0)
    shared = torch.randn(N // 4, 4, SHARED, generator=g)
    shared = (shared - shared.mean(dim=0)).flatten(0, 1)

    def features(width: int, shift: float) -> torch.Tensor:
        mix = torch.zeros(width, SHARED)
        mix[:-1] = torch.linalg.qr(torch.randn(width - 1, SHARED, generator=g)).Q
        noise = torch.randn(N // 4, 4, width, generator=g)
        clean = shared @ mix.T + 0.2 * (noise - noise.mean(dim=0)).flatten(0, 1)
        moved = torch.zeros(width)
        moved[-1] = shift
        return torch.stack([clean, clean + moved, clean + 0.1 * torch.randn(N, width, generator=g)])

    return shared, features(6, 5.0), features(9, -3.0)


def test_shared_directions_meet(paired):
    shared, x, y = paired
    groups = torch.arange(N) % 4
    image, expression = nuisance_cca(x, y, groups, SHARED)
    i, e = x[0] @ image.weight - image.centre, y[0] @ expression.weight - expression.centre
    for k in range(SHARED):
        assert torch.corrcoef(torch.stack([i[:, k], e[:, k]]))[0, 1] > 0.9
    # both weigh alike in their sum
    torch.testing.assert_close(i.pow(2).sum(1).mean(), e.pow(2).sum(1).mean(), rtol=0.05, atol=0)


def test_a_shift_of_a_variant_is_not_seen(paired):
    _, x, y = paired
    image, _ = nuisance_cca(x, y, torch.arange(N) % 4, SHARED)
    moved = ((x[1] - x[0]) @ image.weight).mean(0).norm()
    spread = (x[0] @ image.weight).std(0).norm()
    assert moved < 0.1 * spread


def test_unrelated_modalities_have_no_direction(paired):
    _, x, y = paired
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    image, expression = nuisance_cca(x, y[:, order], torch.arange(N) % 4, SHARED)
    i, e = x[0] @ image.weight - image.centre, y[0, order] @ expression.weight - expression.centre
    assert torch.corrcoef(torch.stack([i[:, 0], e[:, 0]]))[0, 1].abs() < 0.3


def test_too_many_dimensions(paired):
    _, x, y = paired
    with pytest.raises(ValueError, match="7 dimensions.*6"):
        nuisance_cca(x, y, torch.zeros(N, dtype=torch.int64), 7)
