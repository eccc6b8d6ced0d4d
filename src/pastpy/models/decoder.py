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

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    dim
        Width of the tokens.
    heads
        Attention heads.
    zero_inflation
        Also read out the log odds of a zero that is not a low rate.

    References
    ----------
    Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762.
    """

    def __init__(self, n_genes: int, dim: int, heads: int, *, zero_inflation: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(n_genes, dim) * 0.02)
        self.readout = nn.Parameter(torch.zeros(n_genes, dim))
        self.bias = nn.Parameter(torch.zeros(n_genes))
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        if zero_inflation:
            self.zero_readout = nn.Parameter(torch.zeros(n_genes, dim))
            self.zero_bias = nn.Parameter(torch.full((n_genes,), -3.0))

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
        return self._read(tokens, padding, genes, self.readout, self.bias, chunk_elements)

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
        query = self.query if genes is None else self.query[genes]
        weight, bias = (weight, bias) if genes is None else (weight[genes], bias[genes])
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
