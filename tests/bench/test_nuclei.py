"""The leave-one-tile-out protocol, on painted tiles and on the real ones."""

from __future__ import annotations

import json
from functools import partial, reduce
from operator import add

import numpy as np
import pytest

from pastpy.bench import _nuclei
from pastpy.bench._nuclei import nuclei_loto, run_nuclei
from pastpy.metrics._detection import DetectionScore, PanopticScore
from pastpy.pp import NucleiParameters

SMALL = {"threshold_sd": (0.35, 2.5), "min_area_um2": (8.0, 40.0)}


def write_tiles(folder, n=3, side=160):
    """Tiles of 0.25 µm/px with four dark discs each."""
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    y, x = np.mgrid[:side, :side] + 0.5
    for i in range(n):
        rgb, truth = np.full((side, side, 3), (226, 172, 205), np.uint8), np.zeros((side, side), np.int32)
        for label, (cx, cy) in enumerate([(30, 30), (110, 40 + 5 * i), (40, 120), (120, 120)], 1):
            disc = (x - cx) ** 2 + (y - cy) ** 2 <= 12**2
            rgb[disc], truth[disc] = (90, 60, 140), label
        Image.fromarray(rgb).save(folder / "images" / f"tile_{i}.png")
        np.savez(folder / "labels" / f"tile_{i}.npz", inst_map=truth)
    return folder


def test_painted_tiles_are_solved_with_a_sensible_setting(tmp_path):
    table = nuclei_loto(write_tiles(tmp_path), grid=SMALL)
    assert table.index.tolist() == ["tile_0", "tile_1", "tile_2", "pooled", "in_sample"]
    assert table.loc["pooled", ["tp", "fp", "fn"]].tolist() == [12, 0, 0]
    assert table.loc["pooled", "f1_3um"] == 1
    assert table.loc["pooled", "pq"] > 0.7
    assert table.loc["in_sample", "min_area_um2"] == 8


def test_a_tile_has_no_say_in_its_own_setting(tmp_path, monkeypatch):
    # Two settings: one is right on tile 0 only, the other on tiles 1 and 2 only.
    def score(tile, parameters):
        right = (tile.name == "tile_0") == (parameters.threshold_sd == 1.0)
        counts = DetectionScore(10, 0, 0) if right else DetectionScore(0, 10, 10)
        return _nuclei.Score({3.0: counts, 6.0: counts}, PanopticScore(float(right), int(right), 0, 0))

    monkeypatch.setattr(_nuclei, "_score", score)
    table = nuclei_loto(write_tiles(tmp_path), grid={"threshold_sd": (1.0, 2.0)})
    assert table.loc["tile_0", "threshold_sd"] == 2.0
    assert table.loc["tile_0", "f1_3um"] == 0
    # without tile 1, tiles 0 and 2 are even, and the first setting wins, which is wrong for tile 1
    assert table.loc["tile_1", "threshold_sd"] == 1.0
    assert table.loc["pooled", "tp"] == 0
    assert table.loc["in_sample", "tp"] == 20


def test_cut_nuclei_count_by_their_visible_part(tmp_path):
    from PIL import Image

    folder = write_tiles(tmp_path, n=2)
    for i in range(2):
        path, labels = folder / "images" / f"tile_{i}.png", folder / "labels" / f"tile_{i}.npz"
        with Image.open(path) as opened:
            pixels = np.asarray(opened)[:, 30:]
        truth = np.load(labels)["inst_map"][:, 30:]
        Image.fromarray(pixels).save(path)
        np.savez(labels, inst_map=truth)
    assert nuclei_loto(folder, grid={"threshold_sd": (0.35,)}).loc["pooled", ["tp", "fp", "fn"]].tolist() == [8, 0, 0]


def test_result_is_plain_and_written(tmp_path, monkeypatch):
    write_tiles(tmp_path / "nucls" / "train", n=2)
    out = tmp_path / "nuclei.json"
    monkeypatch.setattr(_nuclei, "nuclei_loto", partial(nuclei_loto, grid={"threshold_sd": (0.35,)}))
    result = run_nuclei(tmp_path, out)
    assert json.loads(out.read_text(encoding="utf-8")) == result
    assert result["pooled"]["f1_3um"] == 1
    assert set(result["tiles"]) == {"tile_0", "tile_1"}


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="0 tiles"):
        nuclei_loto(tmp_path)
    folder = write_tiles(tmp_path / "tiles", n=2)
    (folder / "labels" / "tile_1.npz").unlink()
    with pytest.raises(FileNotFoundError, match="tile_1.png has no labels"):
        nuclei_loto(folder)
    np.savez(folder / "labels" / "tile_1.npz", inst_map=np.zeros((3, 3), int))
    with pytest.raises(ValueError, match=r"tile_1.npz have shape \(3, 3\)"):
        nuclei_loto(folder)


@pytest.mark.slow
def test_nucls(shared_data):
    table = nuclei_loto(shared_data / "nucls" / "train")
    tiles = table.drop(index=["pooled", "in_sample"])
    assert len(tiles) == 10
    assert table.loc["pooled", "tp"] == tiles["tp"].sum()
    assert table.loc["pooled", "tp"] + table.loc["pooled", "fn"] == 458
    assert table.loc["pooled", "f1_3um"] >= 0.84
    assert table.loc["pooled", "pq"] >= 0.5
    # what ships is what the protocol chooses on all tiles
    shipped = NucleiParameters()
    assert {name: getattr(shipped, name) for name in _nuclei.GRID} == table.loc[
        "in_sample", list(_nuclei.GRID)
    ].to_dict()


def test_scores_add_up():
    one = _nuclei.Score({3.0: DetectionScore(1, 2, 3), 6.0: DetectionScore(2, 1, 2)}, PanopticScore(0.8, 1, 2, 3))
    total = reduce(add, [one, one])
    assert total.at[3.0] == DetectionScore(2, 4, 6)
    assert total.panoptic == PanopticScore(1.6, 2, 4, 6)
