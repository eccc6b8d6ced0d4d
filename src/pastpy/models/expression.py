"""Expression encoder: a set of (gene, value) tokens, in any order and from any panel."""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["ExpressionEncoder"]


class ExpressionEncoder(nn.Module):
    """Summarises a cell's measured genes in a few tokens by attention pooling over its non-zero counts.

    Each non-zero gene is a token: its embedding, scaled and shifted by its value. Learnt seeds attend to the tokens, so
    the order of the genes, the size of the panel and padding leave the result unchanged. The number of counts enters as
    one more token.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    dim
        Width of the tokens.
    n_tokens
        Number of summary tokens.
    heads
        Attention heads.
    dropout
        Dropout on the summary tokens.

    References
    ----------
    Lee et al., Set Transformer, ICML 2019, arXiv:1810.00825.
    """

    def __init__(self, n_genes: int, dim: int, n_tokens: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.gene = nn.Embedding(n_genes, dim)
        self.value = nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, 2 * dim))
        self.depth = nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.seeds = nn.Parameter(torch.randn(n_tokens, dim) * dim**-0.5)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, genes: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """Summary tokens.

        Parameters
        ----------
        genes
            int64 (n, k), positions in the vocabulary; −1 is padding.
        counts
            float32 (n, k), counts of those genes; every row has a positive sum.

        Returns
        -------
        float32 (n, n_tokens, dim).
        """
        total = counts.sum(dim=1, keepdim=True)
        value = torch.log1p(counts / total * 1e4)
        scale, shift = self.value(value[..., None]).chunk(2, dim=-1)
        tokens = self.gene(genes.clamp(min=0)) * (1 + scale) + shift
        depth = self.depth(torch.log1p(total))[:, None]
        tokens = self.norm(torch.cat([depth, tokens], dim=1))
        padding = torch.cat([torch.zeros_like(genes[:, :1], dtype=torch.bool), genes < 0], dim=1)
        seeds = self.seeds.expand(len(genes), -1, -1)
        pooled, _ = self.attention(seeds, tokens, tokens, key_padding_mask=padding, need_weights=False)
        pooled = pooled + seeds
        return self.dropout(pooled + self.out(pooled))
