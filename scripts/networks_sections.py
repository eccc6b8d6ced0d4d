"""What small networks say of past-mini's recipe, one section of her2st left out: JSON in docs/_data and its table.

    python scripts/networks_sections.py --data ../shared/data

A network for every cell on its frozen features, trained so that the mean over a spot's cells is the spot's log profile
of the 250 most variable genes of the training spots. All five sections are left out in turn, and scored as they are and
in their other views (stain, focus, zoom). Features are those that training keeps in the cache directory; from an empty
one they take twenty minutes, a row then one or two on one core. Rows whose options have not changed stay as they are in
the JSON file. They were made to choose a recipe by, on the very sections that they are scored on: all of them flatter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from result_tables import DOCS, fill, table
from scipy.spatial import cKDTree
from sklearn.linear_model import Ridge
from small_network import correlations, measure, network, standardised, train

from pastpy import _keys
from pastpy.train import TrainConfig
from pastpy.train.augment import views_of
from pastpy.train.card import N_VARIABLE, log_counts
from pastpy.train.data import MIN_CELLS, Section, prepare_section, read_section
from pastpy.train.loop import _untrained, detected_share, on_one_level
from pastpy.train.losses import correlation_loss, spot_mean

RESULTS = DOCS / "_data" / "networks_sections.json"
CONFIG = TrainConfig.from_json("past-mini")
NAMES = sorted(CONFIG.train_sections + CONFIG.validation_sections)
CELLS_A_SPOT = 8
WIDE = ("coarse_100um", "coarse_200um", "coarse_400um")
#: Scores of a fold, as the JSON file names them.
SCORES = ("mean_r", "best_50", "mean_r_other_views")
SMALL = ("nucleus", "outline", "ring", "disc_3um", "disc_6um", "disc_9um")


@dataclass(frozen=True)
class Row:
    """What a network is given, is taught and is. ``profiles``: "as they are", "of rank 8" or "smoothed"."""

    without: tuple[str, ...] = ()
    relative: bool = True
    views: bool = True
    noise: float = 0.0
    one_level: bool = True
    profiles: str = "as they are"
    equal_genes: bool = False
    genes: int = 250
    proportions: bool = False
    correlation: bool = False
    layers: int = 2
    width: int = 128
    programs: int = 16
    dropout: float = 0.3
    decay: float = 0.5
    epochs: int = 25
    spots: int = 8
    trainings: int = 1
    ridge: float | None = None


ROWS: dict[str, Row] = {
    "network": Row(),
    "sections on their own levels": Row(one_level=False),
    "features as they are, not relative to the slide": Row(relative=False),
    "no discs beyond 30 µm": Row(without=WIDE),
    "discs beyond 30 µm alone": Row(without=(*SMALL, "disc_15um", "context")),
    "no nucleus, outline, ring, nor discs below 15 µm": Row(without=SMALL),
    "no other views in training": Row(views=False),
    "one hidden layer of 64": Row(layers=1, width=64),
    "256 wide": Row(width=256),
    "4 programs": Row(programs=4),
    "48 programs": Row(programs=48),
    "dropout of 0.5": Row(dropout=0.5),
    "noise of 0.3 sd on the features": Row(noise=0.3),
    "weight decay of 2": Row(decay=2.0),
    "twice the epochs": Row(epochs=50),
    "32 spots a step": Row(spots=32),
    "every gene with the same weight": Row(equal_genes=True),
    "profiles of rank 8": Row(profiles="of rank 8"),
    "profiles smoothed over neighbouring spots": Row(profiles="smoothed"),
    "loss on the correlation within a section, 64 spots a step": Row(correlation=True, spots=64),
    "learns proportions of cell types too": Row(proportions=True),
    "learns 1,000 genes": Row(genes=1000),
    "three trainings averaged": Row(trainings=3),
    "ridge (α = 2,000) on spots' means instead": Row(ridge=2e3),
    "the same, features as they are": Row(ridge=2e3, relative=False),
}


class Fold:
    """Features and profiles of four sections and of the one that is left out."""

    def __init__(self, row: Row, sections: dict[str, Section], held_out: str, regions: list[str], data: Path) -> None:
        self.train, self.test = [s for n, s in sections.items() if n != held_out], sections[held_out]
        genes = sorted(set.intersection(*(set(s.genes) for s in sections.values())))
        detected = detected_share(self.train, genes)
        genes = [g for g, share in zip(genes, detected, strict=True) if share > 0.1]
        variance = np.concatenate([log_counts(s, genes) for s in self.train]).var(axis=0)
        most_variable = [genes[i] for i in np.argsort(-variance, kind="stable")]
        self.scored = most_variable[:N_VARIABLE]
        self.profiles = self._profiles(row, most_variable[: row.genes], data)
        kept = [i for i, name in enumerate(regions) if name not in row.without]
        usual = np.concatenate([s.pooled[0][:, kept] for s in self.train])
        self.features = {
            s.name: [standardised(v[:, kept], v[:, kept] if row.relative else usual) for v in s.pooled]
            for s in sections.values()
        }
        self.members = {
            s.name: [np.flatnonzero(s.spot == i) for i in range(s.counts.shape[0])] for s in sections.values()
        }
        #: Spots that are trained on, and those of the section that was left out that are scored, by section.
        self.used = {s.name: np.array([len(m) > 0 for m in self.members[s.name]]) for s in sections.values()}

    @property
    def spots(self) -> list[tuple[str, int]]:
        """Spots with enough cells for a network to learn from."""
        members = self.members
        return [
            (s.name, i)
            for s in self.train
            for i in np.flatnonzero(self.used[s.name]).tolist()
            if len(members[s.name][i]) >= MIN_CELLS
        ]

    def _profiles(self, row: Row, genes: list[str], data: Path) -> dict[str, np.ndarray]:
        """What the spots are taught, float32 (spots, genes); the genes that are scored come first."""
        names = [s.name for s in self.train]
        found = [log_counts(s, genes) for s in self.train]
        if row.one_level:
            found = on_one_level(found)
        if row.profiles == "smoothed":
            found = [smoothed(p, name, data) for p, name in zip(found, names, strict=True)]
        if row.profiles == "of rank 8":
            middle = np.concatenate(found).mean(axis=0)
            components = np.linalg.svd(np.concatenate(found) - middle, full_matrices=False)[2][:8]
            found = [(p - middle) @ components.T @ components + middle for p in found]
        if row.equal_genes:
            spread = np.concatenate(found).std(axis=0) + 1e-3
            found = [p / spread for p in found]
        if row.proportions:
            found = [np.hstack([p, proportions(name, data)]) for p, name in zip(found, names, strict=True)]
        return {name: p.astype(np.float32) for name, p in zip(names, found, strict=True)}

    def of_spots(self, name: str, cells: np.ndarray) -> np.ndarray:
        """Mean over the cells of each spot that is used."""
        return np.stack([cells[self.members[name][i]].mean(axis=0) for i in np.flatnonzero(self.used[name])])

    def score(self, view: int, predict: Any) -> np.ndarray:
        """Pearson r of the 250 genes over the spots of the section that was left out, in a view of it."""
        name = self.test.name
        predicted = self.of_spots(name, predict(self.features[name][view]))[:, : len(self.scored)]
        return correlations(predicted, log_counts(self.test, self.scored)[self.used[name]])


@cache
def spot_table(name: str, data: Path) -> Any:
    """The spots of a section, with names and places."""
    sdata = read_section(data / "her2st", name, mpp=CONFIG.mpp, spot_diameter_um=CONFIG.spot_diameter_um)
    return sdata.tables[_keys.SPOTS]


def smoothed(profiles: np.ndarray, name: str, data: Path) -> np.ndarray:
    """Half of a spot's own profile and half of the mean of its neighbours within 290 µm, where it has any."""
    um = np.asarray(spot_table(name, data).obsm[_keys.SPATIAL])
    out = profiles.copy()
    for i, near in enumerate(cKDTree(um).query_ball_point(um, 290.0)):
        others = [j for j in near if j != i]
        if others:
            out[i] = (profiles[i] + profiles[others].mean(axis=0)) / 2
    return out


