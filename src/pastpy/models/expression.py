"""Expression encoder: a set of (gene, value) tokens, in any order and from any panel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from pastpy.models.blocks import Block
from pastpy.models.subnetworks import SubnetworkDropout

__all__ = ["ExpressionEncoder"]


class ExpressionEncoder(nn.Module):
    """Summarises a cell's measured genes in a few tokens by attention pooling over its non-zero counts.

    Each non-zero gene is a token: its embedding, scaled and shifted by its value. Learnt seeds attend to the tokens, so
    the order of the genes, the size of the panel and padding leave the result unchanged. The number of counts enters as
    one more token, and so can the technology or batch.

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
    layers
        Self-attention layers over a cell's tokens before they are summarised.
    technologies
        Names of technologies or batches; none leaves out their token.
    gene_tokens
        Also return the cell's own gene tokens, behind the summary.

    References
    ----------
    Lee et al., Set Transformer, ICML 2019, arXiv:1810.00825.
    """

    def __init__(
        self,
        n_genes: int,
        dim: int,
        n_tokens: int,
        heads: int,
        dropout: float,
        *,
        layers: int = 0,
        technologies: Sequence[str] = (),
        gene_tokens: bool = False,
    ) -> None:
        super().__init__()
        self.n_genes, self.gene_tokens = n_genes, gene_tokens
        self.technologies = tuple(technologies)
        self.gene = nn.Embedding(n_genes, dim)
        self.value = nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, 2 * dim))
        self.depth = nn.Sequential(nn.Linear(1, dim), nn.GELU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.seeds = nn.Parameter(torch.randn(n_tokens, dim) * dim**-0.5)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.dropout = SubnetworkDropout(dropout, layer=3)
        self.layers = nn.ModuleList([Block(dim, heads, dropout) for _ in range(layers)])
        # position 0: a technology that is not told, or not known
        self.technology = nn.Embedding(1 + len(self.technologies), dim) if self.technologies else None

    def forward(
        self, genes: torch.Tensor, counts: torch.Tensor, technology: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Summary tokens.

        Parameters
        ----------
        genes
            int64 (n, k), positions in the vocabulary; −1 is padding.
        counts
            float32 (n, k), counts of those genes; every row has a positive sum.
        technology
            int64 (n,) from :meth:`technology_index`; unknown by default.

        Returns
        -------
        float32 (n, n_tokens, dim); with ``gene_tokens`` (n, n_tokens + k, dim), NaN where a row has no more genes.
        """
        total = counts.sum(dim=1, keepdim=True)
        value = torch.log1p(counts / total * 1e4)
        scale, shift = self.value(value[..., None]).chunk(2, dim=-1)
        tokens = self.gene(genes.clamp(min=0)) * (1 + scale) + shift
        extra = [self.depth(torch.log1p(total))[:, None]]
        if self.technology is not None:
            told = torch.zeros_like(genes[:, 0]) if technology is None else technology
            extra.append(self.technology(told)[:, None])
        tokens = self.norm(torch.cat([*extra, tokens], dim=1))
        padding = nn.functional.pad(genes < 0, (len(extra), 0), value=False)
        for layer in self.layers:
            tokens = layer(tokens, padding)
        seeds = self.seeds.expand(len(genes), -1, -1)
        pooled, _ = self.attention(seeds, tokens, tokens, key_padding_mask=padding, need_weights=False)
        pooled = pooled + seeds
        summary = self.dropout(pooled + self.out(pooled))
        if not self.gene_tokens:
            return summary
        absent = (genes < 0)[..., None]
        return torch.cat([summary, tokens[:, len(extra) :].masked_fill(absent, float("nan"))], dim=1)

    def technology_index(self, names: Sequence[str]) -> torch.Tensor:
        """Positions of technologies, int64 (n,); 0 for those that the model was not trained with."""
        position = {name: i for i, name in enumerate(self.technologies, start=1)}
        return torch.tensor([position.get(str(name), 0) for name in names])
