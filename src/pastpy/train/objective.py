"""The training objective: counts of spots and cells explained, images and transcriptomes brought together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.nn import functional as F

from pastpy import _keys
from pastpy.models.joint import drop_modality
from pastpy.models.past import PAST
from pastpy.models.tokens import join_tokens, pad_rows, split_absent
from pastpy.train.config import TrainConfig
from pastpy.train.losses import (
    correlation_loss,
    info_nce,
    nb_loss,
    siglip,
    soft_target_clip,
    spot_mean,
    spot_share,
    zinb_loss,
)

__all__ = ["Batch", "Objective", "SimulatedBatch", "expression_tokens", "thinned"]


@dataclass
class Batch:
    """What one step sees.

    Attributes
    ----------
    pooled
        float32 (cells, regions, channels), pooled image tokens of the spots' cells.
    spot
        int64 (cells,), position of each cell's spot in ``counts``.
    counts
        float32 (spots, genes), raw counts over the vocabulary.
    log_counts
        float32 (spots, genes), log1p of counts per 10,000 of the spot's whole count; all sections have the same means.
    cells
        float32 (n, genes), raw counts of single cells, or ``None``.
    cells_known
        bool (genes,), genes that the single cells were measured for.
    simulated
        Simulated cells, or ``None``.
    with_expression
        Train the expression side too.
    """

    pooled: torch.Tensor
    spot: torch.Tensor
    counts: torch.Tensor
    log_counts: torch.Tensor
    cells: torch.Tensor | None
    cells_known: torch.Tensor | None
    simulated: SimulatedBatch | None = None
    with_expression: bool = True


@dataclass
class SimulatedBatch:
    """Simulated cells of a step.

    Attributes
    ----------
    pooled
        float32 (n, regions, channels), pooled image tokens.
    expected
        float32 (n, g), the best prediction that the image allows of log1p of counts per 10,000, of the simulated genes
        that the model knows.
    donor
        int64 (n,), position of each cell's donor among those of the batch.
    genes
        int64 (g,), positions of these genes in the vocabulary.
    others, other_genes
        The same of genes that are inferred from these, float32 (n, h), and their positions, int64 (h,); or ``None``.
    """

    pooled: torch.Tensor
    expected: torch.Tensor
    donor: torch.Tensor
    genes: torch.Tensor
    others: torch.Tensor | None = None
    other_genes: torch.Tensor | None = None


class Objective(nn.Module):
    """Losses of a model on a batch.

    Parameters
    ----------
    model
        The model to train, of one member.
    config
        Weight of each loss, the contrastive loss, and what the model is told of technologies.
    variable
        int64 (g,), positions of the genes whose log-normalised expression is compared.

    Raises
    ------
    ValueError
        If the model has several members or a linear readout, or a joint embedding to learn and no weight for it.
    """

    variable: torch.Tensor

    def __init__(self, model: PAST, config: TrainConfig, variable: torch.Tensor) -> None:
        super().__init__()
        if len(model.members) > 1 or model.linear is not None:
            raise ValueError("members are trained one at a time, without a linear readout: pastpy.train.fit does so")
        if model.joint is not None and "joint" not in config.weights:
            raise ValueError(f"joint='attention' is learnt: give 'joint' a weight, got weights={config.weights}")
        self.model, self.config = model, config
        self.register_buffer("variable", variable)

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Every loss by name, and their weighted sum as ``total``."""
        model, told = self.model, self.config
        tokens = model.image_tokens(batch.pooled)
        spot_tokens = spot_mean(tokens, batch.spot, len(batch.counts))
        background, amount = model.background.softmax(dim=0), model.log_background_amount.exp()
        of_cells = model.log_profile(*split_absent(tokens)).exp()
        share = spot_share(of_cells, batch.spot, len(batch.counts), background, amount)
        losses = {"image": self._explained(batch.counts, share, model.zero_logits(*split_absent(spot_tokens)))}
        # counts of the strongest genes rule the likelihood; scores and users look at logarithms, gene by gene. The
        # background is left out: it must not explain what the cells are to be scored by.
        cells_alone = spot_mean(of_cells[:, self.variable], batch.spot, len(batch.counts))
        losses["profile"] = F.mse_loss(torch.log1p(_keys.TARGET_SUM * cells_alone), batch.log_counts[:, self.variable])

        if batch.with_expression:
            losses |= self._of_expression(batch, spot_tokens, generator)
        if batch.simulated is not None:
            losses |= self._simulated(batch.simulated)
        losses["total"] = torch.stack([told.weights[name] * value for name, value in losses.items()]).sum()
        return losses

    def _of_expression(
        self, batch: Batch, spot_tokens: torch.Tensor, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Losses of what was measured: decoded, brought together with the image, and that of single cells."""
        model, told = self.model, self.config
        losses = {}
        # what a smaller panel at a lower depth would have measured of the same units
        seen = expression_tokens(model, thinned(batch.counts, generator), told.spot_technology)
        # half of the spots show their image too: the decoder learns to do with either modality or with both
        joined, absent = join_tokens(seen, spot_tokens)
        padding = torch.zeros(joined.shape[:2], dtype=torch.bool)
        padding[:, seen.shape[1] :] = (torch.rand(len(joined), generator=generator) < 0.5)[:, None]
        padding = padding if absent is None else padding | absent
        share = model.log_profile(joined, padding).exp()
        losses["expression"] = self._explained(batch.counts, share, model.zero_logits(joined, padding))
        losses["contrastive"] = self._pairs(model.project_image(spot_tokens), model.project_expression(seen))
        if model.joint is not None:
            either = model.embed_joint(*drop_modality(spot_tokens, seen, 1.0, generator))
            losses["joint"] = self._pairs(either, model.embed_joint(spot_tokens, seen))
        if batch.cells is not None and batch.cells_known is not None:
            measured = expression_tokens(model, thinned(batch.cells, generator), told.cell_technology)
            losses["cells"] = self._cells(batch.cells, batch.cells_known, measured)
        return losses

    def _cells(self, counts: torch.Tensor, known: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Loss of single cells, over the genes that were measured."""
        tokens, padding = split_absent(seen)
        share = self.model.log_profile(tokens, padding)[:, known].softmax(dim=1)
        zero = self.model.zero_logits(tokens, padding)
        return self._explained(counts[:, known], share, None if zero is None else zero[:, known], known)

    def _simulated(self, batch: SimulatedBatch) -> dict[str, torch.Tensor]:
        """How far the correlation with what simulated cells' images allow to say is from 1, mean over genes.

        Within a donor, as predictions are scored: no image shows a donor's own level of a gene. Counts of the strongest
        genes would rule a likelihood here, and hardly any would be left for the rest. What correlates best with the
        expectation of a count correlates best with the count, and the expectation has none of its noise. Genes that
        are inferred have a loss of their own: they are many more.
        """
        model = self.model
        profile = model.log_profile(*split_absent(model.image_tokens(batch.pooled)))

        def loss(genes: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
            return correlation_loss(
                torch.log1p(_keys.TARGET_SUM * profile.index_select(1, genes).exp()), expected, batch.donor
            )

        losses = {"simulated": loss(batch.genes, batch.expected)}
        if batch.others is not None and batch.other_genes is not None:
            losses["coexpression"] = loss(batch.other_genes, batch.others)
        return losses

    def _explained(
        self, counts: torch.Tensor, share: torch.Tensor, zero: torch.Tensor | None, genes: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Negative log-likelihood of counts, with inflated zeros where the model has them."""
        theta = self.model.log_theta.exp()
        theta = theta if genes is None else theta[genes]
        return nb_loss(counts, share, theta) if zero is None else zinb_loss(counts, share, theta, zero)

    def _pairs(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Contrastive loss of two embeddings of the same units, normalised here."""
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        scale = self.model.logit_scale.exp().clamp(max=100)
        if self.config.contrastive == "siglip":
            return siglip(a, b, scale, self.model.logit_bias)
        return (info_nce if self.config.contrastive == "info_nce" else soft_target_clip)(a, b, scale)


def expression_tokens(model: PAST, counts: torch.Tensor, technology: str | None = None) -> torch.Tensor:
    """Expression tokens of all members, (n, t, dim), of counts over the vocabulary, float32 (n, genes)."""
    genes, values = pad_rows(csr_matrix(counts.numpy()), torch.arange(counts.shape[1]).numpy())
    told = None if technology is None else model.technology_index([technology] * len(counts))
    return torch.cat([member.cell_encoder(genes, values, told) for member in model.members], dim=1)


def thinned(counts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Binomial thinning to a random depth over a random panel, (n, g); rows that lose everything stay as they were.

    Panels keep 5–100 % of the genes, depths 2–100 % of the counts (log-uniform), row by row.
    """
    n = len(counts)
    panel = torch.rand(counts.shape, generator=generator) < 0.05 ** torch.rand(n, 1, generator=generator)
    depth = 0.02 ** torch.rand(n, 1, generator=generator)
    kept = torch.binomial(counts, depth.expand_as(counts), generator=generator) * panel
    return torch.where(kept.sum(dim=1, keepdim=True) > 0, kept, counts)
