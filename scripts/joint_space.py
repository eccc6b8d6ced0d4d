"""What the joint space of past-mini keeps of pairs, and whether it tells modalities apart: docs/_data/joint_space.json.

    python scripts/joint_space.py --data ../shared/data

Spots of her2st C3, by the image around them and by their counts. C3 is the validation section: it trained nothing, but
the settings of the fit were chosen by looking at it, so these figures flatter. About a minute.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from result_tables import DOCS, fill, table
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import pastpy as past

SECTION = "C3"
DRAWS = 10


def auroc(first: np.ndarray, second: np.ndarray) -> float:
    """How well a line tells two sets of embeddings of the same spots apart, half of the spots in each, ten draws."""
    scores = []
    for draw in range(DRAWS):
        of_second = np.random.default_rng(draw).permutation(len(first)) < len(first) // 2
        mixed = np.where(of_second[:, None], second, first)
        scores.append(cross_val_score(LogisticRegression(), mixed, of_second, cv=5, scoring="roc_auc").mean())
    return float(np.mean(scores))


def found_among(image: np.ndarray, expression: np.ndarray, k: int) -> float:
    """Share of spots whose own counts are among the k nearest to their image."""
    similar = image @ expression.T
    return float(((similar > similar.diagonal()[:, None]).sum(axis=1) < k).mean())


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rows(found: dict[str, float]) -> str:
    """A row a figure."""
    return table(("over the spots of C3", ""), [(name, f"{value:.2f}") for name, value in found.items()])


def main() -> None:
    """Embed, measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    root = parser.parse_args().data / "her2st"
    sdata = past.io.read_st(
        root / "images" / f"{SECTION}.jpg", root / "counts" / f"{SECTION}.tsv.gz",
        root / "spots" / f"{SECTION}_selection.tsv", mpp=0.69, spot_diameter_um=100.0,
    )  # fmt: skip
    past.tl.embed(sdata, table_key="spots")
    obsm = sdata.tables["spots"].obsm
    both, image, expression = (np.asarray(obsm[k]) for k in ("X_past", "X_past_image", "X_past_expression"))
    there = np.isfinite(both).all(axis=1) & np.isfinite(image).all(axis=1) & np.isfinite(expression).all(axis=1)
    both, image, expression = both[there], unit(image[there]), unit(expression[there])
    n = len(both)
    found = {
        "AUROC, spots whose counts are missing against the others": auroc(both, image),
        "AUROC, image alone against counts alone": auroc(image, expression),
        "cosine of image and counts of a spot": float((image * expression).sum(axis=1).mean()),
        "cosine of image and counts of different spots": float(
            ((image @ expression.T).sum() - (image * expression).sum()) / (n * (n - 1))
        ),
        "own counts among the 10 nearest to the image": found_among(image, expression, 10),
        "the same by chance": 10 / n,
    }
    (DOCS / "_data" / "joint_space.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    fill(DOCS / "decisions.md", {"joint_space": rows})


if __name__ == "__main__":
    main()
