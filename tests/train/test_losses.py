"""Losses and thinning against literal references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from pastpy.train.losses import info_nce, nb_loss, spot_share
from pastpy.train.objective import thinned


def test_info_nce_is_the_mean_of_both_directions():
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(5, 3), dim=1) for _ in range(2))
    logits = (3 * a @ b.T).numpy()
    rows = -np.mean([logits[i, i] - np.log(np.exp(logits[i]).sum()) for i in range(5)])
    columns = -np.mean([logits[i, i] - np.log(np.exp(logits[:, i]).sum()) for i in range(5)])
    assert float(info_nce(a, b, torch.tensor(3.0))) == pytest.approx((rows + columns) / 2, rel=1e-5)


def test_nb_loss_equals_scipys():
    counts, share = torch.tensor([[3.0, 7.0]]), torch.tensor([[0.4, 0.6]])
    theta = torch.tensor([2.0, 5.0])
    expected = -np.mean([stats.nbinom.logpmf(y, t, t / (t + m)) for y, t, m in ((3, 2, 4), (7, 5, 6))])
    assert float(nb_loss(counts, share, theta)) == pytest.approx(expected, rel=1e-5)


def test_a_spot_is_its_cells_and_a_background():
    cells = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    share = spot_share(cells, torch.tensor([0, 0, 2]), 3, torch.tensor([0.2, 0.8]), torch.tensor(1.0))
    expected = [[1.7 / 3, 1.3 / 3], [0.2, 0.8], [0.1, 0.9]]
    torch.testing.assert_close(share, torch.tensor(expected))


def test_thinning_only_takes_away():
    counts = torch.poisson(torch.full((200, 50), 20.0), generator=torch.Generator().manual_seed(0))
    counts[0] = 0
    kept = thinned(counts, torch.Generator().manual_seed(1))
    assert (kept <= counts).all() and (kept == kept.round()).all()
    assert (kept[1:].sum(dim=1) > 0).all() and kept[0].sum() == 0
    share = (kept.sum(dim=1) / counts.sum(dim=1))[1:]
    assert share.min() < 0.01 and share.max() > 0.5
    torch.testing.assert_close(kept, thinned(counts, torch.Generator().manual_seed(1)))
