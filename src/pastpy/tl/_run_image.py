"""Run a model over the image of a table's rows: choose the steps, the place for the rows, and start the engine.

A model says in ``passes`` how often its encoder reads the image: each pass has a name, µm per pixel (``target_mpp``)
and what is pooled for every cell (``regions``). Every pass is a run of the engine of its own, over fields of its own.
The pooled tokens of all passes, (n, regions of all passes, channels) in the order of ``passes``, are what
``model.image_tokens`` takes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pastpy.tl._familiar import DISTANCE, FamiliarTissue, familiar_tissue

if TYPE_CHECKING:
    import torch

    from pastpy.engine import CropStep, MemorySink, Sink, Step, TokenStep, Units, ZarrSink
    from pastpy.models import PAST, ImagePass, SlideStatistics
    from pastpy.tl._inputs import ImageInput, Model, Options

__all__ = ["NormalisedCrops", "PastHead", "image_tokens", "over_regions", "run_image", "run_past"]

Rows = TypeVar("Rows", np.ndarray, "torch.Tensor")


@dataclass
class PastHead:
    """A head that holds a model of pastpy's; subclasses say what they make of the cells' image tokens."""

    model: PAST
    #: Features of the tissue that the model was trained on, if its card has them.
    familiar: FamiliarTissue | None = field(init=False)
    #: Statistics of the slide that is worked, where the model asks for them.
    slide: SlideStatistics | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.familiar = familiar_tissue(self.model)

    def __call__(self, pooled: torch.Tensor, units: np.ndarray) -> Mapping[str, torch.Tensor]:
        """Named outputs of pooled tokens of all passes, float32 (n, regions, channels)."""
        distance = {} if self.familiar is None else {DISTANCE: self.familiar.distance(pooled)}
        return {**self.outputs(lambda: self.model.image_tokens(pooled, self.slide), units), **distance}

    def outputs(self, tokens: Callable[[], torch.Tensor], units: np.ndarray) -> Mapping[str, torch.Tensor]:
        """Named outputs of what ``tokens()`` gives: image tokens, float32 (n, n_image_tokens, dim)."""
        raise NotImplementedError

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)


class Tokens(PastHead):
    """Keeps the image tokens themselves, for what needs those of all cells at once."""

    def outputs(self, tokens: Callable[[], torch.Tensor], units: np.ndarray) -> Mapping[str, torch.Tensor]:
        """The tokens."""
        return {"tokens": tokens()}


@dataclass
class NormalisedCrops:
    """A model that encodes crops of one size, as an encoder of crops.

    Attributes
    ----------
    model
        Says how large crops are, and how their pixels are normalised.
    encode
        Its method from normalised pixels, float32 (n, 3, crop_px, crop_px), to features, (n, …).
    """

    model: Model
    encode: Callable[[torch.Tensor], torch.Tensor]

    @property
    def crop_px(self) -> int:
        """Side of a crop, target pixels."""
        assert self.model.crop_px is not None
        return self.model.crop_px

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode crops, RGB in [0, 1]."""
        import torch

        mean, std = (torch.tensor(s, device=pixels.device).view(1, -1, 1, 1) for s in self.model.image_stats)
        return self.encode((pixels - mean) / std)

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)


def over_regions(images: Sequence[ImageInput], options: Options, run: Callable[[ImageInput, Options], Rows]) -> Rows:
    """Run each region of a table on its own image; returns all rows, (n, …), in the table's order.

    Rows of two regions never meet. With ``resume``, each of several regions has a store of its own.
    """
    import torch

    if len(images) == 1:
        return run(images[0], options)
    parts = []
    for image in images:
        place = None if options.resume is None else beside(Path(options.resume), image.facts["shapes_key"])
        parts.append(run(image, replace(options, resume=place)))
    with torch.inference_mode():  # tokens were made in it
        for image, part in zip(images[1:], parts[1:], strict=True):
            parts[0][image.rows] = part[image.rows]
    return parts[0]


def _as_pooled(pooled: torch.Tensor, units: np.ndarray) -> Mapping[str, torch.Tensor]:
    """What a pass has pooled, as it is."""
    return {"pooled": pooled}


