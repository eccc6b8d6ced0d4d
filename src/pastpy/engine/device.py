"""Which device to compute on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pastpy._settings import settings

if TYPE_CHECKING:
    import torch


def resolve_device(device: str = "auto") -> torch.device:
    """Torch device for ``device``; ``"auto"`` takes the setting, then CUDA, MPS, CPU, whichever is there.

    Raises
    ------
    ValueError
        If the name is not a device, or the device is not on this machine.
    """
    import torch

    name = settings.device if device == "auto" else device
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device={name!r} is not a torch device; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from error
    missing = (chosen.type == "cuda" and not torch.cuda.is_available()) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise ValueError(f"device={name!r}: this machine has no {chosen.type} device; use 'auto' or 'cpu'")
    return chosen
