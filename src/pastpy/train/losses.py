"""Losses: small pure functions of tensors."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from pastpy.models.nb import nb_log_likelihood

__all__ = ["info_nce", "nb_loss", "spot_mean", "spot_share"]


def info_nce(image: torch.Tensor, expression: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Symmetric cross-entropy between paired embeddings, (n, d) each, L2-normalised.

    References
    ----------
    van den Oord et al., arXiv:1807.03748; Radford et al., CLIP, arXiv:2103.00020.
    """
    logits = logit_scale * image @ expression.T
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def nb_loss(counts: torch.Tensor, share: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of counts (n, g) whose mean is each row's total times ``share`` (n, g)."""
    mu = counts.sum(dim=1, keepdim=True) * share + 1e-8
    return -nb_log_likelihood(counts, mu, theta).mean()


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
    total, cells = _sums(cell_share, spot, n_spots)
    return (total + amount * background) / (cells + amount)


def spot_mean(values: torch.Tensor, spot: torch.Tensor, n_spots: int) -> torch.Tensor:
    """Mean of the cells' values (n, …) in each spot, (n_spots, …); 0 in a spot without cells."""
    total, cells = _sums(values, spot, n_spots)
    return total / cells.clamp(min=1)


def _sums(values: torch.Tensor, spot: torch.Tensor, n_spots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum of the cells' values in each spot, and their number, shaped to divide it."""
    total = values.new_zeros(n_spots, *values.shape[1:]).index_add(0, spot, values)
    cells = torch.bincount(spot, minlength=n_spots).to(total.dtype)
    return total, cells.view(-1, *[1] * (values.ndim - 1))
