"""Two passes over the image: what each sees, where its tokens lie, and that one pass stays what it was."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pastpy.engine import Region
from pastpy.models import PAST, DenseEncoder, ModelCard, PASTConfig, WindowEncoder

COARSE = {"coarse_mpp": 2.0, "coarse_radii_um": (25.0, 50.0, 100.0)}


def make(backbone: nn.Module | None = None, **entries) -> PAST:
    torch.manual_seed(0)
    if backbone is not None:
        entries["backbone"] = "module"
    config = PASTConfig(**{"name": "test", "dim": 8, "embedding_dim": 4, **entries})
    return PAST(config, ModelCard(pd.DataFrame({"gene": list("ABCDE")}), {}), backbone=backbone).eval()


def means_of_squares(stride: int) -> DenseEncoder:
    """An encoder whose tokens are the mean pixels of their squares."""
    return DenseEncoder(
        nn.AvgPool2d(stride), mean=(0.0,) * 3, std=(1.0,) * 3, stride=stride, channels=3, halo=0,
        token_centre=stride / 2,
    )  # fmt: skip


def literal_disc(tokens: np.ndarray, middle: float, radius: float, stride: int) -> np.ndarray:
    """Mean token under a disc, point by point, of tokens (channels, n, n); lengths in pixels of the tokens' image."""
    per_token = 2 if radius > 4 * stride else 4
    found = []
    for i in range(tokens.shape[1] * per_token):
        for j in range(tokens.shape[2] * per_token):
            y, x = ((k + 0.5) * stride / per_token - middle for k in (i, j))
            if x**2 + y**2 <= radius**2:
                found.append(tokens[:, i // per_token, j // per_token])
    return np.mean(found, axis=0)


def test_without_a_coarse_pass_there_is_one_and_nothing_is_added():
    plain, coarse = make(), make(**COARSE)
    (only,) = plain.passes
    assert (only.name, only.target_mpp, only.zoom, only.regions) == ("fine", 0.5, 1, plain.config.regions)
    assert only.stride_um == 4.0
    assert only.receptive_field_um == 0.5 * (8 + 2 * plain.image_encoder.halo)
    assert plain.feature_mean.shape[0] == 3 and coarse.feature_mean.shape[0] == 6
    assert set(plain.state_dict()) < set(coarse.state_dict())


def test_the_coarse_pass_reads_coarser_and_sees_farther():
    fine, coarse = make(**COARSE).passes
    assert (coarse.name, coarse.target_mpp, coarse.zoom) == ("coarse", 2.0, 4)
    assert [(r.name, r.kind, r.radius_um) for r in coarse.regions] == [
        ("coarse_25um", "disc", 25.0), ("coarse_50um", "disc", 50.0), ("coarse_100um", "disc", 100.0),
    ]  # fmt: skip
    assert coarse.stride_um == 4 * fine.stride_um
    assert coarse.receptive_field_um == 4 * fine.receptive_field_um


def test_tokens_of_both_passes_are_those_of_literal_pooling():
    model = make(means_of_squares(8), **COARSE)
    pixels = torch.rand(1, 3, 480, 480, generator=torch.Generator().manual_seed(1))
    pooled = model.pool_crops(pixels)[0].numpy()
    fine = pixels[0].numpy().reshape(3, 60, 8, 60, 8).mean(axis=(2, 4))
    coarse = pixels[0].numpy().reshape(3, 15, 32, 15, 32).mean(axis=(2, 4))
    expected = [literal_disc(fine, 240.0, 60.0, 8), *(literal_disc(coarse, 60.0, r / 2, 8) for r in (25, 50, 100))]
    np.testing.assert_allclose(pooled[2:], expected, atol=1e-5)


def test_the_projection_takes_the_tokens_of_both_passes():
    model = make(means_of_squares(8), **COARSE)
    pixels = torch.rand(2, 3, 480, 480)
    tokens = model.image_tokens(model.pool_crops(pixels))
    assert tokens.shape == (2, 6, 8)
    expected = tokens.flatten(1) @ model.image_projection.weight.T + model.image_projection.bias
    torch.testing.assert_close(model.embed_image(pixels), F.normalize(expected, dim=1))
    far = pixels.clone()
    far[..., :32, :] = 0  # 120 µm from the cell: the outermost disc does not reach it
    assert torch.equal(model.embed_image(far), model.embed_image(pixels))
    far[..., 60:100, 220:260] = 0  # 75 µm: only the outermost disc does
    moved = (model.image_tokens(model.pool_crops(far)) - tokens).abs().amax(dim=(0, 2))
    assert (moved > 1e-4).tolist() == [False] * 5 + [True]


def test_a_backbone_with_a_window_sees_its_middle_and_all_of_it():
    network = nn.AvgPool2d(8)
    window = WindowEncoder(network, window_px=48, stride=8, channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)
    model = make(window, **COARSE)
    assert model.crop_px == 4 * 48
    pixels = torch.rand(1, 3, 192, 192)
    pooled = model.pool_crops(pixels)
    torch.testing.assert_close(pooled[:, :3], make(means_of_squares(8)).pool_crops(pixels[..., 72:120, 72:120]))
    torch.testing.assert_close(pooled[:, 3:], make(means_of_squares(8), **COARSE).pool_crops(pixels)[:, 3:])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"coarse_mpp": 2.0}, "belong together"),
        ({"coarse_radii_um": (25.0,)}, "belong together"),
        ({"coarse_mpp": 0.5, "coarse_radii_um": (25.0,)}, "whole multiple of target_mpp=0.5, at least twice, got 0.5"),
        ({"coarse_mpp": 1.3, "coarse_radii_um": (25.0,)}, "whole multiple of target_mpp"),
        ({"coarse_mpp": 2.0, "coarse_radii_um": (25.0, 25.0)}, "must be positive and differ"),
        ({"coarse_mpp": 2.0, "coarse_radii_um": (0.0,)}, "must be positive and differ"),
    ],
)
def test_coarse_passes_that_cannot_be_are_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        PASTConfig(name="odd", **entries)


