"""The joint space: projections of images and transcriptomes in which a pair meets, whatever was measured and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from pastpy.models.past import PAST
    from pastpy.train.data import Section

__all__ = ["align", "nuisance_cca"]

#: Weight of what changes within a pair (depth, panel, stain, cells or the whole spot), beside the total covariance.
NUISANCE = 10.0
#: Weight of mean shifts between such variants, and between sections: directions along which they move are given up.
SHIFT = 1e5
#: Ridge, as a share of the mean variance.
RIDGE = 0.2
#: Each joint direction is as long as its correlation to this power: weak ones tell the modalities apart, not the cells.
SHARPNESS = 4
#: Thinned copies of every spot's counts.
THINNED = 3


@dataclass
class Projection:
    """A linear map of one modality into the joint space: ``x @ weight − centre``."""

    weight: torch.Tensor
    centre: torch.Tensor


def align(model: PAST, train: list[Section], seed: int) -> None:
    """Set a model's projections, in closed form, from the pairs of all training spots.

    Each spot is seen in several variants: by its own outline and by its cells in every view, with all of its counts and
    thinned to other depths and panels. See :func:`nuisance_cca`. Tokens of all members are used; of the image, those of
    the regions of the first pass: what lies farther around is nearly the same for all cells of a section, and shifts
    with it. Outlines are left out, which a spot does not have.
    """
    generator = torch.Generator().manual_seed(seed)
    images, transcriptomes, groups = [], [], []
    with torch.inference_mode():
        for group, section in enumerate(train):
            image, expression = _variants(model, section, generator)
            images.append(image)
            transcriptomes.append(expression)
            groups.append(torch.full((image.shape[1],), group))
    near = torch.zeros(model.member_tokens, dtype=torch.bool)
    near[: len(model.passes[0].regions)] = torch.tensor([region.of_image for region in model.passes[0].regions])
    columns = near.repeat(len(model.members)).repeat_interleave(model.config.dim).nonzero().ravel()
    of_image, of_expression = nuisance_cca(
        torch.cat(images, dim=1)[..., columns], torch.cat(transcriptomes, dim=1), torch.cat(groups),
        model.config.embedding_dim,
    )  # fmt: skip
    with torch.no_grad():
        for layer, centre, fitted, of_layer in (
            (model.image_projection, model.image_centre, of_image, columns),
            (model.cell_projection, model.expression_centre, of_expression, torch.arange(len(of_expression.weight))),
        ):
            layer.weight.zero_()
            layer.weight[:, of_layer] = fitted.weight.T
            layer.bias.zero_()
            centre.copy_(fitted.centre)


def nuisance_cca(
    image: torch.Tensor, expression: torch.Tensor, groups: torch.Tensor, dim: int
) -> tuple[Projection, Projection]:
    """Canonical correlations that ignore how a pair was measured.

    Both modalities are whitened by their covariance, to which that of nuisances is added with a large weight; then the
    directions that covary between the modalities within groups are kept, each as long as a power of its correlation. A
    modality that carries nothing of the other is projected onto (nearly) nothing, so no direction tells the two apart.

    Parameters
    ----------
    image
        float (variants, n, p): features of n units, first the one that decides the centre of a plain image.
    expression
        float (variants, n, q): features of the same units, first the complete measurement.
    groups
        int64 (n,), the section of each unit.
    dim
        Length of the joint embedding, at most min(p, q).

    Returns
    -------
    Projections of image and expression.

    Raises
    ------
    ValueError
        If ``dim`` is larger than either modality allows.

    References
    ----------
    Hotelling, Biometrika 28:321 (1936), doi:10.1093/biomet/28.3-4.321. Hatch et al. (within-class covariance
    normalisation), Interspeech 2006. Liang et al., Mind the gap, NeurIPS 2022, arXiv:2203.02053.
    """
    widest = min(image.shape[2], expression.shape[2])
    if dim > widest:
        raise ValueError(f"a joint space of {dim} dimensions needs features at least as wide, got {widest}")
    x, y = image.double(), expression.double()
    to_x, to_y = _whitening(x, groups), _whitening(y, groups)
    cross = _within(x, groups).T @ _within(y, groups) / x.shape[1]
    u, correlation, v = torch.linalg.svd(to_x @ cross @ to_y)
    strength = correlation[:dim] ** SHARPNESS
    weight_x, weight_y = to_x @ u[:, :dim] * strength, to_y @ v.T[:, :dim] * strength
    # the sum of both is to weigh them alike
    weight_x, weight_y = (w / _spread(features, w) for features, w in ((x, weight_x), (y, weight_y)))
    return (
        Projection(weight_x.float(), (x.mean(dim=(0, 1)) @ weight_x).float()),
        Projection(weight_y.float(), (y[0].mean(dim=0) @ weight_y).float()),
    )


def _variants(model: PAST, section: Section, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat tokens of a section's spots: images (1 + views, n, p) and transcriptomes (1 + THINNED, n, q)."""
    from pastpy.train.data import MIN_CELLS
    from pastpy.train.loop import aligned_counts
    from pastpy.train.losses import spot_mean
    from pastpy.train.objective import expression_tokens, thinned

    cells = np.bincount(section.spot, minlength=section.counts.shape[0])
    on_image = np.isfinite(section.spot_pooled[:, model.image_regions]).all(axis=(1, 2))
    usable = np.flatnonzero((cells >= MIN_CELLS) & on_image)
    images = [_flat(model, torch.from_numpy(section.spot_pooled[usable]))]
    spot = torch.from_numpy(section.spot)
    for pooled in section.pooled:
        tokens = torch.cat([_flat(model, part) for part in torch.from_numpy(pooled).split(4096)])
        images.append(spot_mean(tokens, spot, len(cells))[usable])
    counts = torch.from_numpy(aligned_counts(section.counts, section.genes, model.gene_names)[usable])
    summary = len(model.members) * model.config.expression_tokens
    seen = [counts, *(thinned(counts, generator) for _ in range(THINNED))]
    return torch.stack(images), torch.stack([expression_tokens(model, c)[:, :summary].flatten(1) for c in seen])


