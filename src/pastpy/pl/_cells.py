"""Cells on the H&E, coloured by gene or label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _elements, _keys
from pastpy.pl._colour import UNKNOWN_NAME, CellColours, Legend, cell_colours
from pastpy.pl._image import MAX_PX, View, draw_view, read_view
from pastpy.pl._style import finish, new_axes, scale_bar, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

__all__ = ["cells"]

#: Above this number of cells in view they are drawn as pixels, not as polygons.
MAX_POLYGONS = 50_000


def cells(
    sdata: SpatialData,
    color: str | None,
    *,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    mpp: float | None = None,
    coordinate_system: str = _keys.COORDINATE_SYSTEM,
    expression_key: str = "past_expression",
    crop: Sequence[float] | None = None,
    cmap: str | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    alpha: float = 0.75,
    fade: float = 0.35,
    legend: bool = True,
    title: str | None = None,
    ax: Axes | None = None,
    save: str | Path | None = None,
    show: bool | None = None,
) -> Axes:
    """H&E with its cells coloured by a gene, a number or a label, and a scale bar in µm.

    Parameters
    ----------
    sdata
        Object with the image, the shapes and the table that annotates them.
    color
        An ``obs`` column (numbers or labels), a gene of ``obsm[expression_key]``, or a gene of ``var_names`` (values of
        ``X``), looked up in this order; ``None`` draws outlines only.
    image_key, shapes_key, table_key
        Names of the elements; by default the only H&E, the shapes that the table annotates, and ``cells``.
    mpp
        µm per level-0 pixel; by default what the reader stored.
    coordinate_system
        Coordinate system in which image and shapes meet.
    expression_key
        ``obsm`` DataFrame of predicted expression.
    crop
        x0, y0, x1, y1 of the part to draw, µm from the image's top-left corner; by default all.
    cmap
        Matplotlib colour map for numbers.
    vmin, vmax
        Ends of the colour map; by default the 1 % and 99 % quantiles of the known values of the table.
    alpha
        Opacity of the cells.
    fade
        How far the H&E is mixed with white, 0 to 1, so that the cells stand out.
    legend
        Draw the colour bar or the list of labels.
    title
        Title; by default ``color``.
    ax
        Axes to draw on; by default those of a new figure.
    save
        Path of a picture file.
    show
        ``True`` opens a window, where the backend has any.

    Returns
    -------
    matplotlib.axes.Axes
        In µm, y downwards. Cells without a value are grey and named "unknown" in the legend. More than 50,000 cells in
        view are drawn as an image of at most 1600 px.

    Raises
    ------
    KeyError
        If an element or ``color`` is not there; the message names the candidates.
    TypeError
        If ``color`` is a list.
    ValueError
        If the µm/px is unknown or the crop holds nothing of the image.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> ax = past.pl.cells(sdata, "ERBB2", table_key="spots", crop=(0, 0, 700, 700))
    """
    sdata = _elements.require_spatialdata(sdata)
    image_key = _elements.resolve_image(sdata, image_key)
    table_key = _elements.resolve_table(sdata, table_key)
    shapes_key = _elements.resolve_shapes(sdata, shapes_key, table_key=table_key)
    mpp = _elements.resolve_mpp(sdata, image_key, mpp)
    colours = cell_colours(
        sdata.tables[table_key], color, expression_key=expression_key, cmap=cmap, vmin=vmin, vmax=vmax
    )
    units = _elements.unit_geometry(
        sdata, table_key, shapes_key, image_key, mpp=mpp, coordinate_system=coordinate_system
    )
    view = read_view(sdata, image_key, mpp=mpp, crop=crop)
    with style():
        ax = new_axes(ax, _figsize(view, wide=legend and color is not None))
        draw_view(ax, view, fade=fade)
        rows, outlines = _outlines_in_view(units, view)
        _draw_cells(ax, outlines, colours.rgba[rows], alpha, view, filled=color is not None)
        ax.set_title(title if title is not None else (color or f"{len(rows):,} cells"))
        if legend:
            _draw_legend(ax, colours, rows, alpha)
        scale_bar(ax)
        finish(ax.figure, save, show)
    return ax


def _figsize(view: View, *, wide: bool) -> tuple[float, float]:
    x0, y0, x1, y1 = view.crop
    height = 6.0 * min(max((y1 - y0) / (x1 - x0), 0.4), 1.6)
    return (7.4 if wide else 6.0), height + 0.4


def _outlines_in_view(units: _elements.UnitGeometry, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose shapes touch the view, and those shapes in µm; circles become polygons."""
    import shapely

    placed = np.flatnonzero(np.isfinite(units.centroids[:, 0]))
    geometry, radius = units.geometry[placed].copy(), units.radius[placed]
    circles = np.isfinite(radius)
    geometry[circles] = shapely.buffer(geometry[circles], radius[circles])
    geometry = shapely.transform(geometry, lambda xy: xy * units.mpp)
    x0, y0, x1, y1 = shapely.bounds(geometry).reshape(-1, 4).T
    left, top, right, bottom = view.crop
    seen = (x1 > left) & (x0 < right) & (y1 > top) & (y0 < bottom)
    return placed[seen], geometry[seen]


