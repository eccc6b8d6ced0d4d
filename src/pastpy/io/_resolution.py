"""µm per pixel of a slide: what the file says, what the user says, and whether either can be."""

from __future__ import annotations

import math
import warnings
from typing import Any

from pastpy._elements import check_mpp, plausible_mpp

__all__ = ["DIFFERS", "FOREIGN", "UM", "choose_mpp", "positive", "positive_pair", "stated_mpp"]

#: Micrometres in a unit of length, by the names that OME and ImageJ use.
UM = {
    "nm": 1e-3, "nanometer": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "m": 1e6, "meter": 1e6, "inch": 25400.0, "in": 25400.0,
}  # fmt: skip

#: Relative difference of x and y that scanners' rounding explains.
_ANISOTROPY = 0.01
#: Relative difference of µm/px from two sources that is worth a word, and that which shows that one of them belongs to
#: another image.
DIFFERS, FOREIGN = 0.02, 0.10


def choose_mpp(given: float | None, stored: tuple[float, float] | None, name: str) -> float:
    """µm per level-0 pixel of a file: ``given``, else what it stores.

    Parameters
    ----------
    given
        What the user says.
    stored
        µm/px in x and y as the file states them.
    name
        What messages call the file.

    Returns
    -------
    µm/px. A given value that differs from a believable stored one by more than 2 % is taken, with a warning.

    Raises
    ------
    ValueError
        If neither is known, or the value is implausible, or (with nothing given) the pixels are not square.
    """
    if given is not None:
        mpp = check_mpp(given, f"mpp={given!r} for {name}")
        if stored is not None and all(plausible_mpp(s) for s in stored):
            off = max(abs(s / mpp - 1) for s in stored)
            if off > DIFFERS:
                warnings.warn(
                    f"{name} states {_text(stored)} µm/px, mpp={mpp:g} was given and is used; one of them is wrong",
                    UserWarning,
                    stacklevel=4,
                )
        return mpp
    if stored is None:
        raise ValueError(f"{name} does not state its µm/px; pass mpp= (µm per level-0 pixel)")
    x, y = (check_mpp(s, f"{name} states µm/px that") for s in stored)
    if abs(x / y - 1) > _ANISOTROPY:
        raise ValueError(
            f"{name} states pixels that are not square, {_text(stored)} µm/px in x and y; pastpy needs square ones: "
            "pass mpp= if the file is wrong, or resample the image"
        )
    return (x + y) / 2


def stated_mpp(given: float | None, stored: tuple[float, float] | None) -> float | None:
    """µm/px to check another source by: ``given``, else the mean of what the file states in x and y."""
    if given is not None:
        return check_mpp(given, "mpp")
    return None if stored is None else sum(stored) / 2


def positive(stated: Any) -> float | None:
    """A number as a file states it; ``None`` where it is none, or not positive: then the file states nothing."""
    try:
        value = float(stated)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value > 0 else None


def positive_pair(x: Any, y: Any) -> tuple[float, float] | None:
    """Sizes in x and y as a file states them, ``None`` unless :func:`positive` takes both."""
    sizes = positive(x), positive(y)
    return None if sizes[0] is None or sizes[1] is None else (sizes[0], sizes[1])


def _text(stored: tuple[float, float]) -> str:
    return f"{stored[0]:g}" if stored[0] == stored[1] else f"{stored[0]:g} × {stored[1]:g}"