def proportions(name: str, data: Path) -> np.ndarray:
    """Stereoscope's proportions of cell types of a section's spots; the mean where a spot has none."""
    frame = pd.read_csv(data / "her2st" / "deconvolution" / f"{name}.tsv", sep="\t", index_col=0)
    values = frame.reindex(spot_table(name, data).obs_names).to_numpy(dtype=float)
    return np.where(np.isnan(values), np.nanmean(values, axis=0), values)


def fit_ridge(row: Row, fold: Fold) -> Any:
    """Ridge on the means of the spots' cells."""
    x = np.concatenate([fold.of_spots(s.name, fold.features[s.name][0]) for s in fold.train])
    y = np.concatenate([fold.profiles[s.name][fold.used[s.name]] for s in fold.train])
    return Ridge(row.ridge).fit(x, y).predict


def fit_network(row: Row, fold: Fold, seed: int) -> Any:
    """A network for every cell, taught through the means of spots."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    names = [s.name for s in fold.train]
    mean = np.concatenate(list(fold.profiles.values())).mean(axis=0)
    net = network(
        fold.features[names[0]][0].shape[1], len(mean),
        layers=row.layers, width=row.width, programs=row.programs, dropout=row.dropout,
    )  # fmt: skip
    net[-1].bias.data = torch.from_numpy(mean)
    known = fold.spots
    queue: list[np.ndarray] = []

    def loss() -> torch.Tensor:
        if not queue:
            queue.extend(np.array_split(rng.permutation(len(known)), max(1, len(known) // row.spots)))
        spots = [known[i] for i in queue.pop()]
        features, owner = [], []
        for position, (name, i) in enumerate(spots):
            members = fold.members[name][i]
            drawn = rng.choice(members, min(CELLS_A_SPOT, len(members)), replace=False)
            view = rng.integers(len(fold.features[name])) if row.views else 0
            features.append(fold.features[name][view][drawn])
            owner.append(np.full(len(drawn), position))
        x = torch.from_numpy(np.concatenate(features))
        predicted = spot_mean(
            net(x + row.noise * torch.randn_like(x)), torch.from_numpy(np.concatenate(owner)), len(spots)
        )
        true = torch.from_numpy(np.stack([fold.profiles[name][i] for name, i in spots]))
        if row.correlation:
            return correlation_loss(predicted, true, torch.tensor([names.index(name) for name, _ in spots]))
        return (predicted - true).square().mean()

    train(net, row.epochs * max(1, len(known) // row.spots), row.decay, loss)

    def predict(features: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return net(torch.from_numpy(features)).numpy()

    return predict


def score(
    row: Row, sections: dict[str, Section], regions: list[str], data: Path, make_fold: Callable[..., Fold] = Fold
) -> dict[str, Any]:
    """Mean r and that of the best 50 genes of every section left out, and mean r in its other views."""
    found = {name: score_fold(row, make_fold(row, sections, name, regions, data)) for name in sections}
    return {score: {name: round(of[i], 4) for name, of in found.items()} for i, score in enumerate(SCORES)}


def score_fold(row: Row, fold: Fold) -> tuple[float, float, float]:
    """Fit on a fold's spots; the scores of those that were left out, in the order of ``SCORES``."""
    if row.ridge is not None:
        fitted = [fit_ridge(row, fold)]
    else:
        fitted = [fit_network(row, fold, seed) for seed in range(row.trainings)]
    r = [
        fold.score(view, lambda x: np.mean([predict(x) for predict in fitted], axis=0))
        for view in range(len(fold.test.pooled))
    ]
    return float(r[0].mean()), float(np.sort(r[0])[-50:].mean()), float(np.mean(r[1:]))


