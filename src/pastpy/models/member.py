"""Member: what a model has behind its image encoder, from a cell's features and counts to the rates of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from pastpy.models.blocks import Block
from pastpy.models.context import ContextPlace
from pastpy.models.decoder import GeneDecoder
from pastpy.models.expression import ExpressionEncoder
from pastpy.models.subnetworks import SubnetworkDropout
from pastpy.models.summary import RegionSummary

if TYPE_CHECKING:
    from pastpy.models.config import PASTConfig

__all__ = ["Member"]


class Member(nn.Module):
    """One of the networks whose predictions a model averages: tokens of both modalities, and a decoder.

    Members of a model share its image encoder and nothing else. What two of them, trained from other starts, make of
    tissue unlike that of the training differs, and the part by which they differ is noise.

    Parameters
    ----------
    config
        Architecture of the model.
    n_genes
        Size of its vocabulary.
    offsets
        Where each region lies from the cell, µm.
    channels
        Channels of the image encoder.

    References
    ----------
    Lakshminarayanan et al., Deep Ensembles, NeurIPS 2017, arXiv:1612.01474.
    """

    def __init__(self, config: PASTConfig, n_genes: int, offsets: list[tuple[float, float]], channels: int) -> None:
        super().__init__()
        dim, n_regions = config.dim, len(offsets)
        self.region_in = nn.ModuleList([nn.Linear(channels, dim) for _ in offsets])
        self.token_norm = nn.LayerNorm(dim)
        self.dropout = SubnetworkDropout(config.dropout, layer=0)
        self.cell_encoder = ExpressionEncoder(
            n_genes, dim, config.expression_tokens, config.heads, config.dropout, layers=config.expression_layers,
            technologies=config.technologies, gene_tokens=config.gene_tokens,
        )  # fmt: skip
        self.decoder = GeneDecoder(n_genes, dim, config.heads, rank=config.rank, zero_inflation=config.zero_inflation)
        self.fusion = nn.ModuleList([Block(dim, config.heads, config.dropout) for _ in range(config.fusion_layers)])
        self.summary = None
        if config.summary_tokens:
            self.summary = RegionSummary(
                n_regions * channels, config.summary_width, tokens=config.summary_tokens, dim=dim,
                dropout=config.dropout,
            )  # fmt: skip
        self.context = ContextPlace(offsets, dim) if any(offset != (0.0, 0.0) for offset in offsets) else None

    def image_tokens(self, standardised: torch.Tensor) -> torch.Tensor:
        """Standardised features of all regions, float32 (n, regions, channels), as tokens, (n, t, dim).

        One a region, then those of the summary.
        """
        x = torch.stack([layer(standardised[:, i]) for i, layer in enumerate(self.region_in)], dim=1)
        if self.context is not None:
            x = x + self.context()
        tokens = self.dropout(self.token_norm(F.gelu(x)))
        return tokens if self.summary is None else torch.cat([tokens, self.summary(standardised)], dim=1)

    def fuse(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens (n, t, dim) of both modalities that have seen each other; as they are without fusion layers."""
        for layer in self.fusion:
            tokens = layer(tokens, padding)
        return tokens

    def log_rates(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Log rate of every gene, (n, genes), up to a constant for each cell."""
        return self.decoder(self.fuse(tokens, padding), padding)

    def zero_logits(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Log odds of zeros that are not counts, (n, genes), for a model with zero inflation."""
        return self.decoder.zero_logits(self.fuse(tokens, padding), padding)
