"""H-score of a virtual stain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import table_of
from pastpy.tl._stain_intensity import NOT_MEASURED, check_thresholds, classify

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["h_score"]

_SLOTS = _keys.Slots()


def h_score(
    sdata: SpatialData | AnnData,
    marker: str,
    *,
    groupby: str | None = None,
    thresholds: Sequence[float] | None = None,
    table_key: str | None = None,
) -> DataFrame:
    """H-score (0–300) of a virtual stain, for all cells or by group. Research use only.

    H = 1 · % of cells 1+ + 2 · % of cells 2+ + 3 · % of cells 3+ [1]_.

    Parameters
    ----------
    sdata
        Object on which :func:`pastpy.tl.virtual_stain` was run, or its table.
    marker
        Marker, spelled as in that call.
    groupby
        ``obs`` column, for example a cell label or a region; cells without a value there are left out. By default
        all cells are one group, ``"all"``.
    thresholds
        Optical densities from which a cell is 1+, 2+ and 3+; by default the classes that ``virtual_stain`` stored.
    table_key
        Name of the table; by default ``cells``, else the only one.

    Returns
    -------
    pandas.DataFrame
        A row a group: ``h_score`` (NaN where no cell is known), ``n_cells`` (of known intensity: the denominator),
        ``n_unknown``, ``pct_0`` … ``pct_3`` (%), ``use`` (``"research use only"``), ``transfer_score`` (Pearson r that
        the model's card states for the marker's genes, NaN where none), ``transfer_statement`` (what that r was
        measured on) and ``caveats`` (why the score may mislead, as ``virtual_stain`` warned; empty where nothing is
        known). ``.attrs`` repeats the marker, the use, the statement and the caveats.

    Raises
    ------
    KeyError
        If the marker was not stained, or there is no such ``obs`` column.
    ValueError
        If ``thresholds`` are not three rising positive numbers.

    References
    ----------
    .. [1] McCarty KS Jr, Miller LS, Cox EB, Konrath J, McCarty KS Sr. Estrogen receptor analyses: correlation of
       biochemical and immunohistochemical methods using monoclonal antireceptor antibodies. Arch Pathol Lab Med
       109:716–721 (1985).

    Examples
    --------
    >>> import numpy as np, pandas as pd, pastpy as past
    >>> from anndata import AnnData
    >>> obs = pd.DataFrame({"past_stain_class_ER": [0.0, 1.0, 2.0, 3.0]}, index=list("abcd"))
    >>> obs["past_stain_intensity_ER"] = [0.1, 0.3, 0.5, 0.7]
    >>> past.tl.h_score(AnnData(np.zeros((4, 0)), obs=obs), "ER")["h_score"].tolist()
    [150.0]
    """
    from pandas import DataFrame, Series

    table = table_of(sdata, table_key)
    classes = _classes(table, marker, thresholds)
    if groupby is None:
        groups = Series("all", index=table.obs_names)
    elif groupby in table.obs:
        groups = table.obs[groupby]
    else:
        raise KeyError(f"no obs column {groupby!r}; the table has {list(table.obs.columns)}")
    codes, labels = groups.factorize(sort=True)
    rows = [_score(classes[codes == code]) for code in range(len(labels))]
    score, statement, caveats = _transfer(table, marker)
    out = DataFrame(rows, index=list(labels), columns=list(_score(classes[:0])))
    out.index.name = groupby or "group"
    said: dict[str, str | float] = {
        "use": _keys.RESEARCH_USE,
        "transfer_score": score,
        "transfer_statement": statement,
        "caveats": caveats,
    }
    out.attrs["marker"] = marker
    for name, value in said.items():
        out[name] = out.attrs[name] = value
    return out


def _classes(table: AnnData, marker: str, thresholds: Sequence[float] | None) -> np.ndarray:
    """0–3 and NaN for each row: as stored, or the stored densities cut anew."""
    column = _SLOTS.stain_class(marker) if thresholds is None else _SLOTS.stain_intensity(marker)
    if column not in table.obs:
        stem = _SLOTS.stain_class("")
        stained = [name.removeprefix(stem) for name in table.obs.columns if name.startswith(stem)]
        raise KeyError(
            f"marker {marker!r} has no virtual stain (obs column {column!r}); stained markers: {stained or 'none'}. "
            f"Run pastpy.tl.virtual_stain(sdata, {marker!r})"
        )
    values = table.obs[column].to_numpy(dtype=np.float32)
    return values if thresholds is None else classify(values, check_thresholds(thresholds))


def _score(classes: np.ndarray) -> dict[str, Any]:
    known = classes[~np.isnan(classes)]
    percent = [100 * float(np.mean(known == grade)) if len(known) else np.nan for grade in range(4)]
    # first, since a terminal shows the first columns of a wide frame
    return {
        "h_score": sum(grade * value for grade, value in enumerate(percent)),
        "n_cells": len(known),
        "n_unknown": len(classes) - len(known),
        **{f"pct_{grade}": value for grade, value in enumerate(percent)},
    }


def _transfer(table: AnnData, marker: str) -> tuple[float, str, str]:
    stained = table.uns.get(_keys.PAST, {}).get("virtual_stain", {}).get("markers", {})
    entry = stained.get(marker, {})
    caveats = "; ".join(entry.get("caveats", []))
    return float(entry.get("transfer_score", np.nan)), str(entry.get("statement", NOT_MEASURED)), caveats
