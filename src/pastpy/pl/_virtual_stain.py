"""H&E beside a virtual stain."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _elements, _keys
from pastpy.pl._image import View, draw_view, read_view
from pastpy.pl._style import finish, scale_bar, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from spatialdata import SpatialData

__all__ = ["virtual_stain"]


def virtual_stain(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    stain_key: str = _keys.VIRTUAL_STAIN,
    table_key: str | None = None,
    mpp: float | None = None,
    crop: Sequence[float] | None = None,
    ax: Sequence[Axes] | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Figure:
    """H&E beside its virtual stain: same part, same scale, and what is known of its worth. Research use only.

    Parameters
    ----------
    sdata
        Object on which :func:`pastpy.tl.virtual_stain` was run.
    image_key
        Name of the H&E; by default the one that was stained.
    stain_key
        Name of the stain.
    table_key
        Name of the table that holds the stain's settings; by default ``cells``, else the only one.
    mpp
        µm per level-0 pixel; by default what the reader stored.
    crop
        x0, y0, x1, y1 of the part to draw, µm from the image's top-left corner; by default all. Only the blocks of
        the stain in this part are computed.
    ax
        Two axes to draw on; by default those of a new figure.
    save
        Path of a picture file.
    show
        ``True`` opens a window, where the backend has any.

    Returns
    -------
    matplotlib.figure.Figure
        With the words "research use only", the model's transfer score and known caveats under the panels.

    Raises
    ------
    KeyError
        If there is no such stain or image; the message names the candidates.
    ValueError
        If the µm/px is unknown, the crop holds nothing of the image, or ``ax`` is not two axes.

    Examples
    --------
    >>> import pandas as pd, pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.tl.impute_expression(sdata, genes=["ERBB2"], modality="image", progress=False)
    >>> past.tl.virtual_stain(sdata, "HER2", reference=pd.DataFrame({"low": [1.0], "high": [4.0]}, index=["ERBB2"]))
    >>> figure = past.pl.virtual_stain(sdata, crop=(0, 0, 300, 300))
    """
    import matplotlib.pyplot as plt

    sdata = _elements.require_spatialdata(sdata)
    if stain_key not in sdata.images:
        added = set(_elements.past_attrs(sdata).get(_keys.ADDED, []))
        stains = [name for name in sdata.images if name in added]
        raise KeyError(
            f"no virtual stain named {stain_key!r}; stains here: {stains or 'none'}. Pass one as stain_key=, or run "
            "pastpy.tl.virtual_stain"
        )
    settings, marker = _settings(sdata, table_key, stain_key)
    image_key = _elements.resolve_image(sdata, image_key or settings.get("image_key"))
    mpp = _elements.resolve_mpp(sdata, image_key, mpp)
    if ax is not None and len(ax) != 2:
        raise ValueError(f"ax must be two axes, for the H&E and the stain; got {len(ax)}")
    views = [read_view(sdata, name, mpp=mpp, crop=crop) for name in (image_key, stain_key)]
    with style():
        panels = plt.subplots(1, 2, figsize=_figsize(views[0]), layout="constrained")[1] if ax is None else ax
        titles = ("H&E", f"virtual {marker} stain" if marker else "virtual stain")
        for panel, view, title in zip(panels, views, titles, strict=True):
            draw_view(panel, view)
            panel.set_title(title)
            scale_bar(panel)
        figure = panels[0].figure
        caption = _caption(settings.get("markers", {}).get(marker))
        if ax is None:
            figure.supxlabel("\n".join(textwrap.wrap(caption, 110)), fontsize=9, color="0.25")
        else:
            panels[1].set_xlabel("\n".join(textwrap.wrap(caption, 55)), fontsize=8, color="0.25")
        finish(figure, save, show)
    return figure.figure


def _settings(sdata: SpatialData, table_key: str | None, stain_key: str) -> tuple[Mapping[str, Any], str | None]:
    """What ``tl.virtual_stain`` stored and the marker of this image; nothing where the table is gone."""
    if not sdata.tables:
        return {}, None
    table = sdata.tables[_elements.resolve_table(sdata, table_key)]
    settings = table.uns.get(_keys.PAST, {}).get("virtual_stain", {})
    named = [name for name, entry in settings.get("markers", {}).items() if entry["image"] == stain_key]
    return settings, named[-1] if named else None


def _caption(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return f"Virtual stain, {_keys.RESEARCH_USE}. Its settings and transfer score are not recorded in this table."
    genes = ", ".join(str(gene) for gene in entry["genes"])
    score = float(entry["transfer_score"])
    known = f"r = {score:.2f} ({entry['statement']})" if np.isfinite(score) else str(entry["statement"])
    low, high = (float(np.mean(entry["reference"][end])) for end in ("low", "high"))
    caveats = "; ".join(entry.get("caveats", []))
    return (f"Caution: {caveats}. " if caveats else "") + (
        f"{_keys.RESEARCH_USE.capitalize()}. Brown: predicted {genes} mRNA of each cell, from none at {low:.2f} "
        f"to full at {high:.2f} (log1p); no antibody was used. Predicted against measured: {known}."
    )


def _figsize(view: View) -> tuple[float, float]:
    x0, y0, x1, y1 = view.crop
    return 11.0, 5.4 * min(max((y1 - y0) / (x1 - x0), 0.4), 1.6) + 0.9
