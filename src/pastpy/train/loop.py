"""``past.train.fit``: from a configuration and data to a saved model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pastpy.train.config import TrainConfig
from pastpy.train.data import MIN_CELLS
from pastpy.train.ranks import Ranks

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from pastpy.models.past import PAST
    from pastpy.train.coexpression import Coexpression
    from pastpy.train.data import Section, SingleCells
    from pastpy.train.objective import Batch, SimulatedBatch
    from pastpy.train.simulated import SimulatedCells

__all__ = ["fit"]

#: Added to the standard deviation of every feature.
LEAST_STD = 1e-3


def fit(
    config: TrainConfig | str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    progress: bool = True,
    ranks: Ranks | None = None,
) -> PAST:
    """Train a model and write it, with its card, into a folder.

    The image backbone keeps its ImageNet weights; everything behind it is trained, each of its members on its own. A
    spot's counts are the sum of its cells' predictions and a learnt background, under a negative-binomial likelihood.
    A linear readout is fitted afterwards.

    A run that was stopped goes on with the member that it was at, if it is started again with the same configuration,
    data and folder.

    Parameters
    ----------
    config
        A configuration, its file, or the name of a bundled one (``"past-mini"``).
    out
        Folder for the model.
    data
        Folder with the training data; the configuration's by default.
    progress
        Show a progress bar.
    ranks
        Processes that have all called this, with the same arguments, on a disk that they share: they make the training
        data and train the members among them, and the first does the rest. The model is that which one process makes.

    Returns
    -------
    The trained model.

    Raises
    ------
    FileNotFoundError
        If the data are missing; the message names the file.

    References
    ----------
    Yang et al., PAST, arXiv:2507.06418. Lopez et al., Nat Methods 15:1053 (2018), doi:10.1038/s41592-018-0229-2.

    Examples
    --------
    >>> import pastpy as past
    >>> past.train.fit("past-mini", "my-model")  # doctest: +SKIP
    """
    import torch

    from pastpy.models.files import load_model
    from pastpy.train.align import align
    from pastpy.train.augment import views_of
    from pastpy.train.card import make_card, training_tissue
    from pastpy.train.coexpression import coexpression
    from pastpy.train.data import prepare_section, read_cells
    from pastpy.train.level import set_levels
    from pastpy.train.linear import fit_linear
    from pastpy.train.members import drop_finished, train_members
    from pastpy.train.simulated import simulated_cells
    from pastpy.train.slides import relative_to_slides

    if not isinstance(config, TrainConfig):
        config = TrainConfig.from_json(config)
    folder = Path(data or os.environ.get("PASTPY_SHARED_DATA") or config.data)
    if not folder.is_dir():
        raise FileNotFoundError(f"no training data at {str(folder)!r}; pass data= or set PASTPY_SHARED_DATA")
    ranks = ranks or Ranks()
    progress = progress and ranks.first
    torch.manual_seed(config.seed)
    backbone = _untrained(config, ["none"])
    if ranks.size > 1:
        _prepare_share(config, folder, backbone, ranks)
        ranks.wait()
    train, validation = (
        [prepare_section(n, folder, config, backbone, views_of(n, config.views, config.seed)) for n in names]
        for names in (config.train_sections, config.validation_sections)
    )
    single_cells = read_cells(folder) if config.single_cells else None
    simulated = simulated_cells(config, backbone, progress=progress) if config.simulated_cohorts else None
    panels = [*([] if single_cells is None else single_cells.genes), *([] if simulated is None else simulated.genes)]
    model = _untrained(config, vocabulary(train, config, panels))
    tissue = training_tissue(model, train, simulated)
    _initialise(model, train, simulated)
    if model.config.slide_norm:
        relative_to_slides(model, [*train, *validation], simulated)
    others = None
    if simulated is not None and single_cells is not None and config.weights.get("coexpression"):
        others = coexpression(train, single_cells, simulated.genes, model.gene_names)
    batches = Batches(model, config, train, single_cells, simulated, others)
    history = train_members(model, config, batches, train, Path(out), progress, ranks)
    if not ranks.first:
        ranks.wait()
        return load_model(Path(out))
    if model.linear is not None:
        fit_linear(model, config, train, simulated, others)
    set_levels(model, train)
    align(model, train, config.seed)
    model.card = make_card(model, config, train, validation, history, tissue, others)
    model.save(out)
    drop_finished(Path(out))
    ranks.wait()
    return model


def _prepare_share(config: TrainConfig, folder: Path, model: PAST, ranks: Ranks) -> None:
    """Put this process' share of the training data into the cache directory."""
    from pastpy.train.augment import views_of
    from pastpy.train.data import prepare_section
    from pastpy.train.simulated import simulated_cohort

    names = [*config.train_sections, *config.validation_sections]
    for i in ranks.share(len(names)):
        prepare_section(names[i], folder, config, model, views_of(names[i], config.views, config.seed))
    for number in ranks.share(config.simulated_cohorts):
        simulated_cohort(number, config, model)


