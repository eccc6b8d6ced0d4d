"""Simulated donors to train on: of each cell is known what its image says, and donors differ in all that can."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys

if TYPE_CHECKING:
    from pastpy.datasets import TissueParameters
    from pastpy.models.past import PAST
    from pastpy.train.config import TrainConfig

__all__ = ["SimulatedCells", "draw_parameters", "simulated_cells", "simulated_cohort"]

#: Seeds from here on are for training; protocols and tests use smaller ones.
FIRST_SEED = 1_000_000
#: Genes that are simulated: all there are.
N_GENES = 280
#: Every so-manieth cohort has the simulator's defaults.
_DEFAULTS_EVERY = 4
#: Least and most cells of a donor: small cores and larger ones, since wide discs see where a core ends.
_CELLS = (150, 900)
#: Least and most of what differs between cohorts: ranges around the defaults, fixed before a model was trained on them.
_UNIFORM = {
    "tumour_fraction": (0.25, 0.65), "in_situ_fraction": (0.0, 0.5), "aggregate_fraction": (0.02, 0.15),
    "vessels_per_mm2": (10.0, 60.0), "fat_fraction": (0.0, 0.15), "infiltrate": (0.1, 0.5),
    "donor_architecture_sd": (0.2, 0.6), "nucleus_scale": (0.75, 1.35), "state_share": (0.5, 0.9),
    "neighbourhood_share": (0.3, 0.7), "state_smooth": (0.2, 0.6), "image_share": (0.2, 0.4),
    "haematoxylin": (0.7, 1.4), "eosin": (0.7, 1.4), "stain_sd": (0.1, 0.3), "stain_hue_sd": (0.5, 1.5),
    "blur_um": (0.15, 0.8), "sensor_noise": (0.5, 4.0), "depth_by_size": (0.0, 0.3),
}  # fmt: skip
_LOG_UNIFORM = {
    "nest_um": (35.0, 120.0), "aggregate_um": (40.0, 90.0), "state_um": (50.0, 120.0), "mean_counts": (60.0, 400.0),
}  # fmt: skip


@dataclass
class SimulatedCells:
    """Cells of simulated donors.

    Attributes
    ----------
    pooled
        float16 (cells, regions, channels), pooled image tokens.
    expected
        float16 (cells, genes): of log1p of a cell's counts per 10,000 of its counts over these genes, what is to be
        expected given all that the image shows. The simulator knows it; counts are that and noise.
    donor, cohort
        int64 (cells,), rising.
    genes
        Names of the genes.
    """

    pooled: np.ndarray
    expected: np.ndarray
    donor: np.ndarray
    cohort: np.ndarray
    genes: list[str]


def draw_parameters(rng: np.random.Generator) -> TissueParameters:
    """Parameters of a cohort that differ from the simulator's defaults."""
    from pastpy.datasets import TissueParameters

    drawn: dict[str, Any] = {name: float(rng.uniform(*limits)) for name, limits in _UNIFORM.items()}
    drawn |= {name: float(np.exp(rng.uniform(*np.log(limits)))) for name, limits in _LOG_UNIFORM.items()}
    return TissueParameters(**drawn, jpeg_quality=int(rng.integers(60, 96)))


def simulated_cells(config: TrainConfig, model: PAST, *, progress: bool = False) -> SimulatedCells:
    """Pooled tokens of ``config.simulated_cohorts`` cohorts of ``config.simulated_donors`` donors, and what to expect.

    Each cohort is kept in the cache directory when it is done, so that a run that was killed goes on from there.
    """
    from tqdm.auto import tqdm

    from pastpy._settings import show_progress

    cohorts = [
        simulated_cohort(number, config, model)
        for number in tqdm(
            range(config.simulated_cohorts), desc="simulating", unit="cohort", disable=not show_progress(progress)
        )
    ]
    n_donors = config.simulated_donors
    return SimulatedCells(
        np.concatenate([c.pooled for c in cohorts]),
        np.concatenate([c.expected for c in cohorts]),
        np.concatenate([c.donor + i * n_donors for i, c in enumerate(cohorts)]),
        np.repeat(np.arange(len(cohorts)), [len(c.donor) for c in cohorts]),
        cohorts[0].genes,
    )


def simulated_cohort(number: int, config: TrainConfig, model: PAST) -> SimulatedCells:
    """One cohort, from the cache where it is there."""
    from pastpy.train.data import cached_arrays, made_from

    def make() -> dict[str, np.ndarray]:
        cells = _simulate(number, config.simulated_donors, model)
        return {
            "pooled": cells.pooled, "expected": cells.expected, "donor": cells.donor,
            "genes": np.array(cells.genes, dtype=str),
        }  # fmt: skip

    # what is kept of a cell is part of the key: files of before hold something else
    found = cached_arrays(f"simulated-{number}", ["expected", config.simulated_donors, *made_from(model)], make)
    cohort = np.zeros(len(found["donor"]), dtype=np.int64)
    return SimulatedCells(found["pooled"], found["expected"], found["donor"], cohort, found["genes"].tolist())


def _simulate(number: int, n_donors: int, model: PAST) -> SimulatedCells:
    from pastpy.datasets import TissueParameters, simulate_tissue
    from pastpy.train.augment import View
    from pastpy.train.data import pooled_tokens

    rng = np.random.default_rng([FIRST_SEED, number])
    n_cells = n_donors * int(np.exp(rng.uniform(*np.log(_CELLS))))
    parameters = TissueParameters() if number % _DEFAULTS_EVERY == 0 else draw_parameters(rng)
    sdata = simulate_tissue(n_cells, N_GENES, n_donors, FIRST_SEED + number, parameters=parameters)
    table = sdata.tables[_keys.CELLS_TRUE]
    pooled = pooled_tokens(sdata, model, _keys.CELLS_TRUE, View())
    used = np.isfinite(pooled[:, model.image_regions]).all(axis=(1, 2))
    return SimulatedCells(
        pooled[used].astype(np.float16),
        np.asarray(table.layers[_keys.BAYES_LOG1P])[used].astype(np.float16),
        table.obs[_keys.DONOR].cat.codes.to_numpy().astype(np.int64)[used],
        np.zeros(int(used.sum()), dtype=np.int64),
        table.var_names.astype(str).tolist(),
    )