def rows(found: dict[str, Any], each: str = "section by section") -> str:
    """A row for each network."""

    def line(one: dict[str, Any]) -> tuple[str, ...]:
        r, best, views = (list(one[k].values()) for k in SCORES)
        return f"{np.mean(r):.3f}", f"{np.mean(best):.3f}", f"{np.mean(views):.3f}", f"{min(r):.2f} to {max(r):.2f}"

    header = ("what differs", "mean r", "best 50", "mean r, other views", f"mean r, {each}")
    return table(header, [(name, *line(one)) for name, one in found.items()])


def data_folder(description: str | None) -> Path:
    """The folder that the command line names."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0] if description else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    return parser.parse_args().data


def prepared(data: Path) -> tuple[dict[str, Section], list[str]]:
    """All sections with their features, and the names of the features' regions."""
    model = _untrained(CONFIG, ["none"])
    sections = {
        name: prepare_section(name, data, CONFIG, model, views_of(name, CONFIG.views, CONFIG.seed)) for name in NAMES
    }
    return sections, [r.name for each in model.passes for r in each.regions]


def main() -> None:
    """Measure what is missing, and write the table."""
    data = data_folder(__doc__)
    sections, regions = prepared(data)
    measure(RESULTS, ROWS, lambda row: score(row, sections, regions, data))
    fill(DOCS / "decisions.md", {"networks_sections": rows})


if __name__ == "__main__":
    main()
