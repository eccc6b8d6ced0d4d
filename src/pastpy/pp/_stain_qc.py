"""Quality of an H&E slide's pixels: focus, clipping, stain colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy._elements import image_levels, require_spatialdata, resolve_image, resolve_mpp
from pastpy.pp._overview import read_windows
from pastpy.pp._parameters import check_whole, is_finite
from pastpy.pp._stain_vectors import REFERENCE, angle_deg, macenko
from pastpy.pp._tissue import tissue_overview
from pastpy.pp._tissue_mask import TissueMaskParameters, white_level

if TYPE_CHECKING:
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["sharpness", "stain_qc"]

#: µm/px at which all is measured.
_QC_MPP = 1.0
#: A tile counts if this share of it is tissue.
_TISSUE_SHARE = 0.5
#: Sharp tissue of four sources had 0.32 to 0.71, blurred by 1 µm (standard deviation) 0.04 to 0.14, by 2 µm below 0.03.
_SHARP = 0.15
#: A pixel is clipped at or beyond these levels.
_DARK, _BRIGHT = 1, 254
_CLIPPED = 0.05
#: Angles between the stains of a slide and the reference from which on colours are unusual, degrees. Four sources had 6
#: to 15 for haematoxylin and 15 to 34 for eosin.
_FAR_DEG = {"haematoxylin": 25.0, "eosin": 45.0}
_CHANNELS = ("red", "green", "blue")


def stain_qc(
    sdata: SpatialData,
    *,
    image_key: str | None = None,
    mpp: float | None = None,
    per: Literal["slide", "tile"] = "slide",
    tile_um: float = 256.0,
    max_tiles: int = 64,
    seed: int = 0,
) -> DataFrame:
    """Focus, clipping and stain colours of the tissue on an H&E slide.

    Tiles that are tissue for the most part are read at 1 µm/px: all of them, or a random choice.

    Parameters
    ----------
    sdata
        Object with an H&E image, (c, y, x), RGB or RGBA; may be lazy.
    image_key
        Name of the image; default: the only one that pastpy did not write.
    mpp
        µm per level-0 pixel; default: what the reader stored.
    per
        One row for the slide, or one a tile.
    tile_um
        Side of a tile, µm.
    max_tiles
        At most so many tiles are read.
    seed
        Which ones.

    Returns
    -------
    DataFrame, indexed by the image's name or by tile:

    - ``n_tiles``, or ``x_um`` and ``y_um`` (top-left corner of the tile, µm);
    - ``focus``: variance of the Laplacian over the variance of the grey levels at 1 µm/px (of a slide the median tile);
      NaN where the image is coarser than that. ``out_of_focus`` (slide): share of tiles below 0.15;
    - ``clipped_bright``, ``clipped_dark``: share of pixels with a channel at the end of its range;
    - ``haematoxylin_red`` … ``eosin_blue``: stain vectors by Macenko's method, optical density of unit length;
      ``haematoxylin_angle``, ``eosin_angle``: their angles to those of Ruifrok & Johnston, degrees; NaN where there is
      too little stain;
    - ``flags``: ``"out of focus"``, ``"clipped"``, ``"unusual haematoxylin"``, ``"unusual eosin"``, ``"no stain"``,
      joined by ``", "``; empty where nothing is wrong.

    Raises
    ------
    KeyError
        If the image cannot be told.
    ValueError
        If µm/px is unknown, the image is not RGB, no tile lies on tissue, or an argument is out of range.

    References
    ----------
    Macenko et al., ISBI 2009, 1107–1110, https://doi.org/10.1109/ISBI.2009.5193250: stain vectors.
    Ruifrok & Johnston, Anal Quant Cytol Histol 23:291–299 (2001): the reference.
    Pech-Pacheco et al., ICPR 2000, https://doi.org/10.1109/ICPR.2000.903548: variance of the Laplacian as focus.

    Examples
    --------
    >>> import pastpy as past
    >>> past.pp.stain_qc(past.datasets.breast_st()).loc["he", "flags"]
    ''
    """
    import pandas as pd

    sdata = require_spatialdata(sdata)
    if per not in ("slide", "tile"):
        raise ValueError(f"per={per!r} is unknown; use 'slide' or 'tile'")
    if not (is_finite(tile_um) and tile_um >= 32 * _QC_MPP):
        raise ValueError(f"tile_um must be a finite number of at least {32 * _QC_MPP:g} µm, got {tile_um!r}")
    check_whole("max_tiles", max_tiles, least=1)
    check_whole("seed", seed, least=0)
    image_key = resolve_image(sdata, image_key)
    mpp = resolve_mpp(sdata, image_key, mpp)
    overview, tissue = tissue_overview(sdata, image_key, mpp, TissueMaskParameters())
    corners = _tile_corners(tissue, overview.mpp, tile_um, max_tiles, seed)
    if not len(corners):
        raise ValueError(
            f"no tile of {tile_um:g} µm on image {image_key!r} is tissue for the most part; check mpp={mpp:g} µm/px, "
            "or pass a smaller tile_um"
        )
    scale = max(_QC_MPP, mpp)
    tiles, corners = read_windows(
        image_levels(sdata, image_key), corners, tile_um, mpp=mpp, target_mpp=scale, name=image_key
    )
    white = white_level(overview.rgb)
    rows = [_measure([tile], white, known_focus=mpp <= _QC_MPP) for tile in tiles]
    if per == "tile":
        frame = pd.DataFrame(rows).drop(columns="out_of_focus")
        return frame.assign(x_um=corners[:, 0], y_um=corners[:, 1]).rename_axis("tile")
    row = _measure(tiles, white, known_focus=mpp <= _QC_MPP)
    return pd.DataFrame([{"n_tiles": len(tiles), **row}], index=pd.Index([image_key], name="image"))


def sharpness(rgb: np.ndarray) -> float:
    """Variance of the Laplacian of the grey levels over their variance, NaN where they do not vary.

    Examples
    --------
    >>> sharpness(np.zeros((8, 8, 3), dtype=np.uint8))
    nan
    """
    from scipy.ndimage import laplace

    grey = rgb.mean(axis=-1, dtype=np.float64)
    spread = float(grey.var())
    return float(laplace(grey).var()) / spread if spread > 0 else float("nan")


def _measure(tiles: list[np.ndarray], white: np.ndarray, *, known_focus: bool) -> dict[str, Any]:
    """The figures of some tiles taken together."""
    pixels = np.concatenate([tile.reshape(-1, 3) for tile in tiles])
    focus = np.array([sharpness(tile) for tile in tiles]) if known_focus else np.full(len(tiles), np.nan)
    seen = focus[np.isfinite(focus)]
    stains = dict(zip(("haematoxylin", "eosin"), macenko(pixels, white), strict=True))
    row: dict[str, Any] = {
        "focus": float(np.median(seen)) if len(seen) else float("nan"),
        "out_of_focus": float(np.mean(seen < _SHARP)) if len(seen) else float("nan"),
        "clipped_bright": float((pixels >= _BRIGHT).any(axis=1).mean()),
        "clipped_dark": float((pixels <= _DARK).any(axis=1).mean()),
    }
    for name, vector in stains.items():
        row |= {f"{name}_{c}": float(v) for c, v in zip(_CHANNELS, vector, strict=True)}
    row |= {
        f"{name}_angle": angle_deg(vector, reference)
        for (name, vector), reference in zip(stains.items(), REFERENCE, strict=True)
    }
    return {**row, "flags": ", ".join(_flags(row))}


def _flags(row: dict[str, Any]) -> list[str]:
    flags = ["out of focus"] if row["focus"] < _SHARP else []
    flags += ["clipped"] if max(row["clipped_bright"], row["clipped_dark"]) > _CLIPPED else []
    if np.isnan(row["haematoxylin_angle"]):
        return [*flags, "no stain"]
    return flags + [f"unusual {name}" for name, far in _FAR_DEG.items() if row[f"{name}_angle"] > far]


def _tile_corners(tissue: np.ndarray, mpp: float, tile_um: float, most: int, seed: int) -> np.ndarray:
    """Corners (n, 2) of tiles of a grid that are tissue for the most part, µm, by rows."""
    side = tile_um / mpp
    rows, columns = (np.arange(0, n - side + 1e-6, side) for n in tissue.shape)
    corners = np.array([(x, y) for y in rows for x in columns]).reshape(-1, 2)
    cut = np.rint(corners).astype(int)
    width = max(1, round(side))
    share = np.array([tissue[y : y + width, x : x + width].mean() for x, y in cut])
    on = np.flatnonzero(share >= _TISSUE_SHARE)
    if len(on) > most:
        on = np.sort(np.random.default_rng(seed).choice(on, most, replace=False))
    return corners[on] * mpp
