"""From predicted expression to optical density and class of one marker, with the reference and transfer score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import expression_frame
from pastpy._provenance import recorded, untrusted_genes

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame

    from pastpy.tl._markers import Marker

__all__ = [
    "NOT_MEASURED",
    "OD_MAX",
    "THRESHOLDS",
    "MarkerStain",
    "check_thresholds",
    "classify",
    "marker_stain",
    "stain_density",
]

#: Optical density of the strongest stain.
OD_MAX = 0.8
#: Optical densities from which a cell is 1+, 2+ and 3+: quarters of the scale.
THRESHOLDS = (0.2, 0.4, 0.6)
#: What is said where the model's card holds no score for a marker's genes.
NOT_MEASURED = "not measured on another patient"


@dataclass(frozen=True)
class MarkerStain:
    """Optical density of a marker in every cell, and where it comes from.

    Attributes
    ----------
    marker
        The marker.
    density
        float32 (n_cells,), NaN where the expression is unknown.
    genes
        Those of the marker's genes that could be used.
    reference
        DataFrame indexed by those genes, columns ``low`` and ``high``.
    transfer_score
        Mean over those genes of the Pearson r that the model's card states, NaN where it states none.
    statement
        What that score was measured on.
    caveats
        Why the picture may mislead; none that is known, if empty.
    """

    marker: Marker
    density: np.ndarray
    genes: list[str]
    reference: DataFrame
    transfer_score: float
    statement: str
    caveats: list[str]

    def provenance(self) -> dict[str, Any]:
        """Plain values for ``uns``."""
        return {
            "genes": self.genes,
            "compartment": self.marker.compartment,
            "reference": {
                "gene": self.genes,
                "low": self.reference["low"].tolist(),
                "high": self.reference["high"].tolist(),
            },
            "transfer_score": self.transfer_score,
            "statement": self.statement,
            "caveats": self.caveats,
        }


def stain_density(expression: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Optical density from expression: linear from ``low`` (0) to ``high`` (:data:`OD_MAX`), mean over genes.

    Parameters
    ----------
    expression
        float (n_cells, n_genes), NaN where unknown.
    low, high
        float (n_genes,).

    Returns
    -------
    numpy.ndarray
        float32 (n_cells,), NaN where no gene is known.

    Examples
    --------
    >>> stain_density(np.array([[1.0], [2.0], [9.0]]), np.array([1.0]), np.array([3.0])).round(3).tolist()
    [0.0, 0.4000000059604645, 0.800000011920929]
    """
    scaled = OD_MAX * np.clip((expression - low) / (high - low), 0, 1)
    known = np.isfinite(scaled)
    total = np.where(known, scaled, 0).sum(axis=1)
    count = known.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)


def check_thresholds(thresholds: Sequence[float]) -> list[float]:
    """Three rising positive optical densities as plain floats, or a ``ValueError``."""
    cuts = [float(cut) for cut in thresholds]
    if len(cuts) != 3 or not (0 < cuts[0] < cuts[1] < cuts[2]):
        raise ValueError(f"thresholds must be three rising positive optical densities (1+, 2+, 3+), got {cuts}")
    return cuts


