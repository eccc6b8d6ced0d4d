"""past-mini on simulated tissue of other parameters than the defaults: JSON in docs/_data and its table.

    python scripts/simulated_parameters.py

Each row is ``past.bench.simulated`` with the parameters of one cohort: eight that are drawn as those of the training
cohorts are, with seeds that no training cohort has, and some that lie beyond all of these. Parameters were written down
before a model was scored on them, and chose nothing. Cells are given with their true nuclei, and once more as a user
would have them: those that ``pp.segment_nuclei`` finds.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from result_tables import DOCS, fill, table

import pastpy as past
from pastpy.datasets import TissueParameters
from pastpy.tl._inputs import load_past
from pastpy.train.simulated import draw_parameters

if TYPE_CHECKING:
    from pastpy.bench import Fold
    from pastpy.models import PAST

RESULTS = DOCS / "_data" / "simulated_parameters.json"
#: Cohorts with drawn parameters; training draws from generators that begin with a million.
DRAWN = 8
#: A nucleus that was found stands for the true one whose centre is nearest, within this many µm.
SAME_NUCLEUS_UM = 3.0
FOUND = "past-mini, nuclei found"
#: What lies beyond the ranges of the training cohorts.
BEYOND: dict[str, TissueParameters] = {
    "blur of 1 µm": TissueParameters(blur_um=1.0),
    "stains as different as two laboratories' and more": TissueParameters(stain_hue_sd=2.0, stain_sd=0.4),
    "pale haematoxylin, strong eosin": TissueParameters(haematoxylin=0.6, eosin=1.6),
    "nuclei half as large again": TissueParameters(nucleus_scale=1.5),
    "sheets of tumour": TissueParameters(nest_um=160.0, tumour_fraction=0.75),
    "40 counts a cell": TissueParameters(mean_counts=40.0),
}


def cohorts() -> dict[str, tuple[str, int, TissueParameters]]:
    """Name → kind, seed and parameters of each cohort."""
    drawn = {
        f"drawn {i}": ("drawn as for training", 500 + i, draw_parameters(np.random.default_rng([500, i])))
        for i in range(DRAWN)
    }
    beyond = {name: ("beyond training", 600 + i, each) for i, (name, each) in enumerate(BEYOND.items())}
    return {**drawn, **beyond}


class FoundNuclei:
    """Method that predicts the nuclei that pastpy finds; a cell without one gets the mean of the donor's others."""

    def __init__(self, model: PAST) -> None:
        self.model = model

    def __call__(self, fold: Fold) -> dict[str, pd.DataFrame]:
        """Predict the held-out donors."""
        return {name: self._donor(sdata, fold) for name, sdata in fold.test.items()}

    def _donor(self, sdata: Any, fold: Fold) -> pd.DataFrame:
        from scipy.spatial import cKDTree

        true = sdata.tables[fold.table_key]
        past.pp.segment_nuclei(sdata)
        past.tl.impute_expression(sdata, self.model, genes=fold.genes, table_key="cells")
        cells = sdata.tables["cells"]
        predicted = cells.obsm["past_expression"]
        apart, nearest = cKDTree(cells.obsm["spatial"]).query(true.obsm["spatial"])
        values = predicted.to_numpy(dtype=float)[nearest]
        # of a cell that was not found nothing is known but what the others of the donor have
        missed = apart > SAME_NUCLEUS_UM
        values[missed] = np.nanmean(values[~missed], axis=0)
        return pd.DataFrame(values, index=true.obs_names, columns=predicted.columns)


def measure(seed: int, parameters: TissueParameters) -> dict[str, Any]:
    """Mean r and that which is attainable, of each held-out donor."""
    model = load_past("past-mini", "cpu")
    methods: dict[str, Callable[[Fold], dict[str, pd.DataFrame]]] = {
        "past-mini": past.bench.PretrainedModel(model),
        FOUND: FoundNuclei(model),
    }
    scores = past.bench.simulated(methods, seed=seed, parameters=parameters, intervals=None).table()
    donors = [name for name in map(str, scores) if name.startswith("donor_")]
    return {
        row: {"mean": float(scores["mean"].loc[row]), "donors": [float(scores[name].loc[row]) for name in donors]}
        for row in ("past-mini", FOUND, "attainable")
    }


def rows(found: dict[str, Any]) -> str:
    """A row a cohort, and the mean of each kind."""
    lines: list[tuple[str, ...]] = []
    shares: dict[str, list[tuple[float, float]]] = {}
    for name, one in found.items():
        share, of_found = (one[row]["mean"] / one["attainable"]["mean"] for row in ("past-mini", FOUND))
        each = np.divide(one["past-mini"]["donors"], one["attainable"]["donors"])
        shares.setdefault(one["kind"], []).append((share, of_found))
        means = (f"{one[row]['mean']:.3f}" for row in ("past-mini", "attainable"))
        lines.append((name, *means, f"{share:.3f}", f"{each.min():.2f} to {each.max():.2f}", f"{of_found:.3f}"))
    for kind, values in shares.items():
        share, of_found = np.mean(values, axis=0)
        lines.append((f"**mean, {kind}**", "", "", f"**{share:.3f}**", "", f"**{of_found:.3f}**"))
    return table(("parameters", "mean r", "attainable", "share", "share, donor by donor", "share, nuclei found"), lines)


def main() -> None:
    """Measure what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--again", action="store_true", help="measure everything anew")
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() and not arguments.again else {}
    for name, (kind, seed, parameters) in cohorts().items():
        if name not in found:
            found[name] = {"kind": kind, "seed": seed, "parameters": asdict(parameters), **measure(seed, parameters)}
            print(name, found[name]["past-mini"]["mean"] / found[name]["attainable"]["mean"], flush=True)
        RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        fill(DOCS / "evaluation.md", {"simulated_parameters": rows})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
