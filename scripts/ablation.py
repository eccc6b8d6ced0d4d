"""What each part of the model adds, on simulated tissue: writes docs/ablation.md and docs/ablation.json.

    python scripts/ablation.py

Every seed is a tissue of its own: four donors to train on, two to score. Cells' image tokens are pooled once, with the
frozen backbone of past-mini; each variant then trains the same number of steps on cells. Nothing is chosen on the
scored donors. Some 15 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from torch import nn
from torch.nn import functional as F

import pastpy as past
from pastpy.metrics import expression
from pastpy.models import PAST, ModelCard, PASTConfig, nearest_cells
from pastpy.models.imagenet import load_imagenet_backbone
from pastpy.models.nb import nb_deviance
from pastpy.train.augment import View
from pastpy.train.data import pooled_tokens
from pastpy.train.losses import info_nce, nb_loss

DOCS = Path(__file__).resolve().parents[1] / "docs"
N_CELLS, N_GENES, N_DONORS, TRAIN_DONORS = 6000, 100, 6, 4
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 20, 256, 2e-3, 1e-2
CONTRASTIVE_WEIGHT = 0.1
#: Neighbours of the neighbour context; nearest training cells that a contrastive model's prediction averages.
NEIGHBOURS, RETRIEVED = 8, 50
#: Cells of a donor among which a cell's partner is sought, and ranks that count as found.
CANDIDATES, TOP = 500, 10


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    likelihood: bool = True
    contrastive: bool = True
    neighbours: bool = False
    linear: bool = False


VARIANTS = (
    Variant("contrastive only", likelihood=False),
    Variant("likelihood only", contrastive=False),
    Variant("both"),
    Variant("both, with neighbours", neighbours=True),
    Variant("likelihood only, linear head", contrastive=False, linear=True),
    Variant("both, linear head", linear=True),
)


@dataclass
class Cells:
    """Cells of some donors: pooled tokens, counts, neighbours within the donor, and what is attainable."""

    pooled: torch.Tensor
    counts: torch.Tensor
    index: torch.Tensor
    distance: torch.Tensor
    donor: np.ndarray
    bayes: np.ndarray

    def take(self, rows: np.ndarray) -> Cells:
        """Some whole donors."""
        position = np.full(len(self.donor), -1)
        position[rows] = np.arange(len(rows))
        index = self.index[rows].numpy()
        moved = torch.from_numpy(np.where(index >= 0, position[index], -1))
        return Cells(
            self.pooled[rows], self.counts[rows], moved, self.distance[rows], self.donor[rows], self.bayes[rows]
        )


def simulate(seed: int) -> tuple[Cells, Cells, list[str]]:
    """Cells of the donors to train on, of those to score, and the genes."""
    sdata = past.datasets.simulate_tissue(N_CELLS, N_GENES, N_DONORS, seed)
    table = sdata.tables["cells_true"]
    genes = table.var_names.astype(str).tolist()
    pooled = pooled_tokens(sdata, make_model(genes, Variant("tokens")), "cells_true", View())
    donor = table.obs["donor"].cat.codes.to_numpy()
    # donors lie farther apart than a neighbour may
    index, distance = nearest_cells(table.obsm["spatial"], NEIGHBOURS, 50.0)
    everything = Cells(
        torch.from_numpy(pooled), torch.from_numpy(table.X.toarray().astype(np.float32)), torch.from_numpy(index),
        torch.from_numpy(distance), donor, np.asarray(table.layers["bayes_log1p"]),
    )  # fmt: skip
    assert (donor[index[index >= 0]] == np.repeat(donor, (index >= 0).sum(axis=1))).all()
    return (*(everything.take(np.flatnonzero(part)) for part in (donor < TRAIN_DONORS, donor >= TRAIN_DONORS)), genes)


def make_model(genes: list[str], variant: Variant) -> PAST:
    """A new model of the size of past-mini, with the ImageNet backbone."""
    config = PASTConfig.of_size("mini", name="ablation", neighbours=NEIGHBOURS if variant.neighbours else 0)
    model = PAST(config, ModelCard(pd.DataFrame({"gene": genes}), {}))
    load_imagenet_backbone(model.image_encoder, config.backbone_stage)
    return model.eval()


class Learner(nn.Module):
    """A model and, for the linear variants, the layer that takes the place of its decoder."""

    def __init__(self, model: PAST, variant: Variant, train: Cells) -> None:
        super().__init__()
        self.model, self.variant = model, variant
        share = train.counts.sum(dim=0) / train.counts.sum()
        mu = train.counts.sum(dim=1, keepdim=True) * share
        excess = ((train.counts - mu) ** 2 - mu).sum(dim=0) / (mu**2).sum(dim=0)
        width = train.pooled.shape[1] * model.config.dim
        self.linear = nn.Linear(width, len(share)) if variant.linear else None
        with torch.no_grad():
            model.feature_mean.copy_(train.pooled.mean(dim=0))
            model.feature_std.copy_(train.pooled.std(dim=0) + 1e-3)
            model.decoder.bias.copy_(share.log())
            model.log_theta.copy_(-excess.clamp(0.02, 10).log())
            if self.linear is not None:
                self.linear.weight.zero_()
                self.linear.bias.copy_(share.log())

    def image_tokens(self, cells: Cells, rows: torch.Tensor) -> torch.Tensor:
        """Tokens of some cells, with those of their neighbours looked at where the variant does."""
        if not self.variant.neighbours:
            return self.model.image_tokens(cells.pooled[rows])
        needed, where = torch.cat([rows, cells.index[rows].flatten().clamp(min=0)]).unique(return_inverse=True)
        index = where[len(rows) :].view(len(rows), -1).masked_fill(cells.index[rows] < 0, -1)
        # only the asked cells attend; the others are there to be looked at
        everyone = torch.full((len(needed), index.shape[1]), -1)
        everyone[where[: len(rows)]] = index
        distance = torch.zeros(len(needed), index.shape[1])
        distance[where[: len(rows)]] = cells.distance[rows]
        tokens = self.model.image_tokens(cells.pooled[needed])
        return self.model.add_neighbours(tokens, everyone, distance)[where[: len(rows)]]

    def share(self, tokens: torch.Tensor) -> torch.Tensor:
        """Predicted share of every gene."""
        if self.linear is None:
            return self.model.log_profile(tokens).exp()
        return self.linear(tokens.flatten(1)).softmax(dim=1)

    def expression(self, counts: torch.Tensor) -> torch.Tensor:
        """Embedding of counts, normalised."""
        tokens = self.model.encode_counts(csr_matrix(counts.numpy()), np.arange(counts.shape[1]))
        return F.normalize(self.model.project_expression(tokens), dim=1)

    def loss(self, cells: Cells, rows: torch.Tensor) -> torch.Tensor:
        """The variant's losses on a batch."""
        tokens, counts = self.image_tokens(cells, rows), cells.counts[rows]
        total = torch.zeros(())
        if self.variant.likelihood:
            total = total + nb_loss(counts, self.share(tokens), self.model.log_theta.exp())
        if self.variant.contrastive:
            image = F.normalize(self.model.project_image(tokens), dim=1)
            weight = CONTRASTIVE_WEIGHT if self.variant.likelihood else 1.0
            total = total + weight * info_nce(
                image, self.expression(counts), self.model.logit_scale.exp().clamp(max=100)
            )
        return total


