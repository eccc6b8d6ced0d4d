"""The authors' checkpoint on disk: read, checked, converted."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from pastpy.models.files import CONFIG, WEIGHTS

if TYPE_CHECKING:
    import torch

    from pastpy.models.released import ReleasedConfig, ReleasedPAST

__all__ = ["convert_released", "is_released", "load_released", "write_release"]

_CHECKPOINTS = (".pth", ".pt")
#: Copy of a layer that the release registered twice; nothing is computed with it.
_REDUNDANT = "cell_encoder.encoder_layer."
_GRAPH = ("graph_encoder.", "fusion_layer.", "fusion_norm.", "attn_bias")

_RESAVE = """\
{path} holds more than tensors (often the training arguments, under "args"), so it cannot be read without running what \
it says: {error}
Where you trust the file, keep only its weights, once:

    import torch
    checkpoint = torch.load({source!r}, map_location="cpu", weights_only=False)  # runs code from the file
    torch.save({{"model": checkpoint["model"]}}, {target!r})

and load {target!r}."""


def is_released(path: str | os.PathLike[str]) -> bool:
    """Whether a path is for :func:`load_released`: a checkpoint, a ``.safetensors`` file, or a converted folder."""
    from pastpy.models.released import ARCHITECTURE

    path = Path(path)
    if path.suffix in (*_CHECKPOINTS, ".safetensors"):
        return not path.is_dir()
    try:
        config = json.loads((path / CONFIG).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("architecture") == ARCHITECTURE


def load_released(path: str | os.PathLike[str], *, device: str = "cpu") -> ReleasedPAST:
    """Load PAST as its authors released it.

    Weights are mapped from the file, not copied, where they stay on the CPU: don't overwrite the file while the model
    is in use. They are frozen and the model is in evaluation mode; ``model.requires_grad_(True).train()`` undoes both.

    Parameters
    ----------
    path
        The authors' checkpoint (``.pth``, weights under the key ``"model"``), its weights as ``.safetensors``, or a
        folder that :func:`convert_released` or ``model.save`` wrote. Whether it has the neighbour-graph branch is read
        off its entries.
    device
        Torch device, or ``"auto"``.

    Returns
    -------
    The model, float32.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or the folder lacks one.
    ValueError
        If the file cannot be read without unpickling, or its entries are not those of a release: the message lists
        the missing, the unexpected, and those of another shape.

    References
    ----------
    Yang et al., PAST, arXiv:2507.06418.

    Examples
    --------
    >>> model = load_released("checkpoint-context300.pth")  # doctest: +SKIP
    >>> model.embed_image(pixels).shape  # doctest: +SKIP
    torch.Size([8, 256])
    """
    from pastpy.engine.device import resolve_device

    chosen = resolve_device(device)
    model, state = _read_release(Path(path))
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval().to(chosen)


def convert_released(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Path:
    """Write the weights of the authors' checkpoint as ``config.json`` and ``model.safetensors``.

    Parameters
    ----------
    path
        What :func:`load_released` reads.
    folder
        Folder to write into; made where absent.

    Returns
    -------
    The folder.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load_released`; nothing is written then.

    Examples
    --------
    >>> import pastpy as past
    >>> past.models.convert_released("checkpoint-context300.pth", "past-released")  # doctest: +SKIP
    PosixPath('past-released')
    """
    model, state = _read_release(Path(path))
    write_release(model.config, state, Path(folder))
    return Path(folder)


def write_release(config: ReleasedConfig, state: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write a release's two files; a weights file that is already there is replaced in one step."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    # The tensors may be mapped from the very file that is replaced.
    unfinished = folder / f"{WEIGHTS}.unfinished"
    save_file({name: value.contiguous() for name, value in state.items()}, unfinished)
    config.to_json(folder / CONFIG)
    # safetensors makes its file readable by the owner only; a model folder may be shared.
    unfinished.chmod((folder / CONFIG).stat().st_mode & 0o777)
    os.replace(unfinished, folder / WEIGHTS)


def _read_release(path: Path) -> tuple[ReleasedPAST, dict[str, torch.Tensor]]:
    """A model without storage, and the state dict that fits it."""
    import torch

    from pastpy.models.released import ReleasedConfig, ReleasedPAST

    if path.is_dir():
        lacking = [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]
        if lacking:
            raise FileNotFoundError(f"folder {str(path)!r} lacks {', '.join(lacking)}; convert the checkpoint again")
        config = ReleasedConfig.from_json(path / CONFIG)
        state = _read_safetensors(path / WEIGHTS)
    else:
        if not path.is_file():
            raise FileNotFoundError(f"no file {str(path)!r}; pass the authors' checkpoint (.pth) or a converted folder")
        state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
        config = ReleasedConfig(graph=any(name.startswith(_GRAPH) for name in state))
    with torch.device("meta"):
        model = ReleasedPAST(config)
    return model, _fit(state, model.state_dict(), path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}); copy or convert it again") from error


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    import torch

    try:
        # Only the zip format, torch's since 1.6, can be mapped into memory.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise ValueError(f"{path} cannot be read as a torch checkpoint ({error}); copy it again") from error
        reason = next(line for line in str(error).splitlines() if "GLOBAL" in line).strip()
        target = str(path.with_name(f"{path.stem}-weights.pth"))
        raise ValueError(_RESAVE.format(path=path, error=reason, source=str(path), target=target)) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as a torch checkpoint ({error}); copy it again") from error
    state = checkpoint.get("model") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        found = sorted(map(str, checkpoint))[:5] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f'{path} has no state dict under the key "model" (found {found}); where it is a state dict itself, save it '
            f'with torch.save({{"model": state_dict}}, path)'
        )
    return state


def _fit(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The wanted entries of a state dict as float32, or ``ValueError`` with all that is wrong."""
    given = {name: value for name, value in state.items() if not name.startswith(_REDUNDANT)}
    shapes = [
        f"{name} {tuple(given[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    wrong = {
        "missing": [name for name in wanted if name not in given],
        "unexpected": [name for name in given if name not in wanted],
        "of another shape": shapes,
    }
    if any(wrong.values()):
        told = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in wrong.items() if names)
        raise ValueError(
            f"{path} does not hold the weights of a released PAST model: {told}. A model that model.save(folder) wrote "
            "is loaded from its whole folder"
        )
    fitted = {name: given[name].float() for name in wanted}
    fitted["temperature"] = fitted["temperature"].clamp(0.01, 1.0)
    return fitted


def _some(names: list[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
