"""Models by name: those that come with the package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from pastpy.models.past import PAST
    from pastpy.models.released import ReleasedPAST

__all__ = ["available", "load"]

_BUNDLED = Path(__file__).parent / "weights"


def available() -> pd.DataFrame:
    """Models that :func:`load` knows by name.

    Returns
    -------
    One row a model: ``name``, ``backbone``, ``licence``, ``commercial_use``, ``sha256``, ``size_mb``.

    Examples
    --------
    >>> import pastpy as past
    >>> past.models.available()["name"].tolist()
    ['past-mini']
    """
    import json

    import pandas as pd

    from pastpy.models.config import PASTConfig
    from pastpy.models.files import CARD, CONFIG, model_sha256

    rows = []
    for folder in sorted(p.parent for p in _BUNDLED.glob(f"*/{CONFIG}")):
        facts = json.loads((folder / CARD).read_text())
        rows.append(
            {
                "name": folder.name,
                "backbone": PASTConfig.from_json(folder / CONFIG).backbone,
                "licence": facts["licence"],
                "commercial_use": facts["commercial_use"],
                "sha256": model_sha256(folder),
                "size_mb": round(sum(f.stat().st_size for f in folder.iterdir()) / 1e6, 1),
            }
        )
    return pd.DataFrame(rows, columns=["name", "backbone", "licence", "commercial_use", "sha256", "size_mb"])


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
    raise ValueError(
        f"no model {str(name_or_path)!r}: it is neither a folder nor one of the bundled models {bundled}; "
        "see pastpy.models.available()"
    )


def load(name_or_path: str | os.PathLike[str], *, device: str = "cpu") -> PAST | ReleasedPAST:
    """Load a model by name, from a folder, or from the checkpoint that the authors of PAST released.

    Parameters
    ----------
    name_or_path
        A bundled name (see :func:`available`), a folder written by ``model.save``, a released ``.pth`` checkpoint, or
        the folder that ``pastpy models convert`` made of one.
    device
        Torch device, or ``"auto"``.

    Raises
    ------
    ValueError
        If there is no such model, or its files do not fit together.
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

    if is_released(name_or_path):
        return load_released(name_or_path, device=str(resolve_device(device)))
    return load_model(find(name_or_path)).to(resolve_device(device))