def vocabulary(sections: list[Section], config: TrainConfig, panel: Iterable[str]) -> list[str]:
    """Genes measured in every section and counted in enough of their spots, and those of a panel, sorted."""
    common = sorted(set.intersection(*(set(s.genes) for s in sections)))
    found = detected_share(sections, common)
    return sorted({gene for gene, share in zip(common, found, strict=True) if share >= config.min_detection} | {*panel})


def detected_share(sections: list[Section], genes: list[str]) -> np.ndarray:
    """Share of all sections' spots in which each gene was counted, float64 (genes,)."""
    return np.concatenate([aligned_counts(s.counts, s.genes, genes) > 0 for s in sections]).mean(axis=0)


def aligned_counts(counts: csr_matrix, genes: list[str], wanted: list[str]) -> np.ndarray:
    """Counts as float32 (n, len(wanted)); 0 where a wanted gene is not among ``genes``."""
    position = {g: i for i, g in enumerate(genes)}
    have = [i for i, g in enumerate(wanted) if g in position]
    out = np.zeros((counts.shape[0], len(wanted)), dtype=np.float32)
    out[:, have] = counts[:, [position[wanted[i]] for i in have]].toarray()
    return out


def _untrained(config: TrainConfig, genes: list[str]) -> PAST:
    import pandas as pd
    import timm

    from pastpy.models.imagenet import IMAGENET_BACKBONE, load_imagenet_backbone
    from pastpy.models.past import PAST, ModelCard

    model = PAST(config.model_config, ModelCard(pd.DataFrame({"gene": genes}), {}))
    name = model.config.backbone
    if name == IMAGENET_BACKBONE:
        load_imagenet_backbone(model.image_encoder, model.config.backbone_stage)
    elif name in timm.list_models():
        raise ValueError(
            f"backbone {name!r} has random weights, and fit leaves it as it is; use {IMAGENET_BACKBONE!r}, a folder "
            "with the weights, or one of the hub's"
        )
    return model.eval()


def _initialise(model: PAST, train: list[Section], simulated: SimulatedCells | None) -> None:
    """Start from the gene means, with dispersions by moments, and standardise the backbone's tokens."""
    import torch

    pooled = np.concatenate([s.pooled[0] for s in train])
    if simulated is not None:
        # as many cells of either kind, so that both lie within the range of the networks' first layers
        drawn = np.linspace(0, len(simulated.pooled) - 1, len(pooled)).astype(int)
        pooled = np.concatenate([pooled, simulated.pooled[drawn].astype(np.float32)])
    counts = np.concatenate([aligned_counts(s.counts, s.genes, model.gene_names) for s in train])
    # half a count keeps genes of a panel finite that no spot has a count of
    share = (counts.sum(axis=0) + 0.5) / (counts.sum() + 0.5 * counts.shape[1])
    mu = counts.sum(axis=1, keepdims=True) * share
    excess = ((counts - mu) ** 2 - mu).sum(axis=0) / (mu**2).sum(axis=0)
    with torch.no_grad():
        model.feature_mean.copy_(torch.from_numpy(np.nanmean(pooled, axis=0)))
        model.feature_std.copy_(torch.from_numpy(np.nanstd(pooled, axis=0) + LEAST_STD))
        model.background.copy_(torch.from_numpy(np.log(share)))
        model.log_theta.copy_(torch.from_numpy(-np.log(np.clip(excess, 0.02, 10))))
        programs = torch.from_numpy(_programs(train, model)) if model.config.rank else None
        for member in model.members:
            member.decoder.bias.copy_(torch.from_numpy(np.log(share)))
            if programs is not None:
                member.decoder.loadings.copy_(programs)


