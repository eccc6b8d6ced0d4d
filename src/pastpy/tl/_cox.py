"""Cox regression on a table of patients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy._survival import check_survival
from pastpy.tl._aggregate_patients import N_CELLS

if TYPE_CHECKING:
    from lifelines import CoxPHFitter
    from pandas import DataFrame

__all__ = ["cox"]


def cox(
    df: DataFrame,
    *,
    duration_col: str,
    event_col: str,
    covariates: Sequence[str] | None = None,
    penalizer: float = 0.0,
    standardize: bool = False,
) -> CoxPHFitter:
    """Fit a Cox proportional hazards model with lifelines.

    Parameters
    ----------
    df
        A row a patient, for example from :func:`pastpy.tl.aggregate_patients`.
    duration_col
        Column of times to the event or the end of observation.
    event_col
        Column of 1 (or True) where the event was seen and 0 where not.
    covariates
        Columns to use; by default all others but ``n_cells`` of :func:`pastpy.tl.aggregate_patients`, which says how
        much was seen of a patient. Shares that sum to 1 (``fraction_…`` of every label) say the same thing
        twice: leave one out, or use a ``penalizer``.
    penalizer
        Strength of the L2 penalty on coefficients, at least 0.
    standardize
        Divide each covariate by its standard deviation (n − 1) over the patients after subtracting the mean, so that a
        hazard ratio is per standard deviation. New patients must then be scaled alike. By default a hazard ratio is
        per unit of the column.

    Returns
    -------
    lifelines.CoxPHFitter
        Fitted, with Breslow's baseline. Where a column name contains "SIMULATED", its label says so too.

    Raises
    ------
    KeyError
        If a column is missing.
    TypeError
        If a covariate is not numeric.
    ValueError
        If a value is missing (rows are never dropped in silence), a named covariate is constant, covariates depend on
        each other linearly and there is no penalty, or no event was seen.

    Warns
    -----
    UserWarning
        If, with ``covariates=None``, constant columns are left out.

    References
    ----------
    Cox DR. Regression models and life-tables. J R Stat Soc B 34:187–220 (1972),
    doi:10.1111/j.2517-6161.1972.tb00899.x. Davidson-Pilon C. lifelines: survival analysis in Python. J Open Source
    Softw 4:1317 (2019), doi:10.21105/joss.01317.

    Examples
    --------
    >>> import pandas as pd, pastpy as past
    >>> df = pd.DataFrame({"SIMULATED_months": [3, 9, 12, 20, 25], "SIMULATED_event": [1, 1, 0, 1, 1]})
    >>> df["fraction_T"] = [0.1, 0.4, 0.2, 0.5, 0.3]
    >>> past.tl.cox(df, duration_col="SIMULATED_months", event_col="SIMULATED_event").label
    'SIMULATED outcomes'
    """
    from lifelines import CoxPHFitter

    if not penalizer >= 0:
        raise ValueError(f"penalizer must be at least 0, got {penalizer!r}")
    months, event = check_survival(df, duration_col, event_col)
    if not event.any():
        raise ValueError(f"no event was seen: column {event_col!r} is 0 for all {len(df)} patients")
    chosen = _covariates(df, covariates, taken=(duration_col, event_col))
    frame = df[chosen].astype(float)
    _check_rank(frame, penalizer)
    if standardize:
        frame = (frame - frame.mean()) / frame.std()
    frame = frame.assign(**{duration_col: months, event_col: event.astype(int)})
    simulated = _keys.SIMULATED in duration_col or _keys.SIMULATED in event_col
    fitter = CoxPHFitter(penalizer=penalizer, label=f"{_keys.SIMULATED} outcomes" if simulated else None)
    return fitter.fit(frame, duration_col=duration_col, event_col=event_col)


def _covariates(df: DataFrame, covariates: Sequence[str] | None, *, taken: tuple[str, str]) -> list[str]:
    """Names of usable covariates; what cannot be used is named in an error or, if nobody asked for it, a warning."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if isinstance(covariates, str):
        raise TypeError(f"covariates must be a list of columns, got the string; use covariates=[{covariates!r}]")
    chosen = [c for c in df.columns if c not in (*taken, N_CELLS)] if covariates is None else list(covariates)
    missing = [column for column in chosen if column not in df]
    if missing:
        raise KeyError(f"no columns {missing} for covariates=; the frame has {list(df.columns)}")
    if set(chosen) & set(taken):
        raise ValueError(f"covariates hold the outcome {sorted(set(chosen) & set(taken))}; leave it out")
    words = [column for column in chosen if not (is_numeric_dtype(df[column]) or is_bool_dtype(df[column]))]
    if words:
        raise TypeError(f"covariates {words} are not numeric; code them as numbers or name others with covariates=")
    values = df[chosen].astype(float)
    unknown = ~np.isfinite(values.to_numpy())
    if unknown.any():
        rows = unknown.any(axis=1)
        raise ValueError(
            f"covariates {values.columns[unknown.any(axis=0)].tolist()} have missing or infinite values for patients "
            f"{values.index[rows].tolist()[:5]} ({int(rows.sum())} in all); drop these patients or columns, or fill "
            "the values in knowingly"
        )
    constant = [column for column in chosen if np.ptp(values[column]) <= 1e-12 * max(1.0, abs(values[column].iloc[0]))]
    if constant and covariates is not None:
        raise ValueError(f"covariates {constant} are the same for all {len(df)} patients; leave them out")
    if constant:
        warnings.warn(f"columns {constant} are the same for all patients and are left out", UserWarning, stacklevel=3)
    left = [column for column in chosen if column not in constant]
    if not left:
        unasked = f" ({N_CELLS} is none unless covariates= names it)" if N_CELLS in df and covariates is None else ""
        raise ValueError(f"no covariate is left{unasked}; the frame needs a column that differs between patients")
    return left


def _check_rank(frame: DataFrame, penalizer: float) -> None:
    """Without a penalty the coefficients of linearly dependent covariates are not determined."""
    scaled = ((frame - frame.mean()) / frame.std()).to_numpy()
    rank = int(np.linalg.matrix_rank(scaled, tol=1e-8 * np.sqrt(scaled.size)))
    if penalizer > 0 or rank == frame.shape[1]:
        return
    fractions = [column for column in frame if str(column).startswith("fraction_")]
    summing = len(fractions) > 1 and np.allclose(frame[fractions].sum(axis=1), 1)
    advice = f"the {len(fractions)} fractions sum to 1: leave one out with covariates=" if summing else (
        "leave some out with covariates="
    )  # fmt: skip
    raise ValueError(
        f"{frame.shape[1]} covariates of {len(frame)} patients have only {rank} independent directions, so their "
        f"coefficients are not determined; {advice}, or pass penalizer=, for example 0.1"
    )
