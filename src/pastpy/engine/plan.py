"""Plan: which fields to read, and which units each one serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pastpy.engine.encode import TokenEncoder
    from pastpy.engine.pool import Region
    from pastpy.engine.read import FieldReader
    from pastpy.engine.shapes import Units

__all__ = ["Field", "plan_crops", "plan_fields", "plan_units", "z_order"]

#: Side of a field's core, µm: what its cells need around it adds about a seventh to its side.
CORE_UM = 1024.0
#: Where cells need more around them, the core is at least so many times as wide as that.
CORE_REACHES = 4
#: A slide of fewer fields is divided further, for processors to share, as long as no more than this is encoded for it.
ENOUGH_FIELDS = 4
MORE_PIXELS = 1.4
#: Side of a core in crop mode, target pixels: crops are cut from the resampled field.
CROP_CORE_PX = 1024


@dataclass(frozen=True)
class Field:
    """A rectangle of the image at the model's µm/px, and the units whose tokens are pooled from it.

    Attributes
    ----------
    x, y
        Top-left corner in target pixels; may be negative at the image's edge.
    width, height
        Sides in target pixels.
    units
        int64 positions of the units.
    """

    x: int
    y: int
    width: int
    height: int
    units: np.ndarray


def plan_fields(
    centroids: np.ndarray,
    reach: np.ndarray,
    *,
    core_px: int,
    halo: int,
    alignment: int,
    within: tuple[float, float] = (np.inf, np.inf),
    margin: float = np.inf,
    one_each: bool = False,
) -> list[Field]:
    """Assign units to square cores and give each core a field that holds all it needs.

    A field is the bounding box of its units, each with its reach, widened by the halo and snapped outwards to the
    alignment. Cores follow a Z-order curve, so that consecutive fields share store chunks.

    Parameters
    ----------
    centroids
        float (n, 2), x and y in target pixels; rows with NaN are in no field.
    reach
        float (n,), pixels around its centroid that a unit needs.
    core_px
        Side of a core in target pixels.
    halo
        Pixels that the encoder sees around a token.
    alignment
        Corners and sides of fields are multiples of this.
    within, margin
        Width and height of the image, and pixels beyond it that are still of use: no field goes farther.
    one_each
        Give every unit a field of its own: the slow reference that the shared fields must equal.

    Returns
    -------
    Fields in reading order; every unit with a finite centroid is in exactly one.

    Examples
    --------
    >>> import numpy as np
    >>> fields = plan_fields(
    ...     np.array([[10.0, 10.0], [12.0, 9.0]]), np.array([4.0, 4.0]), core_px=64, halo=8, alignment=16
    ... )
    >>> [(f.x, f.y, f.width, f.height, f.units.tolist()) for f in fields]
    [(-16, -16, 48, 48, [0, 1])]
    """
    located = np.flatnonzero(np.isfinite(centroids).all(axis=1))
    if located.size == 0:
        return []
    core = np.floor(centroids[located] / core_px).astype(np.int64)
    order = np.lexsort((located, z_order(core - core.min(axis=0))))
    located, core = located[order], core[order]
    starts = (
        np.arange(located.size) if one_each else np.flatnonzero(np.r_[True, (np.diff(core, axis=0) != 0).any(axis=1)])
    )
    farthest = np.array(within) + margin
    fields = []
    for units in np.split(located, starts[1:]):
        low = np.maximum((centroids[units] - reach[units, None]).min(axis=0) - halo, -margin)
        high = np.minimum((centroids[units] + reach[units, None]).max(axis=0) + halo, farthest)
        x0, y0 = (np.floor(low / alignment) * alignment).astype(int)
        x1, y1 = (np.ceil(high / alignment) * alignment).astype(int)
        fields.append(Field(int(x0), int(y0), int(x1 - x0), int(y1 - y0), units))
    return fields


def plan_units(
    reader: FieldReader,
    shapes: Units,
    encoder: TokenEncoder,
    regions: Sequence[Region],
    *,
    target_mpp: float,
    core_px: int | None = None,
) -> list[Field]:
    """Fields for the units that are centred on the image, wide enough for every region.

    Parameters
    ----------
    reader
        The image; units centred beyond it are in no field.
    shapes
        Units in target pixels.
    encoder
        Says what a token sees, and where fields may begin.
    regions
        What is pooled for every unit.
    target_mpp
        µm per target pixel.
    core_px
        Side of a field's core in target pixels; ``None`` takes 1024 µm, more for wide regions, less on small slides.
    """
    reach = unit_reach(shapes.extent, encoder, regions, target_mpp=target_mpp)
    plan = partial(
        plan_fields, on_image(reader, shapes.centroids), reach, halo=encoder.halo, alignment=encoder.alignment,
        # a token whose square touches the image is pooled, and sees its halo
        within=(reader.width, reader.height), margin=encoder.stride + encoder.halo,
    )  # fmt: skip
    side = core_px or round(max(CORE_UM, CORE_REACHES * _widest_um(regions)) / target_mpp)
    fields = plan(core_px=side)
    # by the units alone, never by the machine: a run that is resumed must find the same fields
    while core_px is None and 0 < len(fields) < ENOUGH_FIELDS and side > encoder.alignment:
        side //= 2
        smaller = plan(core_px=side)
        if _pixels(smaller) > MORE_PIXELS * _pixels(fields):
            break
        fields = smaller
    return fields


def _pixels(fields: Sequence[Field]) -> int:
    return sum(f.width * f.height for f in fields)


def plan_crops(reader: FieldReader, shapes: Units, *, crop_px: int, core_px: int | None = None) -> list[Field]:
    """Fields that hold a square crop around every unit that is centred on the image."""
    centroids = on_image(reader, shapes.centroids)
    # a crop's corner is rounded to whole pixels
    reach = np.full(len(centroids), crop_px / 2 + 1)
    return plan_fields(centroids, reach, core_px=core_px or CROP_CORE_PX, halo=0, alignment=1)


def unit_reach(
    extent: np.ndarray, encoder: TokenEncoder, regions: Sequence[Region], *, target_mpp: float
) -> np.ndarray:
    """Pixels around its centroid in which a unit needs tokens, float (n,)."""
    return np.maximum(extent, _widest_um(regions) / target_mpp) + encoder.stride


def _widest_um(regions: Sequence[Region]) -> float:
    return max((region.reach_um for region in regions), default=0.0)


def on_image(reader: FieldReader, centroids: np.ndarray) -> np.ndarray:
    """Centroids in target pixels, NaN where they lie beyond the image."""
    x, y = centroids.T
    inside = (x >= 0) & (y >= 0) & (x <= reader.width) & (y <= reader.height)
    return np.where(inside[:, None], centroids, np.nan)


def z_order(cells: np.ndarray) -> np.ndarray:
    """Place on a space-filling curve, int64 (n,): the bits of two non-negative columns interleaved (Morton, 1966)."""
    code = np.zeros(len(cells), dtype=np.int64)
    for bit in range(31):
        code |= ((cells[:, 0] >> bit) & 1) << (2 * bit)
        code |= ((cells[:, 1] >> bit) & 1) << (2 * bit + 1)
    return code
