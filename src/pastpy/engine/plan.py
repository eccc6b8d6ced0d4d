"""Plan: which fields to read, and which units each one serves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Field", "plan_fields"]


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
    centroids: np.ndarray, reach: np.ndarray, *, core_px: int, halo: int, alignment: int, one_each: bool = False
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
    order = np.lexsort((located, _z_order(core - core.min(axis=0))))
    located, core = located[order], core[order]
    starts = (
        np.arange(located.size) if one_each else np.flatnonzero(np.r_[True, (np.diff(core, axis=0) != 0).any(axis=1)])
    )
    fields = []
    for units in np.split(located, starts[1:]):
        low = (centroids[units] - reach[units, None]).min(axis=0) - halo
        high = (centroids[units] + reach[units, None]).max(axis=0) + halo
        x0, y0 = (np.floor(low / alignment) * alignment).astype(int)
        x1, y1 = (np.ceil(high / alignment) * alignment).astype(int)
        fields.append(Field(int(x0), int(y0), int(x1 - x0), int(y1 - y0), units))
    return fields


def _z_order(cells: np.ndarray) -> np.ndarray:
    """Interleave the bits of two non-negative columns (Morton, 1966)."""
    code = np.zeros(len(cells), dtype=np.int64)
    for bit in range(31):
        code |= ((cells[:, 0] >> bit) & 1) << (2 * bit)
        code |= ((cells[:, 1] >> bit) & 1) << (2 * bit + 1)
    return code
