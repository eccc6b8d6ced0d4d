"""Models on disk: config.json + model.safetensors + genes.parquet + card.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from pastpy.models.config import PASTConfig

if TYPE_CHECKING:
    from pastpy.models.past import PAST

__all__ = ["load_model", "model_sha256", "save_model"]

CONFIG, WEIGHTS, GENES, CARD = "config.json", "model.safetensors", "genes.parquet", "card.json"


def save_model(model: PAST, folder: Path) -> None:
    """Write a model's four files into ``folder``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    model.config.to_json(folder / CONFIG)
    model.card.genes.to_parquet(folder / GENES, index=False)
    (folder / CARD).write_text(json.dumps(model.card.facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / WEIGHTS)
    # safetensors makes its files readable by their owner alone; a package's data are for everybody
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode & 0o777)


def load_model(folder: Path) -> PAST:
    """Read a model that :func:`save_model` wrote.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing; the message names it.
    ValueError
        If the weights do not fit the configuration; the message names the entries.
    """
    import pandas as pd
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from pastpy.models.past import PAST, ModelCard

    missing = [name for name in (CONFIG, WEIGHTS, GENES, CARD) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"model folder {str(folder)!r} lacks {', '.join(missing)}; a pastpy model has {CONFIG}, {WEIGHTS}, {GENES} "
            f"and {CARD}: save it again with model.save(folder)"
        )
    card = ModelCard(pd.read_parquet(folder / GENES), json.loads((folder / CARD).read_text()))
    model = PAST(PASTConfig.from_json(folder / CONFIG), card)
    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read as safetensors ({error}); copy the model again") from error
    wanted = model.state_dict()
    wrong = sorted(
        set(wanted) ^ set(weights) | {k for k in set(wanted) & set(weights) if wanted[k].shape != weights[k].shape}
    )
    if wrong:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {len(wrong)} entries are missing, unexpected or of "
            f"another shape, first {wrong[:3]}; the files come from different models"
        )
    model.load_state_dict(weights)
    model.sha256 = model_sha256(folder)
    return model.eval()


def model_sha256(folder: Path) -> str:
    """SHA-256 of a model's weights file, hexadecimal."""
    with (folder / WEIGHTS).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
