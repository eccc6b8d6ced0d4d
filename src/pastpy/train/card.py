"""The model card: what was trained on what, and how it scored on the validation section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys

if TYPE_CHECKING:
    import pandas as pd

    from pastpy.models.past import PAST, ModelCard
    from pastpy.train.coexpression import Coexpression
    from pastpy.train.config import TrainConfig
    from pastpy.train.data import Section
    from pastpy.train.simulated import SimulatedCells

__all__ = ["make_card", "training_tissue", "validation_scores", "variable_genes"]

#: Genes that scores are averaged over: the most variable of those detected in a tenth of the training spots.
N_VARIABLE = 250
#: A gene is trusted if its validation r reaches this.
TRUSTED_R = 0.3


def log_counts(section: Section, genes: list[str]) -> np.ndarray:
    """log1p of a section's counts per 10,000 of each spot's whole count, float64 (spots, genes); NaN without."""
    from pastpy.train.loop import aligned_counts

    total = np.asarray(section.counts.sum(axis=1), dtype=float).reshape(-1, 1)
    with np.errstate(invalid="ignore"):
        return np.log1p(aligned_counts(section.counts, section.genes, genes) / total * _keys.TARGET_SUM)


def variable_genes(train: list[Section], genes: list[str]) -> list[str]:
    """The most variable genes of the training spots."""
    variance = np.concatenate([log_counts(s, genes) for s in train]).var(axis=0)
    return [genes[i] for i in np.argsort(-variance, kind="stable")[:N_VARIABLE]]


def predicted_share(model: PAST, section: Section, *, order: np.ndarray | None = None) -> np.ndarray:
    """Mean predicted share over the cells of each spot, (spots, genes); NaN for spots without cells.

    Parameters
    ----------
    model
        The model.
    section
        The section; its first view is used.
    order
        Permutation of the cells' images, for the shuffled control.
    """
    import torch
    from scipy.sparse import csr_matrix

    pooled = section.pooled[0] if order is None else section.pooled[0][order]
    total = np.zeros((section.counts.shape[0], len(model.gene_names)))
    with torch.inference_mode():
        for rows in np.array_split(np.arange(len(pooled)), max(1, len(pooled) // 512)):
            share = model.predict_expression(model.image_tokens(torch.from_numpy(pooled[rows]))).numpy()
            under = (np.ones(len(rows)), (section.spot[rows], np.arange(len(rows))))
            total += csr_matrix(under, shape=(len(total), len(rows))) @ share
    n = np.bincount(section.spot, minlength=len(total))[:, None]
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def validation_scores(
    model: PAST, section: Section, genes: list[str], *, order: np.ndarray | None = None
) -> pd.DataFrame:
    """Scores of the genes on a section, a row a gene, from cells' predictions averaged over spots."""
    import pandas as pd

    from pastpy.metrics import expression

    share = predicted_share(model, section, order=order)[:, model.columns_of(genes)]
    return expression(
        pd.DataFrame(np.log1p(_keys.TARGET_SUM * share), columns=genes),
        pd.DataFrame(log_counts(section, genes), columns=genes),
    )


def one_component_scores(train: list[Section], section: Section, genes: list[str], region: int) -> pd.DataFrame:
    """Scores of the humblest baseline: one principal component of the frozen features of a region, over the spots."""
    import pandas as pd
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from pastpy.metrics import expression

    x = np.concatenate([s.spot_pooled[:, region] for s in train])
    y = np.concatenate([log_counts(s, genes) for s in train])
    fitted = make_pipeline(StandardScaler(), PCA(1), LinearRegression()).fit(x, y)
    return expression(
        pd.DataFrame(fitted.predict(section.spot_pooled[:, region]), columns=genes),
        pd.DataFrame(log_counts(section, genes), columns=genes),
    )


def mean_deviance(counts: np.ndarray, share: np.ndarray, theta: np.ndarray) -> float:
    """Mean negative-binomial deviance of counts (n, g), given the share (n, g) or (g,) of each gene."""
    from pastpy.metrics._columns import nb_deviance

    mu = counts.sum(axis=1, keepdims=True) * share + 1e-8
    return float(nb_deviance(counts.astype(float), mu.astype(float), theta).mean())