def _draw_cells(ax: Axes, outlines: np.ndarray, rgba: np.ndarray, alpha: float, view: View, *, filled: bool) -> None:
    """Polygons, or pixels where there are too many."""
    import shapely
    from matplotlib.collections import PolyCollection

    if len(outlines) > MAX_POLYGONS:
        ax.imshow(
            _as_pixels(outlines, rgba, alpha, view),
            extent=(view.crop[0], view.crop[2], view.crop[3], view.crop[1]),
            interpolation="nearest",
            zorder=2,
        )
        return
    parts, part_of = shapely.get_parts(outlines, return_index=True)
    coordinates, index = shapely.get_coordinates(shapely.get_exterior_ring(parts), return_index=True)
    vertices = np.split(coordinates, np.flatnonzero(np.diff(index)) + 1) if len(parts) else []
    colour = rgba[part_of]
    face = np.column_stack([colour[:, :3], np.full(len(parts), alpha)]) if filled else "none"
    drawn = PolyCollection(
        vertices, facecolors=face, edgecolors=colour, linewidths=0.4 if filled else 0.9, zorder=2, rasterized=True
    )
    ax.add_collection(drawn, autolim=False)


def _as_pixels(outlines: np.ndarray, rgba: np.ndarray, alpha: float, view: View) -> np.ndarray:
    """Cells as an RGBA image (height, width, 4) over the view."""
    import shapely

    from pastpy._raster import draw_spans, filled_spans

    x0, y0, x1, y1 = view.crop
    scale = MAX_PX / max(x1 - x0, y1 - y0)
    canvas = np.full((int(np.ceil((y1 - y0) * scale)), int(np.ceil((x1 - x0) * scale))), -1, dtype=np.int32)
    row, start, stop, position = filled_spans(shapely.transform(outlines, lambda xy: (xy - (x0, y0)) * scale))
    draw_spans(canvas, row, start, stop, position)
    # the last row of colours is for pixels without a cell
    table = np.vstack([np.column_stack([rgba[:, :3], np.full(len(rgba), alpha)]), np.zeros(4)])
    return table[canvas]


def _draw_legend(ax: Axes, colours: CellColours, rows: np.ndarray, alpha: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.patches import Patch

    key: Legend = colours.legend
    if key.norm is not None:
        mappable = ScalarMappable(norm=key.norm, cmap=key.cmap)
        ax.figure.colorbar(mappable, ax=ax, label=key.label, shrink=0.7, pad=0.02, extend=key.extend)
    names = {
        name: colour for name, colour in key.patches.items() if name != UNKNOWN_NAME or colours.unknown[rows].any()
    }
    if names:
        handles = [Patch(facecolor=colour, alpha=alpha, edgecolor=colour, label=name) for name, colour in names.items()]
        below = key.norm is not None
        ax.legend(
            handles=handles,
            loc="upper right" if below else "center left",
            bbox_to_anchor=(1.0, -0.01) if below else (1.01, 0.5),
        )
