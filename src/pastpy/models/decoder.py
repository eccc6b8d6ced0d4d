"""Decoder: gene queries attend to a cell's image tokens and, where measured, to its expression tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["GeneDecoder"]

#: (cells × tokens × genes × heads) computed at once: what stays in a processor's cache, and what fills a GPU.
CHUNK_ELEMENTS, GPU_CHUNK_ELEMENTS = 2**20, 2**26
#: Genes below which a chunk takes fewer cells instead.
CHUNK_GENES = 64


class GeneDecoder(nn.Module):
    """Cross-attention from genes to tokens, read out per gene as a log rate.

    Gene ``g`` attends with its own query to the tokens of a cell and reads the attended value with its own weights.
    Reading each token first and mixing afterwards is the same sum in another order, and needs (cells × genes × tokens)
    numbers instead of (cells × genes × dim).

    With a rank, as many programs take the place of the genes: each attends with its query, and what it reads is one
    number a cell. Genes are baselines plus loadings on these numbers.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    dim
        Width of the tokens.
    heads
        Attention heads.
    rank
        Programs that genes are made of; 0 lets every gene attend for itself.
    zero_inflation
        Also read out the log odds of a zero that is not a low rate.

    References
    ----------
    Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762.
    """

    def __init__(self, n_genes: int, dim: int, heads: int, *, rank: int = 0, zero_inflation: bool = False) -> None:
        super().__init__()
        self.heads, self.rank = heads, rank
        self.query = nn.Parameter(torch.randn(rank or n_genes, dim) * 0.02)
        self.readout = nn.Parameter(torch.zeros(rank or n_genes, dim))
        self.bias = nn.Parameter(torch.zeros(n_genes))
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        if rank:
            self.loadings = nn.Parameter(torch.randn(n_genes, rank) * rank**-0.5)
        if zero_inflation:
            self.zero_readout = nn.Parameter(torch.zeros(n_genes, rank or dim))
            self.zero_bias = nn.Parameter(torch.full((n_genes,), -3.0))

    @property
    def gene_weights(self) -> nn.Parameter:
        """What each gene reads of a cell, (n_genes, dim), or of its programs, (n_genes, rank)."""
        return self.loadings if self.rank else self.readout

    def forward(
        self,
        tokens: torch.Tensor,
        padding: torch.Tensor | None = None,
        genes: torch.Tensor | None = None,
        *,
        chunk_elements: int | None = None,
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
        chunk_elements
            Bound on (cells × tokens × genes × heads) computed at once, by default one that suits the device; the result
            does not depend on it. Where gradients are recorded, all are kept anyway and nothing is divided.

        Returns
        -------
        float32 (n, g).
        """
        return self._read(tokens, padding, genes, self.gene_weights, self.bias, chunk_elements)

    def latent(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Programs of cells, (n, rank), for a decoder with a rank; arguments as in :meth:`forward`."""
        key, value = self._split(self.key(tokens)), self._split(self.value(tokens))
        return self._attend(key, value, padding, self._split(self.query), self._split(self.readout))

    def zero_logits(
        self,
        tokens: torch.Tensor,
        padding: torch.Tensor | None = None,
        genes: torch.Tensor | None = None,
        *,
        chunk_elements: int | None = None,
    ) -> torch.Tensor:
        """Log odds of an inflated zero, float32 (n, g); arguments as in :meth:`forward`."""
        return self._read(tokens, padding, genes, self.zero_readout, self.zero_bias, chunk_elements)

    def _read(
        self,
        tokens: torch.Tensor,
        padding: torch.Tensor | None,
        genes: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        chunk_elements: int | None,
    ) -> torch.Tensor:
        weight, bias = (weight, bias) if genes is None else (weight[genes], bias[genes])
        if self.rank:
            return self.latent(tokens, padding) @ weight.T + bias
        query = self.query if genes is None else self.query[genes]
        key, value = self._split(self.key(tokens)), self._split(self.value(tokens))
        query, weight = self._split(query), self._split(weight)
        if torch.is_grad_enabled():
            return self._attend(key, value, padding, query, weight) + bias
        out = tokens.new_empty(len(tokens), len(bias), dtype=torch.promote_types(key.dtype, bias.dtype))
        for rows, genes_at in self._chunks(tokens, len(bias), chunk_elements):
            hidden = None if padding is None else padding[rows]
            read = self._attend(key[rows], value[rows], hidden, query[genes_at], weight[genes_at])
            out[rows, genes_at] = read + bias[genes_at]
        return out

    def _chunks(self, tokens: torch.Tensor, n_genes: int, chunk_elements: int | None) -> Iterator[tuple[slice, slice]]:
        """Cells and genes to be computed together."""
        if chunk_elements is None:
            chunk_elements = CHUNK_ELEMENTS if tokens.device.type == "cpu" else GPU_CHUNK_ELEMENTS
        n, each = len(tokens), max(1, tokens.shape[1] * self.heads)
        rows = min(n, max(1, chunk_elements // (each * CHUNK_GENES)))
        genes = max(1, chunk_elements // (each * max(1, rows)))
        for row in range(0, n, max(1, rows)):
            for gene in range(0, n_genes, genes):
                yield slice(row, row + rows), slice(gene, gene + genes)

    @staticmethod
    def _attend(
        key: torch.Tensor, value: torch.Tensor, padding: torch.Tensor | None, query: torch.Tensor, weight: torch.Tensor
    ) -> torch.Tensor:
        # genes last: the widest axis is the one that the processor runs along
        scores = torch.einsum("nthd,ghd->hntg", key, query) * key.shape[-1] ** -0.5
        if padding is not None:
            scores = scores.masked_fill(padding[None, :, :, None], float("-inf"))
        read = torch.einsum("nthd,ghd->hntg", value, weight)
        return (scores.softmax(dim=2) * read).sum(dim=(0, 2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1))
