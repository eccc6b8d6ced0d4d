"""How well genes that single cells lack are inferred for them: docs/_data/coexpression_held_out.json and its table.

    python scripts/coexpression_held_out.py --data ../shared/data

A fifth of the genes of the Xenium panel in turn is treated as if no single cell had been measured for it
(``pastpy/train/coexpression.py``); what spots of her2st say of these genes is then compared with the cells' own counts,
which no spot has seen: Pearson r over cells, and how well the inferred expression tells the kind of cell that a gene is
highest in (AUROC). Types of the cells come with them, and may have been told with the genes held out; r is the fairer
figure. Genes count that both ways of inference keep. A minute.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from result_tables import DOCS, fill, table
from sklearn.metrics import roc_auc_score

from pastpy import _keys
from pastpy.train import TrainConfig
from pastpy.train.coexpression import LEAST_COUNTS, LEAST_DETECTION, coexpression, log_profiles
from pastpy.train.data import Section, SingleCells, read_cells, read_proportions, read_section
from pastpy.train.loop import aligned_counts, detected_share

RESULTS = DOCS / "_data" / "coexpression_held_out.json"
CONFIG = TrainConfig.from_json("past-mini")
FOLDS = 5
#: Kinds of cells, coarser than types, by the names that proportions have.
KIND = {
    "Epithelial": "epithelium", "CAFs": "stroma and vessels", "Endothelial": "stroma and vessels",
    "B-cells": "leucocytes", "Myeloid": "leucocytes", "Plasma Cells": "leucocytes", "T-cells": "leucocytes",
}  # fmt: skip


def spots_alone(name: str, folder: Path) -> Section:
    """A section without its cells."""
    root = folder / "her2st"
    spots = read_section(root, name, mpp=CONFIG.mpp, spot_diameter_um=CONFIG.spot_diameter_um).tables[_keys.SPOTS]
    nothing = np.zeros((1, 0, 0, 0), dtype=np.float32)
    return Section(
        name=name,
        pooled=nothing,
        spot=np.zeros(0, dtype=np.int64),
        counts=spots.X.tocsr(),
        genes=spots.var_names.astype(str).tolist(),
        spot_pooled=nothing[0],
        proportions=read_proportions(root, name),
    )


def profiles(cells: SingleCells, genes: list[str]) -> np.ndarray:
    """log1p of counts per 10,000 over some genes, (cells, genes)."""
    return log_profiles(aligned_counts(cells.counts, cells.genes, genes))


def infer(sections: list[Section], cells: SingleCells, panel: list[str], held: list[str]) -> pd.DataFrame:
    """Expression of the genes held out as the rest of the panel tells it, (cells, genes), but for constants."""
    column = {g: i for i, g in enumerate(cells.genes)}
    seen = replace(cells, counts=cells.counts[:, [column[g] for g in panel]], genes=panel)
    found = coexpression(sections, seen, panel, held)
    return pd.DataFrame(profiles(cells, panel) @ found.weights, columns=found.genes)


def scores(inferred: pd.DataFrame, measured: pd.DataFrame, kind: np.ndarray) -> pd.DataFrame:
    """A row for each gene: the kind that it is highest in, r and AUROC."""
    highest = measured.groupby(kind).mean().idxmax()
    return pd.DataFrame(
        {
            "kind": highest[inferred.columns],
            "r": inferred.corrwith(measured[inferred.columns]),
            "auroc": {g: roc_auc_score(kind == highest[g], inferred[g]) for g in map(str, inferred)},
        }
    )


def rows(results: dict[str, Any]) -> str:
    """A row for each way."""
    kinds = list(next(iter(results.values())))
    lines = [
        (name, *(f"{found[k][score]:.2f}" for k in kinds for score in ("r", "auroc")))
        for name, found in results.items()
    ]
    count = next(iter(results.values()))
    header = [f"{k} ({count[k]['genes']} genes), {label}" for k in kinds for label in ("r", "AUROC")]
    return table(("inferred from", *header), lines)


def main() -> None:
    """Hold out, infer, compare; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    folder = parser.parse_args().data
    warnings.simplefilter("ignore")
    sections = [spots_alone(name, folder) for name in CONFIG.train_sections]
    cells = read_cells(folder)
    detected = detected_share(sections, cells.genes)
    genes = [g for g, share in zip(cells.genes, detected, strict=True) if share >= LEAST_DETECTION]
    enough = aligned_counts(cells.counts, cells.genes, genes).sum(axis=1) >= LEAST_COUNTS
    assert cells.types is not None
    cells = replace(cells, counts=cells.counts[enough], types=cells.types[enough])
    kind = pd.Series(cells.types).map(KIND).to_numpy()
    measured = pd.DataFrame(profiles(cells, genes), columns=genes)

    ways = {"programs alone": replace(cells, types=None), "programs and types": cells}
    fold = np.random.default_rng(0).permutation(len(genes)) % FOLDS
    of_gene: dict[str, pd.DataFrame] = {}
    for name, known in ways.items():
        parts = []
        for k in range(FOLDS):
            held = [g for g, f in zip(genes, fold, strict=True) if f == k]
            parts.append(infer(sections, known, [g for g in genes if g not in held], held))
        of_gene[name] = scores(pd.concat(parts, axis=1), measured, kind)
    kept = sorted(set.intersection(*(set(found.index) for found in of_gene.values())))
    results: dict[str, Any] = {}
    for name, found in of_gene.items():
        mean = found.loc[kept].groupby("kind").agg(genes=("r", "size"), r=("r", "mean"), auroc=("auroc", "mean"))
        results[name] = mean.round(4).to_dict(orient="index")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    fill(DOCS / "decisions.md", {"coexpression_held_out": rows})


if __name__ == "__main__":
    main()
