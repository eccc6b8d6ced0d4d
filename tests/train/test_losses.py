"""Losses and thinning against literal references."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.sparse import csr_array

from pastpy._aggregate import membership
from pastpy.train.losses import (
    info_nce,
    nb_loss,
    siglip,
    soft_target_clip,
    sparse_weights,
    spot_mean,
    spot_share,
    unit_share,
    zinb_loss,
)
from pastpy.train.objective import thinned


def unit_vectors(n: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1)


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


def test_a_spots_mean_is_that_of_its_cells():
    tokens = torch.arange(12.0).view(3, 2, 2)
    mean = spot_mean(tokens, torch.tensor([0, 2, 2]), 3)
    torch.testing.assert_close(mean, torch.stack([tokens[0], torch.zeros(2, 2), (tokens[1] + tokens[2]) / 2]))


def test_siglip_judges_every_pair_on_its_own():
    a, b = unit_vectors(5, 0), unit_vectors(5, 1)
    expected = 0.0
    for i in range(5):
        for j in range(5):
            logit = 3.0 * float(a[i] @ b[j]) - 2.0
            expected -= np.log(1 / (1 + np.exp(-logit if i == j else logit)))
    found = siglip(a, b, torch.tensor(3.0), torch.tensor(-2.0))
    assert float(found) == pytest.approx(expected / 5, rel=1e-6)


@pytest.mark.parametrize("detach", [False, True])
def test_soft_targets_are_the_mean_similarity_within_modalities(detach):
    image, cells = unit_vectors(6, 0), unit_vectors(6, 1)
    tau = 0.3
    logits = (cells @ image.T / tau).numpy()
    alike = ((image @ image.T + cells @ cells.T) / 2 / tau).numpy()
    target = np.exp(alike) / np.exp(alike).sum(axis=1, keepdims=True)
    both = [-np.mean([target[i] @ (x[i] - np.log(np.exp(x[i]).sum())) for i in range(6)]) for x in (logits, logits.T)]
    found = soft_target_clip(image, cells, torch.tensor(1 / tau), detach=detach)
    assert float(found) == pytest.approx(np.mean(both), rel=1e-6)


def test_gradients_pass_soft_targets_unless_detached():
    gradients = []
    for detach in (False, True):
        image = unit_vectors(6, 0).requires_grad_()
        soft_target_clip(image, unit_vectors(6, 1), torch.tensor(3.0), detach=detach).backward()
        gradients.append(image.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-3


def test_inflated_loss_without_inflation_is_the_plain_one():
    counts, share, theta = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.4, 0.6]]), torch.tensor([2.0, 5.0])
    plain = nb_loss(counts, share, theta)
    torch.testing.assert_close(zinb_loss(counts, share, theta, torch.tensor(-30.0)), plain)
    assert zinb_loss(counts, share, theta, torch.tensor([[-30.0, 0.0]])) < plain


@pytest.mark.slow
def test_negatives_cross_processes(tmp_path):
    """Two processes with half of the pairs each give the loss and the gradient of one with all."""
    workers = [
        subprocess.Popen([sys.executable, "-c", TWO_PROCESSES, str(rank), str(tmp_path)], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors.decode()
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    scope: dict[str, Any] = {}
    exec(SETUP, scope)
    for name, loss in scope["losses"].items():
        image, cells = scope["pairs"]()
        whole = loss(image, cells, False)
        whole.backward()
        mean = (parts[0][name][0] + parts[1][name][0]) / 2
        torch.testing.assert_close(mean, whole.detach())
        for k, x in ((1, image), (2, cells)):
            # a distributed optimiser averages the gradients of the processes
            torch.testing.assert_close(torch.cat([part[name][k] for part in parts]) / 2, x.grad)


SETUP = """
import torch
from pastpy.train.losses import info_nce, siglip, soft_target_clip

def pairs():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(2, 8, 3, generator=generator, dtype=torch.float64)
    return [torch.nn.functional.normalize(x, dim=1).requires_grad_() for x in drawn]

scale, bias = torch.tensor(4.0), torch.tensor(-1.0)
losses = {
    "info_nce": lambda a, b, gather: info_nce(a, b, scale, gather=gather),
    "soft": lambda a, b, gather: soft_target_clip(a, b, scale, gather=gather),
    "siglip": lambda a, b, gather: siglip(a, b, scale, bias, gather=gather),
}
"""

TWO_PROCESSES = f"""
import sys
{SETUP}
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{{folder}}/meet", rank=rank, world_size=2)
found = {{}}
for name, loss in losses.items():
    half = [x.detach()[4 * rank : 4 * rank + 4].requires_grad_() for x in pairs()]
    value = loss(*half, True)
    value.backward()
    found[name] = [value.detach(), *(x.grad for x in half)]
torch.save(found, f"{{folder}}/{{rank}}.pt")
# a process that is gone while the other is still at work makes gloo abort
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_units_weigh_their_cells():
    cells = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    weights = sparse_weights(csr_array([[1.0, 0.5, 0.0], [0.0, 0.0, 2.0]]))
    share = unit_share(cells, weights, torch.tensor([0.5, 0.5]), torch.tensor(0.0))
    torch.testing.assert_close(share, torch.tensor([[1.25 / 1.5, 0.25 / 1.5], [0.0, 1.0]]))


def test_spots_bins_and_cells_go_the_same_way():
    """Spots by index, spots by place and measured cells are one operator with other weights."""
    rng = np.random.default_rng(0)
    cells_um, spots_um = rng.uniform(0, 100, (40, 2)), np.array([[20.0, 20.0], [70.0, 70.0]])
    inside = membership(cells_um, spots_um, 25.0)
    share = torch.rand(40, 3).softmax(dim=1).requires_grad_()
    background, amount = torch.tensor([0.2, 0.3, 0.5]), torch.tensor(0.7)
    by_place = unit_share(share, sparse_weights(inside), background, amount)
    where = inside.tocoo()
    by_index = spot_share(share[where.col], torch.as_tensor(where.row, dtype=torch.int64), 2, background, amount)
    torch.testing.assert_close(by_place, by_index)
    by_place[0, 0].backward()
    assert ((share.grad.abs().sum(dim=1) > 0).numpy() == (inside.toarray()[0] > 0)).all()
    themselves = sparse_weights(csr_array(np.eye(40, dtype=np.float32)))
    torch.testing.assert_close(unit_share(share, themselves, background, torch.tensor(0.0)), share)


def test_thinning_only_takes_away():
    counts = torch.poisson(torch.full((200, 50), 20.0), generator=torch.Generator().manual_seed(0))
    counts[0] = 0
    kept = thinned(counts, torch.Generator().manual_seed(1))
    assert (kept <= counts).all() and (kept == kept.round()).all()
    assert (kept[1:].sum(dim=1) > 0).all() and kept[0].sum() == 0
    share = (kept.sum(dim=1) / counts.sum(dim=1))[1:]
    assert share.min() < 0.01 and share.max() > 0.5
    torch.testing.assert_close(kept, thinned(counts, torch.Generator().manual_seed(1)))
