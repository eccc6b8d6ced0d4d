"""What a cell is coloured by: a column, a predicted gene or a measured one, as colours with their legend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._provenance import recorded, untrusted_genes
from pastpy.pl._style import SEQUENTIAL, UNKNOWN, categorical

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.colors import Colormap, Normalize
    from pandas import Series

__all__ = ["CellColours", "Legend", "UNKNOWN_NAME", "cell_colours"]

#: What cells without a value are called in legends.
UNKNOWN_NAME = "unknown"
#: Colour of outlines where nothing colours the cells.
_OUTLINE = "#1A1A1A"
#: Classes of a virtual stain as pathologists write them, and the chromogen's brown for each.
_GRADES = ("0", "1+", "2+", "3+")
_GRADE_COLOURS = ("#C9D6E8", "#E3B778", "#B06A2C", "#5A2D0C")
_UNITS = {_keys.AREA_UM2: "nucleus area (µm²)"}


@dataclass(frozen=True)
class Legend:
    """How to read the colours.

    Attributes
    ----------
    label
        Name and unit.
    norm, cmap, extend
        For numbers: value to colour, and which ends are cut; ``None`` for labels.
    patches
        Name to colour: the labels, and ``"unknown"``.
    """

    label: str
    norm: Normalize | None = None
    cmap: Colormap | None = None
    extend: str = "neither"
    patches: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CellColours:
    """Colours of a table's rows: float (n, 4), which rows have no value, and the legend."""

    rgba: np.ndarray
    unknown: np.ndarray
    legend: Legend


def cell_colours(
    table: AnnData, color: str | None, *, expression_key: str, cmap: str | None, vmin: float | None, vmax: float | None
) -> CellColours:
    """Colours of all rows of a table by an ``obs`` column, a predicted gene or a measured one.

    Raises
    ------
    KeyError
        If ``color`` is none of these; the message names what comes close.
    """
    from matplotlib.colors import to_rgba
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if not (color is None or isinstance(color, str)):
        raise TypeError(f"color must be one column or gene, got {color!r}; call once for each, with ax=")
    if color is None:
        rgba = np.tile(to_rgba(_OUTLINE), (table.n_obs, 1))
        return CellColours(rgba, np.zeros(table.n_obs, dtype=bool), Legend(""))
    values, label = _values(table, color, expression_key)
    if color.startswith(_keys.Slots().stain_class("")):
        return _by_label(_grades(values), label, _GRADE_COLOURS)
    if is_numeric_dtype(values) and not is_bool_dtype(values):
        return _by_number(values.to_numpy(dtype=float, na_value=np.nan), label, cmap, vmin, vmax)
    return _by_label(values, label, table.uns.get(f"{color}_colors"))


def _values(table: AnnData, color: str, expression_key: str) -> tuple[Series, str]:
    from pandas import DataFrame, Series

    if color in table.obs:
        return table.obs[color], _UNITS.get(color, color)
    predicted = table.obsm.get(expression_key)
    if isinstance(predicted, DataFrame) and color in predicted:
        made = recorded(table, "impute_expression", _keys.key_of_expression(expression_key))
        depth = float(made.get("target_sum", _keys.TARGET_SUM))
        caution = " (not trusted by the model's card)" if untrusted_genes(made, [color]) else ""
        return predicted[color], f"{color}, predicted{caution}\nlog(1 + counts per {depth:,.0f})"
    if color in table.var_names:
        column = table[:, color].X
        dense = column.toarray() if hasattr(column, "toarray") else np.asarray(column)
        return Series(dense.ravel(), index=table.obs_names), f"{color}, values of X"
    genes = list(predicted.columns) if isinstance(predicted, DataFrame) else []
    names = [*table.obs.columns, *genes, *table.var_names]
    close = get_close_matches(color, names, n=5, cutoff=0.5) or list(dict.fromkeys(names))[:10]
    raise KeyError(
        f"{color!r} is no obs column, no gene of obsm[{expression_key!r}] and no gene of X; close or present: {close}"
    )


def _grades(classes: Series) -> Series:
    """Classes 0 to 3 by name; NaN stays unknown."""
    from pandas import Categorical, Series

    names = classes.map(dict(enumerate(_GRADES)))
    return Series(Categorical(names, categories=_GRADES), index=classes.index)


def _by_number(values: np.ndarray, label: str, cmap: str | None, vmin: float | None, vmax: float | None) -> CellColours:
    import matplotlib as mpl
    from matplotlib.colors import Normalize, to_rgba

    known = values[np.isfinite(values)]
    low, high = np.quantile(known, [0.01, 0.99]) if len(known) else (0.0, 1.0)
    low, high = (float(low) if vmin is None else vmin), (float(high) if vmax is None else vmax)
    norm = Normalize(low, high if high > low else low + 1.0)
    colour_map = mpl.colormaps[cmap or SEQUENTIAL]
    rgba = np.asarray(colour_map(norm(np.where(np.isfinite(values), values, low))))
    unknown = ~np.isfinite(values)
    rgba[unknown] = to_rgba(UNKNOWN)
    below, above = bool((known < norm.vmin).any()), bool((known > norm.vmax).any())
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    return CellColours(rgba, unknown, Legend(label, norm, colour_map, extend, {UNKNOWN_NAME: UNKNOWN}))


def _by_label(values: Series, label: str, stored: Any) -> CellColours:
    from matplotlib.colors import to_rgba

    labels = values.astype("category").cat.remove_unused_categories()
    names = [str(name) for name in labels.cat.categories]
    # scanpy keeps a label's colours in the order of all categories
    full = values.astype("category").cat.categories
    if stored is not None and len(stored) == len(full):
        by_name = dict(zip([str(name) for name in full], [str(colour) for colour in stored], strict=True))
        colours = [by_name[name] for name in names]
    else:
        colours = categorical(len(names))
    codes = labels.cat.codes.to_numpy()
    rgba = np.array([to_rgba(colour) for colour in [*colours, UNKNOWN]])[codes]
    patches = {**dict(zip(names, colours, strict=True)), UNKNOWN_NAME: UNKNOWN}
    return CellColours(rgba, codes < 0, Legend(label, patches=patches))