def test_both_passes_survive_saving(tmp_path):
    from pastpy.models import load

    model = make(rank=3, **COARSE)
    model.save(tmp_path / "two")
    loaded = load(tmp_path / "two")
    assert loaded.config == model.config and loaded.passes == model.passes
    pixels = torch.rand(1, 3, 480, 480)
    with torch.inference_mode():
        assert torch.equal(loaded.embed_image(pixels), model.embed_image(pixels))


OUTLINED = (Region("nucleus", "shape"), Region("outline", "outline"), Region("context", "disc", 30.0))


def test_a_cell_without_outline_keeps_its_other_tokens_and_its_embedding():
    model = make(regions=OUTLINED, summary_tokens=2, slide_norm=True)
    assert model.image_regions == [0, 2]
    model.feature_mean.normal_(3.0)
    pooled = torch.randn(6, 3, model.image_encoder.channels)
    unknown = pooled.clone()
    unknown[2:, 1] = float("nan")
    with torch.no_grad():
        told, untold = model.image_tokens(pooled), model.image_tokens(unknown)
        share = model.predict_expression(untold)
    assert untold[2:, 1].isnan().all() and untold[:, [0, 2, 3, 4]].isfinite().all()
    torch.testing.assert_close(untold[:, [0, 2]], told[:, [0, 2]])
    assert share.isfinite().all()
    # the summary takes a missing outline as a usual one
    usual = pooled.clone()
    usual[2:, 1] = model.feature_mean[1]
    with torch.no_grad():
        torch.testing.assert_close(untold[:, 3:], model.image_tokens(usual)[:, 3:])


def test_crops_show_no_outline_and_keep_gradients():
    model = make(regions=OUTLINED, backbone_training="full")
    pixels = torch.randn(2, 3, 160, 160)
    pooled = model.pool_crops(pixels)
    assert pooled[:, 1].isnan().all() and pooled[:, [0, 2]].isfinite().all()
    model.embed_image(pixels).sum().backward()
    grads = [p.grad for p in model.image_encoder.parameters() if p.grad is not None]
    assert grads and all(g.isfinite().all() for g in grads)


def test_regions_need_one_of_the_image():
    with pytest.raises(ValueError, match="at least one of the image"):
        PASTConfig(name="x", regions=(Region("outline", "outline"),))
