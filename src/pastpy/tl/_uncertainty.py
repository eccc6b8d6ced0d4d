"""``past.tl.conformal``: intervals around predicted expression that keep their promise on held-out tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pastpy import _elements, _keys
from pastpy._provenance import record
from pastpy.metrics._conformal import conformal_intervals

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from pastpy.metrics._conformal import IntervalCalibration

__all__ = ["conformal"]


def conformal(
    data: SpatialData | AnnData,
    calibration: IntervalCalibration,
    *,
    level: float = 0.9,
    max_ratio: float = 1.0,
    table_key: str | None = None,
    key_added: str = _keys.PAST,
    copy: bool = False,
) -> AnnData | None:
    """Put calibrated intervals around predicted expression, and mark the rows that say nothing.

    Parameters
    ----------
    data
        SpatialData or AnnData with predicted expression.
    calibration
        From :func:`pastpy.metrics.calibrate_intervals`, for the same model and kind of unit.
    level
        One of its levels.
    max_ratio
        Abstain from a value whose interval is not narrower than this part of the interval without a prediction, and
        from a row if that is so for all its genes.
    table_key
        Name of the table.
    key_added
        Stem of the slots, as in :func:`pastpy.tl.impute_expression`.
    copy
        Return a changed copy of the table.

    Returns
    -------
    ``None``, or the changed copy. Fills

    - ``table.obsm["past_expression_lower"]``, ``["past_expression_upper"]``: frames like ``["past_expression"]``; NaN
      for genes without calibration.
    - ``table.obs["past_abstained"]``: share of the calibrated genes from which to abstain, 0–1; 1 where a row has no
      prediction.
    - ``table.uns["past"]["conformal"]``: level, groups, and what the intervals hold for.

    Raises
    ------
    KeyError
        If there is no prediction, or no predictive sd (``uncertainty=True``) where the calibration needs one.
    ValueError
        If the level was not calibrated, or no predicted gene was.

    References
    ----------
    Papadopoulos et al., ECML 2002, doi:10.1007/3-540-36755-1_29.

    Examples
    --------
    >>> import pastpy as past
    >>> past.tl.conformal(sdata, calibration)  # doctest: +SKIP
    """
    import pandas as pd

    table = _elements.table_of(data, table_key)
    slots = _keys.Slots(key_added)
    predicted = _elements.expression_frame(table, slots.expression)
    known = [g for g in predicted.columns if g in set(calibration.genes)]
    if not known:
        raise ValueError(
            f"none of the {predicted.shape[1]} predicted genes was calibrated "
            f"(calibrated: {list(calibration.genes[:5])}…)"
        )
    sd = _elements.expression_frame(table, slots.expression_std) if calibration.scaled else None
    lower, upper = conformal_intervals(predicted, calibration, level=level, sd=sd)
    widths = pd.Series(calibration.reference_widths[calibration.row(level)], index=list(calibration.genes))
    # a NaN or infinite width is none that helps
    narrow = (upper - lower)[known].to_numpy() < max_ratio * widths[known].to_numpy()
    table = table.copy() if copy else table
    table.obsm[slots.expression_lower] = lower.astype(np.float32)
    table.obsm[slots.expression_upper] = upper.astype(np.float32)
    table.obs[slots.abstained] = 1.0 - narrow.mean(axis=1)
    record(
        table,
        "conformal",
        {
            "level": level, "max_ratio": max_ratio, "key_added": key_added, "groups": list(calibration.groups),
            "genes": len(known), "statement": calibration.statement,
        },
    )  # fmt: skip
    return table if copy else None
