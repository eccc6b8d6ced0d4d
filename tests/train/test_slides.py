"""Training data relative to their slides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pastpy.train.simulated import SimulatedCells
from pastpy.train.slides import relative_to_slides


class Section:
    def __init__(self, pooled, spot_pooled) -> None:
        self.pooled, self.spot_pooled = pooled, spot_pooled


@pytest.fixture
def model(tiny_model):
    """A model that takes slides relative to themselves, whose training slides had known statistics."""
    from dataclasses import replace

    from pastpy.models import PAST

    torch.manual_seed(0)
    made = PAST(replace(tiny_model.config, slide_norm=True), tiny_model.card)
    made.feature_mean.fill_(2.0)
    made.feature_std.fill_(3.0)
    return made


def test_views_spots_and_cohorts_are_put_on_the_training_slides(model):
    rng = np.random.default_rng(0)
    shape = (4000, *model.feature_mean.shape)
    levels = (-8.0, 0.0, 5.0)

    def slide(level: float) -> np.ndarray:
        return rng.normal(level, 1.0 + abs(level), shape).astype(np.float32)

    sections = [Section(np.stack([slide(level) for level in levels[:2]]), slide(levels[2]))]
    cohort = np.repeat([0, 1], 4000)
    pooled = np.concatenate([slide(levels[0]), slide(levels[2])])
    cells = SimulatedCells(pooled, np.zeros((8000, 1), np.float16), cohort, cohort, ["A"])
    relative_to_slides(model, sections, cells)
    moved = [*sections[0].pooled, sections[0].spot_pooled, cells.pooled[:4000], cells.pooled[4000:]]
    for found in moved:
        np.testing.assert_allclose(found.mean(axis=0), 2.0, atol=0.5)
        np.testing.assert_allclose(found.std(axis=0), 3.0, rtol=0.15)
