"""Survival of groups of patients."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy.pl._style import finish, new_axes, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame, Index, Series

__all__ = ["kaplan_meier"]

#: Okabe & Ito's colours, those first that read well as lines on white.
_LINES = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def kaplan_meier(
    df: DataFrame,
    *,
    duration_col: str,
    event_col: str,
    groups: str | Series | Sequence[object],
    at_risk: bool = True,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes:
    """Kaplan–Meier curves of groups of patients, with 95 % intervals, numbers at risk and the log-rank test.

    Parameters
    ----------
    df
        A row a patient, for example from :func:`pastpy.tl.aggregate_patients`.
    duration_col
        Column of times to the event or the end of observation, at least 0; its name is the label of the time axis.
    event_col
        Column of 1 (or True) where the event was seen and 0 where not.
    groups
        A column of ``df``, or a group for each patient: a Series (aligned by index) or a sequence in order.
    at_risk
        Write the numbers at risk (patients with a time of at least that tick) under the axis.
    ax
        Axes to draw on; by default those of a new figure.
    save
        Path of a picture file.
    show
        ``True`` opens a window, where the backend has any.

    Returns
    -------
    matplotlib.axes.Axes
        Intervals are exponential Greenwood ones [1]_; censored patients are small ticks; p is that of the log-rank test
        over all groups [2]_. Where a column name contains "SIMULATED", title and time axis say so.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If there is no patient, a value is missing or not a time or event, or a patient has no group.

    References
    ----------
    .. [1] Kaplan EL, Meier P. Nonparametric estimation from incomplete observations. J Am Stat Assoc 53:457–481
       (1958), doi:10.1080/01621459.1958.10501452.
    .. [2] Mantel N. Evaluation of survival data and two new rank order statistics arising in its consideration.
       Cancer Chemother Rep 50:163–170 (1966).

    Examples
    --------
    >>> import pandas as pd, pastpy as past
    >>> df = pd.DataFrame({"SIMULATED_months": [3, 9, 12, 20], "SIMULATED_event": [1, 1, 0, 1]})
    >>> ax = past.pl.kaplan_meier(
    ...     df, duration_col="SIMULATED_months", event_col="SIMULATED_event", groups=["high", "high", "low", "low"]
    ... )
    >>> ax.get_title()
    'SIMULATED outcomes'
    """
    from pastpy._survival import check_survival

    months, event = check_survival(df, duration_col, event_col)
    codes, names = _groups(df, groups)
    with style():
        ax = new_axes(ax, (6.4, 4.2 + (0.25 * len(names) if at_risk else 0)))
        for code, name in enumerate(names):
            _curve(ax, months[codes == code], event[codes == code], str(name), _LINES[code % len(_LINES)])
        ax.set_xlim(0, months.max() * 1.02)
        ax.set_ylim(0, 1.03)
        ax.set_xlabel(duration_col.replace("_", " "))
        ax.set_ylabel("share without event")
        simulated = _keys.SIMULATED in duration_col or _keys.SIMULATED in event_col
        ax.set_title(f"{_keys.SIMULATED} outcomes" if simulated else "Kaplan–Meier")
        ax.legend(title=_p_value(months, event, codes) if len(names) > 1 else None, loc="best")
        if at_risk:
            _table(ax, months, codes, names)
        finish(ax.figure, save, show)
    return ax


def _groups(df: DataFrame, groups: str | Series | Sequence[object]) -> tuple[np.ndarray, Index]:
    """Code of each patient and the groups, in the order of their categories or sorted."""
    from pandas import Series

    if isinstance(groups, str):
        if groups not in df:
            raise KeyError(f"no column {groups!r} for groups=; the frame has {list(df.columns)}")
        values = df[groups]
    elif isinstance(groups, Series):
        values = groups.reindex(df.index)
    else:
        listed = list(groups)
        if len(listed) != len(df):
            raise ValueError(f"groups has {len(listed)} values for {len(df)} patients; give one each, or a Series")
        values = Series(listed, index=df.index)
    if values.isna().any():
        raise ValueError(f"patients {values.index[values.isna()].tolist()[:5]} have no group; drop them or name it")
    labels = values.astype("category").cat.remove_unused_categories()
    return labels.cat.codes.to_numpy(), labels.cat.categories


def _curve(ax: Axes, months: np.ndarray, event: np.ndarray, name: str, colour: str) -> None:
    from lifelines import KaplanMeierFitter

    fitter = KaplanMeierFitter().fit(months, event, label=name)
    curve, band = fitter.survival_function_[name], fitter.confidence_interval_
    ax.step(curve.index, curve, where="post", color=colour, linewidth=1.8, label=f"{name} (n = {len(months)})")
    ax.fill_between(band.index, band.iloc[:, 0], band.iloc[:, 1], step="post", color=colour, alpha=0.15, linewidth=0)
    censored = months[~event]
    ax.plot(censored, fitter.predict(censored) if len(censored) else [], "|", color=colour, markersize=7)


def _p_value(months: np.ndarray, event: np.ndarray, codes: np.ndarray) -> str:
    from lifelines.statistics import multivariate_logrank_test

    p = multivariate_logrank_test(months, codes, event).p_value
    return "log-rank p < 0.001" if p < 0.001 else f"log-rank p = {p:.2g}"


def _table(ax: Axes, months: np.ndarray, codes: np.ndarray, names: Index) -> None:
    """Numbers at risk at the ticks, in rows below the label of the axis."""
    left, right = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticks() if left <= tick <= right]
    ax.set_xticks(ticks)

    def write(text: str, x: float, row: int, **looks: Any) -> None:
        where = ("data", "axes fraction") if looks.get("ha") == "center" else "axes fraction"
        ax.annotate(
            text, (x, 0), xycoords=where, xytext=(0 if where != "axes fraction" else -12, -40 - 14 * row),
            textcoords="offset points", va="top", fontsize=9, annotation_clip=False, **looks,
        )  # fmt: skip

    write("at risk", 0, 0, ha="right", color="0.25", style="italic")
    for row, name in enumerate(names):
        colour = _LINES[row % len(_LINES)]
        write(str(name), 0, row + 1, ha="right", color=colour)
        for tick in ticks:
            n = int((months[codes == row] >= tick).sum())
            write(f"{n}", tick, row + 1, ha="center", gid=f"at_risk:{name}")
