"""What each part of the model adds, on simulated tissue: writes docs/_data/ablation.json and docs/ablation.md.

    python scripts/ablation.py

Every seed is a tissue of its own: three donors to train on, two to score. Cells' image tokens are pooled once, with the
frozen ImageNet backbone of past-mini; each variant then trains the same number of steps on cells. Nothing is chosen on
the scored donors. Some fifteen minutes on one core.
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
from pastpy.models.nb import nb_log_likelihood
from pastpy.train.augment import View
from pastpy.train.card import mean_deviance
from pastpy.train.data import pooled_tokens
from pastpy.train.losses import info_nce, nb_loss

DOCS = Path(__file__).resolve().parents[1] / "docs"
N_CELLS, N_GENES, N_DONORS, TRAIN_DONORS = 7500, 100, 5, 3
#: Epochs and weight decay were chosen for "likelihood only" on a tissue of its own, seed 1000; the others share them.
EPOCHS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 30, 256, 2e-3, 1.0
#: Weight of the contrastive loss beside the likelihood, and cells of a batch that it sees.
CONTRASTIVE_WEIGHT, PAIRED = 0.1, 128
#: Neighbours of the neighbour context; nearest training cells that a contrastive model's prediction averages.
NEIGHBOURS, RETRIEVED = 8, 50
#: The second pass, and the programs of the low-rank decoder.
COARSE_MPP, COARSE_RADII_UM, RANK = 2.0, (25.0, 50.0, 100.0), 8
#: Cells of a donor among which a cell's partner is sought, and ranks that count as found.
CANDIDATES, TOP = 500, 10
#: Counts over which an expectation is summed, and means at which it is computed.
COUNTS, MEANS = 256, 128


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    name: str
    likelihood: bool = True
    contrastive: bool = True
    neighbours: bool = False
    linear: bool = False
    rank: int = 0
    coarse: bool = False

    def config(self) -> PASTConfig:
        """Architecture: past-mini's and what the variant adds."""
        coarse: dict[str, Any] = {"coarse_mpp": COARSE_MPP, "coarse_radii_um": COARSE_RADII_UM} if self.coarse else {}
        neighbours = NEIGHBOURS if self.neighbours else 0
        return PASTConfig.of_size("mini", name="ablation", neighbours=neighbours, rank=self.rank, **coarse)


VARIANTS = (
    Variant("contrastive only", likelihood=False),
    Variant("likelihood only", contrastive=False),
    Variant("likelihood only, linear head", contrastive=False, linear=True),
    Variant("both"),
    Variant("both, with neighbours", neighbours=True),
    Variant("both, with a coarse pass", coarse=True),
    Variant("both, low rank", rank=RANK),
)
#: Differences that the page shows.
PAIRS = (
    ("both", "likelihood only"), ("both", "contrastive only"), ("likelihood only", "likelihood only, linear head"),
    ("both, with neighbours", "both"), ("both, with a coarse pass", "both"), ("both, low rank", "both"),
)  # fmt: skip


