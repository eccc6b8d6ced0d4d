"""``past.metrics.expression``: predicted against measured expression, a row a gene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["expression"]


def expression(predicted: pd.DataFrame, measured: pd.DataFrame, *, genes: list[str] | None = None) -> pd.DataFrame:
    """Agreement of predicted and measured expression for every gene.

    Parameters
    ----------
    predicted, measured
        Frames (units × genes) of log1p expression with the same index; units with NaN in either are left out, gene by
        gene.
    genes
        Genes to score; by default those in both frames.

    Returns
    -------
    Frame with one row a gene: ``pearson``, ``spearman`` (NaN for a gene that is constant in either), ``mse``, and
    ``n``, the number of units scored.

    Raises
    ------
    ValueError
        If the frames share no unit, or an index is not unique.
    KeyError
        If a gene is in only one of the frames.

    Examples
    --------
    >>> import pandas as pd
    >>> a = pd.DataFrame({"ERBB2": [0.0, 1.0, 2.0]})
    >>> float(expression(a, 2 * a).loc["ERBB2", "pearson"].round(3))
    1.0
    """
    import pandas as pd
    from scipy.stats import rankdata

    for name, frame in (("predicted", predicted), ("measured", measured)):
        if not frame.index.is_unique or not frame.columns.is_unique:
            raise ValueError(f"{name} has a unit or a gene twice; make its index and columns unique")
    units = predicted.index.intersection(measured.index)
    if len(units) == 0:
        raise ValueError(
            f"predicted and measured share no unit (index like {predicted.index[:2].tolist()} and "
            f"{measured.index[:2].tolist()}); give both the same index"
        )
    names = [g for g in predicted.columns if g in measured.columns] if genes is None else list(genes)
    absent = [g for g in names if g not in predicted.columns or g not in measured.columns]
    if absent:
        raise KeyError(f"{len(absent)} genes are not in both frames, e.g. {absent[:5]}")
    p = predicted.loc[units, names].to_numpy(dtype=float)
    m = measured.loc[units, names].to_numpy(dtype=float)
    rows = []
    for j in range(len(names)):
        both = np.isfinite(p[:, j]) & np.isfinite(m[:, j])
        x, y = p[both, j], m[both, j]
        rows.append(
            {
                "pearson": _pearson(x, y),
                "spearman": _pearson(rankdata(x), rankdata(y)),
                "mse": float(np.mean((x - y) ** 2)) if len(x) else np.nan,
                "n": int(both.sum()),
            }
        )
    return pd.DataFrame(rows, index=pd.Index(names, name="gene"), columns=["pearson", "spearman", "mse", "n"])


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    if len(x) < 3:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    # rounding leaves a constant vector with a tiny remainder, which is no variation
    constant = min(x @ x, y @ y) <= 1e-20 * max(len(x), 1)
    return float("nan") if constant or norm == 0 else float(x @ y / norm)
