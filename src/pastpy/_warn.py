"""Warnings that point at the user's line, however deep in pastpy they arise."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["warn_of_counts", "warn_user"]

#: log1p of ten counts per ten thousand is 2.4, and of all ten thousand 9.2: larger whole numbers are counts.
_LARGEST_LOG = 15


def warn_user(message: str) -> None:
    """Raise a ``UserWarning`` at the nearest caller outside pastpy."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pastpy."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def warn_of_counts(measured: np.ndarray) -> None:
    """Warn if what should be on a log scale, float (n, genes), looks like counts."""
    import numpy as np

    known = measured[np.isfinite(measured)]
    if known.size and known.max() > _LARGEST_LOG and (known >= 0).all() and (known == np.round(known)).all():
        warn_user(
            f"measured holds whole numbers up to {known.max():.0f}, which look like counts; expected "
            "log1p(1e4 · counts / counts of the whole cell or spot), as predictions are"
        )
