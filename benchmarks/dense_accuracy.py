"""Held-out accuracy of past-mini, dense against a crop a cell, over five trainings that differ in their seed.

    python benchmarks/dense_accuracy.py --data ../shared/data [--models FOLDER] [--seeds 5] [--out dense_accuracy.json]

Each model is trained by :func:`pastpy.train.fit` with the configuration that made past-mini, but for a few epochs, on
the sections as they are and without simulated donors, so that five take minutes (one that is in the folder already is
taken up). It predicts the validation section, which training only scored: the cells under spots from shared fields, and
again from a rectangle for each cell. The score is the mean Pearson r over the most variable genes of the training
spots. The two should differ by less than 0.005; the interval of the difference is Student's, over seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats
from simulated_slide import machine, report

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from pastpy.models import PAST
    from pastpy.train import TrainConfig


MODES = ("dense", "crop")


def held_out(config: TrainConfig, data: Path) -> SpatialData:
    """The validation section with the nuclei that lie under its spots."""
    import pastpy as past
    from pastpy._aggregate import under_spots
    from pastpy.train.data import read_section

    (name,) = config.validation_sections
    sdata = read_section(data / "her2st", name, mpp=config.mpp, spot_diameter_um=config.spot_diameter_um)
    past.pp.segment_nuclei(sdata)
    cells, spots = sdata["cells"], sdata["spots"]
    under = under_spots(cells.obsm["spatial"], spots.obsm["spatial"], config.spot_diameter_um / 2)
    sdata["cells"] = cells[under].copy()
    return sdata


def trained(config: TrainConfig, folder: Path, data: Path) -> PAST:
    """The model of a seed."""
    import pastpy as past
    from pastpy.tl._inputs import load_past
    from pastpy.train.members import resumable

    out = folder / f"seed{config.seed}"
    fresh = resumable(out)
    return past.train.fit(config, out, data=data, progress=False) if fresh else load_past(out, "cpu")


def compare(model: PAST, pooled: dict[str, np.ndarray], sdata: SpatialData) -> dict[str, Any]:
    """Mean r of a model in both modes."""
    import pandas as pd

    import pastpy as past
    from pastpy.bench._pretrained import predicted_log1p

    genes = model.card.genes.loc[model.card.genes["variable"].astype(bool), "gene"].astype(str).tolist()
    cells, spots = sdata["cells"], sdata["spots"]
    depth = np.asarray(spots.X.sum(axis=1), dtype=float).reshape(-1, 1)
    measured = pd.DataFrame(np.log1p(spots[:, genes].X.toarray() / depth * 1e4), index=spots.obs_names, columns=genes)
    found, r = {}, {}
    for mode, tokens in pooled.items():
        found[mode] = predicted_log1p(model, tokens, genes)
        cells.obsm["past_expression"] = pd.DataFrame(found[mode], index=cells.obs_names, columns=genes)
        scores = past.metrics.expression(past.bench.to_spots(cells, spots).to_df(), measured)
        r[mode] = float(scores["pearson"].mean())
    apart = float(np.nanmax(np.abs(found["dense"] - found["crop"])))
    return {**r, "difference": r["dense"] - r["crop"], "largest_difference_of_a_cell": apart}


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds her2st")
    parser.add_argument("--models", type=Path, help="folder for the models; a temporary one by default")
    parser.add_argument("--config", default="past-mini")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    from pastpy.train import TrainConfig
    from pastpy.train.augment import View
    from pastpy.train.data import pooled_tokens

    base = TrainConfig.from_json(arguments.config)
    alone = {**base.model, "members": 1, "linear_share": 0.0}
    config = replace(base, model=alone, views=0, simulated_cohorts=0, epochs=arguments.epochs)
    sdata = held_out(config, arguments.data)
    rows: list[dict[str, Any]] = []
    pooled: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(arguments.seeds):
            model = trained(replace(config, seed=seed), arguments.models or Path(temporary), arguments.data)
            if not pooled:  # backbone and regions are the same for all seeds
                pooled = {m: pooled_tokens(sdata, model, "cells", View(), one_each=m == "crop") for m in MODES}
            rows.append({"seed": seed, **compare(model, pooled, sdata)})
    difference = np.array([row["difference"] for row in rows])
    result: dict[str, Any] = {"machine": machine(), "cells": sdata["cells"].n_obs, "seeds": rows}
    result["mean_difference"] = float(difference.mean())
    if len(rows) > 1:
        half = stats.t.ppf(0.975, len(rows) - 1) * difference.std(ddof=1) / len(rows) ** 0.5
        result["interval_95"] = [float(difference.mean() - half), float(difference.mean() + half)]
    report(result, arguments.out)


if __name__ == "__main__":
    main()
