"""A simulated cohort of patients made of real cells."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import Series

__all__ = ["simulate_cohort"]

#: Sum of the Dirichlet parameters: a label of real share p varies by sqrt(p (1 - p) / 11) between patients.
_CONCENTRATION = 10.0
#: Weibull shape (a hazard that grows slowly) and median survival of the average patient.
_SHAPE = 1.2
_MEDIAN_MONTHS = 36.0


def simulate_cohort(
    cells: AnnData,
    *,
    label_key: str,
    expression_key: str | None = "past_expression",
    n_patients: int = 60,
    cells_per_patient: int = 300,
    niche: str | None = None,
    log_hazard_ratio: float = 1.5,
    censoring: float = 0.3,
    seed: int = 0,
) -> AnnData:
    """Draw SIMULATED patients with SIMULATED survival from the cells of a real table.

    The cells, with everything a model predicted for them, are real; which patient they belong to and how long that
    patient lives are not. Each patient has a composition of its own, drawn from a Dirichlet distribution around the
    real one (concentration 10); its cells are drawn by label, with replacement. Survival is Weibull with proportional
    hazards in one label's true share of the patient.

    Parameters
    ----------
    cells
        Table of cells, unchanged.
    label_key
        Column of ``cells.obs`` with a label for every cell.
    expression_key
        Data frame in ``cells.obsm`` that must come along; ``None`` if there is none.
    n_patients
        Number of patients, at least 2.
    cells_per_patient
        Cells of each patient.
    niche
        Label whose share drives the hazard. Default: the label whose share varies most between patients, i.e. with the
        largest p (1 − p) (the most common label unless it holds more than half of the cells); the more common at a tie.
    log_hazard_ratio
        Natural logarithm of the hazard ratio per standard deviation (over the cohort) of the niche's true share.
    censoring
        Expected share of patients censored, in [0, 1); censoring times are uniform from 0.
    seed
        Seed of everything.

    Returns
    -------
    AnnData
        (n_patients · cells_per_patient) × genes, with ``layers``, ``obsm`` (but ``"spatial"``: these patients have no
        tissue) and ``var`` of ``cells``. ``obs`` gains ``patient_id`` (categorical), ``source_cell`` (name of the real
        cell), ``SIMULATED_months`` (float, months) and ``SIMULATED_event`` (bool), the same for all cells of a patient.
        ``uns["past"]["simulate_cohort"]`` holds the truth: niche, log hazard ratio, its share of each patient, seed.

    Raises
    ------
    KeyError
        If ``label_key``, ``expression_key`` or ``niche`` is not there.
    ValueError
        If a cell has no label, there are fewer than two labels, or a number is out of range.
    TypeError
        If ``obsm[expression_key]`` is no data frame.

    References
    ----------
    Bender, Augustin, Blettner, Generating survival times to simulate Cox proportional hazards models, Stat Med
    24:1713–1723 (2005), https://doi.org/10.1002/sim.2059

    Examples
    --------
    >>> import pastpy as past
    >>> spots = past.datasets.breast_st().tables["spots"]
    >>> spots.obs["side"] = (spots.obs["array_col"] > 12).map({True: "right", False: "left"})
    >>> cohort = past.datasets.simulate_cohort(spots, label_key="side", expression_key=None, n_patients=5)
    >>> cohort.n_obs
    1500
    """
    import pandas as pd

    labels = _check(cells, label_key, expression_key, n_patients, cells_per_patient, log_hazard_ratio, censoring)
    share = labels.value_counts(normalize=True).sort_index()
    niche = _choose_niche(share, niche, label_key)
    rng = np.random.default_rng(seed)

    composition = rng.dirichlet(_CONCENTRATION * share.to_numpy(), size=n_patients)
    members = [np.flatnonzero(labels.to_numpy() == label) for label in share.index]
    rows = np.concatenate(
        [
            np.concatenate([rng.choice(m, k) for m, k in zip(members, counts, strict=True)])
            for counts in rng.multinomial(cells_per_patient, composition)
        ]
    )
    true_share = composition[:, share.index.get_loc(niche)]
    standardised = (true_share - true_share.mean()) / true_share.std()
    months, event = _survival(standardised * log_hazard_ratio, censoring, rng)

    patients = [f"simulated_{i:0{len(str(n_patients))}d}" for i in range(1, n_patients + 1)]
    of_patient = np.repeat(np.arange(n_patients), cells_per_patient)
    outcome = {
        "patient_id": pd.Categorical.from_codes(of_patient, categories=pd.Index(patients)),
        f"{_keys.SIMULATED}_months": months[of_patient],
        f"{_keys.SIMULATED}_event": event[of_patient],
    }
    cohort = _draw(cells, rows, outcome)
    truth: dict[str, Any] = {
        "label_key": label_key, "niche": niche, "log_hazard_ratio": float(log_hazard_ratio),
        "n_patients": int(n_patients), "cells_per_patient": int(cells_per_patient), "censoring": float(censoring),
        "seed": int(seed), "patient_id": patients, "niche_share": true_share.tolist(),
    }  # fmt: skip
    cohort.uns[_keys.PAST] = {**copy.deepcopy(dict(cells.uns.get(_keys.PAST, {}))), "simulate_cohort": truth}
    return cohort


def _survival(log_hazard: np.ndarray, censoring: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Observed months and events of patients with the given log relative hazards, each (n_patients,)."""
    scale = _MEDIAN_MONTHS / np.log(2) ** (1 / _SHAPE)
    times = scale * (rng.exponential(size=len(log_hazard)) / np.exp(log_hazard)) ** (1 / _SHAPE)
    # Drawn even where nobody is censored, so that other arguments do not shift the random stream.
    uniform = rng.random(len(log_hazard))
    if censoring == 0:
        return times, np.ones(len(times), dtype=bool)
    limits = _censoring_limit(times, censoring) * uniform
    return np.minimum(times, limits), times <= limits


