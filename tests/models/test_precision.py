"""The shipped model compiled, in reduced precision, and bit by bit what it was when it was shipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import pastpy as past
from pastpy.engine.device import autocast
from pastpy.models import PAST


@pytest.fixture(scope="module")
def mini() -> PAST:
    model = past.models.load("past-mini")
    assert isinstance(model, PAST)
    return model


@pytest.fixture(scope="module")
def pixels(mini) -> torch.Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in mini.image_stats)
    image = torch.from_numpy(past.datasets.breast_st()["he"].data.compute()).float() / 255
    return torch.stack([(image[:, y : y + 160, 600:760] - mean) / std for y in (0, 200, 400)])


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_the_way_from_crop_to_tokens_is_one_graph(mini, pixels):
    compiled = torch.compile(mini.image_encoder, backend="eager", fullgraph=True)
    with torch.inference_mode():
        torch.testing.assert_close(compiled(pixels), mini.image_encoder(pixels), atol=1e-4, rtol=1e-4)


def test_half_of_the_digits_keep_the_direction(mini, pixels):
    with torch.inference_mode():
        whole = mini.embed_image(pixels)
        with past.settings.context(precision="bfloat16"), autocast(torch.device("cpu")):
            half = mini.embed_image(pixels)
    assert (whole * half.float()).sum(dim=1).min() > 0.99
    assert not torch.equal(whole, half.float())


def test_a_folder_saved_anew_has_the_same_weights_and_outputs(mini, pixels, tmp_path):
    """Nothing that was added since moved a bit, and options left alone leave nothing in the file."""
    shipped = Path(past.models.__file__).parent / "weights" / "past-mini"
    mini.save(tmp_path / "again")
    again = past.models.load(tmp_path / "again")
    found, expected = ((folder / "model.safetensors").read_bytes() for folder in (tmp_path / "again", shipped))
    assert found == expected and again.sha256 == mini.sha256
    written, read = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "again", shipped))
    assert {k: written[k] for k in read if k != "regions"} == {k: v for k, v in read.items() if k != "regions"}
    with torch.inference_mode():
        assert torch.equal(again.embed_image(pixels), mini.embed_image(pixels))
