"""Shared by the readers of Space Ranger outputs: scale factors, the pitch of spots, and the full-resolution image."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import image_levels, record_added, set_mpp
from pastpy.io._resolution import check_plausible
from pastpy.io._wsi import add_image, open_slide

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from pastpy.io._slide import Slide

__all__ = ["add_images", "hires_size", "into_global", "open_fullres", "pitch_mpp", "read_scalefactors"]

#: Geometry of Visium slides in µm: centre to centre, rows of a hexagonal grid, half steps along a row.
PITCH_UM = 100.0
_COLUMN_UM, _ROW_UM = PITCH_UM / 2, PITCH_UM * np.sqrt(3) / 2
#: What ``spot_diameter_fullres`` spans: Space Ranger states a spot of 65 µm, though 55 µm capture RNA.
_STATED_DIAMETER_UM = 65.0

_DIFFERS, _FOREIGN = 0.02, 0.10


def read_scalefactors(path: Path, needed: tuple[str, ...]) -> dict[str, float]:
    """Space Ranger's ``scalefactors_json.json``.

    Raises
    ------
    ValueError
        If it is damaged, or lacks one of the ``needed`` or has one that is no positive number.
    """
    try:
        factors = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{path.name} cannot be read ({error}); is it complete?") from error
    for name in needed:
        value = factors.get(name) if isinstance(factors, dict) else None
        if not isinstance(value, int | float) or not np.isfinite(value) or value <= 0:
            raise ValueError(f"{path.name}: {name!r} is {value!r}, expected a positive number")
    return factors


def pitch_mpp(array: np.ndarray, pixels: np.ndarray, *, diameter_px: float, name: str) -> float:
    """µm per full-resolution pixel of a Visium slide, from the grid its spots form.

    Neighbouring spots are 100 µm apart, in the image as on the slide, so the grid gives µm/px without any metadata.
    The stated diameter of a spot serves where there are too few spots for a grid.

    Parameters
    ----------
    array
        Integers (n, 2), array column and row of the spots.
    pixels
        float (n, 2), x and y of their centres in full-resolution pixels.
    diameter_px
        ``spot_diameter_fullres``.
    name
        What messages call the data.

    Raises
    ------
    ValueError
        If the spots do not form Visium's grid: the two directions differ by more than 5 %.
    """
    by_diameter = _STATED_DIAMETER_UM / diameter_px
    slide = array.astype(float) * [_COLUMN_UM, _ROW_UM]
    slide -= slide.mean(axis=0)
    spread = np.linalg.svd(slide, compute_uv=False) if len(slide) > 2 else np.zeros(2)
    if spread[-1] < PITCH_UM:
        return by_diameter
    affine = np.linalg.lstsq(slide, pixels - pixels.mean(axis=0), rcond=None)[0]
    large, small = np.linalg.svd(affine, compute_uv=False)
    if small <= 0 or large / small > 1.05:
        raise ValueError(
            f"{name}: its spots do not form Visium's grid (array_row, array_col against pixels); the tissue positions "
            "are not those of this slide"
        )
    mpp = float(1 / np.sqrt(large * small))
    if abs(mpp / by_diameter - 1) > _FOREIGN:
        warnings.warn(
            f"{name}: by the 100 µm between spots the image has {mpp:.4g} µm/px, by spot_diameter_fullres (65 µm) "
            f"{by_diameter:.4g}; the spots' distance is used",
            UserWarning,
            stacklevel=3,
        )
    return mpp


def open_fullres(
    path: Path, *, mpp: float, given: float | None, hires: tuple[int, int] | None, hires_scale: float
) -> Slide:
    """Open the full-resolution image and check that the data were aligned to it.

    Parameters
    ----------
    path
        Slide file.
    mpp
        µm/px by the data.
    given
        What the user says.
    hires
        Width and height of Space Ranger's ``hires`` picture.
    hires_scale
        Its pixels per full-resolution pixel.

    Raises
    ------
    ValueError
        If its size is not that of the image the data were aligned to, or its µm/px is more than 10 % off.
    """
    slide = open_slide(path)
    _, height, width = slide.levels[0].shape
    if hires is not None:
        expected = hires[0] / hires_scale, hires[1] / hires_scale
        # the smaller picture has whole pixels
        slack = 2 / hires_scale + 2
        if abs(width - expected[0]) > slack or abs(height - expected[1]) > slack:
            raise ValueError(
                f"image {path.name} has {width}×{height} px, the data were aligned to one of about "
                f"{expected[0]:.0f}×{expected[1]:.0f}; pass the image that Space Ranger was given, at full resolution"
            )
    known = slide.mpp if given is None else (check_plausible(given, "mpp"),)
    if known is not None:
        stated = sum(known) / len(known)
        off = abs(mpp / stated - 1)
        text = f"by the data the image has {mpp:.4g} µm/px, {path.name if given is None else 'mpp='} says {stated:.4g}"
        # A print resolution or an unset default in the file is no statement; one by the user is.
        if off > _FOREIGN and given is not None:
            raise ValueError(f"{text}; one of them belongs to another image")
        if off > _DIFFERS:
            warnings.warn(f"{text}; the data's is used", UserWarning, stacklevel=4)
    return slide


def add_images(
    sdata: SpatialData, slide: Slide | None, image_key: str, *, prefix: str, mpp: float, factors: dict[str, Any]
) -> None:
    """Add the full-resolution image, and note the µm/px of Space Ranger's small pictures.

    Without a full-resolution image the ``hires`` picture is what defaults find.
    """
    small = [(f"{prefix}_{kind}_image", factors[f"tissue_{kind}_scalef"]) for kind in ("hires", "lowres")]
    for i, (name, scale) in enumerate(pair for pair in small if pair[0] in sdata.images):
        set_mpp(sdata, name, mpp / scale)
        if slide is not None or i:
            record_added(sdata, name)
    if slide is not None:
        add_image(sdata, image_key, slide, mpp=mpp, to_global=np.eye(3))
    else:
        best = f"the picture {small[0][0]!r} has {mpp / small[0][1]:.2g} µm/px" if small[0][0] in sdata.images else ""
        warnings.warn(
            f"no full-resolution image; pass fullres_image_file= to see cells{f' ({best})' if best else ''}",
            UserWarning,
            stacklevel=3,
        )


def hires_size(sdata: SpatialData, prefix: str) -> tuple[int, int] | None:
    """Width and height of the ``hires`` picture, where there is one."""
    name = f"{prefix}_hires_image"
    if name not in sdata.images:
        return None
    sizes = image_levels(sdata, name)[0].sizes
    return sizes["x"], sizes["y"]


def into_global(sdata: SpatialData, dataset_id: str) -> None:
    """Let everything meet in ``global``, which is full-resolution pixels, whatever spatialdata-io called it."""
    from spatialdata.transformations import get_transformation, set_transformation

    # One by one: spatialdata-io gives several elements one and the same dictionary, which
    # SpatialData.rename_coordinate_systems would change once for each of them.
    for _, _, element in list(sdata.gen_spatial_elements()):
        places = dict(get_transformation(element, get_all=True))
        places[_keys.COORDINATE_SYSTEM] = places.pop(dataset_id)
        set_transformation(element, places, set_all=True)
