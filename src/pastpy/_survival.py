"""Checks of survival data, shared by ``tl`` and ``pl``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["check_survival"]


def check_survival(df: DataFrame, duration_col: str, event_col: str) -> tuple[np.ndarray, np.ndarray]:
    """Times float64 (n,) and events bool (n,) of a frame with a row a patient.

    Raises
    ------
    KeyError
        If a column is missing.
    TypeError
        If ``df`` is not a DataFrame.
    ValueError
        If there is no patient, a value is missing, a time is negative or infinite, or an event is not 0 or 1.
    """
    from pandas import DataFrame, to_numeric

    if not isinstance(df, DataFrame):
        raise TypeError(f"expected a DataFrame with a row a patient, got {type(df).__name__}")
    for column, argument in ((duration_col, "duration_col"), (event_col, "event_col")):
        if column not in df:
            raise KeyError(f"no column {column!r} for {argument}=; the frame has {list(df.columns)}")
    if not len(df):
        raise ValueError("the frame holds no patient")
    months = to_numeric(df[duration_col], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    event = to_numeric(df[event_col], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    for column, bad, expected in (
        (duration_col, ~(np.isfinite(months) & (months >= 0)), "a finite time of at least 0"),
        (event_col, ~np.isin(event, (0.0, 1.0)), "0 or 1 (or a bool)"),
    ):
        if bad.any():
            raise ValueError(
                f"column {column!r} of patients {df.index[bad].tolist()[:5]} ({int(bad.sum())} in all) is not "
                f"{expected}; drop or mend these rows"
            )
    return months, event.astype(bool)
