"""Protocols of the command line: bad input is one line, folders of stores are read with their donors."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pastpy._protocols import PROTOCOLS
from pastpy.bench import window_features
from pastpy.bench._runs import read_stores
from pastpy.bench._runs_embedding import run_probe
from pastpy.cli import main


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_is_there(name):
    from importlib import import_module

    module, function = PROTOCOLS[name].where.split(":")
    assert callable(getattr(import_module(f"pastpy.bench.{module}"), function))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loso"], "needs --data"),
        (["loso", "--data", "."], "neither a folder her2st nor a *.zarr store"),
        (["loso", "--data", ".", "--config", "past-mini"], "config and models go together"),
        (["loso", "--data", ".", "--config", "past-mini", "--models", "m"], "only be trained on her2st"),
        (["hest", "--data", ".", "--n-genes", "3"], "has no option --n-genes"),
        (["simulated", "--out", "absent/x.json"], "no folder 'absent'"),
        (["probe", "--data", "."], "has no images/*.png"),
        (["mob", "--data", "."], "mob"),
        (["deconvolution", "--data", "."], "her2st"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and message in error[0]


def test_stores_need_donors(breast, tmp_path):
    breast.write(tmp_path / "a.zarr")
    with pytest.raises(FileNotFoundError, match=r"donors\.csv.* is missing"):
        read_stores(tmp_path)
    (tmp_path / "donors.csv").write_text("section,donor\nb,P1\n")
    with pytest.raises(ValueError, match=r"donors\.csv: the donor of 1 sections is unknown, e.g. \['a'\]"):
        read_stores(tmp_path)
    (tmp_path / "donors.csv").write_text("section,donor\na,P1\na,P2\n")
    with pytest.raises(ValueError, match=r"donors\.csv: section 'a' is listed with the donors \['P1', 'P2'\]"):
        read_stores(tmp_path)
    (tmp_path / "donors.csv").write_text("section,donor\na,P1\n")
    sections, donors = read_stores(tmp_path)
    assert list(sections) == ["a"] and donors == {"a": "P1"}
    assert main(["bench", "lodo", "--data", str(tmp_path)]) == 2


def test_probe_on_painted_tiles(tmp_path):
    """Dark and light nuclei: colour tells them apart, on tiles that were not trained on."""
    from PIL import Image

    folder = tmp_path / "nucls" / "train"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:160, :160]
    for t in range(3):
        rgb, inst, kind = np.full((160, 160, 3), 225.0), np.zeros((160, 160), int), np.zeros((160, 160), int)
        for i, (cy, cx) in enumerate([(40, 40), (40, 120), (120, 40), (120, 120)]):
            disc = np.hypot(y - cy, x - cx) < 18
            inst[disc], kind[disc] = i + 1, 1 + i % 2
            rgb[disc] = (60, 30, 120) if i % 2 else (150, 120, 190)
        Image.fromarray((rgb + rng.normal(0, 4, rgb.shape)).clip(0, 255).astype(np.uint8)).save(
            folder / "images" / f"t{t}.png"
        )
        np.savez(folder / "labels" / f"t{t}.npz", inst_map=inst, type_map=kind)
    found = run_probe(tmp_path, tmp_path / "probe.json")
    assert found["methods"]["colour"]["balanced_accuracy"] == 1.0 and found["methods"]["colour"]["n"] == 12
    assert len(pd.read_csv(tmp_path / "probe.csv")) == 8
    assert json.loads((tmp_path / "probe.json").read_text())["statement"].startswith("tiles are apart")


def test_features_are_kept_and_belong_to_the_pixels(breast, tmp_path):
    from spatialdata.models import Image2DModel

    import pastpy as past

    with past.settings.context(cache_dir=tmp_path):
        first = window_features(breast, backbone="colour", windows_um=(100.0, 200.0))
        (kept,) = (tmp_path / "bench").iterdir()
        changed = first + 1
        np.save(kept, changed)
        np.testing.assert_array_equal(window_features(breast, backbone="colour", windows_um=(100.0, 200.0)), changed)
        one = window_features(breast, backbone="colour", windows_um=(100.0,))
        np.testing.assert_allclose(one, first[:, :15], rtol=1e-5)
        other = Image2DModel.parse(255 - breast["he"].to_numpy(), dims=("c", "y", "x"))
        del breast.images["he"]
        breast.images["he"] = other
        assert np.abs(window_features(breast, backbone="colour", windows_um=(100.0, 200.0)) - first).max() > 0.1
    with pytest.raises(ValueError, match="must rise"):
        window_features(breast, windows_um=(200.0, 100.0))


def test_features_see_every_pixel_whatever_the_cache_holds(breast, tmp_path):
    from spatialdata.models import Image2DModel

    import pastpy as past

    pixels = breast["he"].to_numpy().copy()
    step = max(1, max(pixels.shape) // 512)
    lattice = np.zeros(pixels.shape[1:], bool)
    lattice[step // 2 :: step, step // 2 :: step] = True
    pixels[:, ~lattice] = 0
    with past.settings.context(cache_dir=tmp_path):
        first = window_features(breast, backbone="colour")
        del breast.images["he"]
        breast.images["he"] = Image2DModel.parse(pixels, dims=("c", "y", "x"))
        assert np.abs(window_features(breast, backbone="colour") - first).max() > 0.1


def test_features_are_float32_on_every_machine():
    from xarray import DataArray

    import pastpy as past
    from pastpy.bench._features import features_at

    level = DataArray(np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8), dims=("c", "y", "x"))
    where = {"levels": [level], "centroids": np.array([[32.0, 32.0]]), "mpp": 1.0, "windows_um": (20.0,)}
    with past.settings.context(precision="float32"):
        expected = features_at(**where)
    with past.settings.context(precision="bfloat16"):
        np.testing.assert_array_equal(features_at(**where), expected)
        assert past.settings.precision == "bfloat16"


def test_patches_are_encoded_alone(breast):
    """A patch's features are those of the patch cut out by hand."""
    import torch

    from pastpy.bench._encoders import ColourTexture

    side = 112
    options = {"backbone": "colour", "square": True, "target_mpp": 0.69, "cache": False}
    found = window_features(breast, windows_um=(side * 0.69,), **options)
    image, centre = breast["he"].to_numpy(), breast["spots"].obsm["spatial"] / 0.69
    inside = np.flatnonzero(((centre > side) & (centre < 2000 - side)).all(axis=1))[:5]
    for i in inside:
        x, y = np.round(centre[i] - side / 2).astype(int)
        crop = torch.from_numpy(image[:, y : y + side, x : x + side].copy()).float()[None] / 255
        np.testing.assert_allclose(found[i], ColourTexture().tokens(crop).mean(dim=(0, 2, 3)), rtol=0.02, atol=2e-3)
    assert np.isfinite(found).all() and len(inside) == 5
    with pytest.raises(ValueError, match="be one if square"):
        window_features(breast, windows_um=(50.0, 100.0), **options)
