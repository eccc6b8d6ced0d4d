"""Is this the kind of tissue that a model was trained on? Judged while its cells are embedded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy._warn import warn_user

if TYPE_CHECKING:
    import torch

    from pastpy.metrics import FeatureReference
    from pastpy.models import PAST

__all__ = ["DISTANCE", "FamiliarTissue", "familiar_tissue"]

#: Name of the output that holds each row's distance to the training data.
DISTANCE = "training_distance"


@dataclass(frozen=True)
class FamiliarTissue:
    """What a model's training tissue looked like to its image backbone.

    Attributes
    ----------
    model
        Name of the model.
    region
        Position of the region, among those of the first pass, whose pooled features are compared.
    references
        These features in each kind of training data: real tissue, and simulated where there was some. Tissue has to be
        like one of them.
    """

    model: str
    region: int
    references: tuple[FeatureReference, ...]

    def distance(self, pooled: torch.Tensor) -> torch.Tensor:
        """Distance to each kind of training data, float32 (n, kinds), of pooled tokens of the first pass.

        ``pooled`` is float32 (n, regions, channels).
        """
        import torch

        from pastpy.metrics import feature_distance

        features = pooled[:, self.region].float().cpu().numpy()
        found = [feature_distance(features, reference) for reference in self.references]
        return torch.from_numpy(np.stack(found, axis=1).astype(np.float32))

    def judge(self, distance: np.ndarray, image_key: str) -> dict[str, Any]:
        """Warn if the tissue is far from all kinds; returns what is known of the nearest, for provenance."""
        from pastpy.metrics import distance_shift

        shifts = [distance_shift(d, reference) for d, reference in zip(distance.T, self.references, strict=True)]
        shift = min(shifts, key=lambda each: each.share_beyond - each.limit)
        if shift.far:
            warn_user(
                f"model {self.model!r}, image {image_key!r}: {shift.message}; compare its predictions with something "
                "measured before you use them"
            )
        return {"share_beyond": shift.share_beyond, "limit": shift.limit, "percentile": shift.percentile}


def familiar_tissue(model: PAST) -> FamiliarTissue | None:
    """The tissue that a model's card describes, or ``None`` if it describes none."""
    from pastpy.metrics import FeatureReference

    described = model.card.facts.get("tissue")
    if described is None:
        return None
    names = [region.name for region in model.passes[0].regions]
    kinds = [described] + ([described["simulated"]] if "simulated" in described else [])
    references = tuple(FeatureReference.from_dict(kind) for kind in kinds)
    return FamiliarTissue(model.config.name, names.index(described["region"]), references)