@dataclass
class Cells:
    """Cells of some donors: pooled tokens of both passes, counts, neighbours within the donor, what is attainable."""

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

    @property
    def log1p(self) -> np.ndarray:
        """Measured log1p counts per 10,000."""
        counts = self.counts.numpy()
        return np.log1p(1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def simulate(seed: int) -> tuple[Cells, Cells, list[str]]:
    """Cells of the donors to train on, of those to score, and the genes."""
    sdata = past.datasets.simulate_tissue(N_CELLS, N_GENES, N_DONORS, seed)
    table = sdata.tables["cells_true"]
    genes = table.var_names.astype(str).tolist()
    pooled = pooled_tokens(sdata, make_model(genes, Variant("tokens", coarse=True)), "cells_true", View())
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
    """A new model with the ImageNet backbone."""
    config = variant.config()
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
        #: Regions of the passes that the variant has; the coarse ones come last.
        self.n_regions = sum(len(each.regions) for each in model.passes)
        self.linear = nn.Linear(self.n_regions * model.config.dim, len(share)) if variant.linear else None
        with torch.no_grad():
            pooled = train.pooled[:, : self.n_regions]
            model.feature_mean.copy_(pooled.mean(dim=0))
            model.feature_std.copy_(pooled.std(dim=0) + 1e-3)
            model.members[0].decoder.bias.copy_(share.log())
            model.log_theta.copy_(-excess.clamp(0.02, 10).log())
            if self.linear is not None:
                self.linear.weight.zero_()
                self.linear.bias.copy_(share.log())

    def image_tokens(self, cells: Cells, rows: torch.Tensor) -> torch.Tensor:
        """Tokens of some cells, with those of their neighbours looked at where the variant does."""
        if not self.variant.neighbours:
            return self.model.image_tokens(cells.pooled[rows, : self.n_regions])
        needed, where = torch.cat([rows, cells.index[rows].flatten().clamp(min=0)]).unique(return_inverse=True)
        index = where[len(rows) :].view(len(rows), -1).masked_fill(cells.index[rows] < 0, -1)
        # only the asked cells attend; the others are there to be looked at
        everyone = torch.full((len(needed), index.shape[1]), -1)
        everyone[where[: len(rows)]] = index
        distance = torch.zeros(len(needed), index.shape[1])
        distance[where[: len(rows)]] = cells.distance[rows]
        tokens = self.model.image_tokens(cells.pooled[needed, : self.n_regions])
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
            image = F.normalize(self.model.project_image(tokens[:PAIRED]), dim=1)
            weight = CONTRASTIVE_WEIGHT if self.variant.likelihood else 1.0
            scale = self.model.logit_scale.exp().clamp(max=100)
            total = total + weight * info_nce(image, self.expression(counts[:PAIRED]), scale)
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
    out = {"deviance": float("nan"), "recall": float("nan")}
    if learner.variant.likelihood:
        share = torch.cat([learner.share(part) for part in tokens.split(1024)])
        theta = learner.model.log_theta.exp()
        mean = seen.counts.sum(dim=0) / seen.counts.sum()
        found, plain = (mean_deviance(cells.counts.numpy(), s.numpy(), theta.numpy()) for s in (share, mean))
        out["deviance"] = found / plain
        predicted = expected_log1p(share, theta, float(seen.counts.sum(dim=1).median()))
    else:
        library = torch.cat([learner.expression(part) for part in seen.counts.split(1024)])
        predicted = seen.log1p[(image @ library.T).topk(RETRIEVED, dim=1).indices.numpy()].mean(axis=1)
    if learner.variant.contrastive:
        own = torch.cat([learner.expression(cells.counts[rows]) for rows in parts])
        out["recall"] = recall(image, own, cells.donor, seed)
    return {**expression_scores(predicted, cells), **out}


def expected_log1p(share: torch.Tensor, theta: torch.Tensor, depth: float) -> np.ndarray:
    """Expectation of log1p(1e4 · count / depth), (n, g), for negative-binomial counts of mean ``depth · share``.

    That, and not the logarithm of the mean, is what the measured values scatter around. It is read off a curve over the
    mean for every gene.
    """
    log_mu = (depth * share + 1e-8).log().numpy()
    count = torch.arange(COUNTS, dtype=torch.float32)
    value = torch.log1p(1e4 * count / depth)
    out = np.empty(log_mu.shape)
    for g in range(log_mu.shape[1]):
        at = torch.linspace(float(log_mu[:, g].min()) - 1e-6, float(log_mu[:, g].max()) + 1e-6, MEANS)
        curve = nb_log_likelihood(count, at.exp()[:, None], theta[g]).exp() @ value
        out[:, g] = np.interp(log_mu[:, g], at.numpy(), curve.numpy())
    return out


def recall(image: torch.Tensor, own: torch.Tensor, donor: np.ndarray, seed: int) -> float:
    """Share of cells whose transcriptome is among the nearest to their image, of some cells of their donor."""
    rng = np.random.default_rng(seed)
    found = []
    for each in np.unique(donor):
        rows = rng.choice(np.flatnonzero(donor == each), CANDIDATES, replace=False)
        similarity = image[rows] @ own[rows].T
        rank = (similarity > similarity.diagonal()[:, None]).sum(dim=1)
        found.append(float((rank < TOP).float().mean()))
    return float(np.mean(found))


def expression_scores(predicted: np.ndarray, cells: Cells) -> dict[str, float]:
    """Mean Pearson r over genes within donors: with what was measured, and with the best that the image allows."""
    rows = []
    for donor in np.unique(cells.donor):
        at = cells.donor == donor
        rows.append([mean_r(predicted[at], target[at]) for target in (cells.log1p, cells.bayes)])
    return dict(zip(("r", "of_attainable"), np.mean(rows, axis=0).tolist(), strict=True))


def mean_r(predicted: np.ndarray, target: np.ndarray) -> float:
    """Mean over genes of the Pearson r that ``past.metrics.expression`` gives."""
    return float(expression(pd.DataFrame(predicted), pd.DataFrame(target))["pearson"].mean())


def ridge_scores(cells: Cells, seen: Cells, n_regions: int) -> dict[str, float]:
    """Ridge on the same frozen tokens, its α chosen by leave-one-out on the training cells."""
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, unseen = (part.pooled[:, :n_regions].flatten(1).numpy() for part in (seen, cells))
    fitted = make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11))).fit(x, seen.log1p)
    return {**expression_scores(fitted.predict(unseen), cells), "deviance": float("nan"), "recall": float("nan")}


