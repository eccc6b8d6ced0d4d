"""Losses: small pure functions of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from pastpy.models.nb import nb_log_likelihood, zinb_log_likelihood

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "correlation_loss",
    "gather_rows",
    "info_nce",
    "nb_loss",
    "siglip",
    "soft_target_clip",
    "sparse_weights",
    "spot_mean",
    "spot_share",
    "unit_share",
    "within_groups",
    "zinb_loss",
]


def info_nce(
    image: torch.Tensor, expression: torch.Tensor, logit_scale: torch.Tensor, *, gather: bool = False
) -> torch.Tensor:
    """Symmetric cross-entropy between paired embeddings, (n, d) each, L2-normalised.

    Parameters
    ----------
    image, expression
        Embeddings of the pairs of this process.
    logit_scale
        Inverse temperature.
    gather
        Take negatives from all processes; the mean over processes of the loss, and of its gradients, is that of one
        process with all pairs.

    References
    ----------
    van den Oord et al., arXiv:1807.03748; Radford et al., CLIP, arXiv:2103.00020.
    """
    images, expressions, target = _candidates(image, expression, gather)
    return _both_ways(logit_scale * image @ expressions.T, logit_scale * expression @ images.T, target)


def soft_target_clip(
    image: torch.Tensor,
    expression: torch.Tensor,
    logit_scale: torch.Tensor,
    *,
    detach: bool = False,
    gather: bool = False,
) -> torch.Tensor:
    """Cross-entropy against targets that are softened by how alike the pairs are among themselves.

    Parameters
    ----------
    image, expression, logit_scale, gather
        As in :func:`info_nce`.
    detach
        Keep gradients out of the targets. PAST's release lets them through.

    References
    ----------
    The loss that Yang et al., PAST, arXiv:2507.06418, released their model with.
    """
    images, expressions, _ = _candidates(image, expression, gather)
    alike = logit_scale * (image @ images.T + expression @ expressions.T) / 2
    target = (alike.detach() if detach else alike).softmax(dim=1)
    return _both_ways(logit_scale * image @ expressions.T, logit_scale * expression @ images.T, target)


def siglip(
    image: torch.Tensor,
    expression: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    *,
    gather: bool = False,
) -> torch.Tensor:
    """Every pair judged on its own, by a sigmoid: summed over all pairs, divided by the number of cells.

    Parameters
    ----------
    image, expression, logit_scale, gather
        As in :func:`info_nce`.
    logit_bias
        Added to the logits; starts low, since almost all pairs are wrong.

    References
    ----------
    Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023, arXiv:2303.15343.
    """
    _, expressions, target = _candidates(image, expression, gather)
    logits = logit_scale * image @ expressions.T + logit_bias
    sign = 2 * F.one_hot(target, logits.shape[1]).to(logits.dtype) - 1
    return -F.logsigmoid(sign * logits).sum() / len(image)


def _both_ways(of_images: torch.Tensor, of_expressions: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the logits of images among transcriptomes, and of transcriptomes among images."""
    return (F.cross_entropy(of_images, target) + F.cross_entropy(of_expressions, target)) / 2


