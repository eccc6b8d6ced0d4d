"""``past.metrics.expression``: predicted against measured expression, a row a gene or a row a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy import _keys
from pastpy._donors import donor_names
from pastpy._warn import warn_of_counts
from pastpy.metrics._bootstrap import bootstrap_groups
from pastpy.metrics._columns import column_scores, nb_deviance, nb_theta
from pastpy.metrics._gene_sets import gene_list
from pastpy.metrics._maps import map_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

__all__ = ["aligned", "expression", "group_labels", "group_scores"]

#: Scores that every call gives, in the order of the columns.
SCORES = ("pearson", "spearman", "mse", "auroc")


def expression(
    predicted: pd.DataFrame,
    measured: pd.DataFrame,
    *,
    genes: Sequence[str] | None = None,
    by: Literal["gene", "unit"] = "gene",
    groups: pd.Series | Mapping[Any, str] | None = None,
    counts: pd.DataFrame | None = None,
    depth: pd.Series | None = None,
    theta: pd.Series | None = None,
    target_sum: float = _keys.TARGET_SUM,
    coordinates: pd.DataFrame | None = None,
    raster_um: float | None = None,
    n_boot: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Agreement of predicted and measured expression for every gene, or for every cell or spot.

    Parameters
    ----------
    predicted, measured
        Frames (units × genes) of log1p expression with the same index; units with NaN in either are left out, gene by
        gene.
    genes
        Genes to score; by default those in both frames.
    by
        ``"gene"``: a row a gene, over units. ``"unit"``: a row a cell or spot, over genes.
    groups
        Donor (or section) of every unit, indexed by unit. Scores are then made within each group and averaged, so that
        knowing which group a unit is from earns nothing, and get an interval: Student's over 3–7 groups, a bootstrap
        of the groups from 8 on. Only with ``by="gene"``.
    counts
        Raw counts (units × genes); adds the negative binomial deviance of the predicted share times ``depth``.
    depth
        Counts of every unit over all its genes, also those not scored; needed with ``counts``. Units of depth 0 have no
        part in the deviance.
    theta
        Inverse dispersion of every gene; by default the moment estimate around the gene's mean share in ``counts``,
        which is the same for all predictions of one data set.
    target_sum
        Depth to which ``predicted`` is scaled, for the deviance.
    coordinates
        Frame (units × 2), µm; adds the similarity of maps and Moran's I, each within a group.
    raster_um
        Pixel of the maps, µm; by default the median distance of nearest neighbours.
    n_boot, confidence, seed
        Of the intervals.

    Returns
    -------
    Frame with one row a gene (or unit):

    - ``pearson``, ``spearman``: NaN where ``reason`` is not empty.
    - ``mse``; ``n``, the number of units scored; ``auroc``, how well ``predicted`` tells units with ``measured`` > 0
      from the others, NaN if there is only one kind; ``reason``, why there is no correlation ("constant in measured",
      "constant in predicted", "fewer than 3 units"), else empty.
    - with ``counts``: ``nb_deviance``, mean over units, infinite where a predicted value is beyond the range of floats,
      and ``nb_d2``, the share of the deviance of the gene's mean (within the group) that is explained; both NaN for a
      gene without any count, which ``reason`` calls constant in measured.
    - with ``coordinates``: ``ssim`` of the rasterised maps, ``morans_i_predicted``, ``morans_i_measured``, each over
      the units that have the gene; ``map_reason``, why one of them is NaN, else empty.
    - with ``groups``: of each score the mean over groups that have one, ``<score>_lower`` and ``<score>_upper`` (NaN
      with fewer than three), and ``n_groups``, the groups with a correlation.

    Raises
    ------
    ValueError
        If the frames share no unit or no gene, an index is not unique, a gene is named twice, a unit has no group,
        ``counts`` are not counts, ``raster_um`` is not positive, or arguments do not go together.
    TypeError
        If ``predicted`` or ``measured`` is no frame, or ``genes`` is one text.
    KeyError
        If a gene is in only one of the frames, or ``counts``, ``depth``, ``theta`` or ``coordinates`` lack a unit or
        gene.

    References
    ----------
    Li et al., Nat Methods 19:662 (2022), doi:10.1038/s41592-022-01480-9 (similarity of maps). Hesterberg, The American
    Statistician 69:371 (2015), doi:10.1080/00031305.2015.1089789 (intervals with few groups).

    Examples
    --------
    >>> import pastpy as past
    >>> import pandas as pd
    >>> a = pd.DataFrame({"ERBB2": [0.0, 1.0, 2.0]})
    >>> float(past.metrics.expression(a, 2 * a).loc["ERBB2", "pearson"].round(3))
    1.0
    """
    import pandas as pd

    p, m = aligned(predicted, measured, genes)
    warn_of_counts(m.to_numpy())
    if by not in ("gene", "unit"):
        raise ValueError(f"by={by!r} is unknown; use 'gene' or 'unit'")
    if by == "unit":
        given = {"groups": groups, "counts": counts, "coordinates": coordinates}
        wrong = [name for name, value in given.items() if value is not None]
        if wrong:
            raise ValueError(f"by='unit' scores one unit at a time, so {wrong} do not apply; leave them out")
        rows = column_scores(p.to_numpy().T, m.to_numpy().T)
        return pd.DataFrame(_ordered(rows), index=pd.Index(p.index, name="unit"))
    labels = group_labels(groups, p.index)
    extras = _Extras.of(p, labels, counts, depth, theta, target_sum, coordinates, raster_um)
    per_group = [_scores(p, m, np.flatnonzero(labels == g), extras) for g in np.unique(labels)]
    index = pd.Index(p.columns, name="gene")
    if groups is None:
        return pd.DataFrame(_ordered(per_group[0]), index=index)
    return pd.DataFrame(_over_groups(per_group, n_boot=n_boot, confidence=confidence, seed=seed), index=index)


