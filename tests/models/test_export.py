"""The image path as ONNX gives the model's embeddings."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch

import pastpy as past
from pastpy.engine import Region
from pastpy.models import PAST, ModelCard, PASTConfig, context_grid, export_onnx


def embeddings_of(path, pixels: torch.Tensor) -> np.ndarray:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"pixels": pixels.numpy()})[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("which", ["past-mini", "two passes", "outlines", "transformer"])
def test_exported_embeddings_are_the_models(which, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    if which == "past-mini":
        model = past.models.load("past-mini")
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in model.image_stats)
        image = torch.from_numpy(past.datasets.breast_st()["he"].data.compute()).float() / 255
        pixels = torch.stack([(image[:, y : y + 160, 600:760] - mean) / std for y in (0, 200, 400)])
    elif which in ("two passes", "outlines"):
        torch.manual_seed(0)
        regions = PASTConfig(name="x").regions
        if which == "outlines":
            regions = (regions[0], Region("outline", "outline"), *regions[1:])
        config = PASTConfig(
            name="two", dim=16, embedding_dim=8, regions=regions, summary_tokens=2, coarse_mpp=2.0,
            coarse_radii_um=(25.0,),
        )  # fmt: skip
        model = PAST(config, ModelCard(pd.DataFrame({"gene": ["A"]}), {})).eval()
        model.feature_mean.normal_(3.0)
        pixels = torch.randn(3, 3, 160, 160)
    else:
        torch.manual_seed(0)
        config = PASTConfig(
            name="vit", backbone="test_vit", backbone_stage=None, target_mpp=0.25, backbone_training="lora",
            image_mean=(0.5,) * 3, image_std=(0.5,) * 3, dim=16, embedding_dim=8, heads=4,
            regions=PASTConfig(name="x").regions[:2] + context_grid(3, 8.0),
        )  # fmt: skip
        model = PAST(config, ModelCard(pd.DataFrame({"gene": ["A"]}), {})).eval()
        pixels = torch.randn(3, 3, 160, 160)
    path = export_onnx(model, tmp_path / "image.onnx", crop_px=160)
    with torch.inference_mode():
        expected = model.embed_image(pixels).numpy()
    assert [p.name for p in tmp_path.iterdir()] == ["image.onnx"]
    np.testing.assert_allclose(embeddings_of(path, pixels), expected, atol=1e-3)


def test_a_crop_that_is_too_small_is_refused(tiny_model, tmp_path):
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    regions = tiny_model.config.regions + context_grid(5, 20.0)
    model = PAST(PASTConfig(name="wide", dim=16, regions=regions), tiny_model.card)
    with pytest.raises(ValueError, match="use crop_px=200 or more"):
        export_onnx(model, tmp_path / "x.onnx", crop_px=96)


def test_without_the_extra_it_is_named(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pastpy\[onnx\]"):
        export_onnx(tiny_model, tmp_path / "x.onnx")
