"""Models on disk: config.json + model.safetensors + genes.parquet + card.json."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pastpy.models.config import PASTConfig

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn

    from pastpy.models.past import PAST

__all__ = ["load_model", "model_sha256", "save_model"]

CONFIG, WEIGHTS, GENES, CARD = "config.json", "model.safetensors", "genes.parquet", "card.json"
#: Entries of the card: hashes of the files beside it, and of a backbone that is not among them.
FILE_HASHES, BACKBONE_HASH = "sha256", "backbone_sha256"


def save_model(model: PAST, folder: Path) -> None:
    """Write a model's four files into ``folder``; the card holds the hashes of weights and genes."""
    from safetensors.torch import save_file

    from pastpy.models.encoders import backbone_sha256

    folder.mkdir(parents=True, exist_ok=True)
    model.config.to_json(folder / CONFIG)
    model.card.genes.to_parquet(folder / GENES, index=False)
    save_file({name: value.contiguous() for name, value in _stored(model).items()}, folder / WEIGHTS)
    # safetensors makes its files readable by their owner alone; a package's data are for everybody
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode & 0o777)
    facts = {**model.card.facts, FILE_HASHES: {name: file_sha256(folder / name) for name in (WEIGHTS, GENES)}}
    if not model.config.store_backbone:
        facts[BACKBONE_HASH] = backbone_sha256(model.image_encoder)
    (folder / CARD).write_text(json.dumps(facts, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load_model(folder: Path, *, backbone: nn.Module | None = None) -> PAST:
    """Read a model that :func:`save_model` wrote.

    Parameters
    ----------
    folder
        The model's folder.
    backbone
        Image backbone, for a model whose own is not stored with it and has no name.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing; the message names it.
    ValueError
        If the weights do not fit the configuration, a file is not the one that the card was written for, or the
        backbone is not the one that the model was trained with; the message names what.
    """
    from pastpy.models.encoders import backbone_sha256
    from pastpy.models.past import PAST, ModelCard

    missing = [name for name in (CONFIG, WEIGHTS, GENES, CARD) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"model folder {str(folder)!r} lacks {', '.join(missing)}; a pastpy model has {CONFIG}, {WEIGHTS}, {GENES} "
            f"and {CARD}: save it again with model.save(folder)"
        )
    facts = _read_facts(folder / CARD)
    hashes = facts.get(FILE_HASHES, {})
    _check_hash(folder, GENES, hashes)
    card = ModelCard(_read_genes(folder / GENES), facts)
    config = PASTConfig.from_json(folder / CONFIG)
    try:
        model = PAST(config, card, backbone=backbone)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"the model that {folder / CONFIG} describes cannot be made: {error}") from error
    weights = _read_weights(folder, model)
    _check_hash(folder, WEIGHTS, hashes)
    if not model.config.store_backbone and backbone_sha256(model.image_encoder) != card.facts.get(BACKBONE_HASH):
        raise ValueError(
            f"backbone {model.config.backbone!r} has other weights than the one that {str(folder)!r} was trained with; "
            "get the same release of it"
        )
    model.load_state_dict(weights, strict=model.config.store_backbone)
    model.sha256 = model_sha256(folder)
    return model.eval()


def _stored(model: PAST) -> dict[str, torch.Tensor]:
    """State of a model, without a backbone that is to stay where it is."""
    state = model.state_dict()
    if model.config.store_backbone:
        return state
    return {k: v for k, v in state.items() if not k.startswith("image_encoder.") or ".lora_" in k}


def _read_weights(folder: Path, model: PAST) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read as safetensors ({error}); copy the model again") from error
    wanted = _stored(model)
    wrong = sorted(
        set(wanted) ^ set(weights) | {k for k in set(wanted) & set(weights) if wanted[k].shape != weights[k].shape}
    )
    if wrong:
        raise ValueError(
            f"{folder / WEIGHTS} does not fit {folder / CONFIG}: {len(wrong)} entries are missing, unexpected or of "
            f"another shape, first {wrong[:3]}; the files come from different models, or from another version of pastpy"
        )
    return weights


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); copy the model again") from error
    hashes = facts.get(FILE_HASHES, {}) if isinstance(facts, dict) else None
    if not isinstance(hashes, dict) or not all(isinstance(h, str) for h in hashes.values()):
        raise ValueError(f"{path} is not the card of a pastpy model; copy the model again")
    return facts


def _read_genes(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        genes = pd.read_parquet(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); copy the model again") from error
    if "gene" not in genes:
        raise ValueError(f"{path} has no column 'gene'; it has {genes.columns.tolist()}")
    return genes


def _check_hash(folder: Path, name: str, hashes: dict[str, str]) -> None:
    found, expected = file_sha256(folder / name), hashes.get(name)
    if expected is not None and found != expected:
        raise ValueError(
            f"{folder / name} is not the file that {CARD} was written for: its SHA-256 is {found[:12]}…, the card "
            f"says {expected[:12]}…; copy the model again, or save it anew with model.save(folder)"
        )


def model_sha256(folder: Path) -> str:
    """SHA-256 of a model's weights file, hexadecimal."""
    return file_sha256(folder / WEIGHTS)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
