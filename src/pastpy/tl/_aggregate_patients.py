"""From cells to patients: composition and mean predicted expression."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pastpy._elements import expression_frame, table_of

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame, Series
    from spatialdata import SpatialData

__all__ = ["N_CELLS", "aggregate_patients"]

#: Column that says how many cells of a patient were seen.
N_CELLS = "n_cells"


def aggregate_patients(
    data: SpatialData | AnnData | Sequence[SpatialData | AnnData],
    *,
    patient_key: str,
    label_key: str | None = None,
    reference_label: str | None = None,
    genes: Sequence[str] | None = None,
    expression_key: str | None = "past_expression",
    outcome_columns: Sequence[str] = (),
    min_cells: int = 1,
    table_key: str | None = None,
) -> DataFrame:
    """One row a patient: cell composition and mean predicted expression, ready for lifelines.

    Parameters
    ----------
    data
        Object with cells of one or more patients, or a list of such objects; a patient's cells may lie in several.
    patient_key
        ``obs`` column of the patient.
    label_key
        ``obs`` column of cell labels whose shares are wanted.
    reference_label
        Label whose share is left out. All shares sum to 1, so a Cox model, or a regression with an intercept, can tell
        the effect of each only against one that is not in it.
    genes
        Genes whose mean is wanted; by default all of ``expression_key``.
    expression_key
        ``obsm`` DataFrame of predicted expression; ``None`` leaves expression out.
    outcome_columns
        ``obs`` columns to carry over, such as survival time and event; constant within a patient, numbers or bools.
    min_cells
        Patients with fewer cells are left out, with a warning that names them.
    table_key
        Name of the table in SpatialData objects; by default ``cells``, else the only one.

    Returns
    -------
    pandas.DataFrame
        Index ``patient_key``, sorted; float64 columns:

        - ``n_cells``;
        - ``fraction_<label>``, share among the patient's *labelled* cells (NaN where there are none), for every label
          but ``reference_label``;
        - ``expression_<gene>``, mean over the patient's cells of known expression (log1p scale), NaN where none is;
        - the outcome columns under their own names.

    Raises
    ------
    KeyError
        If a column, gene or the predicted expression is missing from an object.
    ValueError
        If a gene or column is named twice, ``reference_label`` is not among the labels, there are no cells, a cell has
        no patient, an outcome differs within a patient or is not a number, or no patient is left.

    Examples
    --------
    >>> import numpy as np, pandas as pd, pastpy as past
    >>> from anndata import AnnData
    >>> obs = pd.DataFrame({"patient": ["p1", "p1", "p2"], "label": ["T", "B", "T"]}, index=list("abc"))
    >>> cells = AnnData(np.zeros((3, 0)), obs=obs)
    >>> past.tl.aggregate_patients(cells, patient_key="patient", label_key="label", expression_key=None)["fraction_T"]
    patient
    p1    0.5
    p2    1.0
    Name: fraction_T, dtype: float64
    """
    import pandas as pd
    from anndata import AnnData

    objects = [data] if isinstance(data, AnnData) or not isinstance(data, Sequence) else list(data)
    if not objects:
        raise ValueError("no object given; pass at least one SpatialData or AnnData")
    if reference_label is not None and label_key is None:
        raise ValueError(f"reference_label={reference_label!r} is a label of label_key=, which is not given")
    if isinstance(genes, str):
        raise TypeError(f"genes must be a list of gene symbols, got the string {genes!r}; use genes=[{genes!r}]")
    if isinstance(outcome_columns, str):
        raise TypeError(f"outcome_columns must be a list of columns; use outcome_columns=[{outcome_columns!r}]")
    columns = [patient_key, *([label_key] if label_key else []), *outcome_columns]
    _refuse_twice(columns, "columns", "patient_key=, label_key= and outcome_columns=")
    _refuse_twice(() if genes is None else genes, "genes", "genes=")
    tables = [table_of(item, table_key) for item in objects]
    if not any(table.n_obs for table in tables):
        raise ValueError("there are no cells: every table given has 0 rows")
    for table in tables:
        _check_columns(table, columns, patient_key)

    obs = pd.concat([table.obs[columns].astype({patient_key: str}) for table in tables], ignore_index=True)
    patients = obs[patient_key]
    parts = [patients.groupby(patients).size().rename(N_CELLS).astype(float)]
    if label_key is not None:
        parts.append(_fractions(obs[label_key], patients, reference_label))
    if expression_key is not None:
        parts.append(_mean_expression(tables, patient_key, expression_key, genes))
    parts += [_constant(obs[column], patients, column) for column in outcome_columns]
    out = pd.concat(parts, axis=1).rename_axis(patient_key)
    return _without_small(out, min_cells)


def _refuse_twice(names: Sequence[str], what: str, where: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{what} {twice} are named more than once in {where}; name each once")


def _check_columns(table: AnnData, columns: Sequence[str], patient_key: str) -> None:
    missing = [column for column in columns if column not in table.obs]
    if missing:
        raise KeyError(f"no obs columns {missing}; the table has {list(table.obs.columns)}")
    lost = int(table.obs[patient_key].isna().sum())
    if lost:
        raise ValueError(f"{lost} cells have no patient in obs[{patient_key!r}]; drop them, or name their patient")


def _fractions(labels: Series, patients: Series, reference_label: str | None) -> DataFrame:
    import pandas as pd

    counts = pd.crosstab(patients, labels.astype(str).where(labels.notna()))
    counts = counts.reindex(sorted(patients.unique()), fill_value=0)
    total = counts.sum(axis=1)
    shares = counts.div(total.where(total > 0), axis=0)
    if reference_label is not None:
        if str(reference_label) not in shares:
            raise ValueError(f"reference_label={reference_label!r} is none of the labels {list(shares)}")
        shares = shares.drop(columns=str(reference_label))
    return shares.add_prefix("fraction_").rename_axis(columns=None)


def _mean_expression(
    tables: Sequence[AnnData], patient_key: str, expression_key: str, genes: Sequence[str] | None
) -> DataFrame:
    """Means from sums and counts of each table, so that no frame of all cells is made."""
    from pandas import DataFrame

    total, known = DataFrame(), DataFrame()
    for table in tables:
        frame = expression_frame(table, expression_key)
        missing = [gene for gene in (() if genes is None else genes) if gene not in frame.columns]
        if missing:
            raise KeyError(f"genes {missing} are not among the {frame.shape[1]} genes of obsm[{expression_key!r}]")
        frame = (frame if genes is None else frame[list(genes)]).astype(float)
        by_patient = frame.groupby(table.obs[patient_key].astype(str).to_numpy())
        total = total.add(by_patient.sum(), fill_value=0)
        known = known.add(by_patient.count(), fill_value=0)
    means = total / known.where(known > 0)
    order = frame.columns.append(means.columns.difference(frame.columns))
    return means[order].add_prefix("expression_")


def _constant(values: Series, patients: Series, column: str) -> Series:
    """The one value of each patient as float, or a ``ValueError`` that names patients with several."""
    import pandas as pd

    differing = values.groupby(patients).nunique(dropna=False)
    several = differing.index[differing > 1].tolist()
    if several:
        raise ValueError(f"obs[{column!r}] differs within patients {several[:5]}; an outcome has one value a patient")
    single = values.groupby(patients).agg(lambda group: group.iloc[0])
    try:
        return pd.to_numeric(single).astype(float).rename(column)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"obs[{column!r}] holds {single.iloc[0]!r}, which is no number; code it as numbers (events as 0 and 1)"
        ) from error


def _without_small(out: DataFrame, min_cells: int) -> DataFrame:
    small = out[N_CELLS] < min_cells
    if small.all():
        raise ValueError(f"no patient has {min_cells} cells; the most is {out[N_CELLS].max():.0f}. Lower min_cells")
    if small.any():
        warnings.warn(
            f"{int(small.sum())} of {len(out)} patients have fewer than {min_cells} cells and are left out: "
            f"{out.index[small].tolist()[:10]}",
            UserWarning,
            stacklevel=3,
        )
    return out[~small]
