"""What small networks know of tissue that no training section shows: JSON in docs/_data and its table.

    python scripts/networks_halves.py --data ../shared/data

The sections of her2st C are neighbours in one block of tissue and lie alike, so that whoever leaves one out still
trains on the tissue right above and below it. Here a network is trained on one half of four sections and scored on the
other half of the fifth: left, right, and both sides of the diagonal. It is the nearest to another patient that these
data allow. Features are those of ``networks_sections.py``; a row takes two or three minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from networks_sections import SCORES, SMALL, WIDE, Fold, Row, data_folder, prepared, rows, score_fold, spot_table
from result_tables import DOCS, fill
from small_network import measure

from pastpy import _keys
from pastpy.train.data import Section

RESULTS = DOCS / "_data" / "networks_halves.json"
#: Directions, x and y, from the half that is trained on to the half that is scored.
HALVES = {"right": (1, 0), "left": (-1, 0), "upper right": (1, -1), "lower left": (-1, 1)}
#: A strip of this width, µm, between the halves is in neither.
GAP_UM = 200.0
RECIPE: dict[str, Any] = {"programs": 48, "width": 256}

ROWS: dict[str, Row] = {
    "48 programs, 256 wide": Row(**RECIPE),
    "16 programs, 128 wide": Row(),
    "no discs beyond 30 µm": Row(**RECIPE, without=WIDE),
    "no discs beyond 200 µm": Row(**RECIPE, without=WIDE[2:]),
    "no nucleus, outline, ring, nor discs below 15 µm": Row(**RECIPE, without=SMALL),
    "no other views in training": Row(**RECIPE, views=False),
    "dropout of 0.5": Row(**RECIPE, dropout=0.5),
    "half the epochs": Row(**RECIPE, epochs=12),
    "half the epochs, no discs beyond 200 µm": Row(**RECIPE, epochs=12, without=WIDE[2:]),
    "half the epochs, three trainings averaged": Row(**RECIPE, epochs=12, trainings=3),
    "ridge (α = 2,000) on spots' means instead": Row(ridge=2e3),
    "ridge (α = 200,000)": Row(ridge=2e5),
}


def side(name: str, direction: tuple[int, int], data: Path) -> np.ndarray:
    """How far each spot lies beyond the middle of its section, µm."""
    um = np.asarray(spot_table(name, data).obsm[_keys.SPATIAL]) @ (np.array(direction) / np.linalg.norm(direction))
    return um - np.median(um)


def score(
    row: Row, sections: dict[str, Section], regions: list[str], data: Path, make_fold: Callable[..., Fold] = Fold
) -> dict[str, Any]:
    """Mean r of the halves that were left out, as they are and in their other views, over all sections."""
    found: dict[str, list[tuple[float, float, float]]] = {half: [] for half in HALVES}
    for held_out in sections:
        fold = make_fold(row, sections, held_out, regions, data)
        whole = fold.used
        for half, direction in HALVES.items():
            beyond = {name: side(name, direction, data) for name in whole}
            fold.used = {
                name: used & (beyond[name] > GAP_UM / 2 if name == held_out else beyond[name] < -GAP_UM / 2)
                for name, used in whole.items()
            }
            found[half].append(score_fold(row, fold))
    return {
        name: {half: round(float(np.mean([v[i] for v in values])), 4) for half, values in found.items()}
        for i, name in enumerate(SCORES)
    }


def main() -> None:
    """Measure what is missing, and write the table."""
    data = data_folder(__doc__)
    sections, regions = prepared(data)
    measure(RESULTS, ROWS, lambda row: score(row, sections, regions, data))
    fill(DOCS / "decisions.md", {"networks_halves": partial(rows, each="half by half")})


if __name__ == "__main__":
    main()
