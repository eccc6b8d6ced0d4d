"""Models by name: those that come with the package, and what is known of others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from pastpy.models.past import PAST
    from pastpy.models.released import ReleasedPAST

__all__ = ["available", "load"]

_BUNDLED = Path(__file__).parent / "weights"
_COLUMNS = ["name", "kind", "location", "backbone", "licence", "commercial_use", "gated", "sha256", "size_mb", "url"]


def available() -> pd.DataFrame:
    """Models that come with pastpy, and published models and image backbones that work with it.

    Nothing is fetched: remote ones are only listed. Read their terms before use.

    Returns
    -------
    One row a model: ``name``; ``kind``, ``"model"`` or ``"backbone"``; ``location``, ``"bundled"`` (:func:`load` takes
    the name) or ``"remote"``; ``backbone``, ``licence``, ``commercial_use`` and ``gated`` (``None`` where unknown);
    ``sha256``, ``size_mb`` and ``url``.

    Examples
    --------
    >>> import pastpy as past
    >>> known = past.models.available()
    >>> known.loc[known["location"] == "bundled", "name"].tolist()
    ['past-mini']
    """
    import json
    from dataclasses import asdict

    import pandas as pd

    from pastpy.models.config import PASTConfig
    from pastpy.models.files import CARD, CONFIG, model_sha256
    from pastpy.models.known import KNOWN

    rows: list[dict[str, object]] = []
    for folder in sorted(p.parent for p in _BUNDLED.glob(f"*/{CONFIG}")):
        facts = json.loads((folder / CARD).read_text())
        rows.append(
            {
                "name": folder.name,
                "kind": "model",
                "location": "bundled",
                "backbone": PASTConfig.from_json(folder / CONFIG).backbone,
                "licence": facts["licence"],
                "commercial_use": facts["commercial_use"],
                "gated": False,
                "sha256": model_sha256(folder),
                "size_mb": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e6, 1),
            }
        )
    rows += [{"location": "remote", **asdict(known)} for known in KNOWN]
    table = pd.DataFrame(rows, columns=_COLUMNS)
    return table.astype({"commercial_use": "boolean", "gated": "boolean"})


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """Folder of a model: a path that exists, else a bundled name.

    Raises
    ------
    ValueError
        If there is neither; the message lists the bundled names.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    bundled = sorted(p.parent.name for p in _BUNDLED.glob("*/config.json"))
    if str(name_or_path) in bundled:
        return _BUNDLED / str(name_or_path)
    _refuse_known(str(name_or_path))
    raise ValueError(
        f"no model {str(name_or_path)!r}: it is neither a folder nor one of the bundled models {bundled}; "
        "see pastpy.models.available()"
    )


def _folder_of(name_or_path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The folder of a model whose weights file is named, where the files that belong to it lie beside it."""
    from pastpy.models.files import CARD, CONFIG, WEIGHTS
    from pastpy.models.released_import import is_released

    path = Path(name_or_path)
    whole = path.name == WEIGHTS and path.is_file() and (path.parent / CONFIG).is_file()
    return path.parent if whole and ((path.parent / CARD).is_file() or is_released(path.parent)) else name_or_path


def _refuse_known(name: str) -> None:
    """``ValueError`` for a published model that is not bundled: where it is, and how to use it."""
    from pastpy.models.known import KNOWN

    for known in KNOWN:
        if known.name != name:
            continue
        how = (
            f"is an image backbone: train a model on it, PASTConfig(backbone={name!r}, …)"
            if known.kind == "backbone"
            else "does not come with pastpy, and nothing is fetched: get the file and pass its path"
        )
        raise ValueError(f"{name!r} {how} ({known.url}; licence: {known.licence})")


def load(
    name_or_path: str | os.PathLike[str], *, device: str = "cpu", backbone: nn.Module | None = None
) -> PAST | ReleasedPAST:
    """Load a model by name, from a folder, or from the checkpoint that the authors of PAST released.

    What is on this machine is used, a path before a bundled name; nothing is fetched.

    Parameters
    ----------
    name_or_path
        A bundled name (see :func:`available`), a folder written by ``model.save``, or its ``model.safetensors`` among
        the other files; a released ``.pth`` checkpoint, its weights as ``.safetensors``, or the folder that
        ``pastpy models convert`` made of one.
    device
        Torch device, or ``"auto"``.
    backbone
        Image backbone of a model that was saved without its own (``store_backbone=False``) and whose backbone has no
        name.

    Raises
    ------
    ValueError
        If there is no such model, its files do not fit together, or one is not the file that the card was written for.
    FileNotFoundError
        If the folder lacks a file.

    Examples
    --------
    >>> import pastpy as past
    >>> past.models.load("past-mini").config.target_mpp
    0.5
    """
    from pastpy.engine.device import resolve_device
    from pastpy.models.files import load_model
    from pastpy.models.released_import import is_released, load_released

    name_or_path = _folder_of(name_or_path)
    if is_released(name_or_path):
        return load_released(name_or_path, device=str(resolve_device(device)))
    return load_model(find(name_or_path), backbone=backbone).to(resolve_device(device))
