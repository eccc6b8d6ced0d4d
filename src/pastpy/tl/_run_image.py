"""Run a model over the image of a table's rows: choose the step, the place for the rows, and start the engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from pastpy.engine import Head, MemorySink, Step, ZarrSink
    from pastpy.models import PAST
    from pastpy.tl._inputs import ImageInput, Model, Options

__all__ = ["PastHead", "image_tokens", "past_step", "run_image"]


@dataclass
class PastHead:
    """A head that holds a model of pastpy's; subclasses say what they make of the cells' image tokens."""

    model: PAST

    def __call__(self, pooled: torch.Tensor, units: np.ndarray) -> Mapping[str, torch.Tensor]:
        """Named outputs of pooled tokens, float32 (n, regions, channels)."""
        return self.outputs(self.model.image_tokens(pooled), units)

    def outputs(self, tokens: torch.Tensor, units: np.ndarray) -> Mapping[str, torch.Tensor]:
        """Named outputs of image tokens, float32 (n, regions, dim)."""
        raise NotImplementedError

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)


class Tokens(PastHead):
    """Keeps the image tokens themselves, for what needs those of all cells at once."""

    def outputs(self, tokens: torch.Tensor, units: np.ndarray) -> Mapping[str, torch.Tensor]:
        """The tokens."""
        return {"tokens": tokens}


@dataclass
class _PooledCrops:
    """A model of pastpy's whose backbone wants crops of one size, as an encoder of crops."""

    model: PAST

    @property
    def crop_px(self) -> int:
        """Side of a crop, target pixels."""
        assert self.model.crop_px is not None
        return self.model.crop_px

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens pooled around the middle of crops, float32 (n, regions, channels)."""
        import torch

        mean, std = (torch.tensor(s, device=pixels.device).view(1, -1, 1, 1) for s in self.model.image_stats)
        return self.model.pool_crops((pixels - mean) / std)

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)


def past_step(model: PAST, mode: str, head: Head) -> Step:
    """What is done with a field: tokens pooled under each cell, or a crop a cell where the backbone needs one."""
    from pastpy.engine import CropStep, TokenStep

    if mode == "crop" and model.crop_px is not None:
        return CropStep(_PooledCrops(model), head)
    config = model.config
    return TokenStep(model.image_encoder, config.regions, head, config.target_mpp, one_each=mode == "crop")


def run_image(
    inputs: ImageInput, model: Model, step: Step, options: Options, *, identity: Mapping[str, Any]
) -> MemorySink | ZarrSink:
    """Run the engine over an image input; returns the sink with the step's outputs.

    Parameters
    ----------
    inputs
        The image and the rows' outlines.
    model
        The model, for its hash.
    step
        What is done with every field.
    options
        The call's.
    identity
        What the outputs depend on beside image, outlines and model; with ``resume``, another one is refused.
    """
    from pastpy.engine import MemorySink, ZarrSink, run_step

    n = len(inputs.spatial_um)
    sink: MemorySink | ZarrSink = MemorySink(n)
    if options.resume is not None:
        sink = ZarrSink(options.resume, n, {**identity, **_identity(inputs, model)})
    run_step(
        inputs.reader, inputs.shapes, step, sink, device=options.device, batch_size=options.batch_size,
        client=options.client, progress=options.progress,
    )  # fmt: skip
    return sink


def image_tokens(inputs: ImageInput, model: PAST, options: Options, mode: str) -> torch.Tensor:
    """Image tokens of all rows, float32 (n, regions, dim), that know of their neighbours where the model wants it.

    Rows without pixels are NaN.
    """
    import torch

    from pastpy.models import nearest_cells

    step = past_step(model, mode, Tokens(model))
    sink = run_image(inputs, model, step, options, identity={"output": "tokens", "mode": mode})
    n, shape = len(inputs.spatial_um), (len(model.config.regions), model.config.dim)
    found = sink["tokens"] if "tokens" in sink else np.full((n, *shape), np.nan, dtype=np.float32)
    tokens = torch.from_numpy(found).to(model.device)
    if not model.config.neighbours:
        return tokens
    near = nearest_cells(inputs.spatial_um, model.config.neighbours, model.config.neighbour_radius_um)
    index, distance = (torch.from_numpy(part).to(model.device) for part in near)
    with torch.inference_mode():
        return model.add_neighbours(tokens, index, distance)


def _identity(inputs: ImageInput, model: Model) -> dict[str, Any]:
    """Hashes of model, image and outlines, and what else decides the outputs."""
    from pastpy._settings import settings
    from pastpy.engine import array_fingerprint, image_fingerprint, model_fingerprint

    return {
        "model": model_fingerprint(model),
        "configuration": array_fingerprint(np.frombuffer(repr(model.config).encode(), dtype=np.uint8)),
        "image": image_fingerprint(inputs.reader),
        "µm/px": inputs.facts["mpp"],
        "model µm/px": inputs.facts["target_mpp"],
        "outlines": array_fingerprint(inputs.shapes.centroids, inputs.shapes.extent),
        "precision": settings.precision,
        "pastpy version": version("pastpy"),
    }
