"""What a protocol leaves behind: JSON, a table and a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame

__all__ = ["bars", "in_short", "markdown", "without_nan", "write_report"]

#: What of a method's scores a terminal is told.
_SHORT = ("mean", "lower", "upper", "best_50", "n_scored")


def write_report(
    path: str | Path, summary: Mapping[str, Any], table: DataFrame, draw: Callable[[Axes], object]
) -> list[Path]:
    """Write ``path`` (JSON) and beside it a CSV and a PNG of the same name.

    Parameters
    ----------
    path
        The JSON file.
    summary
        Plain values; NaN becomes null.
    table
        Rows for the CSV.
    draw
        Draws the picture on axes.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {str(path.parent)!r} to write {path.name!r} in; create it")
    path.write_text(json.dumps(without_nan(summary), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    csv, png = path.with_suffix(".csv"), path.with_suffix(".png")
    table.to_csv(csv, index=False, float_format="%.5g")
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    draw(figure.add_subplot())
    figure.savefig(png, dpi=120, facecolor="white")
    return [path, csv, png]


def in_short(result: Mapping[str, Any]) -> str:
    """What a terminal is told of a result: title, statement, and a row a method where methods have scores.

    Examples
    --------
    >>> print(in_short({"title": "t", "scores": {"pearson": {"ridge": {"mean": 0.5, "C2": 0.5}}}}))
    t
    | method | mean |
    |---|---|
    | ridge | 0.50 |
    """
    import pandas as pd

    lines = [str(result[name]) for name in ("title", "statement") if name in result]
    if "scores" in result:
        scores = pd.DataFrame(result["scores"]["pearson"]).T.astype(float).rename_axis("method")
        lines.append(markdown(scores[[name for name in _SHORT if name in scores]]))
    else:
        rest = {name: value for name, value in result.items() if name not in ("title", "statement")}
        lines.append(json.dumps(without_nan(rest), indent=2, ensure_ascii=False))
    return "\n".join(lines)


def bars(table: DataFrame, ax: Axes, *, label: str, over: str = "sections") -> None:
    """Horizontal bars of ``table["mean"]`` with the interval over sections or donors, one a method; or no score."""
    y = np.arange(len(table))[::-1]
    mean = table["mean"].to_numpy(dtype=float)
    reach = np.stack([mean - table["lower"].to_numpy(dtype=float), table["upper"].to_numpy(dtype=float) - mean])
    ax.barh(y, np.nan_to_num(mean), color="#0072B2", height=0.6)
    known = np.isfinite(reach).all(axis=0)
    ax.errorbar(mean[known], y[known], xerr=np.maximum(reach[:, known], 0), fmt="none", ecolor="black", capsize=3)
    for row, value in zip(y, mean, strict=True):
        if not np.isfinite(value):
            ax.text(0.0, row, " not scored: constant within a section", va="center", fontsize=8)
    ax.set_yticks(y, [str(name) for name in table.index])
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_xlabel(f"{label}, mean over genes and {over}\n(lines: 95 % interval over {over})")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def markdown(table: DataFrame, *, digits: int = 2) -> str:
    """A frame as a Markdown table, index first; an empty cell where there is no value.

    Examples
    --------
    >>> import pandas as pd
    >>> print(markdown(pd.DataFrame({"r": [0.5]}, index=pd.Index(["ridge"], name="method"))))
    | method | r |
    |---|---|
    | ridge | 0.50 |
    """
    head = ["" if table.index.name is None else str(table.index.name), *map(str, table.columns)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, row in zip(table.index, table.itertuples(index=False), strict=True):
        lines.append(f"| {' | '.join([str(name), *(_cell(v, digits) for v in row)])} |")
    return "\n".join(lines)


def _cell(value: Any, digits: int) -> str:
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else f"{value:.{digits}f}"
    return str(value)


def without_nan(value: Any) -> Any:
    """Plain values for JSON: numbers of Python, and null where there is none."""
    if isinstance(value, Mapping):
        return {str(k): without_nan(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value
