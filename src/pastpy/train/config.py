"""What a training run is: data, model and schedule, as one JSON file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from pastpy.models.config import PASTConfig

__all__ = ["BUNDLED_CONFIGS", "TrainConfig"]

Contrastive = Literal["info_nce", "soft_target_clip", "siglip"]

BUNDLED_CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class TrainConfig:
    """A training run on Spatial Transcriptomics sections and single cells.

    Attributes
    ----------
    model
        Entries of :class:`pastpy.models.PASTConfig`; with ``"size"``, those that differ from that size's.
    data
        Folder with the data; the environment variable ``PASTPY_SHARED_DATA`` or ``data=`` of :func:`fit` override it.
    train_sections, validation_sections
        Names of sections in ``her2st/``; the first validation section is only scored, for the model's card,
        and chooses nothing of the run; without one the card trusts no gene.
    mpp
        µm per pixel of the sections' images.
    spot_diameter_um
        Diameter of their spots, µm.
    single_cells
        Use ``xenium_breast_cells/`` for the expression side.
    simulated_cohorts, simulated_donors
        Simulated cohorts to learn single cells from, and donors in each; see :func:`pastpy.datasets.simulate_tissue`.
    min_detection
        Genes of the vocabulary are counted in at least this share of training spots, or are in the panel of the single
        or simulated cells.
    views
        Augmented copies of every section (stain, blur, flips, µm/px) beside the original.
    style_sd
        Every step sees each section's tokens through random factors (log-normal) and offsets (in standard deviations)
        of this spread, one a channel for the whole section: what another donor or laboratory would do to features.
    outline_dropout
        Share of sections and simulated donors whose cells are shown without their outlines in a step, for a model with
        a region of kind ``"outline"``: users may have none.
    outline_noise
        Share of simulated donors, of those whose outlines are shown, whose outlines get noise of up to 1.5 standard
        deviations in a step: they are the true ones, and users have those that somebody has found.
    epochs, batch_spots, cells_per_spot, batch_simulated, learning_rate, weight_decay, readout_decay
        Schedule: passes over the spots, spots a step, cells drawn from each, simulated cells a step; AdamW;
        ``readout_decay`` is the weight decay of the decoder's per-gene weights.
    expression_every
        The expression side, whose thousands of measured genes a spot take more time than all else, is trained in every
        so-manieth step.
    weights
        Weight of each loss: ``image``, ``profile`` (log-normalised expression of the spots' variable genes),
        ``expression`` (with or without the image), ``contrastive``, ``cells``, ``simulated`` (correlation, within a
        donor, of simulated cells' predicted log expression with the best that their image allows), ``coexpression``
        (the same of genes that are not simulated, inferred from those that are: ``pastpy/train/coexpression.py``; 0
        leaves it out, and it needs ``single_cells``), and ``joint`` for a model whose joint embedding is learnt.
    contrastive
        Which contrastive loss: ``"info_nce"``, ``"soft_target_clip"``, or ``"siglip"`` for a model with ``logit_bias``.
    linear_penalty, linear_simulated
        Of a model with a linear readout: penalty of its ridge regression, beside a mean square of standardised features
        of one, and weight of simulated cells, all together, beside that of all spots.
    spot_technology, cell_technology
        What a model with ``technologies`` is told of spots and of single cells.
    seed
        Random seed of the run.
    """

    model: dict[str, Any]
    data: str = "../shared/data"
    train_sections: tuple[str, ...] = ("C2", "C4", "C5", "C6")
    validation_sections: tuple[str, ...] = ("C3",)
    mpp: float = 0.69
    spot_diameter_um: float = 100.0
    single_cells: bool = True
    simulated_cohorts: int = 0
    simulated_donors: int = 8
    min_detection: float = 0.3
    views: int = 4
    style_sd: float = 0.0
    outline_dropout: float = 0.0
    outline_noise: float = 0.0
    epochs: int = 60
    batch_spots: int = 32
    cells_per_spot: int = 8
    batch_simulated: int = 512
    expression_every: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    readout_decay: float = 1e-1
    weights: dict[str, float] = field(
        default_factory=lambda: {
            "image": 1.0, "profile": 3.0, "expression": 0.5, "contrastive": 0.02, "cells": 0.3, "joint": 0.02,
            "simulated": 1.0,
        }
    )  # fmt: skip
    contrastive: Contrastive = "info_nce"
    linear_penalty: float = 30.0
    linear_simulated: float = 1.0
    spot_technology: str = "st"
    cell_technology: str = "xenium"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("outline_dropout", "outline_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share, from 0 to 1; got {getattr(self, name)}")
        if self.linear_penalty <= 0 or self.linear_simulated < 0:
            raise ValueError(
                f"linear_penalty must be positive and linear_simulated 0 or more; got {self.linear_penalty} and "
                f"{self.linear_simulated}"
            )
        if self.contrastive not in get_args(Contrastive):
            raise ValueError(f"contrastive={self.contrastive!r} is unknown; use one of {list(get_args(Contrastive))}")

    @property
    def model_config(self) -> PASTConfig:
        """Architecture of the model to train.

        Raises
        ------
        ValueError
            If it is one that :func:`fit` cannot train.
        """
        entries = dict(self.model)
        size = entries.pop("size", None)
        config = PASTConfig.from_dict(entries) if size is None else PASTConfig.of_size(size, **entries)
        if config.backbone_training != "frozen" or config.neighbours:
            raise ValueError(
                "fit trains on tokens that were pooled once, spot by spot: it needs backbone_training='frozen' and "
                f"neighbours=0, got {config.backbone_training!r} and {config.neighbours}"
            )
        if self.contrastive == "siglip" and not config.logit_bias:
            raise ValueError("contrastive='siglip' needs logit_bias=true in the model")
        told = {self.spot_technology, self.cell_technology} if config.technologies else set()
        if told - set(config.technologies):
            raise ValueError(
                f"spot_technology and cell_technology must be among the model's technologies "
                f"{list(config.technologies)}, got {sorted(told)}"
            )
        return config

    @classmethod
    def from_json(cls, name_or_path: str | Path) -> TrainConfig:
        """Read a configuration from a file, or one of the bundled ones by name.

        Raises
        ------
        ValueError
            If there is no such configuration, or it has entries that are not known.
        """
        path = Path(name_or_path)
        if not path.is_file():
            path = BUNDLED_CONFIGS / f"{name_or_path}.json"
        if not path.is_file():
            known = sorted(p.stem for p in BUNDLED_CONFIGS.glob("*.json"))
            raise ValueError(f"no training configuration {str(name_or_path)!r}: neither a file nor one of {known}")
        try:
            raw = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        entries = {f.name for f in fields(cls)}
        if not isinstance(raw, dict) or "model" not in raw or set(raw) - entries:
            raise ValueError(f"{path} is not a training configuration: it must have 'model' and only {sorted(entries)}")
        for name in ("train_sections", "validation_sections"):
            if name in raw:
                raw[name] = tuple(raw[name])
        return cls(**raw)
