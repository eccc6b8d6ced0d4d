"""An instrument's data and the H&E of its section: opened, checked against each other, and brought together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pastpy import _keys
from pastpy._elements import record_added, unit_geometry
from pastpy._provenance import record
from pastpy.io._affine import Alignment, affine_mpp, read_alignment
from pastpy.io._resolution import check_plausible
from pastpy.io._wsi import add_image, open_slide

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from pastpy.io._slide import Slide

__all__ = ["HE", "add_he", "open_he"]

#: Relative difference of the µm/px by the alignment and by the file that is worth a word, and that which shows that the
#: alignment belongs to another image.
_DIFFERS, _FOREIGN = 0.02, 0.10


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


def open_he(image: Path, alignment: Path, *, pixel_um: float, mpp: float | None) -> HE:
    """Open an H&E and its alignment, and check one by the other.

    Parameters
    ----------
    image
        Slide file.
    alignment
        File with a 3×3 matrix or with keypoints.
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
    found = read_alignment(alignment, pixel_um=pixel_um)
    by_alignment = affine_mpp(found.matrix, pixel_um=pixel_um, name=alignment.name)
    known = slide.mpp if mpp is None else (check_plausible(mpp, "mpp"),)
    if known is not None:
        stated = sum(known) / len(known)
        text = (
            f"by alignment {alignment.name} the H&E has {by_alignment:.4g} µm/px, "
            f"{image.name if mpp is None else 'mpp='} says {stated:.4g}"
        )
        off = abs(by_alignment / stated - 1)
        if off > _FOREIGN:
            raise ValueError(f"{text}; {_how_to_mend(pixel_um**2 / by_alignment / stated)}")
        if off > _DIFFERS:
            warnings.warn(f"{text}; the alignment's is used", UserWarning, stacklevel=3)
    return HE(slide, found, by_alignment)


def _how_to_mend(inverted: float) -> str:
    if abs(inverted - 1) < _FOREIGN:
        return "it fits if the matrix is inverted: it must map H&E pixels to the instrument's pixels"
    return "pass the image that the alignment was made with, at full resolution, or its true µm/px as mpp="


def add_he(
    sdata: SpatialData, he: HE, image_key: str, *, table_key: str, function: str, parameters: Mapping[str, Any]
) -> None:
    """Put the H&E into ``global``, the table's positions into µm on it, and what was done into ``uns``.

    Images that are there already are noted so that defaults skip them. The table's region says which shapes it
    annotates.
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
        table.obsm[_keys.SPATIAL] = unit_geometry(sdata, table_key, region, image_key, mpp=he.mpp).spatial_um
    aligned = {
        "he_to_global": he.alignment.matrix.tolist(),
        "keypoints": he.alignment.n_points,
        "residual_um": he.alignment.residual_um,
        "mpp": he.mpp,
    }
    record(table, function, {**parameters, **aligned})
