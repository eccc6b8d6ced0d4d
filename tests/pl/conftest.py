"""Picture comparison that survives another release of the plotting libraries but no change of what is shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASELINE = Path(__file__).parent / "baseline"
#: Root mean square difference allowed, of 255 grey levels.
TOLERANCE = 2.5


@pytest.fixture
def picture_difference(tmp_path: Path) -> Callable[[Figure, str], float]:
    """Root mean square difference (of 255) of a figure from ``baseline/<name>.png``.

    Both are shrunk, so that the edges of letters do not count. ``PASTPY_NEW_BASELINES=1`` writes that file anew.
    """
    from PIL import Image

    def compare(figure: Figure, name: str) -> float:
        figure.savefig(tmp_path / "drawn.png", dpi=100)
        with Image.open(tmp_path / "drawn.png") as image:
            drawn = image.convert("RGB").resize((image.width // 5, image.height // 5), Image.Resampling.BOX)
        if os.environ.get("PASTPY_NEW_BASELINES") == "1":
            drawn.save(BASELINE / f"{name}.png")
        with Image.open(BASELINE / f"{name}.png") as image:
            expected = np.asarray(image.resize(drawn.size), dtype=float)
        return float(np.sqrt(np.mean((np.asarray(drawn, dtype=float) - expected) ** 2)))

    return compare


@pytest.fixture
def same_picture(picture_difference: Callable[[Figure, str], float]) -> Callable[[Figure, str], None]:
    """Assert that a figure looks like ``baseline/<name>.png``."""

    def check(figure: Figure, name: str) -> None:
        found = picture_difference(figure, name)
        assert found < TOLERANCE, f"picture {name!r} differs by {found:.2f} of 255"

    return check


@pytest.fixture(autouse=True)
def _no_figures_left() -> Iterator[None]:
    import matplotlib.pyplot as plt

    yield
    plt.close("all")
