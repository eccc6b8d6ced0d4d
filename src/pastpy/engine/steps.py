"""Steps: what is made of a field's pixels, a row for each of its units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pastpy.engine.crops import cut_crops
from pastpy.engine.plan import Field, plan_crops, plan_fields, plan_units, unit_reach
from pastpy.engine.pool import Region, pool_tokens

if TYPE_CHECKING:
    import torch

    from pastpy.engine.encode import FieldEncoder, TokenEncoder
    from pastpy.engine.read import FieldPixels, FieldReader
    from pastpy.engine.shapes import Units, UnitShapes

__all__ = ["CropEncoder", "CropStep", "Head", "Rows", "Step", "TokenStep"]

#: Crops cut out and encoded before their rows are made; bounds memory.
_CROPS = 64

Rows = tuple[np.ndarray, Mapping[str, np.ndarray]]


class Head(Protocol):
    """Maps pooled tokens, float32 (n, regions, channels), or the features of crops to named outputs, (n, …).

    Regions that an earlier pass has pooled come last. The head is also given the positions of the units. One with
    parameters moves them with ``to(device)``.
    """

    def __call__(self, pooled: torch.Tensor, units: np.ndarray, /) -> Mapping[str, torch.Tensor]:
        """Outputs of some units."""
        ...


class CropEncoder(Protocol):
    """A network that takes crops centred on a unit."""

    @property
    def crop_px(self) -> int:
        """Side of a crop, target pixels."""
        ...

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode RGB pixels in [0, 1], float32 (n, 3, crop_px, crop_px), as (n, …)."""
        ...


