"""``past.bench.simulated``: per-cell scores on held-out simulated donors, as a share of what the image allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pastpy import _keys
from pastpy.bench._baselines import baselines
from pastpy.bench._intervals import nested_intervals
from pastpy.bench._loso import LosoResult, run_loso
from pastpy.bench._report import bars, write_report

if TYPE_CHECKING:
    from pandas import DataFrame
    from spatialdata import SpatialData

    from pastpy.bench._folds import FitPredict, Fold
    from pastpy.datasets import TissueParameters
    from pastpy.models import PAST

__all__ = ["ATTAINABLE", "run_simulated", "simulated"]

#: Row of the best predictor that the image allows.
ATTAINABLE = "attainable"
#: The bundled model.
BUNDLED = "past-mini"
#: The cohort and windows (µm) of the protocol.
N_DONORS, CELLS_A_DONOR, N_GENES, SEED = 24, 200, 100, 20260
WINDOWS_UM, MPP = (12.0, 32.0), 0.5


def simulated(
    methods: Mapping[str, FitPredict] | None = None,
    *,
    n_donors: int = N_DONORS,
    cells_a_donor: int = CELLS_A_DONOR,
    n_genes: int = N_GENES,
    seed: int = SEED,
    parameters: TissueParameters | None = None,
    intervals: str | None = "backbone ridge",
) -> LosoResult:
    """Train on simulated donors, score cells of donors held out, next to the best that their images allow.

    Three quarters of the donors train. Scores are Pearson r over the cells of a held-out donor, gene by gene, of log1p
    counts per 10,000; the row ``"attainable"`` is the expectation of that target given all that the image shows
    (``layers["bayes_log1p"]`` of :func:`pastpy.datasets.simulate_tissue`).

    Parameters
    ----------
    methods
        Name → method, as for :func:`pastpy.bench.run_loso`; the scored table is ``"cells_true"``, its nuclei the true
        ones. By default :func:`pastpy.bench.baselines` on windows of 12 and 32 µm.
    n_donors, cells_a_donor, n_genes, seed, parameters
        The cohort; see :func:`pastpy.datasets.simulate_tissue`.
    intervals
        Method whose nested 90 % intervals are judged on the same held-out donors; ``None`` for none.

    Returns
    -------
    Scores; ``facts["share_of_attainable"]``: method → its mean r over the attainable one;
    ``facts["intervals"]``: coverage, as in :func:`pastpy.bench.nested_intervals`.

    Raises
    ------
    ValueError
        If there are fewer than four donors, or ``intervals`` names no method.

    Examples
    --------
    >>> import pastpy as past
    >>> result = past.bench.simulated(n_donors=8)  # doctest: +SKIP
    >>> result.facts["share_of_attainable"]["backbone ridge"]  # doctest: +SKIP
    """
    from pastpy.datasets import simulate_tissue, split_donors

    if n_donors < 4:
        raise ValueError(f"n_donors must be at least 4, to train, to calibrate and to hold out, got {n_donors}")
    if methods is None:
        methods = _baselines(seed)
    if intervals is not None and intervals not in methods:
        raise ValueError(f"intervals={intervals!r} is none of the methods {list(methods)}")
    if ATTAINABLE in methods:
        raise ValueError(f"a method cannot be called {ATTAINABLE!r}, which is the row of the best predictor")
    cohort = simulate_tissue(cells_a_donor * n_donors, n_genes, n_donors, seed, parameters=parameters)
    sections = split_donors(cohort)
    names = list(sections)
    held = names[3::4]
    common: dict[str, Any] = {
        "donors": dict(zip(names, names, strict=True)),
        "folds": [([n for n in names if n not in held], held)],
        "table_key": _keys.CELLS_TRUE,
        "genes": list(cohort.tables[_keys.CELLS_TRUE].var_names),
    }
    result = run_loso(
        sections, {**methods, ATTAINABLE: partial(_attainable, sections)}, title="cells of held-out simulated donors",
        **common,
    )  # fmt: skip
    mean = result.table()["mean"]
    facts: dict[str, Any] = {
        **result.facts,
        "cohort": {"n_donors": n_donors, "cells_a_donor": cells_a_donor, "n_genes": n_genes, "seed": seed},
        "share_of_attainable": {name: float(mean[name] / mean[ATTAINABLE]) for name in methods},
    }
    if intervals is not None:
        found = nested_intervals(sections, methods[intervals], **common)
        facts["intervals"] = {"method": intervals, **found.facts, "donors": dict(found.sections)}
    return replace(result, facts=facts)


def run_simulated(
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    n_donors: int = N_DONORS,
    cells_a_donor: int = CELLS_A_DONOR,
    n_genes: int = N_GENES,
    seed: int = SEED,
) -> dict[str, Any]:
    """Run :func:`simulated` with the baselines and the bundled model, for the command line.

    The bundled model is not trained on the cohort's donors, which only set each gene's scale; it is scored as it is,
    and reading every cell's image at the place of another (see :class:`pastpy.bench.PretrainedModel`).

    Parameters
    ----------
    data
        Not read; the tissue is simulated.
    out
        JSON file to write; a CSV and a PNG go beside it.
    n_donors, cells_a_donor, n_genes, seed
        The cohort.
    """
    from pastpy.bench._pretrained import PretrainedModel
    from pastpy.models import load

    model = cast("PAST", load(BUNDLED))
    methods: dict[str, FitPredict] = {
        **_baselines(seed),
        BUNDLED: PretrainedModel(model),
        f"{BUNDLED}, images shuffled": PretrainedModel(model, shuffle_seed=seed),
    }
    result = simulated(
        methods, n_donors=n_donors, cells_a_donor=cells_a_donor, n_genes=n_genes, seed=seed, intervals=BUNDLED
    )
    summary = {k: v for k, v in result.summary().items() if k != "genes"}
    if out is not None:
        # how noisy counts are is in the attainable already
        table = result.table().drop(index="noise ceiling")
        write_report(out, summary, result.scores, lambda ax: bars(table, ax, label="Pearson r per cell", over="donors"))
    return summary


def _baselines(seed: int) -> dict[str, FitPredict]:
    return baselines(windows_um=WINDOWS_UM, target_mpp=MPP, elements={"table_key": _keys.CELLS_TRUE}, seed=seed)


def _attainable(sections: Mapping[str, SpatialData], fold: Fold) -> dict[str, DataFrame]:
    import pandas as pd

    out = {}
    for name in fold.test:
        table = sections[name].tables[_keys.CELLS_TRUE]
        values = np.asarray(table.layers[_keys.BAYES_LOG1P], dtype=float)
        out[name] = pd.DataFrame(values, index=table.obs_names, columns=table.var_names)
    return out
