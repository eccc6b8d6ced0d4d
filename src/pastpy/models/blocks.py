"""Attention over padded sets of tokens, and the grouping by length that keeps padding small."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["Attention", "Block", "length_groups"]

#: Padded tokens in a group of rows.
GROUP_TOKENS = 2**17


class Attention(nn.Module):
    """Scaled dot-product attention from queries to a set of tokens.

    Parameters
    ----------
    dim
        Width of the tokens.
    heads
        Attention heads.

    References
    ----------
    Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv:1706.03762.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: torch.Tensor, tokens: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Attend from x, (n, q, dim), to tokens, (n, t, dim).

        Parameters
        ----------
        x, tokens
            Queries, and what they look at.
        bias
            Added to the scores, broadcastable to (n, heads, q, t): float, −inf where a token is not to be looked at.

        Returns
        -------
        float32 (n, q, dim).
        """
        q, k, v = (
            layer(part).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, part in ((self.query, x), (self.key, tokens), (self.value, tokens))
        )
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention over a set of tokens, then a network for each, both with a residual and a norm before.

    Parameters
    ----------
    dim
        Width of the tokens.
    heads
        Attention heads.
    dropout
        Dropout on what each half adds.

    References
    ----------
    Xiong et al., On Layer Normalization in the Transformer Architecture, ICML 2020, arXiv:2002.04745.
    """

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens (n, t, dim) that have seen each other; bool padding (n, t) tells which are none."""
        normed = self.norm(tokens)
        tokens = tokens + self.dropout(self.attention(normed, normed, padding_bias(padding, tokens)))
        return tokens + self.dropout(self.out(tokens))


def padding_bias(padding: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    """Scores to add so that padding is not looked at, (n, 1, 1, t)."""
    if padding is None:
        return None
    return torch.zeros_like(padding, dtype=like.dtype).masked_fill(padding, float("-inf"))[:, None, None]


def length_groups(lengths: torch.Tensor, *, max_tokens: int = GROUP_TOKENS) -> list[torch.Tensor]:
    """Rows grouped by length, so that each group can be padded to its longest row at little cost.

    Parameters
    ----------
    lengths
        int64 (n,).
    max_tokens
        Most tokens of a padded group; a row longer than that is a group of its own.

    Returns
    -------
    int64 positions of the rows of each group; the shortest row of a group has more than half the tokens of its longest.

    Examples
    --------
    >>> [rows.tolist() for rows in length_groups(torch.tensor([9, 2, 8, 3]))]
    [[1, 3], [2, 0]]
    """
    order = torch.argsort(lengths, stable=True)
    groups: list[torch.Tensor] = []
    end = len(order)
    while end:
        longest = max(int(lengths[order[end - 1]]), 1)
        start = max(0, end - max(1, max_tokens // longest))
        start += int((2 * lengths[order[start:end]] <= longest).sum())
        start = min(start, end - 1)
        groups.append(order[start:end])
        end = start
    return groups[::-1]
