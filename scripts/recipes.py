"""What each part of past-mini's recipe gives, one section of her2st left out: docs/_data/recipes.json and its table.

    python scripts/recipes.py --data ../shared/data

Every variant is trained by ``past.train.fit`` on four sections and scored on the fifth, which chooses nothing of the
run; but the recipe that ships was chosen by looking at such scores, so all of them flatter. The scores of the recipe
itself on the validation section are those of the weights that ship. What is in the JSON file is not trained again
unless the configuration has changed. Some ten minutes a variant, section and network on one core.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from result_tables import DOCS, fill, table

import pastpy as past
from pastpy.tl._inputs import load_past
from pastpy.train import TrainConfig
from pastpy.train.augment import views_of
from pastpy.train.card import validation_scores
from pastpy.train.data import prepare_section
from pastpy.train.slides import relative_to_slides

if TYPE_CHECKING:
    from pastpy.models import PAST

#: Left out in turn; two of the five, so that the table is made in an hour.
HELD_OUT = ("C3", "C5")
RESULTS = DOCS / "_data" / "recipes.json"
#: Simulated cells teach their own genes alone.
ALONE = {"weights": {k: v for k, v in TrainConfig.from_json("past-mini").weights.items() if k != "coexpression"}}
#: As in what was shipped before: the other variants were compared with it, or with it and ``ALONE``.
ONE: dict[str, Any] = {"members": 1, "linear_share": 0.0}
#: Variant → entries of the model, and of the rest of the configuration, that differ from what ships.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "as shipped": ({}, {}),
    "no linear readout": ({"linear_share": 0.0}, {}),
    "one network alone": (ONE, {}),
    "the same, no other genes taught by simulated cells": (ONE, ALONE),
    "the same, no simulated donors": (ONE, {**ALONE, "simulated_cohorts": 0}),
    "the same, no styles of donors": (ONE, {**ALONE, "style_sd": 0.0}),
    "the same, half the epochs": (ONE, {**ALONE, "epochs": 16}),
}


def configuration(variant: str, held_out: str) -> TrainConfig:
    """The bundled configuration with the variant's changes, trained on the other sections."""
    base = TrainConfig.from_json("past-mini")
    model, rest = VARIANTS[variant]
    sections = sorted(base.train_sections + base.validation_sections)
    others = tuple(s for s in sections if s != held_out)
    return replace(
        base, model={**base.model, **model}, train_sections=others, validation_sections=(held_out,), **rest
    )  # fmt: skip


def known() -> dict[str, Any]:
    """What has been measured: variant → section → configuration and scores."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}


def scores(config: TrainConfig, data: str) -> dict[str, float]:
    """Train, and score on the section that was left out, as it is and in its other views."""
    if config == TrainConfig.from_json("past-mini"):
        model = load_past("past-mini", "cpu")
    else:
        with tempfile.TemporaryDirectory() as folder:
            model = past.train.fit(config, f"{folder}/model", data=data)
    return {**model.card.facts["scores"], "mean_r_other_views": other_views(model, config, data)}


def other_views(model: PAST, config: TrainConfig, data: str) -> float:
    """Mean r over the same genes where the section that was left out has another stain, focus and zoom."""
    (name,) = config.validation_sections
    section = prepare_section(name, Path(data), config, model, views_of(name, config.views, config.seed))
    if model.config.slide_norm:
        relative_to_slides(model, [section], None)
    table = model.card.genes
    genes = table.loc[table["variable"], "gene"].tolist()
    found = [validation_scores(model, replace(section, pooled=view[None]), genes) for view in section.pooled[1:]]
    return float(np.mean([scored["pearson"].mean() for scored in found]))


def rows(results: dict[str, Any]) -> str:
    """The table, sections averaged."""
    lines = []
    for variant, found in results.items():
        by_section = [entry["scores"] for entry in found.values()]
        mean = {k: float(np.mean([s[k] for s in by_section])) for k in by_section[0]}
        gain = mean["nb_deviance"] - mean["nb_deviance_gene_mean"]
        lines.append(
            (
                variant,
                ", ".join(found),
                f"{mean['mean_r_variable']:.3f}",
                f"{mean['mean_r_best_50']:.3f}",
                f"{mean['mean_r_other_views']:.3f}",
                f"{gain:+.4f}",
            )
        )
    header = ("recipe", "left out", "mean r", "best 50", "mean r, other views", "NB deviance less that of gene means")
    return table(header, lines)


def main() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", default="../shared/data")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    for variant, held_out in product(arguments.variants, HELD_OUT):
        config = configuration(variant, held_out)
        made_with = json.loads(json.dumps(asdict(config)))
        if known().get(variant, {}).get(held_out, {}).get("configuration") == made_with:
            continue
        entry = {"configuration": made_with, "scores": scores(config, arguments.data)}
        print(variant, held_out, entry["scores"], flush=True)
        # read again: another run may have added its own meanwhile
        results = known()
        results.setdefault(variant, {})[held_out] = entry
        ordered = {name: results[name] for name in VARIANTS if name in results}
        RESULTS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    fill(DOCS / "decisions.md", {"recipes": rows})


if __name__ == "__main__":
    main()
