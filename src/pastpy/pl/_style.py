"""Shared looks: colours that colour-blind readers can tell apart, one way to save and show, a scale bar in µm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = [
    "CATEGORICAL",
    "SEQUENTIAL",
    "UNKNOWN",
    "categorical",
    "finish",
    "new_axes",
    "nice_length",
    "scale_bar",
    "style",
]

#: Okabe & Ito's palette (https://jfly.uni-koeln.de/color/), those first that stand out on pink and purple tissue.
CATEGORICAL = ("#E69F00", "#009E73", "#56B4E9", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000")
SEQUENTIAL = "viridis"
#: Colour of what is not known.
UNKNOWN = "#9E9E9E"

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Draw with the package's settings, whatever the reader's own are, and leave those untouched."""
    import matplotlib as mpl

    with mpl.rc_context(_RC):
        yield
        interactive = mpl.is_interactive()
    mpl.interactive(interactive)


def new_axes(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """``ax``, or the axes of a new figure."""
    import matplotlib.pyplot as plt

    if ax is not None:
        return ax
    return plt.subplots(figsize=figsize, layout="constrained")[1]


def finish(figure: Figure | SubFigure, save: str | Path | None, show: bool | None) -> None:
    """Save if a path is given; show if asked for and the backend has windows."""
    import matplotlib.pyplot as plt
    from matplotlib.backends.registry import BackendFilter, backend_registry

    if save is not None:
        folder = Path(save).parent
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {str(folder)!r} to save the picture {Path(save).name!r} in; create it")
        figure.figure.savefig(save, dpi=150, bbox_inches="tight", facecolor="white")
    if show and plt.get_backend().lower() in backend_registry.list_builtin(BackendFilter.INTERACTIVE):
        plt.show()


def categorical(n: int) -> list[str]:
    """``n`` colours; beyond the palette's eight, evenly spaced hues."""
    import matplotlib as mpl
    from matplotlib.colors import to_hex

    if n <= len(CATEGORICAL):
        return list(CATEGORICAL[:n])
    return [to_hex(mpl.colormaps["turbo"](x)) for x in np.linspace(0.03, 0.97, n)]


def nice_length(width: float) -> float:
    """The longest of 1, 2 or 5 times a power of ten that is at most a quarter of ``width``."""
    limit = width / 4
    power = 10.0 ** np.floor(np.log10(limit))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit * (1 + 1e-9)))


def scale_bar(ax: Axes) -> None:
    """A bar of a round length at the bottom left of axes whose unit is µm."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    left, right = sorted(ax.get_xlim())
    top, bottom = sorted(ax.get_ylim())
    width, height = right - left, bottom - top
    length = nice_length(width)
    x, y, thickness = left + 0.04 * width, bottom - 0.04 * height, 0.012 * height
    bar = Rectangle(
        (x, y - thickness), length, thickness, facecolor="black", edgecolor="white", linewidth=0.8, gid="scale_bar"
    )
    bar.set_zorder(10)
    ax.add_patch(bar)
    ax.text(
        x + length / 2,
        y - 1.6 * thickness,
        f"{length:g} µm" if length < 1000 else f"{length / 1000:g} mm",
        ha="center",
        va="bottom",
        fontsize=9,
        fontweight="bold",
        color="black",
        zorder=10,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
    )
