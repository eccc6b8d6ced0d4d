"""The training objective: counts of spots and cells explained, images and transcriptomes brought together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.nn import functional as F

from pastpy import _keys
from pastpy.models.past import PAST, join_tokens, pad_rows
from pastpy.train.losses import info_nce, nb_loss, spot_mean, spot_share

__all__ = ["Batch", "Objective", "expression_tokens", "thinned"]


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
        float32 (spots, genes), log1p of counts per 10,000 of the spot's whole count.
    cells
        float32 (n, genes), raw counts of single cells, or ``None``.
    cells_known
        bool (genes,), genes that the single cells were measured for.
    """

    pooled: torch.Tensor
    spot: torch.Tensor
    counts: torch.Tensor
    log_counts: torch.Tensor
    cells: torch.Tensor | None
    cells_known: torch.Tensor | None


class Objective(nn.Module):
    """Losses of a model on a batch.

    Parameters
    ----------
    model
        The model to train.
    weights
        Weight of each loss, by name.
    variable
        int64 (g,), positions of the genes whose log-normalised expression is compared.
    """

    variable: torch.Tensor

    def __init__(self, model: PAST, weights: dict[str, float], variable: torch.Tensor) -> None:
        super().__init__()
        self.model, self.weights = model, weights
        self.register_buffer("variable", variable)

    def forward(self, batch: Batch, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Every loss by name, and their weighted sum as ``total``."""
        model = self.model
        theta = model.log_theta.exp()
        tokens = model.image_tokens(batch.pooled)
        background, amount = model.background.softmax(dim=0), model.log_background_amount.exp()
        of_cells = model.log_profile(tokens).exp()
        share = spot_share(of_cells, batch.spot, len(batch.counts), background, amount)
        losses = {"image": nb_loss(batch.counts, share, theta)}
        # counts of the strongest genes rule the likelihood; scores and users look at logarithms, gene by gene. The
        # background is left out: it must not explain what the cells are to be scored by.
        cells_alone = spot_mean(of_cells[:, self.variable], batch.spot, len(batch.counts))
        losses["profile"] = F.mse_loss(torch.log1p(_keys.TARGET_SUM * cells_alone), batch.log_counts[:, self.variable])

        # what a smaller panel at a lower depth would have measured of the same units
        seen = expression_tokens(model, thinned(batch.counts, generator))
        spot_tokens = spot_mean(tokens, batch.spot, len(batch.counts))
        # half of the spots show their image too: the decoder learns to do with either modality or with both
        joined, _ = join_tokens(seen, spot_tokens)
        padding = torch.zeros(joined.shape[:2], dtype=torch.bool)
        padding[:, seen.shape[1] :] = (torch.rand(len(joined), generator=generator) < 0.5)[:, None]
        losses["expression"] = nb_loss(batch.counts, model.log_profile(joined, padding).exp(), theta)
        losses["contrastive"] = info_nce(
            F.normalize(model.project_image(spot_tokens), dim=1),
            F.normalize(model.project_expression(seen), dim=1),
            model.logit_scale.exp().clamp(max=100),
        )
        if batch.cells is not None and batch.cells_known is not None:
            profile = model.log_profile(expression_tokens(model, thinned(batch.cells, generator)))
            share = profile[:, batch.cells_known].softmax(dim=1)
            losses["cells"] = nb_loss(batch.cells[:, batch.cells_known], share, theta[batch.cells_known])
        losses["total"] = torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()
        return losses


def expression_tokens(model: PAST, counts: torch.Tensor) -> torch.Tensor:
    """Expression tokens, (n, t, dim), of counts over the vocabulary, float32 (n, genes)."""
    genes, values = pad_rows(csr_matrix(counts.numpy()), torch.arange(counts.shape[1]).numpy())
    return model.cell_encoder(genes, values)


def thinned(counts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Binomial thinning to a random depth over a random panel, (n, g); rows that lose everything stay as they were.

    Panels keep 5–100 % of the genes, depths 2–100 % of the counts (log-uniform), row by row.
    """
    n = len(counts)
    panel = torch.rand(counts.shape, generator=generator) < 0.05 ** torch.rand(n, 1, generator=generator)
    depth = 0.02 ** torch.rand(n, 1, generator=generator)
    kept = torch.binomial(counts, depth.expand_as(counts), generator=generator) * panel
    return torch.where(kept.sum(dim=1, keepdim=True) > 0, kept, counts)