def main() -> None:
    """Run all seeds, keep every run, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of tissues (default: 5)")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for ablation.md and _data/ablation.json")
    parser.add_argument("--page-only", action="store_true", help="write the page anew from _data/ablation.json")
    args = parser.parse_args()
    data = args.out / "_data" / "ablation.json"
    if not args.page_only:
        start, rows = time.process_time(), []
        for seed in range(args.seeds):
            rows += run_seed(seed)
        data.parent.mkdir(parents=True, exist_ok=True)
        minutes = round((time.process_time() - start) / 60, 1)
        data.write_text(json.dumps({"settings": {**SETTINGS, "cpu_minutes": minutes}, "runs": rows}, indent=2) + "\n")
    (args.out / "ablation.md").write_text(page(**json.loads(data.read_text())))


SETTINGS = {
    "cells": N_CELLS, "genes": N_GENES, "donors": N_DONORS, "train_donors": TRAIN_DONORS, "epochs": EPOCHS,
    "batch": BATCH, "paired": PAIRED, "contrastive_weight": CONTRASTIVE_WEIGHT, "neighbours": NEIGHBOURS,
    "retrieved": RETRIEVED, "candidates": CANDIDATES, "top": TOP, "coarse_mpp": COARSE_MPP,
    "coarse_radii_um": list(COARSE_RADII_UM), "rank": RANK,
}  # fmt: skip


def run_seed(seed: int) -> list[dict[str, Any]]:
    """All variants on one tissue; scores that a variant does not have are ``None``."""
    seen, unseen, genes = simulate(seed)
    n_fine = len(VARIANTS[0].config().regions)
    found = {
        "ridge on the same tokens": ridge_scores(unseen, seen, n_fine),
        "ridge, with a coarse pass": ridge_scores(unseen, seen, n_fine + len(COARSE_RADII_UM)),
    }
    for variant in VARIANTS:
        found[variant.name] = score(train(variant, seen, genes, seed), unseen, seen, seed)
    rows: list[dict[str, Any]] = []
    for name, scores in found.items():
        plain = {k: None if np.isnan(v) else round(v, 4) for k, v in scores.items()}
        rows.append({"seed": seed, "variant": name, **plain})
        print(json.dumps(rows[-1]), flush=True)
    return rows


METRICS = ("of_attainable", "r", "deviance", "recall")


def page(settings: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """The page, from the runs."""
    frame = pd.DataFrame(runs)
    lines = []
    for name in dict.fromkeys(frame["variant"]):
        part = frame[frame["variant"] == name]
        cells = ["–" if part[m].isna().any() else f"{part[m].mean():.3f} ± {part[m].std():.3f}" for m in METRICS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return _PAGE.format(
        seeds=frame["seed"].nunique(), table="\n".join(lines), chance=settings["top"] / settings["candidates"],
        differences="\n".join(difference(frame, a, b) for a, b in PAIRS),
        diameters=", ".join(f"{2 * radius:g}" for radius in settings["coarse_radii_um"]), **settings,
    )  # fmt: skip


def difference(frame: pd.DataFrame, a: str, b: str) -> str:
    """One row of paired differences, seed by seed."""
    values = {name: frame[frame["variant"] == name].set_index("seed") for name in (a, b)}
    cells = []
    for metric in ("of_attainable", "recall"):
        d = values[a][metric] - values[b][metric]
        cells.append("–" if d.isna().any() else f"{d.mean():+.3f} ± {d.std():.3f} ({int((d > 0).sum())} of {len(d)})")
    return f"| {a} − {b} | " + " | ".join(cells) + " |"


_PAGE = """\
# What each part adds

