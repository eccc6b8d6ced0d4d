"""Decoder: gene queries attend to a cell's image tokens and, where measured, to its expression tokens."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["GeneDecoder"]


class GeneDecoder(nn.Module):
    """Cross-attention from genes to tokens, read out per gene as a log rate.

    Gene ``g`` attends with its own query to the tokens of a cell and reads the attended value with its own weights.
    Reading each token first and mixing afterwards is the same sum in another order, and needs (cells × genes × tokens)
    numbers instead of (cells × genes × dim).

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    dim
        Width of the tokens.
    heads
        Attention heads.

    References
    ----------
    Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762.
    """

    def __init__(self, n_genes: int, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(n_genes, dim) * 0.02)
        self.readout = nn.Parameter(torch.zeros(n_genes, dim))
        self.bias = nn.Parameter(torch.zeros(n_genes))
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(
        self, tokens: torch.Tensor, padding: torch.Tensor | None = None, genes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log rates.

        Parameters
        ----------
        tokens
            float32 (n, t, dim).
        padding
            bool (n, t), True where a token is not to be looked at; every row has at least one that is.
        genes
            int64 (g,), positions in the vocabulary; all by default.

        Returns
        -------
        float32 (n, g).
        """
        chosen = slice(None) if genes is None else genes
        query, readout = self._split(self.query[chosen]), self._split(self.readout[chosen])
        key, value = self._split(self.key(tokens)), self._split(self.value(tokens))
        # genes last: the widest axis is the one that the processor runs along
        scores = torch.einsum("nthd,ghd->hntg", key, query) * key.shape[-1] ** -0.5
        if padding is not None:
            scores = scores.masked_fill(padding[None, :, :, None], float("-inf"))
        read = torch.einsum("nthd,ghd->hntg", value, readout)
        return (scores.softmax(dim=2) * read).sum(dim=(0, 2)) + self.bias[chosen]

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1))