def train(variant: Variant, cells: Cells, genes: list[str], seed: int) -> Learner:
    """Train one variant."""
    torch.manual_seed(seed)
    learner = Learner(make_model(genes, variant), variant, cells).train()
    parameters = [p for n, p in learner.named_parameters() if "image_encoder" not in n]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = len(cells.counts) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(cells.counts), generator=generator)[: steps * BATCH].split(BATCH):
            optimizer.zero_grad()
            learner.loss(cells, rows).backward()
            nn.utils.clip_grad_norm_(parameters, 5.0)
            optimizer.step()
            schedule.step()
    return learner.eval()


@torch.inference_mode()
def score(learner: Learner, cells: Cells, seen: Cells, seed: int) -> dict[str, float]:
    """Scores on donors that were not trained on, averaged over them."""
    parts = torch.arange(len(cells.counts)).split(1024)
    tokens = torch.cat([learner.image_tokens(cells, rows) for rows in parts])
    image = F.normalize(learner.model.project_image(tokens), dim=1)
    own = torch.cat([learner.expression(cells.counts[rows]) for rows in parts])
    if learner.variant.likelihood:
        share = torch.cat([learner.share(part) for part in tokens.split(1024)])
    else:
        library = torch.cat([learner.expression(part) for part in seen.counts.split(1024)])
        nearest = (image @ library.T).topk(RETRIEVED, dim=1).indices
        share = (seen.counts / seen.counts.sum(dim=1, keepdim=True).clamp(min=1))[nearest].mean(dim=1)
    out = expression_scores(share.numpy(), cells)
    theta = learner.model.log_theta.exp()
    mean = seen.counts.sum(dim=0) / seen.counts.sum()
    depth = cells.counts.sum(dim=1, keepdim=True)
    deviance = [nb_deviance(cells.counts, depth * s + 1e-8, theta).mean() for s in (share, mean)]
    out["deviance"] = float(deviance[0] / deviance[1]) if learner.variant.likelihood else float("nan")
    rng = np.random.default_rng(seed)
    found = []
    for donor in np.unique(cells.donor):
        rows = rng.choice(np.flatnonzero(cells.donor == donor), CANDIDATES, replace=False)
        similarity = image[rows] @ own[rows].T
        rank = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
        found.append(float((rank < TOP).float().mean()))
    out["recall"] = float(np.mean(found))
    return out


