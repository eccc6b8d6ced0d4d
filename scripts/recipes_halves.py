"""What parts of past-mini's recipe give on tissue that no training section shows: docs/_data/recipes_halves.json.

    python scripts/recipes_halves.py --data ../shared/data

As ``recipes.py``, but trained on the left half of four sections of her2st C and scored on the right half of the
validation section, as ``networks_halves.py`` does: five to ten minutes a variant and network on one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from networks_halves import GAP_UM, HALVES, side
from recipes import ALONE, ONE
from result_tables import DOCS, fill, table

import pastpy as past
from pastpy.train import TrainConfig
from pastpy.train import data as training_data
from pastpy.train.augment import views_of
from pastpy.train.card import validation_scores
from pastpy.train.data import Section
from pastpy.train.slides import relative_to_slides

RESULTS = DOCS / "_data" / "recipes_halves.json"
HALF = "right"
#: Variant → entries of the model, and of the rest of the configuration, that differ from what ships.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as shipped": ({}, {}),
    "one network alone": (ONE, {}),
    "the same, no other genes taught by simulated cells": (ONE, ALONE),
    "the same, half the epochs": (ONE, {**ALONE, "epochs": 16}),
    "the same, dropout of 0.5": ({**ONE, "dropout": 0.5}, ALONE),
}


def part_of(section: Section, kept: np.ndarray) -> Section:
    """A section with some of its spots, and the cells under these."""
    position = np.cumsum(kept) - 1
    under = kept[section.spot]
    return replace(
        section, pooled=section.pooled[:, under], spot=position[section.spot[under]], counts=section.counts[kept],
        spot_pooled=section.spot_pooled[kept],
        proportions=None if section.proportions is None else section.proportions[kept],
    )  # fmt: skip


def scores(config: TrainConfig, data: Path) -> dict[str, float]:
    """Train on one half, score on the other, as it is and in its other views."""
    whole = training_data.prepare_section
    (held_out,) = config.validation_sections

    def half(name: str, *arguments: Any) -> Section:
        beyond = side(name, HALVES[HALF], data)
        kept = beyond > GAP_UM / 2 if name == held_out else beyond < -GAP_UM / 2
        return part_of(whole(name, *arguments), kept)

    with tempfile.TemporaryDirectory() as folder, patch.object(training_data, "prepare_section", half):
        model = past.train.fit(config, f"{folder}/model", data=data)
    section = whole(held_out, data, config, model, views_of(held_out, config.views, config.seed))
    if model.config.slide_norm:
        relative_to_slides(model, [section], None)
    section = part_of(section, side(held_out, HALVES[HALF], data) > GAP_UM / 2)
    genes = model.card.genes.loc[model.card.genes["variable"], "gene"].tolist()
    r = [
        validation_scores(model, replace(section, pooled=view[None]), genes)["pearson"].to_numpy()
        for view in section.pooled
    ]
    return {"mean_r": r[0].mean(), "best_50": np.sort(r[0])[-50:].mean(), "mean_r_other_views": np.mean(r[1:])}


def rows(results: dict[str, Any]) -> str:
    """A row for each variant."""
    lines = [(name, *(f"{value:.3f}" for value in found["scores"].values())) for name, found in results.items()]
    return table(("recipe", "mean r", "best 50", "mean r, other views"), lines)


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    base = TrainConfig.from_json("past-mini")
    for variant in arguments.variants:
        model, rest = VARIANTS[variant]
        config = replace(base, model={**base.model, **model}, **rest)
        made_with = json.loads(json.dumps(asdict(config)))
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        if results.get(variant, {}).get("configuration") == made_with:
            continue
        found = {name: round(float(value), 4) for name, value in scores(config, arguments.data).items()}
        print(variant, found, flush=True)
        # read again: another run may have added its own meanwhile
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
        results[variant] = {"configuration": made_with, "scores": found}
        ordered = {name: results[name] for name in VARIANTS if name in results}
        RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    fill(DOCS / "decisions.md", {"recipes_halves": rows})


if __name__ == "__main__":
    main()
