"""One embedding of a cell from its image, its transcriptome, or both."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from pastpy.models.blocks import Attention, padding_bias

__all__ = ["JointHead", "drop_modality", "normalised_sum"]


class JointHead(nn.Module):
    """A learnt query that attends to all tokens of a cell, whichever modality they are of.

    Parameters
    ----------
    dim
        Width of the tokens.
    embedding_dim
        Length of the embedding.
    heads
        Attention heads.

    References
    ----------
    Lee et al., Set Transformer, ICML 2019, arXiv:1810.00825.
    """

    def __init__(self, dim: int, embedding_dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.attention = Attention(dim, heads)
        self.out = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, embedding_dim))

    def forward(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Embedding of tokens (n, t, dim), float32 (n, embedding_dim), not yet normalised."""
        query = self.query.expand(len(tokens), -1, -1)
        return self.out(self.attention(query, tokens, padding_bias(padding, tokens))[:, 0])


def normalised_sum(image: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
    """L2-normalised sum of two normalised embeddings, (n, d); the other where one is NaN, NaN where both are.

    Examples
    --------
    >>> nan = float("nan")
    >>> normalised_sum(torch.tensor([[3.0, 0.0]]), torch.tensor([[nan, nan]])).tolist()
    [[1.0, 0.0]]
    """
    absent = image.isnan().any(dim=1) & expression.isnan().any(dim=1)
    total = sum(F.normalize(part.nan_to_num(), dim=1) for part in (image, expression))
    assert isinstance(total, torch.Tensor)
    return F.normalize(total, dim=1).masked_fill(absent[:, None], float("nan"))


def drop_modality(
    image_tokens: torch.Tensor, expression_tokens: torch.Tensor, probability: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take one modality from random cells, so that a model learns to do with either; never both, never the only one.

    Parameters
    ----------
    image_tokens, expression_tokens
        float32 (n, t, dim); tokens that are not there are NaN.
    probability
        Share of the cells with both modalities that lose one, half of them either.
    generator
        Source of the randomness, on the CPU.

    Returns
    -------
    Both tokens, NaN where they were dropped.

    References
    ----------
    Neverova et al., ModDrop, IEEE TPAMI 38:1692 (2016), doi:10.1109/TPAMI.2015.2461544.
    """
    draw = torch.rand(len(image_tokens), generator=generator).to(image_tokens.device)
    both = ~image_tokens.isnan().flatten(1).all(dim=1) & ~expression_tokens.isnan().flatten(1).all(dim=1)
    image_lost = both & (draw < probability / 2)
    expression_lost = both & (draw >= probability / 2) & (draw < probability)
    return (
        image_tokens.masked_fill(image_lost[:, None, None], float("nan")),
        expression_tokens.masked_fill(expression_lost[:, None, None], float("nan")),
    )
