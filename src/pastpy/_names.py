"""Names that results are given, checked before anything is computed for them."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import TYPE_CHECKING

from pastpy import _keys

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

__all__ = ["check_distinct", "check_name", "check_new", "check_slots", "storable"]

# spatialdata's rule, which it applies to elements, columns and slots alike, but only when they are added or written
_NAME = re.compile(r"(?!__)[\w.-]+")


def storable(name: object) -> bool:
    """Whether SpatialData and zarr can hold an element, a slot or a column of this name.

    Examples
    --------
    >>> [storable(name) for name in ("HLA-A", "a/b", "", 5)]
    [True, False, False, False]
    """
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and name not in (".", "..")


def check_name(name: object, argument: str, what: str = "element name") -> None:
    """Refuse a name that cannot be stored.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if not storable(name):
        raise ValueError(
            f"{argument}={name!r} is no {what}; use a string of letters, digits, '_', '-' and '.' that does not begin "
            "with '__'"
        )


def check_new(
    sdata: SpatialData, name: str, argument: str, *, replaces: Container[str] = (), overwrite: bool = False
) -> None:
    """Refuse the name of an element to add that cannot be stored, or is taken; SpatialData does not tell case.

    Parameters
    ----------
    sdata
        The object that it is added to.
    name
        The name.
    argument
        Argument that gives it.
    replaces
        Names of elements that ``overwrite`` may replace, in this very spelling.
    overwrite
        Whether it does.

    Raises
    ------
    ValueError
        Naming the argument, and the element that has the name.
    """
    check_name(name, argument)
    taken = next((known for _, known, _ in sdata.gen_elements() if known.lower() == name.lower()), None)
    replaceable = taken == name and name in replaces
    if taken is None or (overwrite and replaceable):
        return
    raise ValueError(
        f"this object already has an element {taken!r}; {'pass overwrite=True, or ' if replaceable else ''}choose "
        f"another name than {argument}={name!r}"
    )


def check_distinct(**names: str) -> None:
    """Refuse names of two elements that differ at most in case.

    Raises
    ------
    ValueError
        Naming both arguments.
    """
    if len({name.lower() for name in names.values()}) < len(names):
        given = " and ".join(f"{argument}={name!r}" for argument, name in names.items())
        first = next(iter(names.values()))
        raise ValueError(f"{given}: two elements cannot both be named {first!r}, in whatever case; give them two names")


def check_slots(table: AnnData, key_added: str) -> None:
    """Refuse a stem whose slots differ only in case from what a table has: SpatialData would not write it.

    Raises
    ------
    ValueError
        Naming what the table has.
    """
    for kind, slots in _keys.Slots(key_added).of_rows.items():
        ours = {slot.lower(): slot for slot in slots}
        for name in getattr(table, kind):
            slot = ours.get(str(name).lower(), name)
            if slot != name:
                raise ValueError(
                    f"key_added={key_added!r} gives the slot {slot!r}, and the table has {kind}[{name!r}], which "
                    "differs only in case: it could not be stored; choose another key_added or the same spelling"
                )
