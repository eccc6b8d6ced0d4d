"""What small networks learn from simulated donors: JSON in docs/_data and its table.

    python scripts/networks_simulated.py

A network for every cell on past-mini's frozen features, trained on the correlation within donors with what a cell's
image allows to say of it, scored on eight cohorts of this script's own seeds (two with the default parameters, six
drawn as for training) whose counts are compared. Features are those that training keeps in the cache directory; from an
empty one they take twenty minutes, a row then some minutes of one core. Rows whose options have not changed stay as
they are in the JSON file. The recipe was chosen by such comparisons on other cohorts.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from result_tables import DOCS, fill, table
from small_network import correlations, measure, network, standardised, train
from tqdm.auto import tqdm

from pastpy import _keys
from pastpy.datasets import TissueParameters, simulate_tissue
from pastpy.models import PAST
from pastpy.train import TrainConfig
from pastpy.train.augment import View
from pastpy.train.data import pooled_tokens
from pastpy.train.loop import _untrained
from pastpy.train.losses import correlation_loss
from pastpy.train.simulated import draw_parameters, simulated_cells

RESULTS = DOCS / "_data" / "networks_simulated.json"
#: Training has seeds from a million on, and the tables of the evaluation others.
FIRST_SEED = 970_000
COHORTS, DONORS, CELLS, GENES = 8, 8, 1600, 280
DONORS_A_STEP, CELLS_A_STEP = 4, 512


@dataclass(frozen=True)
class Row:
    """Channels of the outline that a network is given, cohorts that it learns from, steps and width."""

    outline: tuple[str, ...] = ("area", "elongation")
    cohorts: int = 144
    steps: int = 3000
    width: int = 256


ROWS: dict[str, Row] = {
    "network": Row(),
    "area of the outline alone": Row(outline=("area",)),
    "no outline": Row(outline=()),
    "half of the cohorts": Row(cohorts=72),
    "a quarter of them": Row(cohorts=36),
    "an eighth": Row(cohorts=18),
    "twice the steps": Row(steps=6000),
    "512 wide": Row(width=512),
}


def scored_cohort(number: int, model: PAST) -> dict[str, np.ndarray]:
    """Features, log expression, the attainable and donors of a cohort that no network learns from."""
    parameters = TissueParameters()
    if number % 4:
        parameters = draw_parameters(np.random.default_rng([FIRST_SEED, number]))
    sdata = simulate_tissue(CELLS, GENES, DONORS, FIRST_SEED + number, parameters=parameters)
    cells = sdata.tables[_keys.CELLS_TRUE]
    pooled = pooled_tokens(sdata, model, _keys.CELLS_TRUE, View())
    counts = cells.X.toarray().astype(float)
    total = counts.sum(axis=1, keepdims=True)
    used = (total[:, 0] > 0) & np.isfinite(pooled[:, model.image_regions]).all(axis=(1, 2))
    return {
        "pooled": pooled[used],
        "log_counts": np.log1p(counts[used] / total[used] * _keys.TARGET_SUM),
        "attainable": np.asarray(cells.layers[_keys.BAYES_LOG1P])[used],
        "donor": cells.obs[_keys.DONOR].cat.codes.to_numpy()[used],
        "genes": cells.var_names.to_numpy(dtype=str),
    }


def features(pooled: np.ndarray, outline: int, channels: int) -> np.ndarray:
    """Features relative to their cohort, with the first channels of the outline alone."""
    pooled = pooled.astype(np.float32)
    pooled[:, outline, channels:] = 0
    return standardised(pooled, pooled)


def share(predicted: np.ndarray, cohort: dict[str, np.ndarray]) -> float:
    """Mean r over donors and genes, as a share of the attainable."""
    reached: list[float] = []
    attainable: list[float] = []
    for donor in np.unique(cohort["donor"]):
        cells = cohort["donor"] == donor
        true = cohort["log_counts"][cells]
        varies = true.std(axis=0) > 0
        for values, into in ((predicted, reached), (cohort["attainable"], attainable)):
            into.append(correlations(values[cells], true)[varies].mean())
    return float(np.mean(reached) / np.mean(attainable))


def score(row: Row, taught: Any, scored: list[dict[str, np.ndarray]], outline: int) -> dict[str, Any]:
    """Share of the attainable of each scored cohort."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    n = int(np.searchsorted(taught.cohort, row.cohorts))
    x = np.empty((n, int(np.prod(taught.pooled.shape[1:]))), dtype=np.float16)
    for number in range(row.cohorts):
        cells = slice(*np.searchsorted(taught.cohort, (number, number + 1)))
        x[cells] = features(taught.pooled[cells], outline, len(row.outline))
    starts = np.flatnonzero(np.r_[True, np.diff(taught.donor[:n]) != 0, True])
    net = network(x.shape[1], len(taught.genes), layers=2, width=row.width, programs=48, dropout=0.2)
    each = CELLS_A_STEP // DONORS_A_STEP
    donor = torch.arange(DONORS_A_STEP).repeat_interleave(each)

    def loss() -> torch.Tensor:
        chosen = rng.choice(len(starts) - 1, DONORS_A_STEP, replace=False)
        cells = np.concatenate([rng.integers(starts[d], starts[d + 1], each) for d in chosen])
        true = torch.from_numpy(taught.expected[cells].astype(np.float32))
        return correlation_loss(net(torch.from_numpy(x[cells].astype(np.float32))), true, donor)

    train(net, row.steps, 0.2, loss)
    shares = []
    for cohort in scored:
        with torch.inference_mode():
            predicted = net(torch.from_numpy(features(cohort["pooled"], outline, len(row.outline)))).numpy()
        shares.append(share(predicted[:, [taught.genes.index(g) for g in cohort["genes"]]], cohort))
    return {"share": [round(s, 4) for s in shares]}


def rows(found: dict[str, Any]) -> str:
    """A row for each network."""
    lines = []
    for name, one in found.items():
        shares = np.array(one["share"])
        default = np.arange(COHORTS) % 4 == 0
        drawn = shares[~default]
        means = (f"{shares[default].mean():.3f}", f"{drawn.mean():.3f}")
        lines.append((name, *means, f"{drawn.min():.2f} to {drawn.max():.2f}"))
    header = ("what differs", "default parameters", "drawn parameters", "drawn, cohort by cohort")
    return table(header, lines)


def main() -> None:
    """Measure what is missing, and write the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    config = TrainConfig.from_json("past-mini")
    model = _untrained(config, ["none"])
    taught = simulated_cells(config, model, progress=True)
    scored = [scored_cohort(i, model) for i in tqdm(range(COHORTS), desc="simulating", unit="cohort")]
    outline = next(i for i in range(taught.pooled.shape[1]) if i not in model.image_regions)
    measure(RESULTS, ROWS, lambda row: score(row, taught, scored, outline))
    fill(DOCS / "decisions.md", {"networks_simulated": rows})


if __name__ == "__main__":
    main()
