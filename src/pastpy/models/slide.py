"""Slide statistics: features of a slide's cells relative to the slide they are on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["SlideStatistics", "slide_statistics"]

#: The usual statistics weigh as much as this many cells of the slide: what three cells look like is not yet a slide.
PRIOR_CELLS = 100


@dataclass(frozen=True)
class SlideStatistics:
    """What pooled features of a slide's cells are on average, and how far they spread.

    Attributes
    ----------
    mean, std
        float32 (regions, channels).
    n_cells
        Cells that they were taken from.
    """

    mean: torch.Tensor
    std: torch.Tensor
    n_cells: int

    def standardise(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled features, float32 (n, regions, channels), less the mean, in standard deviations."""
        return (pooled - self.mean.to(pooled.device)) / self.std.to(pooled.device)


def slide_statistics(pooled: torch.Tensor, usual: SlideStatistics, *, prior: float = PRIOR_CELLS) -> SlideStatistics:
    """Statistics of a slide, drawn towards the usual ones where there are few cells.

    Stain, scanner and thickness move the features of a whole slide. Standardised by its own statistics, a cell's
    features say how it differs from the other cells of its slide.

    Parameters
    ----------
    pooled
        float32 (n, regions, channels) of cells of the slide; NaN where a region is missing.
    usual
        Statistics of the training slides.
    prior
        Cells that these weigh as much as.

    References
    ----------
    Li et al., Adaptive Batch Normalization, Pattern Recognition 80:109 (2018), doi:10.1016/j.patcog.2018.03.005: target
    statistics in place of training statistics.

    Examples
    --------
    >>> usual = SlideStatistics(torch.zeros(1, 1), torch.ones(1, 1), 0)
    >>> found = slide_statistics(torch.full((300, 1, 1), 4.0), usual, prior=100)
    >>> found.mean.item(), found.n_cells
    (3.0, 300)
    """
    there = ~pooled.isnan()
    n = there.sum(dim=0)
    mean = pooled.nan_to_num().sum(dim=0) / n.clamp(min=1)
    variance = ((pooled - mean).square().nan_to_num()).sum(dim=0) / n.clamp(min=1)
    weight = n + prior
    middle = (n * mean + prior * usual.mean) / weight
    spread = n * (variance + (mean - middle).square()) + prior * (usual.std.square() + (usual.mean - middle).square())
    return SlideStatistics(middle, (spread / weight).sqrt(), int(there[..., 0].any(dim=1).sum()))