def classify(density: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """0, 1, 2 or 3 as float32 (n_cells,): how many thresholds a density reaches; NaN stays NaN."""
    classes = np.digitize(density, np.asarray(thresholds, dtype=np.float32)).astype(np.float32)
    return np.where(np.isnan(density), np.float32(np.nan), classes)


def marker_stain(table: AnnData, marker: Marker, *, expression_key: str, reference: DataFrame | None) -> MarkerStain:
    """Optical density of a marker in every row of a table.

    Raises
    ------
    KeyError
        If there is no predicted expression, or no gene of the marker is predicted and has a reference.
    ValueError
        If no reference is known, or the one given is no range.
    """
    frame = expression_frame(table, expression_key)
    card = recorded(table, "impute_expression", _keys.key_of_expression(expression_key))
    ranges = _card_reference(card) if reference is None else _given_reference(reference, marker.genes)
    predicted = [gene for gene in marker.genes if gene in frame.columns and frame[gene].notna().any()]
    genes = [gene for gene in predicted if gene in ranges.index]
    if not genes:
        raise KeyError(f"marker {marker.name!r} cannot be drawn: {_why_unusable(frame, marker.genes, expression_key)}")
    chosen = ranges.loc[genes]
    density = stain_density(frame[genes].to_numpy(dtype=float), chosen["low"].to_numpy(), chosen["high"].to_numpy())
    score, statement = _transfer(card.get("scores"), genes)
    caveats = [*_untrusted(card, genes), *_far(card)]
    return MarkerStain(marker, density, genes, chosen, score, statement, caveats)


def _why_unusable(frame: DataFrame, genes: Sequence[str], expression_key: str) -> str:
    """Which genes are absent, unknown to the model, or without a reference, and what to do about each."""
    absent = [gene for gene in genes if gene not in frame.columns]
    unknown = [gene for gene in genes if gene in frame.columns and frame[gene].isna().all()]
    without = [gene for gene in genes if gene not in (*absent, *unknown)]
    reasons = []
    if absent:
        reasons.append(
            f"{absent} not in obsm[{expression_key!r}]; predict with pastpy.tl.impute_expression(…, "
            f"genes=[*table.obsm[{expression_key!r}], {', '.join(map(repr, absent))}]), which keeps the genes "
            "there are (one that the model has never seen stays unknown)"
        )
    if unknown:
        reasons.append(f"{unknown} unknown in every cell, as genes are that the model has never seen")
    if without:
        reasons.append(f"{without} without a reference range of some width (pass reference=)")
    return "; ".join(reasons)


def _card_reference(card: Mapping[str, Any]) -> DataFrame:
    """Ranges that the model's card holds; genes of no width there are left out, since nothing can be scaled by them."""
    from pandas import DataFrame

    stored = card.get("reference")
    if not stored:
        raise ValueError(
            "the table holds no reference range of expression (uns['past']['impute_expression']['reference']); run "
            "pastpy.tl.impute_expression again, or pass reference=, a DataFrame indexed by gene with the columns "
            "'low' and 'high'. A range of this slide's own would make slides incomparable"
        )
    ranges = DataFrame(
        {"low": list(stored["q05"]), "high": list(stored["q95"])}, index=list(stored["gene"]), dtype=float
    )
    return ranges[ranges["high"] > ranges["low"]]


def _given_reference(reference: DataFrame, genes: Sequence[str]) -> DataFrame:
    missing = [column for column in ("low", "high") if column not in getattr(reference, "columns", [])]
    if missing:
        raise ValueError(
            f"reference must be a DataFrame indexed by gene with columns 'low' and 'high'; {missing} missing"
        )
    if reference.index.has_duplicates:
        raise ValueError(f"reference has gene {reference.index[reference.index.duplicated()][0]!r} more than once")
    ranges = reference.loc[[gene for gene in genes if gene in reference.index], ["low", "high"]].astype(float)
    low, high = ranges["low"].to_numpy(), ranges["high"].to_numpy()
    bad = ranges.index[~(np.isfinite(low) & np.isfinite(high) & (high > low))].tolist()
    if bad:
        raise ValueError(f"reference of {bad} is no range: 'low' and 'high' must be finite numbers with low < high")
    return ranges


def _untrusted(card: Mapping[str, Any], genes: Sequence[str]) -> list[str]:
    """A sentence on those of the genes that the model's card does not trust."""
    doubtful = untrusted_genes(card, genes)
    if not doubtful:
        return []
    return [f"the model's card does not trust its prediction of {', '.join(doubtful)}"]


def _far(card: Mapping[str, Any]) -> list[str]:
    """How much of the tissue the model does not know, where that is more than its card takes for usual."""
    images = card.get("regions", {"": card}).values()
    shifts = [image["shift"] for image in images if image.get("shift")]
    far = [shift["share_beyond"] for shift in shifts if shift["share_beyond"] > shift["limit"]]
    if not far:
        return []
    return [f"{max(far):.0%} of the cells look unlike the tissue that the model was trained on"]


def _transfer(scores: Mapping[str, Any] | None, genes: Sequence[str]) -> tuple[float, str]:
    """Mean stated r over genes and what it was measured on."""
    if not scores:
        return float("nan"), NOT_MEASURED
    stated = dict(zip(scores["gene"], scores["validation_r"], strict=True))
    known = [float(stated[gene]) for gene in genes if stated.get(gene) is not None and np.isfinite(stated[gene])]
    return (float(np.mean(known)), str(scores["statement"])) if known else (float("nan"), NOT_MEASURED)
