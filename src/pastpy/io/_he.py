"""An instrument's data and the H&E of its section: opened, checked against each other, and brought together."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import record_added, unit_geometry
from pastpy._provenance import record
from pastpy.io._affine import Alignment, affine_mpp, given_matrix, read_alignment
from pastpy.io._cells import check_on_image
from pastpy.io._resolution import DIFFERS, FOREIGN, stated_mpp
from pastpy.io._wsi import add_image, open_slide

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from spatialdata import SpatialData

    from pastpy.io._slide import Slide

__all__ = ["HE", "add_he", "he_path", "open_he"]


@dataclass(frozen=True)
class HE:
    """An H&E and where it lies.

    Attributes
    ----------
    slide
        The image.
    alignment
        From its pixels to the instrument's.
    mpp
        µm per level-0 pixel, by the alignment.
    """

    slide: Slide
    alignment: Alignment
    mpp: float


def he_path(image: object) -> Path:
    """What is given as ``he_image=`` as a path, else a ``ValueError``."""
    if not isinstance(image, str | os.PathLike) or not os.fspath(image):
        raise ValueError(f"he_image= must be the path of a slide, got {' '.join(repr(image).split())[:120]}")
    return Path(image)


def open_he(image: Path, alignment: str | Path | ArrayLike, *, pixel_um: float, mpp: float | None) -> HE:
    """Open an H&E and its alignment, and check one by the other.

    Parameters
    ----------
    image
        Slide file.
    alignment
        File with a 3×3 matrix or with keypoints, or the matrix itself.
    pixel_um
        µm per pixel of the instrument's image.
    mpp
        µm/px of the H&E, in place of what the file states.

    Raises
    ------
    FileNotFoundError
        If one of the files is missing.
    ValueError
        If one cannot be used, or the µm/px by the alignment is more than 10 % off.
    """
    slide = open_slide(image)
    if isinstance(alignment, str | os.PathLike) and os.fspath(alignment):
        name = Path(alignment).name
        found = read_alignment(Path(alignment), pixel_um=pixel_um)
    else:
        name = "he_alignment="
        found = given_matrix(alignment, name)
    by_alignment = affine_mpp(found.matrix, pixel_um=pixel_um, name=name)
    stated = stated_mpp(mpp, slide.mpp)
    if stated is not None:
        text = (
            f"by alignment {name} the H&E has {by_alignment:.4g} µm/px, "
            f"{image.name if mpp is None else 'mpp='} says {stated:.4g}"
        )
        off = abs(by_alignment / stated - 1)
        if off > FOREIGN:
            raise ValueError(f"{text}; {_how_to_mend(pixel_um**2 / by_alignment / stated)}")
        if off > DIFFERS:
            warnings.warn(f"{text}; the alignment's is used", UserWarning, stacklevel=3)
    return HE(slide, found, by_alignment)


def _how_to_mend(inverted: float) -> str:
    if abs(inverted - 1) < FOREIGN:
        return "it fits if the matrix is inverted: it must map H&E pixels to the instrument's pixels"
    return "pass the image that the alignment was made with, at full resolution, or its true µm/px as mpp="


def _inverted(matrix: np.ndarray, pixels: np.ndarray, slide: Slide) -> str:
    """What to say of cells that would lie on the H&E if the matrix were the other way round; nothing otherwise."""
    for _ in range(2):  # from where the matrix puts them to the morphology image, and on as if it led to the H&E
        pixels = pixels @ matrix[:2, :2].T + matrix[:2, 2]
    inside = ((pixels >= 0) & (pixels <= slide.levels[0].shape[:0:-1])).all(axis=1)
    if inside.sum() * 2 < len(pixels):
        return ""
    return (
        f"; {inside.mean():.0%} would lie on it if the matrix were inverted: it must lead from H&E to morphology pixels"
    )


def add_he(
    sdata: SpatialData,
    he: HE,
    image_key: str,
    *,
    pixel_um: float,
    table_key: str,
    function: str,
    parameters: Mapping[str, Any],
) -> None:
    """Put the H&E into ``global``, the table's positions into µm on it, and what was done into ``uns``.

    Images that are there already are noted so that defaults skip them. The table's region says which shapes it
    annotates; without them, its own positions are taken, which are the instrument's µm.

    Raises
    ------
    ValueError
        If none of the cells comes to lie on the H&E.
    """
    from spatialdata.models import TableModel

    for name in list(sdata.images):
        record_added(sdata, name)
    add_image(sdata, image_key, he.slide, mpp=he.mpp, to_global=he.alignment.matrix)
    if table_key not in sdata.tables:
        return
    table = sdata.tables[table_key]
    region = table.uns[TableModel.ATTRS_KEY][TableModel.REGION_KEY]
    if isinstance(region, str) and region in sdata.shapes:
        pixels = unit_geometry(sdata, table_key, region, image_key, mpp=he.mpp).centroids
    else:
        inverse = np.linalg.inv(he.alignment.matrix)
        pixels = np.asarray(table.obsm[_keys.SPATIAL], dtype=float) / pixel_um @ inverse[:2, :2].T + inverse[:2, 2]
    check_on_image(
        sdata, image_key, pixels, f"the alignment of H&E {image_key!r}", what="cells",
        hint=_inverted(he.alignment.matrix, pixels, he.slide),
    )  # fmt: skip
    table.obsm[_keys.SPATIAL] = pixels * he.mpp
    aligned = {
        "he_to_global": he.alignment.matrix.tolist(),
        "keypoints": he.alignment.n_points,
        "residual_um": he.alignment.residual_um,
        "mpp": he.mpp,
    }
    record(table, function, {**parameters, **aligned})
