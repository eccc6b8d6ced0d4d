"""Training data relative to the slides they are from, as a model with ``slide_norm`` sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pastpy.models.past import PAST
    from pastpy.train.data import Section
    from pastpy.train.simulated import SimulatedCells

__all__ = ["relative_to_slides"]


def relative_to_slides(model: PAST, sections: Sequence[Section], simulated: SimulatedCells | None) -> None:
    """Move and stretch the features of every slide so that they have the mean and spread of the training slides.

    Every view of a section is a slide of its own, and so are its spots, and every simulated cohort. What is done to
    them afterwards with the training slides' statistics is then what a model does with a slide's own. Changed in place.
    """
    for section in sections:
        for view in section.pooled:
            view[:] = _moved(model, view)
        section.spot_pooled = _moved(model, section.spot_pooled)
    if simulated is not None:
        for cohort in np.unique(simulated.cohort):
            rows = slice(*np.searchsorted(simulated.cohort, (cohort, cohort + 1)))
            simulated.pooled[rows] = _moved(model, simulated.pooled[rows].astype(np.float32))


def _moved(model: PAST, pooled: np.ndarray) -> np.ndarray:
    """Features of a slide with the training slides' mean and spread, float32 (n, regions, channels)."""
    import torch

    found, usual = torch.from_numpy(pooled), model.usual
    return (model.slide_statistics(found).standardise(found) * usual.std + usual.mean).numpy()
