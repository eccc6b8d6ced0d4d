"""Models whose encoder reads the image more than once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pastpy as past
from pastpy.engine import ZarrSink
from pastpy.models import PAST


def embedded(sdata, model, **options):
    return past.tl.embed(sdata, model, modality="image", copy=True, progress=False, **options).obsm["X_past_image"]


def test_the_coarse_pass_is_that_of_a_model_of_its_own(toy_sdata, two_passes):
    """What is joined to the fine tokens is what one pass at the coarse µm/px pools."""
    sdata = toy_sdata(size=384)
    coarse = two_passes.passes[1]
    config = replace(
        two_passes.config,
        target_mpp=2.0,
        regions=coarse.regions,
        coarse_mpp=None,
        coarse_radii_um=(),
        coarse_tokens=True,
    )
    with pytest.warns(UserWarning, match="16 µm apart"):
        alone = PAST(config, two_passes.card).eval()
    alone.image_encoder.load_state_dict(two_passes.image_encoder.state_dict())
    with torch.no_grad():
        for i in range(2):
            alone.members[0].region_in[i].load_state_dict(two_passes.members[0].region_in[3 + i].state_dict())
        alone.members[0].token_norm.load_state_dict(two_passes.members[0].token_norm.state_dict())
        alone.image_projection.weight[:] = two_passes.image_projection.weight[:, 3 * 16 :]
        # without what the fine regions say
        two_passes.image_projection.weight[:, : 3 * 16] = 0
        alone.image_projection.bias.copy_(two_passes.image_projection.bias)
    np.testing.assert_allclose(embedded(sdata, two_passes), embedded(sdata, alone), atol=1e-5)


class Interrupted(Exception):
    pass


def test_an_interrupted_fine_pass_takes_up_the_coarse_one(toy_sdata, two_passes, tmp_path, monkeypatch):
    monkeypatch.setattr("pastpy.engine.plan.CORE_UM", 64.0)
    sdata, store = toy_sdata(size=384), tmp_path / "run.zarr"
    whole = embedded(sdata, two_passes)
    write, written = ZarrSink.write, []

    def failing(self, field, units, outputs):
        if "embedding" in outputs and sum(kind == "embedding" for _, kind in written) == 2:
            raise Interrupted
        written.append((field, *outputs))
        write(self, field, units, outputs)

    with monkeypatch.context() as patch:
        patch.setattr(ZarrSink, "write", failing)
        for _ in range(2):
            with pytest.raises(Interrupted):
                embedded(sdata, two_passes, resume=store)
            assert {kind for _, kind in written} <= {"pooled", "embedding"}
    coarse = [field for field, kind in written if kind == "pooled"]
    assert len(coarse) == len(set(coarse)) > 0, "the coarse pass ran once"
    np.testing.assert_array_equal(embedded(sdata, two_passes, resume=store), whole)
    with pytest.raises(ValueError, match="begun with another .*model"):
        with torch.no_grad():
            two_passes.members[0].region_in[4].weight.mul_(-1)
        embedded(sdata, two_passes, resume=store)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_text("mine")], ids=["folder", "file"])
def test_a_store_that_cannot_be_used_is_refused_before_the_first_pass(toy_sdata, two_passes, tmp_path, make):
    make(tmp_path / "run.zarr")
    with pytest.raises(ValueError, match=r"resume='.*run\.zarr' exists and holds no results"):
        embedded(toy_sdata(size=384), two_passes, resume=tmp_path / "run.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"]


def test_a_slide_called_as_a_store_of_a_pass_is_refused(toy_sdata, two_passes, tmp_path):
    """``a.coarse.zarr`` is where the coarse pass of ``a.zarr`` goes; whichever comes first keeps it."""
    sdata = toy_sdata(size=384)
    first, second = tmp_path / "a.zarr", tmp_path / "a.coarse.zarr"
    embedded(sdata, two_passes, resume=first)
    with pytest.raises(ValueError, match=r"a\.coarse\.zarr' was begun with another .*output, pass"):
        embedded(sdata, two_passes, resume=second)
    for store in (first, second):
        shutil.rmtree(store)
    embedded(sdata, two_passes, resume=second)
    said = r"a\.zarr' needs another store beside it, but .*a\.coarse\.zarr' was begun with another .*output, pass"
    with pytest.raises(ValueError, match=said):
        embedded(sdata, two_passes, resume=first)
    assert not first.exists()


def test_dense_equals_crop_and_resumed(toy_sdata, two_passes, tmp_path):
    sdata = toy_sdata(size=384)
    dense = embedded(sdata, two_passes)
    np.testing.assert_allclose(embedded(sdata, two_passes, mode="crop"), dense, atol=1e-4)
    for _ in range(2):
        np.testing.assert_array_equal(embedded(sdata, two_passes, resume=tmp_path / "run.zarr"), dense)
    assert {p.name for p in tmp_path.iterdir()} == {"run.zarr", "run.coarse.zarr"}
    assert np.isfinite(dense).all() and dense.std(axis=0).min() > 0


def test_expression_is_predicted_from_both(toy_sdata, two_passes):
    sdata = toy_sdata(size=384)
    before = past.tl.impute_expression(sdata, two_passes, modality="image", copy=True, progress=False)
    with torch.no_grad():
        two_passes.members[0].region_in[4].weight.mul_(-1)
    after = past.tl.impute_expression(sdata, two_passes, modality="image", copy=True, progress=False)
    assert (before.obsm["past_expression"] - after.obsm["past_expression"]).abs().to_numpy().max() > 1e-3


def test_what_the_coarse_pass_pooled_is_cleared_away(toy_sdata, two_passes, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    kept = []
    rows = ZarrSink.rows

    def watched(self, name, shape):
        kept.extend(p.name for p in tmp_path.glob("pastpy-*/*"))
        return rows(self, name, shape)

    monkeypatch.setattr(ZarrSink, "rows", watched)
    assert np.isfinite(embedded(toy_sdata(size=384), two_passes)).all()
    assert kept == ["coarse.zarr"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_in_the_precision_in_which_it_began(toy_sdata, tiny_model, tmp_path):
    """By what is computed, not by what was asked for: "auto" may mean another precision on another machine."""
    sdata, resume = toy_sdata(), tmp_path / "run.zarr"
    options: dict = {"modality": "image", "resume": resume, "progress": False}
    with past.settings.context(precision="float32"):
        past.tl.embed(sdata, tiny_model, **options)
    past.tl.embed(sdata, tiny_model, device="cpu", **options)
    with past.settings.context(precision="bfloat16"), pytest.raises(ValueError, match="precision"):
        past.tl.embed(sdata, tiny_model, **options)