def _candidates(
    image: torch.Tensor, expression: torch.Tensor, gather: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What each pair is compared with, and the position of its partner there."""
    target = torch.arange(len(image), device=image.device)
    if not gather or not torch.distributed.is_initialized():
        return image, expression, target
    offset = torch.distributed.get_rank() * len(image)
    return gather_rows(image), gather_rows(expression), target + offset


def gather_rows(x: torch.Tensor) -> torch.Tensor:
    """Rows (n, d) of all processes, in the order of their ranks; gradients flow back to the process they belong to.

    Every process must give as many rows.
    """
    from torch.distributed.nn.functional import all_gather

    return torch.cat(all_gather(x.contiguous()))


def nb_loss(counts: torch.Tensor, share: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of counts (n, g) whose mean is each row's total times ``share`` (n, g)."""
    mu = counts.sum(dim=1, keepdim=True) * share + 1e-8
    return -nb_log_likelihood(counts, mu, theta).mean()


def zinb_loss(counts: torch.Tensor, share: torch.Tensor, theta: torch.Tensor, zero_logit: torch.Tensor) -> torch.Tensor:
    """As :func:`nb_loss`, with the log odds (n, g) of zeros that are not counts."""
    mu = counts.sum(dim=1, keepdim=True) * share + 1e-8
    return -zinb_log_likelihood(counts, mu, theta, zero_logit).mean()


def unit_share(
    cell_share: torch.Tensor, weights: torch.Tensor, background: torch.Tensor, amount: torch.Tensor
) -> torch.Tensor:
    """Share of each gene in a unit of measurement: its cells' weighted sum plus a background, (units, g).

    The one way from cells to what was measured: a spot's or bin's row of ``weights`` holds its cells, a measured cell's
    row a one at the cell itself.

    Parameters
    ----------
    cell_share
        (n, g) predicted shares of the cells.
    weights
        Sparse (units, n), see :func:`sparse_weights`: how much of each cell lies in each unit.
    background
        (g,) share of each gene in the background.
    amount
        Scalar: counts of the background, in cells; 0 where there is none, and then every unit needs a cell.
    """
    total = torch.sparse.mm(weights, cell_share)
    cells = torch.sparse.sum(weights, dim=1).to_dense()[:, None]
    return (total + amount * background) / (cells + amount)


def sparse_weights(membership: csr_array) -> torch.Tensor:
    """SciPy's sparse (units, cells), e.g. of ``pastpy._aggregate.membership``, for :func:`unit_share`.

    Examples
    --------
    >>> from scipy.sparse import csr_array
    >>> sparse_weights(csr_array([[1.0, 0.5]])).to_dense().tolist()
    [[1.0, 0.5]]
    """
    entries = membership.tocoo()
    where = torch.stack([torch.as_tensor(i, dtype=torch.int64) for i in (entries.row, entries.col)])
    values = torch.as_tensor(entries.data, dtype=torch.float32)
    return torch.sparse_coo_tensor(where, values, entries.shape, check_invariants=False).coalesce()


def spot_share(
    cell_share: torch.Tensor, spot: torch.Tensor, n_spots: int, background: torch.Tensor, amount: torch.Tensor
) -> torch.Tensor:
    """Share of each gene in a spot: the sum over its cells plus a background, (n_spots, g).

    Parameters
    ----------
    cell_share
        (n, g) predicted shares of the cells; every cell gives the same number of counts.
    spot
        int64 (n,), the spot of each cell.
    n_spots
        Number of spots.
    background
        (g,) share of each gene in the background.
    amount
        Scalar: counts of the background, in cells.
    """
    return unit_share(cell_share, _spot_weights(spot, n_spots, cell_share.dtype), background, amount)


def spot_mean(values: torch.Tensor, spot: torch.Tensor, n_spots: int) -> torch.Tensor:
    """Mean of the cells' values (n, …) in each spot, (n_spots, …); 0 in a spot without cells."""
    weights = _spot_weights(spot, n_spots, values.dtype)
    cells = torch.sparse.sum(weights, dim=1).to_dense()[:, None]
    mean = torch.sparse.mm(weights, values.flatten(1)) / cells.clamp(min=1)
    return mean.view(n_spots, *values.shape[1:])


def within_groups(values: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Values (n, g) less the mean of each row's group, int64 (n,) counted from 0.

    Examples
    --------
    >>> within_groups(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([0, 0, 1])).ravel().tolist()
    [-1.0, 1.0, 0.0]
    """
    return values - spot_mean(values, group, int(group.max()) + 1)[group]


def correlation_loss(predicted: torch.Tensor, true: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """One less the mean correlation of the columns of values (n, g), each row less the mean of its group, int64 (n,).

    Examples
    --------
    >>> true = torch.tensor([[1.0], [2.0], [7.0], [9.0]])
    >>> round(correlation_loss(2 * true, true, torch.tensor([0, 0, 1, 1])).item(), 5)
    0.0
    """
    predicted, true = within_groups(predicted, group), within_groups(true, group)
    norm = (predicted.square().sum(dim=0) * true.square().sum(dim=0)).clamp(min=1e-6).sqrt()
    return 1 - ((predicted * true).sum(dim=0) / norm).mean()


def _spot_weights(spot: torch.Tensor, n_spots: int, dtype: torch.dtype) -> torch.Tensor:
    """Sparse (n_spots, n): a one where a cell lies in a spot."""
    where = torch.stack([spot, torch.arange(len(spot), device=spot.device)])
    ones = torch.ones(len(spot), dtype=dtype, device=spot.device)
    return torch.sparse_coo_tensor(where, ones, (n_spots, len(spot)), check_invariants=False)
