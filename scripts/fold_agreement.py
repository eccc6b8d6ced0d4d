"""How alike fold models predict tissue that none of them was trained on: JSON in docs/_data and its table.

    python scripts/fold_agreement.py FOLDS --data ../shared/data

``FOLDS`` holds a model for each section of her2st C, trained on the other four (``pastpy bench loso --models FOLDS``
makes and keeps them). What two of them predict differently on other patients' tissue is due to which sections of one
tumour they were trained on; what they predict alike may still be wrong. Mean Pearson r over pairs of models and the
variable genes, over windows of 100 µm of a crop of an ovarian carcinoma (``shared/data/hgsc``) and of a slide of skin
(``shared/data/svs``). Beside them stand ridges on the same features, fitted to the spots of the same sections, with
their r on the section that was left out. Three minutes, where the features of the sections are in the cache directory.
"""

from __future__ import annotations

import argparse
import json
import warnings
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from other_patient import CONFIG, by_window, read_crop, spots_of
from result_tables import DOCS, fill, table
from sklearn.linear_model import Ridge
from small_network import standardised

import pastpy as past
from pastpy import _keys
from pastpy.tl._inputs import load_past
from pastpy.train.augment import View, views_of
from pastpy.train.card import log_counts, predicted_share
from pastpy.train.data import pooled_tokens, prepare_section
from pastpy.train.loop import on_one_level
from pastpy.train.slides import relative_to_slides

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from pastpy.models import PAST
    from pastpy.train.data import Section

RESULTS = DOCS / "_data" / "fold_agreement.json"
SECTIONS = sorted(CONFIG.train_sections + CONFIG.validation_sections)
#: The fold whose variable genes are looked at in all, and that is looked at where one model is enough.
(LOOKED_AT,) = CONFIG.validation_sections
ALPHAS = (2e2, 2e3, 2e4, 2e5)


def read_folds(folder: Path) -> tuple[dict[str, PAST], list[str]]:
    """The model that has not seen each section, and the variable genes of one of them that all know."""
    folds = {name: load_past(folder / name, "cpu") for name in SECTIONS}
    card = folds[LOOKED_AT].card.genes
    known = set.intersection(*(set(model.gene_names) for model in folds.values()))
    return folds, [gene for gene in card.loc[card["variable"], "gene"] if gene in known]


def slides(data: Path) -> dict[str, SpatialData]:
    """Tissue of other patients, with its nuclei."""
    skin = past.io.read_wsi(data / "svs" / "cmu-1-small-region.svs")
    past.pp.segment_nuclei(skin)
    return {"ovarian carcinoma": read_crop(data / "hgsc"), "skin": skin}


def windows_of(values: np.ndarray, sdata: SpatialData) -> np.ndarray:
    """Means over windows that hold enough nuclei with a prediction, (windows, genes)."""
    seen = np.isfinite(values).all(axis=1)
    positions = np.asarray(sdata.tables["cells"].obsm[_keys.SPATIAL])
    return by_window(pd.DataFrame(values[seen]), positions[seen]).to_numpy()


def gene_r(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson r of each column, averaged."""
    return float(pd.DataFrame(a).corrwith(pd.DataFrame(b)).mean())


def on_spots(model: PAST, section: Section, genes: list[str]) -> float:
    """Mean r over genes of cells' predictions summed to a section's spots."""
    predicted = np.log1p(_keys.TARGET_SUM * predicted_share(model, section)[:, model.columns_of(genes)])
    return gene_r(predicted, log_counts(section, genes))


def on_section_left_out(model: PAST, name: str, genes: list[str], data: Path) -> float:
    """The same on the section that a fold's model has not seen."""
    section = prepare_section(name, data, CONFIG, model, views_of(name, CONFIG.views, CONFIG.seed))
    relative_to_slides(model, [section], None)
    return on_spots(model, section, genes)


def agreement(predictions: list[np.ndarray]) -> dict[str, float]:
    """Mean and least r over pairs of models."""
    found = [gene_r(a, b) for a, b in combinations(predictions, 2)]
    return {"mean": round(float(np.mean(found)), 4), "least": round(min(found), 4)}


def by_models(folds: list[PAST], genes: list[str], tissue: dict[str, SpatialData]) -> dict[str, Any]:
    """Agreement of fold models on each slide."""
    found = {}
    for name, sdata in tissue.items():
        predictions = []
        for model in folds:
            past.tl.impute_expression(sdata, model, genes=genes, modality="image", progress=False)
            expression = past.get.expression(sdata).to_df()[genes].to_numpy()
            predictions.append(windows_of(np.log1p(expression), sdata))
        found[name] = agreement(predictions)
    return found


def by_ridges(model: PAST, genes: list[str], tissue: dict[str, SpatialData], data: Path) -> dict[str, Any]:
    """The same of ridges on spots' means, and how well they predict the section that was left out."""
    spots = {name: spots_of(name, model, genes, data) for name in SECTIONS}
    pooled = {name: pooled_tokens(sdata, model, "cells", View()) for name, sdata in tissue.items()}
    features = {name: standardised(each, each) for name, each in pooled.items()}
    found = {}
    for alpha in ALPHAS:
        fitted = {}
        for left_out in SECTIONS:
            x, y = zip(*(spots[name] for name in SECTIONS if name != left_out), strict=True)
            fitted[left_out] = Ridge(alpha).fit(np.concatenate(x), np.concatenate(on_one_level(list(y))))
        r = [gene_r(ridge.predict(spots[name][0]), spots[name][1]) for name, ridge in fitted.items()]
        found[f"ridges on spots (α = {alpha:,.0f})"] = {
            "section_left_out": round(float(np.mean(r)), 4),
            **{
                name: agreement([windows_of(ridge.predict(features[name]), sdata) for ridge in fitted.values()])
                for name, sdata in tissue.items()
            },
        }
    return found


def rows(results: dict[str, Any]) -> str:
    """A row for each kind of model."""
    names = [name for name in next(iter(results.values())) if name != "section_left_out"]
    lines = [
        (kind, f"{found['section_left_out']:.3f}", *(f"{found[name]['mean']:.2f}" for name in names))
        for kind, found in results.items()
    ]
    return table(("five models", "r, section left out", *(f"agreement, {name}" for name in names)), lines)


def main() -> None:
    """Compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folds", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    by_section, genes = read_folds(arguments.folds)
    folds = list(by_section.values())
    tissue = slides(arguments.data)
    r = [on_section_left_out(model, name, genes, arguments.data) for name, model in by_section.items()]
    results = {
        "past-mini": {"section_left_out": round(float(np.mean(r)), 4), **by_models(folds, genes, tissue)},
        **by_ridges(folds[0], genes, tissue, arguments.data),
    }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fill(DOCS / "evaluation.md", {"fold_agreement": rows})


if __name__ == "__main__":
    main()
