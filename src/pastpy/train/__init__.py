"""Training: one command from a configuration and data to a saved model with its card."""

from __future__ import annotations

from pastpy.train.config import TrainConfig
from pastpy.train.loop import fit
from pastpy.train.ranks import Ranks

__all__ = ["Ranks", "TrainConfig", "fit"]
