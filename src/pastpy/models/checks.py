"""What a model takes: counts that are counts, and crops."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_matrix

__all__ = ["check_counts", "check_pixels"]


def check_counts(counts: csr_matrix, what: str, remedy: str) -> None:
    """Refuse values that are no counts.

    Raises
    ------
    ValueError
        Unless every value is a non-negative integer; it says what they are and what to do.
    """
    import numpy as np

    values = counts.data
    bad = ~np.isfinite(values) | (values < 0) | (values != np.round(values))
    if bad.any():
        raise ValueError(
            f"{what} must hold raw counts (non-negative integers), but {int(bad.sum())} values are not, e.g. "
            f"{values[bad][0]:g}; {remedy}"
        )


def check_pixels(pixels: torch.Tensor) -> None:
    """Refuse what are no normalised crops.

    Raises
    ------
    ValueError
        Unless the pixels are floats (n, 3, h, w).
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.is_floating_point():
        raise ValueError(
            f"pixels must be float (n, 3, h, w), got {str(pixels.dtype).removeprefix('torch.')} "
            f"{tuple(pixels.shape)}; divide 8-bit values by 255 and normalise by model.image_stats, one crop a cell"
        )