def _flat(model: PAST, pooled: torch.Tensor) -> torch.Tensor:
    """Image tokens of all members side by side, (n, p)."""
    return model.split_programs(model.image_tokens(pooled))[0].flatten(1)


def _whitening(features: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Inverse square root of the covariance, with that of the nuisances and a ridge added, (p, p)."""
    centred = features - features[0].mean(dim=0)
    within_variant = centred - centred.mean(dim=1, keepdim=True)
    covariance = torch.einsum("vnp,vnq->pq", within_variant, within_variant) / (len(features) * features.shape[1])
    ridge = RIDGE * covariance.diagonal().mean()
    between = centred[1:] - centred[0]
    between = between - between.mean(dim=1, keepdim=True)
    covariance += NUISANCE * torch.einsum("vnp,vnq->pq", between, between) / max(1, between[..., 0].numel())
    sections = torch.stack([centred[:, groups == g].mean(dim=(0, 1)) for g in groups.unique()])
    for shift in (centred.mean(dim=1), sections - sections.mean(dim=0)):
        covariance += SHIFT * shift.T @ shift / len(shift)
    values, vectors = torch.linalg.eigh(covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype))
    return vectors * values.rsqrt() @ vectors.T


def _within(features: torch.Tensor, groups: torch.Tensor) -> torch.Tensor:
    """Mean of the variants, centred within each group, (n, p)."""
    mean = features.mean(dim=0)
    centred = torch.empty_like(mean)
    for group in groups.unique():
        centred[groups == group] = mean[groups == group] - mean[groups == group].mean(dim=0)
    return centred


def _spread(features: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root mean square length of the first variant's projections."""
    return ((features[0] - features[0].mean(dim=0)) @ weight).pow(2).sum(dim=1).mean().sqrt()