def expression_scores(share: np.ndarray, cells: Cells) -> dict[str, float]:
    """Mean Pearson r over genes within donors, of log1p per 10,000, and as a part of what is attainable."""
    counts = cells.counts.numpy()
    measured = np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    rows = []
    for donor in np.unique(cells.donor):
        at = cells.donor == donor
        rows.append([mean_r(np.log1p(1e4 * share[at]), measured[at]), mean_r(cells.bayes[at], measured[at])])
    found, attainable = np.mean(rows, axis=0)
    return {"r": float(found), "of_attainable": float(found / attainable)}


def mean_r(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Mean over genes of the Pearson r that ``past.metrics.expression`` gives."""
    return float(expression(pd.DataFrame(predicted), pd.DataFrame(measured))["pearson"].mean())


def ridge_scores(cells: Cells, seen: Cells) -> dict[str, float]:
    """Ridge on the same frozen tokens, its α chosen by leave-one-out on the training cells."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, counts = seen.pooled.flatten(1).numpy(), seen.counts.numpy()
    y = np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    fitted = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11))).fit(x, y)
    predicted = np.expm1(np.clip(fitted.predict(cells.pooled.flatten(1).numpy()), 0, None)) / 1e4
    return {**expression_scores(predicted, cells), "deviance": float("nan"), "recall": float("nan")}


