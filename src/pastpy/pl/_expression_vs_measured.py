"""Predicted against measured expression."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pastpy._warn import warn_of_counts
from pastpy.pl._style import finish, new_axes, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from pandas import DataFrame, Series

__all__ = ["expression_vs_measured"]

#: Up to this number of genes every unit is drawn; above it, one bar a gene.
MAX_SCATTER = 6
#: Number of genes that are named among the bars.
NAMED = 5
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_BELOW_ZERO = "#D55E00"


def expression_vs_measured(
    predicted: DataFrame,
    measured: DataFrame,
    genes: str | Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes:
    """How well predicted expression follows the measured: units of a few genes, or the correlation of many.

    Parameters
    ----------
    predicted, measured
        Expression on the log1p scale, units (cells or spots) × genes; rows and columns are matched by name, and what
        only one of them has is left out.
    genes
        Genes to draw; by default all that both frames have. Up to six: a point a unit, coloured by gene, with Pearson
        r in the legend. More: Pearson r of every gene, sorted, with the mean and the best genes.
    ax
        Axes to draw on; by default those of a new figure.
    save
        Path of a picture file.
    show
        ``True`` opens a window, where the backend has any.

    Returns
    -------
    matplotlib.axes.Axes
        Genes that are constant or unknown (NaN) in either frame have no r: they are left out of the mean and counted
        in the label of the axis.

    Raises
    ------
    KeyError
        If a gene is missing from either frame.
    ValueError
        If the frames share no gene or fewer than three units, or no gene has an r.

    Examples
    --------
    >>> import pandas as pd, pastpy as past
    >>> measured = pd.DataFrame({"ERBB2": [0.0, 1.0, 2.0], "KRT8": [1.0, 0.0, 2.0]})
    >>> ax = past.pl.expression_vs_measured(0.5 * measured, measured)
    >>> ax.get_xlabel()
    'measured, log1p'
    """
    predicted, measured = _matched(predicted, measured, genes)
    warn_of_counts(measured.to_numpy())
    r = _pearson(predicted, measured)
    with style():
        ax = new_axes(ax, (6.0, 4.6))
        if len(r) <= MAX_SCATTER:
            _scatter(ax, predicted, measured, r)
        else:
            _bars(ax, r)
        ax.set_title(f"Predicted against measured, {len(measured):,} cells or spots")
        finish(ax.figure, save, show)
    return ax


def _matched(
    predicted: DataFrame, measured: DataFrame, genes: str | Sequence[str] | None
) -> tuple[DataFrame, DataFrame]:
    from pandas import DataFrame

    for name, frame in (("predicted", predicted), ("measured", measured)):
        if not isinstance(frame, DataFrame):
            raise TypeError(
                f"{name} must be a DataFrame (units × genes), got {type(frame).__name__}; of an AnnData pass .to_df()"
            )
        for axis, what in ((frame.index, "unit"), (frame.columns, "gene")):
            if axis.has_duplicates:
                raise ValueError(f"{name} has {what} {axis[axis.duplicated()][0]!r} more than once")
    if genes is None:
        chosen = [gene for gene in measured.columns if gene in predicted.columns]
    else:
        chosen = [genes] if isinstance(genes, str) else list(genes)
        for name, frame in (("predicted", predicted), ("measured", measured)):
            missing = [gene for gene in chosen if gene not in frame.columns]
            if missing:
                raise KeyError(f"genes {missing} are not among the {frame.shape[1]} genes of {name}")
    units = measured.index.intersection(predicted.index, sort=False)
    if not chosen or len(units) < 3:
        raise ValueError(
            f"predicted and measured share {len(chosen)} genes and {len(units)} units; at least one gene and three "
            "units are needed: check that columns are gene symbols and that both have the same row names"
        )
    return predicted.loc[units, chosen].astype(float), measured.loc[units, chosen].astype(float)


def _pearson(predicted: DataFrame, measured: DataFrame) -> Series:
    """Pearson r of each gene over the units known in both; NaN where either does not vary."""
    both = predicted.notna() & measured.notna()
    x, y = predicted.where(both), measured.where(both)
    x, y = x - x.mean(), y - y.mean()
    scale = ((x**2).sum() * (y**2).sum()) ** 0.5
    r: Series = (x * y).sum() / scale.where(scale > 1e-12)
    if r.isna().all():
        raise ValueError("no gene varies in both predicted and measured, so there is nothing to correlate")
    return r


def _scatter(ax: Axes, predicted: DataFrame, measured: DataFrame, r: Series) -> None:
    size = float(np.clip(4000 / len(measured), 4, 30))
    for gene, colour in zip(r.index, _COLOURS, strict=False):
        known = f"r = {r[gene]:.2f}" if np.isfinite(r[gene]) else "r unknown"
        ax.scatter(
            measured[gene], predicted[gene], s=size, color=colour, alpha=0.6, linewidths=0, label=f"{gene}, {known}"
        )
    top = float(np.nanmax([measured.to_numpy().max(), predicted.to_numpy().max()])) * 1.04
    ax.plot([0, top], [0, top], color="0.6", linestyle=":", linewidth=1, zorder=0)
    ax.set_xlabel("measured, log1p")
    ax.set_ylabel("predicted, log1p")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), markerscale=1.5)


def _bars(ax: Axes, r: Series) -> None:
    known = r.dropna().sort_values(ascending=False)
    colours = np.where(known >= 0, _COLOURS[0], _BELOW_ZERO)
    ax.bar(np.arange(len(known)), known, width=1.0, color=colours, linewidth=0)
    mean = float(known.mean())
    ax.axhline(mean, color="black", linewidth=1, linestyle="--")
    ax.text(len(known) - 0.5, mean, f"mean r = {mean:.2f} ", ha="right", va="bottom")
    ax.axhline(0, color="0.4", linewidth=0.8)
    best = ", ".join(f"{gene} {value:.2f}" for gene, value in known.head(NAMED).items())
    ax.text(0.98, 0.97, f"best: {best}", transform=ax.transAxes, ha="right", va="top", fontsize=9, color="0.25")
    without = f"; {int(r.isna().sum())} without r" if r.isna().any() else ""
    ax.set_xlabel(f"{len(known):,} genes, sorted{without}")
    ax.set_xticks([])
    ax.set_ylabel("Pearson r over cells or spots")
    ax.set_xlim(-0.5, len(known) - 0.5)
    ax.set_ylim(min(0.0, float(known.min())) - 0.03, max(1.0, float(known.max())))
