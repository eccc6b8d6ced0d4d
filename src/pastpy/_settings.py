"""Package-wide settings: device, progress bars, cache directory, verbosity."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "pastpy"


@dataclass
class Settings:
    """Settings that hold for every call that does not override them.

    Attributes
    ----------
    device
        ``"auto"`` (CUDA, then MPS, then CPU) or a torch device name.
    progress
        Show progress bars; they stay quiet where standard error is not a terminal or notebook.
    precision
        ``"auto"`` (reduced precision where the device is made for it), ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    compile
        Compile image encoders with ``torch.compile`` on GPUs; worth its start-up on large slides only. On a CPU they
        stay as they are, with a warning: compiled ones are slower there.
    cache_dir
        Folder for results that a later call may reuse.
    verbosity
        0 errors, 1 warnings, 2 information.

    Examples
    --------
    >>> import pastpy as past
    >>> with past.settings.context(progress=False):
    ...     past.settings.progress
    False
    """

    device: str = "auto"
    progress: bool = True
    precision: str = "auto"
    compile: bool = False
    cache_dir: Path = field(default_factory=_default_cache)
    verbosity: int = 1

    def __setattr__(self, name: str, value: object) -> None:
        known = {f.name for f in fields(self)}
        if name not in known:
            raise AttributeError(f"pastpy has no setting {name!r}; the settings are {sorted(known)}")
        super().__setattr__(name, Path(str(value)) if name == "cache_dir" else value)

    @contextmanager
    def context(self, **changes: object) -> Iterator[Settings]:
        """Change settings inside a ``with`` block and put them back afterwards."""
        before = {name: getattr(self, name) for name in changes}
        try:
            for name, value in changes.items():
                setattr(self, name, value)
            yield self
        finally:
            for name, value in before.items():
                setattr(self, name, value)


settings = Settings()


def show_progress(progress: bool = True) -> bool:
    """Whether a progress bar should be drawn: asked for, and somebody is there to see it."""
    if not (progress and settings.progress):
        return False
    # without a console, as under pythonw, there is no standard error
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())
