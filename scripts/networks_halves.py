"""What small networks know of tissue that no training section shows: JSON in docs/_data and its table.

    python scripts/networks_halves.py --data ../shared/data

The sections of her2st C are neighbours in one block of tissue and lie alike, so that whoever leaves one out still
trains on the tissue right above and below it. Here a network is trained on one half of four sections and scored on the
other half of the fifth: left, right, and both sides of the diagonal. It is the nearest to another patient that these
data allow. Features are those of ``networks_sections.py``; a row takes two or three minutes on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from networks_sections import CONFIG, NAMES, SMALL, WIDE, Fold, Row, fit_network, fit_ridge, spot_table
from result_tables import DOCS, fill, table
from small_network import measure

from pastpy import _keys
from pastpy.train.augment import views_of
from pastpy.train.data import Section, prepare_section
from pastpy.train.loop import _untrained

RESULTS = DOCS / "_data" / "networks_halves.json"
#: Directions, x and y, from the half that is trained on to the half that is scored.
HALVES = {"right": (1, 0), "left": (-1, 0), "upper right": (1, -1), "lower left": (-1, 1)}
#: A strip of this width, µm, between the halves is in neither.
GAP_UM = 200.0
RECIPE = {"programs": 48, "width": 256}

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
        for half, direction in HALVES.items():
            fold = make_fold(row, sections, held_out, regions, data)
            for name, used in fold.used.items():
                beyond = side(name, direction, data)
                used &= beyond > GAP_UM / 2 if name == held_out else beyond < -GAP_UM / 2
            if row.ridge is not None:
                fitted = [fit_ridge(row, fold)]
            else:
                fitted = [fit_network(row, fold, seed) for seed in range(row.trainings)]
            r = [
                fold.score(view, lambda x, fitted=fitted: np.mean([predict(x) for predict in fitted], axis=0))
                for view in range(len(sections[held_out].pooled))
            ]
            found[half].append((r[0].mean(), np.sort(r[0])[-50:].mean(), np.mean(r[1:])))
    names = ("mean_r", "best_50", "mean_r_other_views")
    return {
        name: {half: round(float(np.mean([v[i] for v in values])), 4) for half, values in found.items()}
        for i, name in enumerate(names)
    }


def rows(found: dict[str, Any]) -> str:
    """A row for each network."""

    def line(one: dict[str, Any]) -> tuple[str, ...]:
        r, best, views = (list(one[k].values()) for k in ("mean_r", "best_50", "mean_r_other_views"))
        return f"{np.mean(r):.3f}", f"{np.mean(best):.3f}", f"{np.mean(views):.3f}", f"{min(r):.2f} to {max(r):.2f}"

    header = ("what differs", "mean r", "best 50", "mean r, other views", "mean r, half by half")
    return table(header, [(name, *line(one)) for name, one in found.items()])


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    data = parser.parse_args().data
    model = _untrained(CONFIG, ["none"])
    regions = [r.name for each in model.passes for r in each.regions]
    sections = {
        name: prepare_section(name, data, CONFIG, model, views_of(name, CONFIG.views, CONFIG.seed)) for name in NAMES
    }
    measure(RESULTS, ROWS, lambda row: score(row, sections, regions, data))
    fill(DOCS / "decisions.md", {"networks_halves": rows})


if __name__ == "__main__":
    main()
