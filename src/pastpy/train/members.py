"""Members of a model, trained one after the other, each from its own start and on its own draws."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy._settings import show_progress
from pastpy.train.ranks import Ranks

if TYPE_CHECKING:
    import torch

    from pastpy.models.past import PAST
    from pastpy.train.config import TrainConfig
    from pastpy.train.data import Section
    from pastpy.train.loop import Batches

__all__ = ["drop_finished", "optimise", "resumable", "train_members"]

#: Folder, in that of the model, of members that are trained while others are not; gone once the model is there.
FINISHED = ".unfinished"
#: What a model does not take over from a member's training: what is the member's own, and what is fitted afterwards.
NOT_SHARED = ("members.", "image_encoder.", "linear.", "image_projection.", "cell_projection.")


def train_members(
    model: PAST,
    config: TrainConfig,
    batches: Batches,
    train: list[Section],
    out: Path,
    progress: bool,
    ranks: Ranks | None = None,
) -> list[dict[str, float]]:
    """Train every member of a model as if it were the only one; returns the losses by epoch, means over members.

    A member knows nothing of the others: seeds apart, they are trainings of the same recipe. The dispersion of genes,
    which they have in common, becomes the mean of the members'; all else that was trained beside them is the first's.
    Finished members are kept in ``out``, and taken from there by a run of the same configuration on the same data;
    :func:`drop_finished` removes them.

    Parameters
    ----------
    model
        The model, initialised; changed in place.
    config
        The configuration.
    batches
        What a step sees.
    train
        Training sections.
    out
        Folder of the model.
    progress
        Show a progress bar for each member.
    ranks
        Processes that train the members among them.

    Raises
    ------
    FileNotFoundError
        If a member that another process has trained is not in ``out``.
    """
    import torch

    ranks = ranks or Ranks()
    n, dispersions, histories = len(model.members), [], []
    # before any training: a member's file tells what it began with
    finished = [_Finished(out / FINISHED / f"{i}.safetensors", model.alone(i), config, batches) for i in range(n)]
    for i in ranks.share(n):
        alone = model.alone(i)
        if finished[i].read(alone) is None:
            title = "training" if n == 1 else f"training {i + 1} of {n}"
            finished[i].write(alone, optimise(alone, config, batches, train, config.seed + i, title, progress))
    ranks.wait()
    for i in range(n):
        alone = model.alone(i)
        history = finished[i].read(alone)
        if history is None:
            raise FileNotFoundError(
                f"{finished[i].path} is not what another process has trained; all of them need the same folder of the "
                "model, on a disk that they share"
            )
        if i == 0:
            shared = {k: v for k, v in alone.state_dict().items() if not k.startswith(NOT_SHARED)}
        dispersions.append(alone.log_theta.detach())
        histories.append(history)
    load_known(model, shared, but=NOT_SHARED)
    with torch.no_grad():
        model.log_theta.copy_(torch.stack(dispersions).mean(dim=0))
    model.eval()
    return [_mean_losses(epoch) for epoch in zip(*histories, strict=True)]


def _mean_losses(of_members: Sequence[dict[str, float]]) -> dict[str, float]:
    """An epoch's losses, means over members; the epoch's number stays as it is."""
    names = [name for name in of_members[0] if name != "epoch"]
    means = {name: float(np.mean([losses[name] for losses in of_members])) for name in names}
    return {"epoch": of_members[0]["epoch"], **means}


def resumable(out: Path) -> bool:
    """Whether a run that was stopped, or none, has left what is in a model's folder."""
    return not out.exists() or (out / FINISHED).is_dir()


def drop_finished(out: Path) -> None:
    """Remove what :func:`train_members` has kept, once the model is written."""
    shutil.rmtree(out / FINISHED, ignore_errors=True)


def load_known(model: PAST, state: dict[str, torch.Tensor], *, but: tuple[str, ...]) -> None:
    """Load a model's state, of which only entries that begin with one of ``but`` may be missing."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    wrong = [*unexpected, *(name for name in missing if not name.startswith(but))]
    if wrong:
        raise ValueError(f"what was kept of a member does not fit the model: {wrong[:3]}")


class _Finished:
    """A trained member on disk, with all that was trained beside it; of no use to a run that began otherwise."""

    def __init__(self, path: Path, initial: PAST, config: TrainConfig, batches: Batches) -> None:
        from pastpy.engine import model_fingerprint

        self.path = path
        made_with = {
            "configuration": asdict(config), "pastpy": version("pastpy"), "start": model_fingerprint(initial),
            "data": batches.fingerprint,
        }  # fmt: skip
        self.made_with = json.dumps(made_with, sort_keys=True)

    def read(self, model: PAST) -> list[dict[str, float]] | None:
        """Take the member from disk into a model; returns its losses by epoch, ``None`` if it is not there."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                told = file.metadata() or {}
                if told.get("made_with") != self.made_with:
                    return None
                state = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError):
            return None
        load_known(model, state, but=("image_encoder.",))
        history: list[dict[str, float]] = json.loads(told["history"])
        return history

    def write(self, model: PAST, history: list[dict[str, float]]) -> None:
        """Keep a trained member."""
        from safetensors.torch import save_file

        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        state = {k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith("image_encoder.")}
        save_file(state, part, metadata={"made_with": self.made_with, "history": json.dumps(history)})
        part.replace(self.path)


def optimise(
    model: PAST,
    config: TrainConfig,
    batches: Batches,
    train: list[Section],
    seed: int,
    title: str,
    progress: bool,
) -> list[dict[str, float]]:
    """AdamW with a one-cycle schedule to its end; no other data decide when to stop. Returns the losses by epoch."""
    import torch
    from lightning_fabric import Fabric
    from tqdm.auto import tqdm

    from pastpy.train.card import variable_genes
    from pastpy.train.objective import Objective

    # batches are made on the CPU, and what learns from them is small
    fabric = Fabric(accelerator="cpu", devices=1)
    model.image_encoder.requires_grad_(False)
    (by_gene,) = (member.decoder.gene_weights for member in model.members)
    rest = [p for p in model.trained_parameters() if p is not by_gene]
    groups: list[dict[str, Any]] = [
        {"params": [by_gene], "weight_decay": config.readout_decay},
        {"params": rest},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.epochs * len(batches)
    )
    variable = torch.from_numpy(model.columns_of(variable_genes(train, model.gene_names)))
    objective, optimizer = fabric.setup(Objective(model, config, variable), optimizer)
    torch.manual_seed(seed)
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    history: list[dict[str, float]] = []
    bar = tqdm(range(config.epochs), desc=title, unit="epoch", disable=not show_progress(progress))
    for epoch in bar:
        objective.train()
        seen: dict[str, list[float]] = {}
        for batch in batches.epoch(rng):
            losses = objective(batch, generator)
            optimizer.zero_grad()
            fabric.backward(losses["total"])
            fabric.clip_gradients(objective, optimizer, max_norm=5.0)
            optimizer.step()
            schedule.step()
            for name, value in losses.items():
                seen.setdefault(name, []).append(value.item())
        means = {name: float(np.mean(values)) for name, values in seen.items()}
        history.append({"epoch": epoch, **means})
        bar.set_postfix(loss=f"{means['total']:.4f}")
    model.eval()
    return history