def make_card(
    model: PAST,
    config: TrainConfig,
    train: list[Section],
    validation: list[Section],
    history: list[dict[str, float]],
    tissue: dict[str, Any],
    others: Coexpression | None = None,
) -> ModelCard:
    """Score a trained model on the validation section, if there is one, and collect what its users must know.

    ``tissue`` is of :func:`training_tissue`; ``others`` is what taught genes that simulated cells lack.
    """
    import pandas as pd

    from pastpy.models.past import ModelCard

    genes = variable_genes(train, model.gene_names)
    r = np.full(len(model.gene_names), np.nan)
    scores: dict[str, float] = {}
    statement = "not measured on any tissue that was kept out of the training"
    if validation:
        r, scores = _scored(model, train, validation[0], genes, config.seed)
        statement = (
            f"same patient, validation section: mean r {scores['mean_r_variable']:.2f} over the {len(genes)} most "
            "variable genes; not measured on another patient"
        )
    low, high = _training_quantiles(model, train)
    table = pd.DataFrame(
        {
            "gene": model.gene_names,
            "variable": np.isin(model.gene_names, genes),
            "trusted": np.nan_to_num(r, nan=-1.0) >= TRUSTED_R,
            "validation_r": r,
            "q05": low,
            "q95": high,
        }
    )
    facts: dict[str, Any] = {
        "licence": "CC-BY-4.0 (training data); backbone Apache-2.0",
        "commercial_use": True,
        "command": f"pastpy pretrain {config.model['name']}",
        "train": _trained_on(config, others),
        "validation": [f"her2st {name}" for name in config.validation_sections],
        "transfer_statement": statement,
        "n_train_spots": sum(x.counts.shape[0] for x in train),
        "n_train_cells": sum(len(x.spot) for x in train),
        "depth": float(np.median(np.concatenate([_depth(s, model.gene_names) for s in train]))),
        "scores": scores,
        **tissue,
        "epochs": len(history),
        "history": history,
    }
    return ModelCard(table, facts)


def _trained_on(config: TrainConfig, others: Coexpression | None) -> list[str]:
    """Everything that taught the model."""
    found = [f"her2st {name}" for name in config.train_sections]
    if config.single_cells:
        found.append("Xenium breast cells (expression side)")
    if config.simulated_cohorts:
        n = config.simulated_cohorts * config.simulated_donors
        found.append(f"simulated tissue ({n} donors, pastpy.datasets.simulate_tissue)")
    if others is not None and others.by_types:
        found.append("proportions of cell types in these spots (stereoscope, in her2st)")
    return found


def _scored(
    model: PAST, train: list[Section], section: Section, genes: list[str], seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """Every gene's r on a section, and what the card says of it."""
    from pastpy.train.loop import aligned_counts

    scores = validation_scores(model, section, model.gene_names)
    shuffled = np.random.default_rng(seed).permutation(len(section.spot))
    share = predicted_share(model, section)
    seen = np.isfinite(share).all(axis=1)
    counts = aligned_counts(section.counts, section.genes, model.gene_names)[seen]
    mean = np.concatenate([aligned_counts(s.counts, s.genes, model.gene_names) for s in train]).sum(axis=0)
    theta = model.theta()
    top = scores.loc[genes, "pearson"]
    return scores["pearson"].to_numpy(), {
        "n_spots": int(seen.sum()),
        "mean_r_variable": float(top.mean()),
        "mean_r_best_50": float(top.nlargest(50).mean()),
        "mean_r_shuffled": float(validation_scores(model, section, genes, order=shuffled)["pearson"].mean()),
        "mean_r_one_component": float(
            one_component_scores(train, section, genes, model.image_regions[0])["pearson"].mean()
        ),
        "nb_deviance": mean_deviance(counts, share[seen], theta),
        "nb_deviance_gene_mean": mean_deviance(counts, mean / mean.sum(), theta),
    }


def training_tissue(model: PAST, train: list[Section], simulated: SimulatedCells | None) -> dict[str, Any]:
    """What the training tissue looks like around its cells; a section left out of all calibrates distances to it.

    Simulated tissue is described apart, with a cohort left out. Of features as they are pooled, so that another stain
    counts as other tissue even where the model makes up for it.
    """
    from pastpy.metrics import feature_reference

    if len(train) < 2:
        return {}
    regions = model.passes[0].regions
    region = max(i for i, each in enumerate(regions) if each.of_image)
    features = np.concatenate([s.pooled[0][:, region] for s in train])
    reference = feature_reference(features, np.repeat([s.name for s in train], [len(s.spot) for s in train]))
    described = {"region": regions[region].name, **reference.to_dict()}
    if simulated is not None and simulated.cohort[-1] > 0:
        cohorts = feature_reference(simulated.pooled[:, region].astype(np.float32), simulated.cohort)
        described["simulated"] = cohorts.to_dict()
    return {"tissue": described}


def _depth(section: Section, genes: list[str]) -> np.ndarray:
    from pastpy.train.loop import aligned_counts

    return aligned_counts(section.counts, section.genes, genes).sum(axis=1)


def _training_quantiles(model: PAST, train: list[Section], n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """5 % and 95 % quantiles of every gene's predicted expression over cells of all training sections."""
    import torch

    pooled = np.concatenate([s.pooled[0] for s in train])
    pooled = pooled[np.linspace(0, len(pooled) - 1, min(n, len(pooled))).astype(int)]
    with torch.inference_mode():
        share = model.predict_expression(model.image_tokens(torch.from_numpy(pooled))).numpy()
    low, high = np.quantile(np.log1p(_keys.TARGET_SUM * share), [0.05, 0.95], axis=0)
    return low, high
