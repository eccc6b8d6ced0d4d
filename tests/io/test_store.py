"""Writing an object in one piece, and what it is backed by afterwards."""

from __future__ import annotations

import pytest
import spatialdata

import pastpy as past


def test_an_object_is_backed_by_what_was_written(toy_sdata, tiny_model, tmp_path):
    sdata = toy_sdata()
    past.io.write_store(sdata, tmp_path / "a.zarr")
    assert sdata.path == tmp_path / "a.zarr"
    past.tl.embed(sdata, tiny_model, modality="image", progress=False)
    past.io.write_table(sdata, "cells")
    assert "X_past" in spatialdata.read_zarr(tmp_path / "a.zarr")["cells"].obsm
    past.io.write_store(sdata, tmp_path / "b.zarr")
    assert sdata.path == tmp_path / "b.zarr"
    assert "X_past" in spatialdata.read_zarr(tmp_path / "b.zarr")["cells"].obsm


def test_a_failure_leaves_the_object_as_it_was(toy_sdata, tmp_path, monkeypatch):
    sdata = toy_sdata()
    past.io.write_store(sdata, tmp_path / "a.zarr")
    monkeypatch.setattr("pathlib.Path.rename", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        past.io.write_store(sdata, tmp_path / "b.zarr")
    assert sdata.path == tmp_path / "a.zarr" and sdata.path.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr"]
