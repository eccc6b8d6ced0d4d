"""The linear readout of a model, in closed form: ridge regression on spots and simulated cells at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pastpy.train.coexpression import or_infinite

if TYPE_CHECKING:
    from pastpy.models.past import PAST
    from pastpy.train.coexpression import Coexpression
    from pastpy.train.config import TrainConfig
    from pastpy.train.data import Section
    from pastpy.train.simulated import SimulatedCells

__all__ = ["Moments", "fit_linear", "moments_of_cells", "moments_of_spots", "set_readout"]

#: Cells of the training sections over which it gets the spread of what the members predict.
N_CELLS = 4000


@dataclass
class Moments:
    """Within groups, covariance of features (f, f), and of features with standardised expression (f, genes)."""

    of_features: np.ndarray
    with_genes: np.ndarray


def fit_linear(
    model: PAST,
    config: TrainConfig,
    train: list[Section],
    simulated: SimulatedCells | None,
    others: Coexpression | None,
) -> None:
    """Fit a trained model's linear readout to the same spots and simulated cells that have taught its members.

    Every gene is a ridge regression on the features of all regions. Spots, in all views, count by their cells' mean
    features and their log expression; simulated cells by what their image allows to say, of the panel and of what is
    inferred from it. Both are taken relative to their section or donor and in the gene's standard deviations there,
    since no image shows levels. Fitted values are kept to the rank that the readout has, and stretched to the spread
    that the members' predictions have over the training sections' cells, around these predictions' mean.

    Parameters
    ----------
    model
        The model; its readout is changed, and nothing else.
    config
        The penalty, and the weight of simulated cells.
    train
        Training sections.
    simulated
        Simulated cells, relative to their slides.
    others
        What simulated cells say of genes that they lack.
    """
    cells = None if simulated is None else moments_of_cells(model, simulated, others)
    set_readout(model, config, train, moments_of_spots(model, train), cells)


def set_readout(
    model: PAST, config: TrainConfig, train: list[Section], spots: Moments, cells: tuple[Moments, np.ndarray] | None
) -> None:
    """As :func:`fit_linear`, with what :func:`moments_of_spots` and :func:`moments_of_cells` have found."""
    import torch

    assert model.linear is not None
    taught = np.zeros(len(model.gene_names), dtype=bool)
    of_both, with_genes = spots.of_features, spots.with_genes
    found = np.zeros_like(with_genes)
    if cells is not None:
        simulated, taught = cells
        of_both = of_both + config.linear_simulated * simulated.of_features
        with_genes = with_genes + config.linear_simulated * simulated.with_genes
    penalty = config.linear_penalty * np.eye(len(found))
    found[:, taught] = np.linalg.solve(of_both + penalty, with_genes[:, taught])
    found[:, ~taught] = np.linalg.solve(spots.of_features + penalty, with_genes[:, ~taught])
    weight, loadings = _low_rank(found, of_both + penalty, len(model.linear.weight))

    pooled = np.concatenate([s.pooled[0] for s in train])
    pooled = pooled[np.linspace(0, len(pooled) - 1, min(N_CELLS, len(pooled))).astype(int)]
    log_share = _by_members(model, pooled)
    programs = _features(model, pooled) @ weight.T
    loadings *= (log_share.std(axis=0) / or_infinite((programs @ loadings.T).std(axis=0)))[:, None]
    with torch.no_grad():
        model.linear.weight.copy_(torch.from_numpy(weight))
        model.linear.loadings.copy_(torch.from_numpy(loadings))
        model.linear.bias.copy_(torch.from_numpy(log_share.mean(axis=0) - programs.mean(axis=0) @ loadings.T))


def _features(model: PAST, pooled: np.ndarray) -> np.ndarray:
    """Standardised features of all regions side by side, float32 (n, regions × channels); 0 for a missing region."""
    import torch

    return model.usual.standardise(torch.from_numpy(pooled.astype(np.float32))).nan_to_num().flatten(1).numpy()


def _by_members(model: PAST, pooled: np.ndarray) -> np.ndarray:
    """Log shares of all genes, (n, genes), without the linear readout."""
    import torch

    from pastpy.models.tokens import split_absent

    parts = []
    with torch.inference_mode():
        for part in torch.from_numpy(pooled).split(512):
            tokens, padding = split_absent(model.split_programs(model.image_tokens(part))[0])
            parts.append(model.log_profile(tokens, padding).numpy())
    return np.concatenate(parts).astype(float)


def moments_of_spots(model: PAST, train: list[Section]) -> Moments:
    """Moments over the spots of all sections and views, within each."""
    import torch

    from pastpy.train.card import log_counts
    from pastpy.train.losses import spot_mean

    xs, ys = [], []
    for section in train:
        n_cells = np.bincount(section.spot, minlength=section.counts.shape[0])
        expression = log_counts(section, model.gene_names)
        used = (n_cells > 0) & np.isfinite(expression).all(axis=1)
        expression = expression[used] - expression[used].mean(axis=0)
        for view in section.pooled:
            features = torch.from_numpy(_features(model, view)).double()
            mean = spot_mean(features, torch.from_numpy(section.spot), len(n_cells)).numpy()[used]
            xs.append(mean - mean.mean(axis=0))
            ys.append(expression)
    x, y = np.concatenate(xs), np.concatenate(ys)
    return Moments(x.T @ x / len(x), x.T @ y / len(x) / or_infinite(y.std(axis=0)))


def moments_of_cells(model: PAST, simulated: SimulatedCells, others: Coexpression | None) -> tuple[Moments, np.ndarray]:
    """Moments over simulated cells, within donors, and for which genes there are any."""
    n_features, n_panel = model.feature_mean.numel(), len(simulated.genes)
    of_features, with_panel = np.zeros((n_features, n_features)), np.zeros((n_features, n_panel))
    of_panel = np.zeros((n_panel, n_panel))
    starts = np.flatnonzero(np.r_[True, np.diff(simulated.donor) != 0, True])
    for first, end in zip(starts[:-1], starts[1:], strict=True):
        x = _features(model, simulated.pooled[first:end])
        y = simulated.expected[first:end].astype(np.float32)
        x, y = x - x.mean(axis=0), y - y.mean(axis=0)
        of_features += x.T @ x
        with_panel += x.T @ y
        of_panel += y.T @ y
    n = len(simulated.donor)
    inferred = [] if others is None else others.genes
    # what is inferred is linear in the panel
    map_ = np.eye(n_panel) if others is None else np.hstack([np.eye(n_panel), others.weights])
    spread = np.sqrt(np.einsum("pg,pq,qg->g", map_, of_panel / n, map_, optimize=True))
    columns = model.columns_of([*simulated.genes, *inferred])
    known = columns >= 0
    with_genes = np.zeros((n_features, len(model.gene_names)))
    with_genes[:, columns[known]] = (with_panel / n @ map_ / or_infinite(spread))[:, known]
    taught = np.zeros(len(model.gene_names), dtype=bool)
    taught[columns[known]] = True
    return Moments(of_features / n, with_genes), taught


def _low_rank(effect: np.ndarray, covariance: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest effect (features, genes) of a rank, by what it makes of features of this covariance.

    Returns weights (rank, features) and loadings (genes, rank).
    """
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values) @ vectors.T
    programs, size, loadings = np.linalg.svd(root @ effect, full_matrices=False)
    rank_found = min(rank, len(size))
    weight, of_genes = np.zeros((rank, len(effect))), np.zeros((effect.shape[1], rank))
    weight[:rank_found] = np.linalg.solve(root, programs[:, :rank_found]).T
    of_genes[:, :rank_found] = loadings[:rank_found].T * size[:rank_found]
    return weight, of_genes