class Step(Protocol):
    """Plans fields, and makes rows of each of them."""

    def plan(self, reader: FieldReader, shapes: Units, *, core_px: int | None) -> list[Field]:
        """Fields that hold what the units need."""
        ...

    def rows(
        self, field: Field, pixels: FieldPixels, shapes: UnitShapes, encode: FieldEncoder, size: tuple[float, float]
    ) -> Rows:
        """Units that got a row, and their named outputs.

        Parameters
        ----------
        field
            Where the pixels are from.
        pixels
            The field's.
        shapes
            The field's units, relative to its corner.
        encode
            Runs the network on its device.
        size
            Width and height of the image in target pixels.
        """
        ...

    def to(self, device: torch.device) -> None:
        """Move the networks to a device."""
        ...

    @property
    def encode(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The network as a function of RGB pixels in [0, 1], float32 (b, 3, h, w)."""
        ...


@dataclass(frozen=True)
class TokenStep:
    """Encode a field as tokens, pool each unit's, and apply a head.

    Attributes
    ----------
    encoder
        Turns pixels into tokens.
    regions
        What is pooled for every unit.
    head
        Makes outputs of pooled tokens.
    target_mpp
        µm per target pixel.
    one_each
        Encode every unit in a rectangle of its own: the reference, many times slower.
    """

    encoder: TokenEncoder
    regions: Sequence[Region]
    head: Head
    target_mpp: float
    one_each: bool = False

    def plan(self, reader: FieldReader, shapes: Units, *, core_px: int | None) -> list[Field]:
        """Fields that hold what the units need."""
        return plan_units(reader, shapes, self.encoder, self.regions, target_mpp=self.target_mpp, core_px=core_px)

    @property
    def encode(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The network as a function of RGB pixels in [0, 1], float32 (b, 3, h, w)."""
        return self.encoder.tokens

    def rows(
        self, field: Field, pixels: FieldPixels, shapes: UnitShapes, encode: FieldEncoder, size: tuple[float, float]
    ) -> Rows:
        """Units whose regions hold tokens of the image, and their named outputs."""
        if self.one_each:
            pooled = self._pool_each(field, pixels, shapes, encode, size)
        else:
            pooled = self.pool(encode.tokens(pixels, self.encoder), shapes, field, size)
        at_unit = [i for i, region in enumerate(self.regions) if region.at_unit and region.of_image]
        usable = np.isfinite(pooled[:, at_unit]).all(axis=(1, 2))
        if shapes.before is not None:
            pooled = np.concatenate([pooled, shapes.before], axis=1)
        units = field.units[usable]
        return units, _outputs(self.head, pooled[usable], units, encode.device) if len(units) else {}

    def to(self, device: torch.device) -> None:
        """Move encoder and head to a device."""
        _move(self.encoder, device)
        _move(self.head, device)

    def pool(self, tokens: np.ndarray, shapes: UnitShapes, field: Field, size: tuple[float, float]) -> np.ndarray:
        """Mean tokens of a field's units and regions, float32 (n, regions, channels)."""
        return pool_tokens(
            tokens,
            shapes,
            self.regions,
            stride=self.encoder.stride,
            token_centre=self.encoder.token_centre,
            target_mpp=self.target_mpp,
            inside=(-field.x, -field.y, size[0] - field.x, size[1] - field.y),
        )

    def _pool_each(
        self, field: Field, pixels: FieldPixels, shapes: UnitShapes, encode: FieldEncoder, size: tuple[float, float]
    ) -> np.ndarray:
        pooled = np.empty((len(field.units), len(self.regions), self.encoder.channels), dtype=np.float32)
        reach = unit_reach(shapes.extent, self.encoder, self.regions, target_mpp=self.target_mpp)
        each = plan_fields(
            shapes.centroids, reach, core_px=max(field.width, field.height), halo=self.encoder.halo,
            alignment=self.encoder.alignment, one_each=True,
        )  # fmt: skip
        for group in _alike(each):
            cut = (pixels.cut(f.x, f.y, f.width, f.height) for f in group)
            grids = encode.images(cut, (group[0].height, group[0].width))
            for f, tokens in zip(group, grids, strict=True):
                origin = (field.x + f.x, field.y + f.y)
                moved = Field(*origin, f.width, f.height, f.units)
                pooled[f.units] = self.pool(tokens, shapes.take(f.units, (f.x, f.y)), moved, size)
        return pooled


@dataclass(frozen=True)
class CropStep:
    """Encode a crop centred on every unit, and apply a head.

    Attributes
    ----------
    encoder
        Turns crops into features.
    head
        Makes outputs of features.
    """

    encoder: CropEncoder
    head: Head

    def plan(self, reader: FieldReader, shapes: Units, *, core_px: int | None) -> list[Field]:
        """Fields that hold a crop around every unit."""
        return plan_crops(reader, shapes, crop_px=self.encoder.crop_px, core_px=core_px)

    @property
    def encode(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """The network as a function of RGB pixels in [0, 1], float32 (b, 3, h, w)."""
        return self.encoder.features

    def rows(
        self, field: Field, pixels: FieldPixels, shapes: UnitShapes, encode: FieldEncoder, size: tuple[float, float]
    ) -> Rows:
        """All units, and the named outputs of their crops; what lies beyond the image is black."""
        crops = cut_crops(field, pixels, shapes.centroids, self.encoder.crop_px, size)
        features = np.stack(list(encode.images(crops, (self.encoder.crop_px,) * 2)))
        return field.units, _outputs(self.head, features, field.units, encode.device)

    def to(self, device: torch.device) -> None:
        """Move encoder and head to a device."""
        _move(self.encoder, device)
        _move(self.head, device)


def _move(part: object, device: torch.device) -> None:
    """Move a part that has parameters; a plain function has none."""
    move = getattr(part, "to", None)
    if move is not None:
        move(device)


def _outputs(head: Head, pooled: np.ndarray, units: np.ndarray, device: torch.device) -> dict[str, np.ndarray]:
    import torch

    outputs = head(torch.from_numpy(pooled).to(device), units)
    return {name: rows.float().cpu().numpy() for name, rows in outputs.items()}


def _alike(fields: Sequence[Field]) -> Iterator[list[Field]]:
    """Fields in groups of one size, at most so many that their pixels fit into memory."""
    by_size: dict[tuple[int, int], list[Field]] = {}
    for field in fields:
        by_size.setdefault((field.width, field.height), []).append(field)
    for same in by_size.values():
        for start in range(0, len(same), _CROPS):
            yield same[start : start + _CROPS]