On [simulated tissue](simulator.md) with known truth, in the size of past-mini: {seeds} seeds, mean ± standard deviation
over them. Each seed is a tissue of its own ({cells:,} cells, {genes} genes, {donors} donors), trained on {train_donors}
donors and scored on the others. Backbone and pooled tokens are the same for all rows; each variant trains {epochs}
epochs in batches of {batch} cells, of which the contrastive loss sees {paired}. Nothing is chosen on the scored donors:
epochs and weight decay were chosen for "likelihood only" on one more tissue. The donors of seed 0 had been looked at
before, while the simulator and this script were written.

| variant | of the attainable | mean r | deviance | recall@{top} |
|---|---|---|---|---|
{table}

- **of the attainable**: Pearson r over cells of the prediction with the best one that the image allows, which the
  simulator knows, on log1p counts per 10,000; mean over genes, within donors. 1 is all that can be read off the image.
- **mean r**: the same with the measured values, which hold noise that no image tells of.
- **deviance**: mean negative-binomial deviance of the counts, over that of the training donors' gene means. Below 1 is
  better than gene means.
- **recall@{top}**: a cell's own transcriptome is among the {top} nearest to its image, of {candidates} of its donor;
  chance is {chance:g}.
- **likelihood**: gene queries that attend to the image tokens, trained on counts; its prediction is the expectation of
  the log1p value. **contrastive only** has no decoder: it averages the {retrieved} training cells whose transcriptomes
  lie nearest to the cell's image. **both** weighs the contrastive loss by {contrastive_weight}, fixed beforehand.
- **linear head**: a linear layer on all image tokens of the cell in place of the gene queries.
- **neighbours**: a cell's tokens attend to those of its {neighbours} nearest cells within 50 µm.
- **coarse pass**: the same backbone once more at {coarse_mpp:g} µm/px, discs of {diameters} µm across.
- **low rank**: genes are a baseline and loadings on {rank} numbers a cell.
- **ridge**: on the same tokens, log1p counts per 10,000 as target, α by leave-one-out on the training cells.

Paired differences, and in how many seeds they are positive:

| | of the attainable | recall@{top} |
|---|---|---|
{differences}

Simulated tissue is not real tissue: its images show what its maker put into them. The table compares parts with each
other, for cells whose own counts are the target; `past-mini` learns from spots.

`python scripts/ablation.py` makes `docs/_data/ablation.json`, with every run, and this page from it ({cpu_minutes:g}
minutes of one core).
"""

if __name__ == "__main__":
    main()
