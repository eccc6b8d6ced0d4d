"""Names of donors: which spellings mean one donor, and which mean that nobody knows."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["donor_key", "donor_name", "donor_names"]

#: How tables say that a donor is not known.
_UNKNOWN = {"", "?", "nan", "none", "<na>", "nat", "unknown", "na", "n/a", "null"}
#: A number with decimals, of which trailing zeros say nothing.
_DECIMAL = re.compile(r"-?\d+\.\d*")


def donor_name(donor: object) -> str:
    """A donor as text without space around it, whole numbers without a decimal point; empty if it is unknown.

    Examples
    --------
    >>> donor_name(" P1 "), donor_name(2.0), donor_name("n/a")
    ('P1', '2', '')
    """
    if isinstance(donor, (float, np.floating)) and donor.is_integer():
        donor = int(donor)
    name = str(donor).strip()
    return "" if donor_key(name) in _UNKNOWN else name


def donor_key(name: str) -> str:
    """What all spellings of a donor have in common, to compare by.

    The same are: letters of different width, composed in different ways, or in upper and lower case; names with and
    without characters that are not seen; more or less space; ``1.0`` and ``1``.

    Examples
    --------
    >>> donor_key("P  1") == donor_key("p 1"), donor_key("1.0") == donor_key("1")
    (True, True)
    """
    shown = "".join(c for c in unicodedata.normalize("NFKC", name) if unicodedata.category(c) != "Cf")
    # once more: without what was not seen between them, characters may compose; and so may folded ones
    key = unicodedata.normalize("NFKC", " ".join(shown.split()).casefold())
    return key.rstrip("0").rstrip(".") if _DECIMAL.fullmatch(key) else key


def donor_names(donors: Iterable[Any]) -> np.ndarray:
    """Donor of every unit under one spelling, the first that occurs; object (n,), empty where it is unknown.

    Examples
    --------
    >>> donor_names(["P1", "p1 ", None, 2.0]).tolist()
    ['P1', 'P1', '', '2']
    """
    import pandas as pd

    values = np.empty(len(given := list(donors)), dtype=object)
    values[:] = given
    code, found = pd.factorize(values)
    first: dict[str, str] = {}
    names = [first.setdefault(donor_key(name), name) for name in map(donor_name, found)]
    # the last one is for those that pandas takes for missing, whose code is -1
    return np.array([*names, ""], dtype=object)[code]
