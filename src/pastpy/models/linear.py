"""A linear readout of a cell's features: little that it could get wrong where tissue is unlike that of the training."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["LinearReadout"]


class LinearReadout(nn.Module):
    """Log rates of genes as sums of a few linear combinations of a cell's standardised features.

    It has a closed-form fit (``pastpy/train/linear.py``) and no capacity to treat tissue of one origin otherwise than
    that of another. What a network makes of tissue of a new origin depends on chance; averaged with this, less so.

    Parameters
    ----------
    features
        Regions times channels.
    n_genes
        Size of the vocabulary.
    programs
        Number of linear combinations.

    References
    ----------
    Hoerl & Kennard, Technometrics 12:55 (1970), doi:10.1080/00401706.1970.10488634 (ridge regression).

    Examples
    --------
    >>> readout = LinearReadout(6, 5, programs=4)
    >>> readout.log_rates(readout(torch.zeros(2, 3, 2))).shape
    torch.Size([2, 5])
    """

    weight: torch.Tensor
    loadings: torch.Tensor
    bias: torch.Tensor

    def __init__(self, features: int, n_genes: int, *, programs: int) -> None:
        super().__init__()
        # fitted, not trained: no optimiser is to touch them
        self.register_buffer("weight", torch.zeros(programs, features))
        self.register_buffer("loadings", torch.zeros(n_genes, programs))
        self.register_buffer("bias", torch.zeros(n_genes))

    def forward(self, standardised: torch.Tensor) -> torch.Tensor:
        """Programs of cells, (n, programs), from features of all regions, float32 (n, regions, channels)."""
        return standardised.flatten(1) @ self.weight.T

    def log_rates(self, programs: torch.Tensor) -> torch.Tensor:
        """Log rate of every gene, (n, genes), up to a constant for each cell."""
        return programs @ self.loadings.T + self.bias