def _programs(train: list[Section], model: PAST) -> np.ndarray:
    """Principal components of the spots' log-normalised expression, each as long as its spread, (genes, rank)."""
    from pastpy.train.card import log_counts

    values = np.concatenate([log_counts(s, model.gene_names) for s in train])
    scores, spread, components = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    rank = min(model.config.rank, len(spread))
    out = np.zeros((len(model.gene_names), model.config.rank), dtype=np.float32)
    out[:, :rank] = components[:rank].T * spread[:rank] / np.sqrt(len(scores))
    return out


def on_one_level(sections: list[np.ndarray]) -> list[np.ndarray]:
    """Log expression of sections, (spots, genes) each, moved so that every gene's mean is that over all spots.

    How much of a gene one section has more than another, be it depth or batch, its image does not show, and within a
    section it earns nothing: without it the network does not learn to tell sections apart.
    """
    mean = np.nanmean(np.concatenate(sections), axis=0)  # a spot without counts has no profile
    return [values - np.nanmean(values, axis=0) + mean for values in sections]


class Batches:
    """Random spots with a random view and a random draw of their cells."""

    def __init__(
        self,
        model: PAST,
        config: TrainConfig,
        train: list[Section],
        single_cells: SingleCells | None,
        simulated: SimulatedCells | None,
        others: Coexpression | None = None,
    ) -> None:
        from pastpy.train.card import log_counts

        self.config, self.train = config, train
        self.mean, self.std = model.feature_mean.cpu().numpy(), model.feature_std.cpu().numpy()
        self.counts = [aligned_counts(s.counts, s.genes, model.gene_names) for s in train]
        self.log_counts = on_one_level([log_counts(s, model.gene_names).astype(np.float32) for s in train])
        self.cells_of = [[np.flatnonzero(s.spot == i) for i in range(s.counts.shape[0])] for s in train]
        self.spots = [
            (a, i) for a, spots in enumerate(self.cells_of) for i, m in enumerate(spots) if len(m) >= MIN_CELLS
        ]
        self.cells = self.known = None
        if single_cells is not None:
            aligned = aligned_counts(single_cells.counts, single_cells.genes, model.gene_names)
            self.cells = aligned[aligned.sum(axis=1) >= 10]
            self.known = np.isin(model.gene_names, single_cells.genes)
        self.outlines = OutlineAugmentation(model, config)
        self.simulated = None
        if simulated is not None:
            self.simulated = SimulatedDraws(model, simulated, config.batch_simulated, self.outlines, others)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of all that batches are drawn from."""
        from pastpy.engine import array_fingerprint

        arrays = [*self.counts, *self.log_counts, *(s.spot for s in self.train), *(s.pooled for s in self.train)]
        if self.cells is not None:
            arrays.append(self.cells)
        if self.simulated is not None:
            drawn = self.simulated
            arrays += [drawn.cells.pooled, drawn.cells.expected, drawn.starts]
            arrays += [] if drawn.others is None else [drawn.others.weights]
        return array_fingerprint(*arrays)

    def __len__(self) -> int:
        return max(1, len(self.spots) // self.config.batch_spots)

    def epoch(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Every spot once, in random order."""
        order = rng.permutation(len(self.spots))
        for step, chosen in enumerate(np.array_split(order, len(self))):
            batch = self._batch([self.spots[i] for i in chosen], rng)
            batch.with_expression = step % self.config.expression_every == 0
            yield batch

    def _style(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
        """Factor and offset of every section's tokens in a step, float32 (sections, regions, channels)."""
        sd = self.config.style_sd
        if not sd:
            return None
        shape = (len(self.train), 1, self.mean.shape[1])
        gain = np.exp(rng.normal(0, sd, shape)).astype(np.float32)
        # channels of an outline that hold nothing stay so
        spread = np.where(self.std > 2 * LEAST_STD, self.std, 0)
        offset = rng.normal(0, sd, shape).astype(np.float32) * spread
        return np.broadcast_to(gain, offset.shape), self.mean * (1 - gain) + offset

    def _batch(self, spots: list[tuple[int, int]], rng: np.random.Generator) -> Batch:
        import torch

        from pastpy.train.objective import Batch

        pooled, owner = [], []
        style, hidden = self._style(rng), self.outlines.hide(len(self.train), rng)
        for position, (a, i) in enumerate(spots):
            members = self.cells_of[a][i]
            drawn = rng.choice(members, min(len(members), self.config.cells_per_spot), replace=False)
            tokens = self.train[a].pooled[rng.integers(len(self.train[a].pooled)), drawn]
            tokens = tokens if style is None else style[0][a] * tokens + style[1][a]
            pooled.append(self.outlines.of_section(tokens, hidden[a]))
            owner.append(np.full(len(drawn), position))
        cells = known = None
        if self.cells is not None:
            cells = torch.from_numpy(self.cells[rng.integers(len(self.cells), size=4 * len(spots))])
            known = torch.from_numpy(self.known)
        return Batch(
            pooled=torch.from_numpy(np.concatenate(pooled)),
            spot=torch.from_numpy(np.concatenate(owner)),
            counts=torch.from_numpy(np.stack([self.counts[a][i] for a, i in spots])),
            log_counts=torch.from_numpy(np.stack([self.log_counts[a][i] for a, i in spots])),
            cells=cells,
            cells_known=known,
            simulated=None if self.simulated is None else self.simulated.draw(rng),
        )


class OutlineAugmentation:
    """Outlines as others have them: none at all, or drawn badly, for all cells of a section or a donor alike."""

    #: Most noise, in standard deviations of a slide's cells.
    most_noise = 1.5

    def __init__(self, model: PAST, config: TrainConfig) -> None:
        self.regions = [i for i in range(len(model.feature_mean)) if i not in model.image_regions]
        self.mean, self.std = (v[self.regions, :2].cpu().numpy() for v in (model.feature_mean, model.feature_std))
        self.hidden, self.noisy = (config.outline_dropout, config.outline_noise) if self.regions else (0.0, 0.0)

    def of_section(self, pooled: np.ndarray, hide: bool) -> np.ndarray:
        """Features (cells, regions, channels) of cells, without their outlines if they are to be hidden."""
        if not hide:
            return pooled
        out = pooled.copy()
        out[:, self.regions] = np.nan
        return out

    def of_donor(self, pooled: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Features of a simulated donor's cells: outlines as they are, hidden, or with noise and the same spread."""
        drawn = rng.random() if self.regions else 1.0
        if drawn < self.hidden or drawn >= self.hidden + (1 - self.hidden) * self.noisy:
            return self.of_section(pooled, drawn < self.hidden)
        out, sd = pooled.copy(), rng.uniform(0, self.most_noise)
        noise = sd * self.std * rng.standard_normal((len(out), *self.std.shape))
        out[:, self.regions, :2] = self.mean + (out[:, self.regions, :2] - self.mean + noise) / np.sqrt(1 + sd**2)
        return out

    def hide(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Of which of n sections the outlines are hidden in a step, bool (n,)."""
        return rng.random(n) < self.hidden if self.hidden else np.zeros(n, dtype=bool)


class SimulatedDraws:
    """Random simulated cells, as many of each of some random donors."""

    #: Donors of a step.
    donors = 4

    def __init__(
        self,
        model: PAST,
        cells: SimulatedCells,
        n: int,
        outlines: OutlineAugmentation,
        others: Coexpression | None = None,
    ) -> None:
        import torch

        columns = model.columns_of(cells.genes)
        known = np.flatnonzero(columns >= 0)
        self.cells, self.each, self.outlines = cells, max(2, n // self.donors), outlines
        self.known = known
        self.genes = torch.from_numpy(columns[known])
        self.starts = np.flatnonzero(np.r_[True, np.diff(cells.donor) != 0, True])
        self.others = others
        self.other_genes = None if others is None else torch.from_numpy(model.columns_of(others.genes))

    def draw(self, rng: np.random.Generator) -> SimulatedBatch:
        """Cells of one step."""
        import torch

        from pastpy.train.objective import SimulatedBatch

        n_donors = min(self.donors, len(self.starts) - 1)
        chosen = rng.choice(len(self.starts) - 1, n_donors, replace=False)
        rows = np.concatenate([rng.integers(self.starts[d], self.starts[d + 1], self.each) for d in chosen])
        of_donors = np.split(self.cells.pooled[rows].astype(np.float32), n_donors)
        pooled = np.concatenate([self.outlines.of_donor(each, rng) for each in of_donors])
        expected = self.cells.expected[rows].astype(np.float32)
        return SimulatedBatch(
            pooled=torch.from_numpy(pooled),
            expected=torch.from_numpy(expected[:, self.known]),
            donor=torch.arange(n_donors).repeat_interleave(self.each),
            genes=self.genes,
            others=None if self.others is None else torch.from_numpy(expected @ self.others.weights),
            other_genes=self.other_genes,
        )
