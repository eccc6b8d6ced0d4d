"""The command line: instant help, one line for bad input, and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import spatialdata

from pastpy.cli import main


@pytest.fixture
def store(toy_sdata, tmp_path):
    def write(name: str = "in.zarr", **arguments):
        toy_sdata(**arguments).write(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def model(tiny_model, tmp_path):
    tiny_model.save(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.mark.parametrize("command", ["demo", "embed", "impute", "stain", "pretrain", "bench", "models"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: pastpy {command}" in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    code = "import sys; from pastpy.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'anndata', 'pandas', 'numpy', 'spatialdata'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_embed_impute_stain(store, model, tmp_path, capsys):
    source = store()
    assert main(["embed", str(source), "--out", str(tmp_path / "e.zarr"), "--model", model, "--modality", "image"]) == 0
    table = spatialdata.read_zarr(tmp_path / "e.zarr")["cells"]
    assert np.isfinite(table.obsm["X_past"]).all()
    out = tmp_path / "i.zarr"
    assert main(["impute", str(source), "--out", str(out), "--model", model, "--genes", "ERBB2, GENE1"]) == 0
    assert spatialdata.read_zarr(out)["cells"].obsm["past_expression"].columns.tolist() == ["ERBB2", "GENE1"]
    out = tmp_path / "s.zarr"
    assert main(["stain", str(source), "--out", str(out), "--model", model, "--marker", "HER2"]) == 0
    assert "virtual_stain" in spatialdata.read_zarr(out).images
    assert "research use only" in capsys.readouterr().out


def test_nuclei_are_found_where_there_is_no_table(toy_sdata, model, tmp_path):
    sdata = toy_sdata(size=512)
    del sdata.tables["cells"], sdata.shapes["nuclei"]
    sdata.write(tmp_path / "plain.zarr")
    assert main(["embed", str(tmp_path / "plain.zarr"), "--out", str(tmp_path / "e.zarr"), "--model", model]) == 0
    assert spatialdata.read_zarr(tmp_path / "e.zarr")["cells"].n_obs > 5


def refused(arguments: list[str], out, capsys) -> str:
    """Run with bad input; returns the one line that was printed."""
    before = sorted(p.name for p in out.parent.iterdir())
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"pastpy {arguments[0]}: error: ") and captured.err.count("\n") == 1
    assert not out.exists() and sorted(p.name for p in out.parent.iterdir()) == before
    return captured.err


def test_bad_input(store, toy_sdata, model, tmp_path, capsys):
    out = tmp_path / "out.zarr"
    good = store()
    plain = toy_sdata()
    del plain.images["he"]
    plain.write(tmp_path / "noimage.zarr")
    two = toy_sdata()
    two["other"] = two["he"].copy()
    two.write(tmp_path / "two.zarr")
    loose = toy_sdata()
    loose["cells"].uns.pop("spatialdata_attrs")
    loose["cells"].obs = loose["cells"].obs.drop(columns=["region", "cell_id"])
    loose.write(tmp_path / "loose.zarr")
    unknown = store("unknown.zarr", mpp=None)
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "noimage.zarr", model, "has no image"),
        (tmp_path / "two.zarr", model, "2 images"),
        (tmp_path / "loose.zarr", model, "annotates no element"),
        (unknown, model, "µm/px of image 'he' is unknown"),
        (good, "past-maxi", "no model 'past-maxi'"),
        (good, str(tmp_path / "empty"), "lacks config.json, model.safetensors"),
        (tmp_path / "nowhere.zarr", model, "no SpatialData store"),
    ]
    for command in ("embed", "impute"):
        for source, name, message in cases:
            assert message in refused([command, str(source), "--out", str(out), "--model", name], out, capsys)


def test_an_existing_result_is_left_alone(store, model, tmp_path, capsys):
    out = tmp_path / "out.zarr"
    out.mkdir()
    assert main(["embed", str(store()), "--out", str(out), "--model", model]) == 2
    assert "exists" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_training_data_must_be_there(tmp_path, capsys):
    arguments = ["pretrain", "past-mini", "--out", str(tmp_path / "m"), "--data", str(tmp_path / "none")]
    assert "no training data at" in refused(arguments, tmp_path / "m", capsys)
    arguments[1] = "past-huge"
    assert "no training configuration 'past-huge'" in refused(arguments, tmp_path / "m", capsys)


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    assert "past-mini" in capsys.readouterr().out


def test_demo(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    for phrase in ("same patient, validation section", "shuffled", "research use only", "SIMULATED", "49 spots"):
        assert phrase in said
    sdata = spatialdata.read_zarr(out / "demo.zarr")
    cells = sdata["cells"]
    assert {"X_past", "X_past_image", "past_expression", "spatial"} <= set(cells.obsm)
    assert {"embed", "impute_expression", "segment_nuclei"} <= set(cells.uns["past"])
    assert "virtual_stain" in sdata.images
    assert len(list(out.glob("*.png"))) == 5
    assert json.dumps(sdata.attrs["past"]["mpp"])
    assert main(["demo", "--out", str(out)]) == 2
    assert "from an earlier demo" in capsys.readouterr().err