def run_past(
    inputs: ImageInput,
    model: PAST,
    head: PastHead,
    options: Options,
    mode: str,
    *,
    output: str,
    shape: tuple[int, ...],
    identity: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Run a model's passes over an image input; returns an output of the head for all rows.

    Further passes go first, and what they pooled waits on disk for the cells of the first pass: that is a few hundred
    bytes a cell, while fields with the reach of a coarse pass at the pixels of the fine one would be many times larger.
    With ``resume``, each pass has a store of its own, which is kept; else it is a temporary one. A store that cannot be
    used is refused before the first pass.

    Where the model knows what tissue it was trained on, a warning says that this tissue is far from it, and
    ``inputs.facts`` how far.

    Parameters
    ----------
    inputs
        The image and the rows' outlines.
    model
        The model.
    head
        Makes outputs of the cells' image tokens.
    options
        The call's.
    mode
        ``"dense"``, or ``"crop"``: a crop a cell.
    output, shape
        Name of the head's output, and its shape without the rows.
    identity
        As in :func:`run_image`; output and mode are part of it.
    """
    from pastpy.engine import CropStep, TokenStep, ZarrSink

    identity = {"output": output, "mode": mode, **(identity or {})}
    wanted = {output: shape}
    if head.familiar is not None:
        wanted[DISTANCE] = (len(head.familiar.references),)
    step: Step
    with tempfile.TemporaryDirectory(prefix="pastpy-") as scratch:
        if mode == "crop" and model.crop_px is not None:
            step, further = CropStep(NormalisedCrops(model, model.pool_crops), head), []
        else:
            first, *further = model.passes
            step = TokenStep(model.image_encoder, first.regions, head, first.target_mpp, mode == "crop")
        passes = [_further(inputs, model, each, options, mode, Path(scratch)) for each in further]
        sink = _sink(inputs, model, options, identity)
        if isinstance(sink, ZarrSink):
            _check_stores(options.resume, sink, [each.sink for each in passes])
        before = [each.run(options) for each in passes]
        head.slide = _slide(inputs, model, step, before, options) if model.config.slide_norm else None
        found = run_image(inputs, model, step, options, outputs=wanted, identity=identity, before=before, sink=sink)
    if head.familiar is not None and np.isfinite(found[DISTANCE]).any():
        inputs.facts["shift"] = head.familiar.judge(found[DISTANCE], inputs.facts["image_key"])
    return found[output]


def _slide(
    inputs: ImageInput,
    model: PAST,
    step: TokenStep | CropStep,
    before: Sequence[Callable[[np.ndarray], np.ndarray]],
    options: Options,
) -> SlideStatistics:
    """Statistics of a slide from cells in a few places; a cell does not depend on which others are in its field."""
    import torch

    from pastpy.engine import MemorySink, PooledBefore, sample_units
    from pastpy.engine.sample import PLACE_UM

    place_px = PLACE_UM / inputs.facts["target_mpp"]
    drawn = sample_units(inputs.shapes.centroids, place=place_px)
    shapes: Units = inputs.shapes.some(drawn)
    for rows in before:
        shapes = PooledBefore(shapes, partial(_rows_of, rows, drawn))
    sink = MemorySink(len(drawn))
    _run_step(
        inputs, shapes, replace(step, head=_as_pooled), sink, replace(options, progress=False),
        core_px=round(place_px),
    )  # fmt: skip
    if "pooled" not in sink:
        return model.usual
    statistics = model.slide_statistics(torch.from_numpy(sink["pooled"]).to(model.device))
    inputs.facts["slide_cells"] = statistics.n_cells
    return statistics


def _rows_of(rows: Callable[[np.ndarray], np.ndarray], drawn: np.ndarray, units: np.ndarray) -> np.ndarray:
    """Rows of units that are counted among those drawn."""
    return rows(drawn[units])


@dataclass
class _Further:
    """A further pass over an image, and where it keeps what it pools."""

    inputs: ImageInput
    step: TokenStep
    sink: ZarrSink

    def run(self, options: Options) -> Callable[[np.ndarray], np.ndarray]:
        """Run it; returns a function that reads what was pooled, float32 (n, regions, channels)."""
        _run_step(self.inputs, self.inputs.shapes, self.step, self.sink, options)
        return self.sink.rows("pooled", (len(self.step.regions), self.step.encoder.channels))


def _further(inputs: ImageInput, model: PAST, each: ImagePass, options: Options, mode: str, scratch: Path) -> _Further:
    from pastpy.engine import TokenStep, ZarrSink

    step = TokenStep(model.image_encoder, each.regions, _as_pooled, each.target_mpp, mode == "crop")
    inputs, n = inputs.at(each.target_mpp), len(inputs.spatial_um)
    if options.resume is None:
        return _Further(inputs, step, ZarrSink(scratch / f"{each.name}.zarr", n, {}))
    identity = {"output": "pooled", "mode": mode, "pass": each.name, **_identity(inputs, model, options)}
    return _Further(inputs, step, ZarrSink(beside(Path(options.resume), each.name), n, identity))


def _check_stores(resume: str | Path | None, sink: ZarrSink, further: Sequence[ZarrSink]) -> None:
    """Refuse a store that cannot be used: the one that was named first, then those of further passes beside it."""
    sink.check()
    for each in further:
        try:
            each.check()
        except ValueError as error:
            raise ValueError(f"resume={str(resume)!r} needs another store beside it, but {error}") from error


def beside(resume: Path, name: str) -> Path:
    """Store of a further pass, or of a region, beside the one that was named.

    Examples
    --------
    >>> beside(Path("runs/a.zarr"), "coarse").name
    'a.coarse.zarr'
    """
    return resume.with_name(f"{resume.stem}.{name}{resume.suffix}")


def run_image(
    inputs: ImageInput,
    model: Model,
    step: Step,
    options: Options,
    *,
    outputs: Mapping[str, tuple[int, ...]],
    identity: Mapping[str, Any],
    before: Sequence[Callable[[np.ndarray], np.ndarray]] = (),
    sink: MemorySink | ZarrSink | None = None,
) -> dict[str, np.ndarray]:
    """Run the engine over an image input; returns outputs of the step for all rows.

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
    outputs
        Names of the outputs, and the shape of each without the rows.
    identity
        What they depend on beside image, outlines and model; with ``resume``, another one is refused.
    before
        Functions from positions of rows to what an earlier pass has pooled for them, float32 (n, regions, channels).
    sink
        Where the rows go, if that was made already.

    Returns
    -------
    float32 (n, …) by name, NaN in rows without pixels.
    """
    from pastpy.engine import PooledBefore

    n = len(inputs.spatial_um)
    if sink is None:
        sink = _sink(inputs, model, options, identity)
    shapes: Units = inputs.shapes
    for rows in before:
        shapes = PooledBefore(shapes, rows)
    _run_step(inputs, shapes, step, sink, options)
    # no field has written anything where no row lies on the image
    return {
        name: sink[name] if name in sink else np.full((n, *shape), np.nan, dtype=np.float32)
        for name, shape in outputs.items()
    }


def _sink(inputs: ImageInput, model: Model, options: Options, identity: Mapping[str, Any]) -> MemorySink | ZarrSink:
    """Where the rows of a call go: into the store that ``resume`` names, or else into memory."""
    from pastpy.engine import MemorySink, ZarrSink

    n = len(inputs.spatial_um)
    if options.resume is None:
        return MemorySink(n)
    return ZarrSink(options.resume, n, {**identity, **_identity(inputs, model, options)})


def _run_step(
    inputs: ImageInput, shapes: Units, step: Step, sink: Sink, options: Options, *, core_px: int | None = None
) -> None:
    from pastpy.engine import run_step

    run_step(
        inputs.reader, shapes, step, sink, device=options.device, batch_size=options.batch_size,
        core_px=core_px, workers=options.workers, progress=options.progress,
    )  # fmt: skip


def image_tokens(inputs: ImageInput, model: PAST, options: Options, mode: str) -> torch.Tensor:
    """Image tokens of all rows, (n, n_image_tokens, dim), that know of their neighbours where the model wants it.

    Rows without pixels are NaN.
    """
    import torch

    from pastpy.models import nearest_cells

    shape = (model.n_image_tokens, model.config.dim)
    found = run_past(inputs, model, Tokens(model), options, mode, output="tokens", shape=shape)
    tokens = torch.from_numpy(found).to(model.device)
    if not model.config.neighbours:
        return tokens
    radius_um = model.config.neighbour_radius_um
    near = nearest_cells(inputs.spatial_um, model.config.neighbours, radius_um, inputs.library)
    index, distance = (torch.from_numpy(part).to(model.device) for part in near)
    with torch.inference_mode():
        return model.add_neighbours(tokens, index, distance)


def _identity(inputs: ImageInput, model: Model, options: Options) -> dict[str, Any]:
    """Hashes of model, image and outlines, and what else decides the outputs."""
    import shapely

    from pastpy.engine import array_fingerprint, image_fingerprint, model_fingerprint
    from pastpy.engine.device import autocast_dtype, resolve_device

    outlines = inputs.shapes
    return {
        "model": model_fingerprint(model),
        "configuration": array_fingerprint(np.frombuffer(repr(model.config).encode(), dtype=np.uint8)),
        "image": image_fingerprint(inputs.reader),
        "µm/px": inputs.facts["mpp"],
        "model µm/px": inputs.facts["target_mpp"],
        "outlines": array_fingerprint(
            outlines.centroids, outlines.extent, shapely.area(outlines.geometry), shapely.length(outlines.geometry)
        ),
        # of the machines that compute: a run that goes on after a night may do so on others
        "precision": (
            options.workers.precision(options.device)
            if options.workers
            else str(autocast_dtype(resolve_device(options.device)))
        ),
        "pastpy version": version("pastpy"),
    }