def main() -> None:
    """Run all seeds and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of tissues (default: 5)")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for ablation.md and ablation.json")
    args = parser.parse_args()
    start, rows = time.time(), []
    for seed in range(args.seeds):
        seen, unseen, genes = simulate(seed)
        rows.append({"seed": seed, "variant": "ridge on the same tokens", **ridge_scores(unseen, seen)})
        for variant in VARIANTS:
            scores = score(train(variant, seen, genes, seed), unseen, seen, seed)
            rows.append({"seed": seed, "variant": variant.name, **scores})
            print(json.dumps(rows[-1]), flush=True)
    write(rows, args.out, minutes=(time.time() - start) / 60)


def write(rows: list[dict[str, Any]], out: Path, *, minutes: float) -> None:
    """The table as a page, every run as JSON."""
    frame = pd.DataFrame(rows)
    settings = {
        "cells": N_CELLS, "genes": N_GENES, "donors": N_DONORS, "train_donors": TRAIN_DONORS, "epochs": EPOCHS,
        "batch": BATCH, "contrastive_weight": CONTRASTIVE_WEIGHT, "minutes": round(minutes, 1),
    }  # fmt: skip
    plain = [{k: None if isinstance(v, float) and np.isnan(v) else v for k, v in row.items()} for row in rows]
    (out / "ablation.json").write_text(json.dumps({"settings": settings, "runs": plain}, indent=2) + "\n")
    lines = []
    for name in dict.fromkeys(frame["variant"]):
        part = frame[frame["variant"] == name]
        cells = [
            "–" if part[m].isna().any() else f"{part[m].mean():.3f} ± {part[m].std():.3f}"
            for m in ("r", "of_attainable", "deviance", "recall")
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    differences = [difference(frame, a, b) for a, b in _PAIRS]
    page = _PAGE.format(
        seeds=frame["seed"].nunique(), retrieved=RETRIEVED, candidates=CANDIDATES, neighbours=NEIGHBOURS,
        table="\n".join(lines),
        differences="\n".join(differences), chance=TOP / CANDIDATES, **settings,
    )  # fmt: skip
    (out / "ablation.md").write_text(page)


_PAIRS = (
    ("both", "likelihood only"), ("both", "contrastive only"), ("both, with neighbours", "both"),
    ("both", "both, linear head"), ("likelihood only", "likelihood only, linear head"),
)  # fmt: skip


def difference(frame: pd.DataFrame, a: str, b: str) -> str:
    """One row of paired differences, seed by seed."""
    values = {name: frame[frame["variant"] == name].set_index("seed") for name in (a, b)}
    cells = []
    for metric in ("r", "recall"):
        d = values[a][metric] - values[b][metric]
        cells.append(f"{d.mean():+.3f} ± {d.std():.3f} ({int((d > 0).sum())} of {len(d)})")
    return f"| {a} − {b} | " + " | ".join(cells) + " |"


_PAGE = """\
# What each part adds

On simulated tissue with known truth, in the size of past-mini: {seeds} seeds, mean ± standard deviation over them. Each
seed is a tissue of its own ({cells:,} cells, {genes} genes, {donors} donors), trained on {train_donors} donors and
scored on the others. Backbone and pooled tokens are the same for all rows; each variant trains {epochs} epochs in
batches of {batch} cells, and nothing is chosen on the scored donors.

| variant | mean r | of the attainable | deviance | recall@10 |
|---|---|---|---|---|
{table}

- **mean r**: Pearson r of predicted with measured log1p counts per 10,000, mean over genes, within donors. A model with
  a likelihood predicts with its decoder; "contrastive only" has none and averages the {retrieved} training cells whose
  expression embeddings are nearest to the cell's image embedding.
- **of the attainable**: that r over the r of the best predictor from the image, which the simulator knows.
- **deviance**: mean negative-binomial deviance of the counts, over that of the training donors' gene means. Below 1 is
  better than gene means.
- **recall@10**: a cell's own transcriptome is among the 10 nearest of {candidates} of its donor; chance is {chance:g}.
  Without a contrastive loss the embeddings are untrained.
- **linear head**: a linear layer on all image tokens of the cell in place of gene queries that attend to them.
- **neighbours**: a cell's tokens attend to those of its {neighbours} nearest cells within 50 µm.
- **ridge**: on the same tokens, log1p counts per 10,000 as target, α by leave-one-out on the training cells.

Paired differences, and in how many seeds they are positive:

| | mean r | recall@10 |
|---|---|---|
{differences}

"Both" adds the contrastive loss with weight {contrastive_weight}, fixed beforehand. Simulated tissue is not real
tissue: its images show what its maker put into them. The table compares parts with each other.

`python scripts/ablation.py` makes this page and `docs/ablation.json` with every run ({minutes:.0f} minutes on one core
of a busy machine).
"""

if __name__ == "__main__":
    main()