def group_scores(
    predicted: pd.DataFrame,
    measured: pd.DataFrame,
    groups: pd.Series | Mapping[Any, str],
    *,
    genes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Scores of every gene in every group, one row each: the table under the averages of :func:`expression`.

    Returns
    -------
    Frame with columns ``group``, ``gene``, ``pearson``, ``spearman``, ``mse``, ``n``, ``auroc``, ``reason``.
    """
    import pandas as pd

    p, m = aligned(predicted, measured, genes)
    labels = group_labels(groups, p.index)
    rows = []
    for group in np.unique(labels):
        at = np.flatnonzero(labels == group)
        scores = _ordered(column_scores(p.to_numpy()[at], m.to_numpy()[at]))
        rows.append(pd.DataFrame({"group": group, "gene": p.columns, **scores}))
    return pd.concat(rows, ignore_index=True)


def aligned(
    predicted: pd.DataFrame, measured: pd.DataFrame, genes: Sequence[str] | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both frames over the units and genes that are scored, float64, in the order of ``predicted``.

    Raises
    ------
    TypeError
        If one is no frame, or ``genes`` is one text.
    ValueError
        If an index is not unique, a gene is named twice, or no unit or gene is in both.
    KeyError
        If a gene is in only one of them.
    """
    import pandas as pd

    for name, frame in (("predicted", predicted), ("measured", measured)):
        if not isinstance(frame, pd.DataFrame):
            raise TypeError(
                f"{name} must be a DataFrame of log1p expression (units × genes), got {type(frame).__name__}; of an "
                "AnnData pass .to_df()"
            )
        if not frame.index.is_unique or not frame.columns.is_unique:
            raise ValueError(f"{name} has a unit or a gene twice; make its index and columns unique")
    units = predicted.index.intersection(measured.index, sort=False)
    if len(units) == 0:
        raise ValueError(
            f"predicted and measured share no unit (index like {predicted.index[:2].tolist()} and "
            f"{measured.index[:2].tolist()}); give both the same index"
        )
    names = [g for g in predicted.columns if g in measured.columns] if genes is None else gene_list(genes)
    absent = [g for g in names if g not in predicted.columns or g not in measured.columns]
    if absent:
        raise KeyError(f"{len(absent)} genes are not in both frames, e.g. {absent[:5]}")
    if not names:
        raise ValueError(
            f"predicted and measured share no gene (columns like {predicted.columns[:2].tolist()} and "
            f"{measured.columns[:2].tolist()}); give both the same names"
        )
    return predicted.loc[units, names].astype(np.float64), measured.loc[units, names].astype(np.float64)


@dataclass(frozen=True)
class _Extras:
    """What the optional scores need, in the order of the scored units and genes; ``None`` where not asked for."""

    counts: np.ndarray | None
    mu: np.ndarray | None
    mean: np.ndarray | None
    theta: np.ndarray | None
    coordinates: np.ndarray | None
    pixel: float | None

    @classmethod
    def of(
        cls,
        predicted: pd.DataFrame,
        labels: np.ndarray,
        counts: pd.DataFrame | None,
        depth: pd.Series | None,
        theta: pd.Series | None,
        target_sum: float,
        coordinates: pd.DataFrame | None,
        raster_um: float | None,
    ) -> _Extras:
        where = None if coordinates is None else _rows("coordinates", coordinates, predicted.index)
        if where is not None and where.shape[1:] != (2,):
            raise ValueError(f"coordinates must have two columns, x and y in µm, got shape {where.shape}")
        if raster_um is not None and not raster_um > 0:
            raise ValueError(f"raster_um must be a positive number of µm, got {raster_um!r}")
        if counts is None:
            if depth is not None or theta is not None:
                raise ValueError("depth= and theta= are for the deviance of counts; pass counts= as well")
            return cls(None, None, None, None, where, raster_um)
        if depth is None:
            raise ValueError("counts= needs depth=, the counts of every unit over all its genes")
        y = _counts("counts", _rows("counts", counts, predicted.index, predicted.columns))
        total = _counts("depth", _rows("depth", depth, predicted.index))[:, None]
        # a unit without any molecule says nothing, and no count is expected of it
        total = np.where(total > 0, total, np.nan)
        known = np.isfinite(y) & np.isfinite(total)
        exposure = np.where(known, total, 0.0).sum(axis=0)
        # half a count in all units together: a share of zero or below would make every count impossible
        floor = 0.5 / np.maximum(exposure, 1.0)
        # a value beyond the range of floats is an infinite share, and scored as such
        with np.errstate(over="ignore"):
            predicted_share = np.expm1(predicted.to_numpy()) / target_sum
        overall = total * np.maximum(_mean_share(y, total), floor)
        mean = np.empty_like(overall)
        for group in np.unique(labels):
            at = labels == group
            mean[at] = total[at] * np.maximum(_mean_share(y[at], total[at]), floor)
        spread = nb_theta(y, overall) if theta is None else _rows("theta", theta, predicted.columns)
        return cls(y, total * np.maximum(predicted_share, floor), mean, spread, where, raster_um)


def _scores(p: pd.DataFrame, m: pd.DataFrame, at: np.ndarray, extras: _Extras) -> dict[str, np.ndarray]:
    """All scores of the units ``at``, arrays (genes,)."""
    predicted, measured = p.to_numpy()[at], m.to_numpy()[at]
    out = column_scores(predicted, measured)
    if extras.counts is not None and extras.mu is not None and extras.mean is not None and extras.theta is not None:
        known = np.isfinite(extras.counts[at]) & ~np.isnan(extras.mu[at])
        # without any count there is no mean to explain
        counted = np.where(known, extras.counts[at], 0.0).sum(axis=0) > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            fit, null = (
                np.where(known, nb_deviance(extras.counts[at], mu[at], extras.theta), 0.0).sum(axis=0)
                for mu in (extras.mu, extras.mean)
            )
            out["nb_deviance"] = np.where(counted, fit / known.sum(axis=0), np.nan)
            out["nb_d2"] = np.where(counted & (null > 0), 1 - fit / null, np.nan)
    if extras.coordinates is not None:
        out |= map_scores(predicted, measured, extras.coordinates[at], extras.pixel)
    return out


def _over_groups(per_group: list[dict[str, np.ndarray]], **boot: Any) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    names = [name for name in _ordered(per_group[0]) if name not in ("n", "reason", "map_reason")]
    for name in names:
        mean, lower, upper = bootstrap_groups(np.stack([g[name] for g in per_group]), **boot)
        out |= {name: mean, f"{name}_lower": lower, f"{name}_upper": upper}
    for name in ("map_reason", "reason"):
        if name in per_group[0]:
            reasons = np.stack([g[name] for g in per_group])
            # a gene without any group to score it in says why in the words of the first group
            out[name] = np.where((reasons == "").any(axis=0), "", reasons[0])
    n_groups = np.sum([g["reason"] == "" for g in per_group], axis=0)
    return {**out, "n": np.sum([g["n"] for g in per_group], axis=0), "n_groups": n_groups}


def _ordered(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    first = ("pearson", "spearman", "mse", "n", "auroc")
    rest = [name for name in scores if name not in first and name != "reason"]
    return {name: scores[name] for name in (*first, *rest, "reason")}


def group_labels(groups: pd.Series | Mapping[Any, str] | None, units: pd.Index) -> np.ndarray:
    """Group of every unit as text, (n,), or 0 throughout where there are no groups.

    Raises
    ------
    ValueError
        If a unit has no group.
    """
    import pandas as pd

    if groups is None:
        return np.zeros(len(units), dtype=int)
    labels = donor_names(pd.Series(groups).reindex(units))
    unknown = labels == ""
    if unknown.any():
        raise ValueError(
            f"{int(unknown.sum())} units have no group, e.g. {units[unknown][:3].tolist()}; give every unit its donor"
        )
    return labels.astype(str)


def _mean_share(counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Share of every gene in all molecules of the units that have it, float (genes,); NaN without any."""
    known = np.isfinite(counts) & np.isfinite(depth)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(known, counts, 0.0).sum(axis=0) / np.where(known, depth, 0.0).sum(axis=0)


def _counts(name: str, values: np.ndarray) -> np.ndarray:
    known = values[np.isfinite(values)]
    wrong = known[(known < 0) | (known != np.round(known))]
    if len(wrong):
        raise ValueError(f"{name}= must be raw counts, whole and not negative, got {wrong[0]:g}; pass them as measured")
    return values


def _rows(name: str, values: pd.DataFrame | pd.Series, units: pd.Index, columns: pd.Index | None = None) -> np.ndarray:
    absent = units.difference(values.index)
    if len(absent):
        raise KeyError(f"{name} lacks {len(absent)} of the scored rows, e.g. {absent[:3].tolist()}")
    if columns is None:
        return values.loc[units].to_numpy(dtype=float)
    missing = columns.difference(values.columns)
    if len(missing):
        raise KeyError(f"{name} lacks {len(missing)} of the scored genes, e.g. {missing[:3].tolist()}")
    return values.loc[units, columns].to_numpy(dtype=float)
