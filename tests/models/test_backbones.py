"""Backbones by name: what is here is used, what is not is named, nothing is fetched unasked."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from pastpy.models import PASTConfig, build_encoder, create_backbone
from pastpy.models.backbones import is_offline
from pastpy.models.lazyslide import LazySlideTokens


@pytest.fixture
def local(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_vit")
    save_for_hf(network, tmp_path / "vit", safe_serialization=True)
    return network, tmp_path / "vit"


def test_a_folder_gives_its_weights(local):
    network, folder = local
    found = create_backbone(str(folder))
    torch.testing.assert_close(found.pos_embed, network.pos_embed)


def test_a_hub_name_is_looked_up_in_the_local_cache_only(local, monkeypatch):
    calls = []

    def snapshot_download(repository, *, local_files_only, allow_patterns):
        calls.append((repository, local_files_only))
        return str(local[1])

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = create_backbone("hf-hub:someone/something")
    torch.testing.assert_close(found.pos_embed, local[0].pos_embed)
    create_backbone("hf-hub:someone/something", allow_download=True)
    assert calls == [("someone/something", True), ("someone/something", False)]


def test_what_is_not_here_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hf download MahmoodLab/UNI2-h"):
        create_backbone("hf-hub:MahmoodLab/UNI2-h")
    with pytest.raises(ValueError, match="no folder and no timm model"):
        create_backbone("no_such_network")


def test_offline_forbids_even_an_explicit_download(monkeypatch):
    monkeypatch.setenv("PASTPY_OFFLINE", "1")
    assert is_offline()
    with pytest.raises(ValueError, match="contradicts PASTPY_OFFLINE=1"):
        create_backbone("hf-hub:MahmoodLab/UNI2-h", allow_download=True)
    monkeypatch.setenv("PASTPY_OFFLINE", "0")
    assert not is_offline()


class Dense(SimpleNamespace):
    """What LazySlide's models look like from outside; its own ``model`` is not one of timm's."""

    def __init__(self, model_path=None):
        super().__init__(model=nn.Conv2d(3, 5, 8, 8), name="dense")

    @torch.inference_mode()
    def encode_image_dense(self, image):
        tokens = self.model(image).flatten(2).transpose(1, 2)
        return SimpleNamespace(cls_token=tokens.mean(dim=1), patch_tokens=tokens)


class Timm(SimpleNamespace):
    def __init__(self, model_path=None):
        super().__init__(model=timm.create_model("test_vit"))


class OneVector(SimpleNamespace):
    def __init__(self, model_path=None):
        super().__init__(model=nn.Linear(3, 3))


@pytest.fixture
def registry(monkeypatch):
    models = {"dense": Dense, "timm": Timm, "vector": OneVector}
    monkeypatch.setitem(sys.modules, "lazyslide_models", SimpleNamespace(MODEL_REGISTRY=models))


@pytest.mark.usefixtures("registry")
def test_lazyslide_models_become_encoders():
    options = {"model_path": "weights.pth"}
    config = PASTConfig(
        name="test", backbone="lazyslide:dense", backbone_options=options, backbone_stage=None, window_px=64
    )
    encoder = build_encoder(config)
    assert isinstance(encoder.network, LazySlideTokens)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = encoder.network.inner((pixels - encoder.mean) / encoder.std)
    torch.testing.assert_close(encoder.tokens(pixels), expected)
    assert type(create_backbone("lazyslide:timm", options=options)).__name__ == "VisionTransformer"


@pytest.mark.usefixtures("registry")
def test_lazyslide_models_are_not_fetched_unasked():
    with pytest.raises(FileNotFoundError, match="LazySlide fetches 'dense' when it is made"):
        create_backbone("lazyslide:dense")
    with pytest.raises(ValueError, match="LazySlide has no model 'other'"):
        create_backbone("lazyslide:other")
    with pytest.raises(ValueError, match="gives one vector an image"):
        create_backbone("lazyslide:vector", allow_download=True)


def test_without_lazyslide_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lazyslide_models", None)
    with pytest.raises(ModuleNotFoundError, match=r"pastpy\[lazyslide\]"):
        create_backbone("lazyslide:uni2")
