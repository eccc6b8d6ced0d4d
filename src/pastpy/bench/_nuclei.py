"""How well nuclei are found: NuCLS tiles, the setting chosen without the tile it is scored on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import add
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy.metrics._detection import DetectionScore, PanopticScore, detection, panoptic_quality
from pastpy.pp._blocks import WorkingImage
from pastpy.pp._objects import measure_objects
from pastpy.pp._watershed import NucleiParameters, watershed_nuclei

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["GRID", "nuclei_loto", "run_nuclei"]

#: Settings to choose from; everything else stays at its default.
GRID: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "smooth_um": (0.6, 0.8, 1.0),
        "threshold_sd": (0.2, 0.35, 0.5),
        "opening_um": (0.5, 1.0),
        "log_sigma_um": (1.5, 2.0),
        # From 15 on, flat round nuclei fall into pieces, whatever the tiles say.
        "log_weight_um": (5.0, 7.5, 10.0),
    }
)
_NUCLS_MPP = 0.25
_DISTANCES_UM = (3.0, 6.0)


@dataclass(frozen=True)
class Tile:
    """One tile with its truth.

    Attributes
    ----------
    name
        Stem of the file.
    image
        The tile, readable at the working resolution.
    truth
        int (h, w), level-0 pixels, 0 is background.
    centroids_um
        float (n, 2), of the visible part of every true nucleus, from the top-left corner.
    mpp
        µm per level-0 pixel.
    """

    name: str
    image: WorkingImage
    truth: np.ndarray
    centroids_um: np.ndarray
    mpp: float


@dataclass(frozen=True)
class Score:
    """Scores of one tile or several.

    Attributes
    ----------
    at
        Detection at each distance in µm.
    panoptic
        Overlap.
    """

    at: dict[float, DetectionScore]
    panoptic: PanopticScore

    def __add__(self, other: Score) -> Score:
        return Score({d: self.at[d] + other.at[d] for d in self.at}, self.panoptic + other.panoptic)

    def row(self) -> dict[str, Any]:
        """Plain numbers for a table."""
        chosen = self.at[_DISTANCES_UM[0]]
        numbers: dict[str, Any] = {"tp": chosen.tp, "fp": chosen.fp, "fn": chosen.fn}
        numbers |= {f"f1_{d:g}um": score.f1 for d, score in self.at.items()}
        return numbers | {"pq": self.panoptic.pq, "segmentation_quality": self.panoptic.segmentation_quality}


def nuclei_loto(folder: str | Path, *, grid: Mapping[str, Sequence[float]] = GRID) -> DataFrame:
    """Leave one tile out: choose the setting on all other tiles, score it on this one.

    The setting with the best pooled detection F1 at 3 µm is chosen (the first of the grid among equals). A nucleus that
    the tile's border cuts counts by its visible part, in truth and in prediction alike.

    Parameters
    ----------
    folder
        Folder with ``images/*.png`` and ``labels/*.npz`` (array ``inst_map``) at 0.25 µm/px, as NuCLS tiles come.
    grid
        Values to try of some fields of :class:`pastpy.pp.NucleiParameters`.

    Returns
    -------
    One row a tile, then ``"pooled"`` (sums of the rows above) and ``"in_sample"`` (one setting chosen *and* scored on
    all tiles: the shipped defaults). Columns: ``tp``, ``fp``, ``fn`` at 3 µm, ``f1_3um``, ``f1_6um``, ``pq``
    (panoptic quality), ``segmentation_quality``, and the setting that was chosen (NaN for ``"pooled"``).

    Raises
    ------
    FileNotFoundError
        If the folder has no tile, or a tile has no labels.
    ValueError
        If there are fewer than two tiles, or a label array does not fit its image.

    References
    ----------
    Amgad et al., GigaScience 11:giac037 (2022), https://doi.org/10.1093/gigascience/giac037: NuCLS.

    Examples
    --------
    >>> import pastpy as past
    >>> past.bench.nuclei_loto("nucls/train").loc["pooled", "f1_3um"]  # doctest: +SKIP
    """
    import pandas as pd

    tiles = _read_tiles(Path(folder))
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    scores = [[_score(tile, NucleiParameters(**setting)) for tile in tiles] for setting in settings]
    rows: dict[str, dict[str, Any]] = {}
    held_out = []
    for i, tile in enumerate(tiles):
        best = _best([[s for j, s in enumerate(of_setting) if j != i] for of_setting in scores])
        held_out.append(scores[best][i])
        rows[tile.name] = scores[best][i].row() | settings[best]
    rows["pooled"] = reduce(add, held_out).row()
    best = _best(scores)
    rows["in_sample"] = reduce(add, scores[best]).row() | settings[best]
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tile")


def run_nuclei(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Run :func:`nuclei_loto` on the NuCLS tiles of a data folder, for the command line.

    Parameters
    ----------
    data
        Folder that has ``nucls/train``.
    out
        Write the result to this JSON file as well.

    Returns
    -------
    Plain dict: ``protocol``, ``grid``, ``pooled`` and ``in_sample`` (name → number), ``tiles`` (tile → row).

    Raises
    ------
    FileNotFoundError
        If there are no tiles.

    Examples
    --------
    >>> import pastpy as past
    >>> past.bench.run_nuclei("data")["pooled"]["f1_3um"]  # doctest: +SKIP
    """
    table = nuclei_loto(Path(data) / "nucls" / "train")
    rows = {str(name): {k: v for k, v in row.items() if v == v} for name, row in table.to_dict("index").items()}
    result = {
        "protocol": "NuCLS tiles, leave one tile out, setting chosen by detection F1 at 3 µm",
        "grid": {name: list(values) for name, values in GRID.items()},
        "pooled": rows.pop("pooled"),
        "in_sample": rows.pop("in_sample"),
        "tiles": rows,
    }
    if out is not None:
        Path(out).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result


def _best(scores: list[list[Score]]) -> int:
    f1 = [reduce(add, of_setting).at[_DISTANCES_UM[0]].f1 for of_setting in scores]
    return int(np.nanargmax(f1))


def _score(tile: Tile, parameters: NucleiParameters) -> Score:
    height, width = tile.image.shape
    labels = watershed_nuclei(tile.image.read((0, height, 0, width)), tile.image.mpp, parameters)
    found = measure_objects(labels, np.zeros(labels.shape)).centroid * tile.image.level0_px * tile.mpp
    at = {d: detection(found, tile.centroids_um, max_distance=d) for d in _DISTANCES_UM}
    # Overlap is judged in the pixels of the truth.
    rows, columns = (
        ((np.arange(n) + 0.5) / step).astype(int)
        for n, step in zip(tile.truth.shape, tile.image.level0_px[::-1], strict=True)
    )
    return Score(at, panoptic_quality(labels[np.ix_(rows, columns)], tile.truth))


def _read_tiles(folder: Path) -> list[Tile]:
    images = sorted((folder / "images").glob("*.png"))
    if len(images) < 2:
        kind = FileNotFoundError if not images else ValueError
        raise kind(f"{folder} has {len(images)} tiles; expected two or more as images/*.png with labels/*.npz")
    return [_read_tile(path, folder / "labels" / f"{path.stem}.npz") for path in images]


def _read_tile(image: Path, labels: Path) -> Tile:
    from PIL import Image
    from xarray import DataArray

    if not labels.is_file():
        raise FileNotFoundError(f"tile {image.name} has no labels {labels}")
    with np.load(labels, allow_pickle=False) as arrays:
        truth = arrays["inst_map"]
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    if truth.shape != pixels.shape[:2]:
        raise ValueError(f"labels {labels.name} have shape {truth.shape}, the tile has {pixels.shape[:2]}")
    level = DataArray(pixels.transpose(2, 0, 1), dims=("c", "y", "x"))
    return Tile(
        name=image.stem,
        image=WorkingImage([level], mpp=_NUCLS_MPP, target_mpp=NucleiParameters().target_mpp, name=image.stem),
        truth=truth,
        centroids_um=measure_objects(truth, np.zeros(truth.shape)).centroid * _NUCLS_MPP,
        mpp=_NUCLS_MPP,
    )
