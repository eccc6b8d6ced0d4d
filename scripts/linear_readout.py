"""What the linear readout and the number of networks give past-mini: JSON in docs/_data and its table.

    python scripts/linear_readout.py FOLDS --data ../shared/data

``FOLDS`` holds a model for each section of her2st C, trained on the other four (``pastpy bench loso --models FOLDS``
makes and keeps them). Their networks stay as they are; the readout is fitted anew, in closed form, for every row. Of
each row: mean r over the section that was left out, five in turn; how alike the five predict other patients' tissue, as
``fold_agreement.py`` does; AUROC of known genes in the nuclei of an ovarian carcinoma, as ``other_patient.py`` does,
and share of what is attainable over simulated cohorts, as ``networks_simulated.py`` does, both by the model that has
not seen C3. Ten minutes on one core, where features of sections and simulated cells are in the cache directory.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networks_simulated
import numpy as np
import pandas as pd
from fold_agreement import LOOKED_AT, SECTIONS, agreement, on_spots, read_folds, slides, windows_of
from other_patient import CONFIG, MARKERS, known_genes
from other_patient import scores as of_types
from result_tables import DOCS, fill, table
from tqdm.auto import tqdm

from pastpy import _keys
from pastpy.bench._pretrained import predicted_log1p
from pastpy.models import PAST
from pastpy.train.augment import View, views_of
from pastpy.train.coexpression import coexpression
from pastpy.train.data import pooled_tokens, prepare_section, read_cells
from pastpy.train.linear import moments_of_cells, moments_of_spots, set_readout
from pastpy.train.simulated import simulated_cells
from pastpy.train.slides import relative_to_slides

RESULTS = DOCS / "_data" / "linear_readout.json"
#: A share of one is none that a model can have, and this is the readout alone but for the fourth decimal.
ALONE = 0.9999


@dataclass(frozen=True)
class Row:
    """Networks that are averaged, the readout's share, its penalty, and the weight of simulated cells."""

    networks: int = 3
    share: float = CONFIG.model["linear_share"]
    penalty: float = CONFIG.linear_penalty
    simulated: float = CONFIG.linear_simulated


ROWS = {
    "one network": Row(networks=1, share=0.0),
    "three networks": Row(share=0.0),
    "as shipped": Row(),
    "a share of 0.33": Row(share=0.33),
    "a share of 0.5": Row(share=0.5),
    "the readout alone": Row(share=ALONE),
    "one network and the readout": Row(networks=1),
    "penalty of 3": Row(penalty=3.0),
    "penalty of 300": Row(penalty=300.0),
    "simulated cells with weight 3": Row(simulated=3.0),
    "simulated cells with weight 0.3": Row(simulated=0.3),
    "a share of 0.33, penalty of 3, weight of 0.3 (before)": Row(share=0.33, penalty=3.0, simulated=0.3),
    "no simulated cells in the readout": Row(simulated=0.0),
}


def fold_rows(
    left_out: str, model: PAST, data: Path, slide: dict[str, np.ndarray], genes: list[str]
) -> Iterator[tuple[str, PAST, float, dict[str, np.ndarray]]]:
    """Of every row its model, r over the section left out and predictions on slides; the model is changed in place.

    Levels of genes are not set again: correlations hardly see them.
    """
    prepared = {
        name: prepare_section(name, data, CONFIG, model, views_of(name, CONFIG.views, CONFIG.seed)) for name in SECTIONS
    }
    simulated, single = simulated_cells(CONFIG, model), read_cells(data)
    relative_to_slides(model, list(prepared.values()), simulated)
    train = [prepared[name] for name in SECTIONS if name != left_out]
    others = coexpression(train, single, simulated.genes, model.gene_names)
    spots, cells = moments_of_spots(model, train), moments_of_cells(model, simulated, others)
    del simulated
    members = model.members
    for name, row in ROWS.items():
        model.members = members[: row.networks]
        options = replace(CONFIG, linear_penalty=row.penalty, linear_simulated=row.simulated)
        # without simulated cells their covariance has no say either
        set_readout(model, options, train, spots, cells if row.simulated else None)
        model.config = replace(model.config, linear_share=row.share)
        on_slides = {tissue: predicted_log1p(model, pooled, genes) for tissue, pooled in slide.items()}
        yield name, model, on_spots(model, prepared[left_out], genes), on_slides


def rows(results: dict[str, Any]) -> str:
    """A row for each."""
    lines = []
    for name, found in results.items():
        auroc = [found["types"][kind][group]["auroc"] for kind in MARKERS for group in ("panel", "others")]
        lines.append(
            (
                name,
                f"{found['section_left_out']:.3f}",
                *(f"{each['mean']:.2f}" for each in found["agreement"].values()),
                *(f"{panel:.2f}, {other:.2f}" for panel, other in zip(auroc[::2], auroc[1::2], strict=True)),
                f"{found['simulated']:.3f}",
            )
        )
    header = (
        "what differs", "r, section left out", *(f"agreement, {n}" for n in next(iter(results.values()))["agreement"]),
        *(f"{kind}, AUROC" for kind in MARKERS), "simulated",
    )  # fmt: skip
    return table(header, lines)


def main() -> None:
    """Compare, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folds", type=Path)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    folds, genes = read_folds(arguments.folds)
    looked_at = folds[LOOKED_AT]
    markers, panel = known_genes(looked_at), set(read_cells(arguments.data).genes)
    tissue = slides(arguments.data)
    crop = tissue["ovarian carcinoma"].tables[_keys.CELLS]
    pooled = {name: pooled_tokens(sdata, looked_at, _keys.CELLS, View()) for name, sdata in tissue.items()}
    cohorts = [networks_simulated.scored_cohort(i, looked_at) for i in range(networks_simulated.COHORTS)]
    r: dict[str, list[float]] = {name: [] for name in ROWS}
    on_slides: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in ROWS}
    results: dict[str, Any] = {name: {} for name in ROWS}
    for left_out, model in tqdm(folds.items(), desc="folds", unit="fold"):
        for name, fitted, of_section, predicted in fold_rows(left_out, model, arguments.data, pooled, genes):
            r[name].append(of_section)
            on_slides[name].append(predicted)
            if left_out != LOOKED_AT:
                continue
            of_nuclei = predicted_log1p(fitted, pooled["ovarian carcinoma"], markers)
            frame = pd.DataFrame(of_nuclei, index=crop.obs_names, columns=markers)
            results[name]["types"] = of_types(frame, crop, panel)
            shares = [
                networks_simulated.share(predicted_log1p(fitted, c["pooled"], c["genes"].tolist()), c) for c in cohorts
            ]
            results[name]["simulated"] = round(float(np.mean(shares)), 4)
    for name in ROWS:
        results[name] = {
            "section_left_out": round(float(np.mean(r[name])), 4),
            "sections": dict(zip(SECTIONS, np.round(r[name], 4).tolist(), strict=True)),
            "agreement": {
                slide: agreement([windows_of(each[slide], sdata) for each in on_slides[name]])
                for slide, sdata in tissue.items()
            },
            **results[name],
        }
    RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fill(DOCS / "decisions.md", {"linear_readout": rows})


if __name__ == "__main__":
    main()