def _censoring_limit(times: np.ndarray, censoring: float) -> float:
    """Largest censoring time at which uniform censoring hides the asked share of these times on average."""
    from scipy.optimize import brentq

    def excess(log_limit: float) -> float:
        # A time t is hidden with probability t / limit, and surely where t exceeds the limit.
        return float(np.minimum(times / np.exp(log_limit), 1).mean() - censoring)

    low, high = np.log(times.min()) - 1, np.log(times.max() / censoring) + 1
    return float(np.exp(brentq(excess, low, high)))


def _draw(cells: AnnData, rows: np.ndarray, outcome: dict[str, Any]) -> AnnData:
    """Rows of a table (repeats allowed) as a table of its own, with further ``obs`` columns."""
    import pandas as pd
    from anndata import AnnData

    names = pd.Index([f"{patient}_{i}" for i, patient in enumerate(outcome["patient_id"])])
    obs = cells.obs.iloc[rows].assign(source_cell=cells.obs_names[rows], **outcome).set_axis(names)

    def take(values: Any) -> Any:
        return values.iloc[rows].set_axis(names) if isinstance(values, pd.DataFrame) else values[rows]

    return AnnData(
        X=None if cells.X is None else cells.X[rows],
        obs=obs,
        var=cells.var.copy(),
        # anndata 0.13 lists X among the layers, under None.
        layers={key: take(values) for key, values in cells.layers.items() if key is not None},
        obsm={key: take(values) for key, values in cells.obsm.items() if key != _keys.SPATIAL},
    )


def _choose_niche(share: Series, niche: str | None, label_key: str) -> str:
    if niche is not None:
        if niche not in share.index:
            raise KeyError(f"niche {niche!r} is no label of obs[{label_key!r}]; it has {share.index.tolist()}")
        return niche
    return max(share.index, key=lambda label: (round(share[label] * (1 - share[label]), 12), share[label]))


def _check(
    cells: AnnData,
    label_key: str,
    expression_key: str | None,
    n_patients: int,
    cells_per_patient: int,
    log_hazard_ratio: float,
    censoring: float,
) -> Series:
    """Validate the arguments; returns the label of every cell as str."""
    import pandas as pd
    from anndata import AnnData

    if not isinstance(cells, AnnData):
        raise TypeError(f"cells must be an AnnData table, got {type(cells).__name__}; pass sdata.tables[…]")
    if label_key not in cells.obs:
        raise KeyError(f"no column {label_key!r} in obs; it has {list(cells.obs.columns)}: pass one as label_key=")
    if expression_key is not None and expression_key not in cells.obsm:
        raise KeyError(
            f"no {expression_key!r} in obsm, which has {list(cells.obsm)}; run pastpy.tl.impute_expression first, or "
            "pass expression_key=None"
        )
    if expression_key is not None and not isinstance(cells.obsm[expression_key], pd.DataFrame):
        raise TypeError(f"obsm[{expression_key!r}] must be a DataFrame (cells × genes)")
    labels = cells.obs[label_key]
    if labels.isna().any():
        raise ValueError(
            f"{int(labels.isna().sum())} cells have no label in obs[{label_key!r}]; drop them first: "
            f"cells[cells.obs[{label_key!r}].notna()]"
        )
    if labels.nunique() < 2:
        raise ValueError(f"obs[{label_key!r}] needs at least two labels, so that patients can differ")
    for name, value, least in (("n_patients", n_patients, 2), ("cells_per_patient", cells_per_patient, 1)):
        if value != int(value) or value < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if not np.isfinite(log_hazard_ratio):
        raise ValueError(f"log_hazard_ratio must be a finite number, got {log_hazard_ratio!r}")
    if not 0 <= censoring < 1:
        raise ValueError(f"censoring must be a share in [0, 1), got {censoring!r}")
    return labels.astype(str)
