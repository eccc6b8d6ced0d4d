"""Any backbone: where its tokens lie, how far they see, and that they do not depend on the field."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import nn

from pastpy.engine.pool import Region, UnitShapes, pool_tokens
from pastpy.models import DenseEncoder, PASTConfig, WindowEncoder, build_encoder
from pastpy.models.adapters import PatchTokens, measure_geometry
from pastpy.models.crops import pool_crops
from pastpy.models.encoders import backbone_sha256
from pastpy.models.passes import image_passes

HALF = {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3}
IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}


def vit_config(**changes) -> PASTConfig:
    entries = {"name": "test", "backbone": "test_vit", "backbone_stage": None, "target_mpp": 0.25, **HALF, **changes}
    return PASTConfig(**entries)


@pytest.fixture(scope="module")
def vit() -> WindowEncoder:
    torch.manual_seed(0)
    return build_encoder(vit_config()).eval()


def convolutions(stride_two_padding: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, stride_two_padding), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 6, 3, 2, 1)
    )


def test_geometry_of_convolutions_is_that_of_their_arithmetic():
    # 3/2, 3/1 and 3/2 with padding 1: reach 1 + 2 + 2 px on either side of pixel 0
    stride, channels, halo, centre = measure_geometry(convolutions())
    assert (stride, channels, centre) == (4, 6, 0.5)
    assert halo == 8  # 5 px before the token's square, 2 behind: the next multiple of the stride


def test_geometry_sees_through_branches_that_start_at_zero():
    network = timm.create_model("resnet10t")
    assert network.layer1[0].bn2.weight.abs().max() == 0
    encoder = build_encoder(PASTConfig(name="test", backbone="resnet10t", **IMAGENET), network).eval()
    assert encoder.stride == 8
    pixels = torch.rand(1, 3, 192, 192, requires_grad=True)
    for parameter in encoder.parameters():
        nn.init.uniform_(parameter, 0.01, 0.02)
    encoder(pixels)[0, :, 12, 12].sum().backward()
    moved = torch.nonzero(pixels.grad.abs().sum(dim=(0, 1, 3))).ravel()
    assert 96 - encoder.halo <= moved.min() and moved.max() < 96 + 8 + encoder.halo
    assert (moved.min() + moved.max() + 1) / 2 == 96 + encoder.token_centre


@pytest.mark.parametrize(("name", "statistics"), [("resnet10t", IMAGENET), ("test_convnext", HALF)])
def test_staged_networks_give_the_same_tokens_in_every_field(name, statistics):
    torch.manual_seed(0)
    network = timm.create_model(name)
    config = PASTConfig(name="test", backbone=name, backbone_stage=1, **statistics)
    encoder = build_encoder(config, network).eval()
    step = encoder.alignment
    pixels = torch.rand(1, 3, 30 * step, 26 * step)
    with torch.inference_mode():
        whole, part = encoder.tokens(pixels), encoder.tokens(pixels[..., 3 * step :, 2 * step :])
    margin = encoder.halo // step
    inner = (slice(None), slice(None), slice(margin, -margin), slice(margin, -margin))
    torch.testing.assert_close(part[inner], whole[:, :, 3:, 2:][inner], atol=1e-4, rtol=1e-4)


def test_networks_that_see_everything_are_told_to_use_windows():
    class Global(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(x, 8) - x.mean(dim=(2, 3), keepdim=True)

    config = PASTConfig(name="test", backbone="module")
    with pytest.raises(ValueError, match="sees a whole field of 512 px.*set window_px"):
        build_encoder(config, Global())
    encoder = build_encoder(PASTConfig(name="test", backbone="module", window_px=64), Global())
    assert (encoder.stride, encoder.crop_px, encoder.core_px) == (8, 64, 48)
    with pytest.raises(ValueError, match="must give features"):
        build_encoder(config, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_squeeze_and_excitation_is_not_taken_for_local():
    with pytest.raises(ValueError, match="sees a whole field"):
        build_encoder(PASTConfig(name="test", backbone="efficientnet_b0", **IMAGENET))


def test_window_tokens_do_not_depend_on_the_field(vit):
    core, q = vit.core_px, vit.core_px // vit.stride
    pixels = torch.rand(2, 3, 5 * core, 4 * core)
    with torch.inference_mode():
        whole, part = vit.tokens(pixels), vit.tokens(pixels[..., core:, :])
    assert whole.shape == (2, vit.channels, 5 * q, 4 * q)
    used = (slice(None), slice(None), slice(q, -q), slice(q, -q))
    torch.testing.assert_close(part[used], whole[:, :, q:][used])
    assert whole[:, :, :q].isnan().all() and whole[..., -q:].isnan().all()  # the halo
    window = slice(core - vit.margin * vit.stride, None), slice(core - vit.margin * vit.stride, None)
    crop = pixels[..., window[0], window[1]][..., : vit.crop_px, : vit.crop_px]
    with torch.inference_mode():
        alone = vit.tokens(crop)[..., vit.margin : -vit.margin, vit.margin : -vit.margin]
    torch.testing.assert_close(whole[:, :, q : 2 * q, q : 2 * q], alone, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="takes crops of 160 × 160, or fields"):
        vit.tokens(torch.zeros(1, 3, 100, 160))


def test_patch_tokens_are_the_networks_own_without_class_token():
    torch.manual_seed(0)
    network = timm.create_model("test_vit").eval()
    pixels = torch.rand(1, 3, 160, 160)
    with torch.inference_mode():
        grid = PatchTokens(network, None)(pixels)
        features = network.forward_features(pixels)
    assert grid.shape == (1, 64, 10, 10)
    torch.testing.assert_close(grid[0, :, 3, 7], features[0, network.num_prefix_tokens + 37])


def test_position_embedding_is_resampled_to_the_window():
    torch.manual_seed(0)
    network = timm.create_model("test_vit")
    before = network.pos_embed.detach().clone()
    encoder = build_encoder(vit_config(window_px=320), network)
    prefix = before.shape[1] - 100
    grid = before[:, prefix:].view(1, 10, 10, -1).permute(0, 3, 1, 2)
    expected = nn.functional.interpolate(grid, size=(20, 20), mode="bicubic", antialias=True).flatten(2).transpose(1, 2)
    assert encoder.crop_px == 320
    torch.testing.assert_close(network.pos_embed[:, prefix:], expected)


def test_coarse_tokens_are_refused_or_warned_of():
    with pytest.raises(ValueError, match="8 µm apart.*set target_mpp=0.25"):
        build_encoder(vit_config(target_mpp=0.5))
    with pytest.warns(UserWarning, match="8 µm apart"):
        build_encoder(vit_config(target_mpp=0.5, coarse_tokens=True))


def test_pixel_statistics_of_another_backbone_are_refused():
    with pytest.raises(ValueError, match="normalised with mean.*0.485.*set image_mean"):
        build_encoder(PASTConfig(name="test", backbone="resnet10t"))
    build_encoder(PASTConfig(name="test", backbone="resnet10t", backbone_training="full"))


def test_a_token_encoder_is_taken_as_it_is():
    encoder = DenseEncoder(nn.Conv2d(3, 4, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3, stride=8, channels=4, halo=0)
    assert build_encoder(PASTConfig(name="test", backbone="module"), encoder) is encoder
    assert encoder.token_centre == 4.0
    with pytest.raises(ValueError, match="backbone of your own"):
        build_encoder(PASTConfig(name="test", backbone="module"))


def test_pooling_from_a_field_equals_pooling_from_a_crop():
    """A crop that holds the receptive field gives what the shared field gives."""
    torch.manual_seed(0)
    regions = (*PASTConfig(name="x").regions, Region("east", "disc", 10.0, (20.0, 0.0)))
    config = PASTConfig(name="test", backbone="resnet10t", backbone_stage=1, regions=regions, **IMAGENET)
    encoder = build_encoder(config).eval()
    passes = image_passes(config, encoder)
    side, mpp = 512, config.target_mpp
    pixels = torch.rand(1, 3, side, side)
    centres = np.array([[256.0, 256.0], [300.0, 228.0]])
    units = UnitShapes(centres, np.full(2, 4.0 / mpp), np.zeros((0, 4)), np.zeros(3, int))
    with torch.inference_mode():
        field = pool_tokens(
            encoder(pixels)[0].numpy(), units, regions, stride=encoder.stride, token_centre=encoder.token_centre,
            target_mpp=mpp, inside=(0, 0, side, side),
        )  # fmt: skip
        half = 60 + 2 * encoder.halo
        half += -half % encoder.alignment
        for (x, y), expected in zip(centres.astype(int), field, strict=True):
            crop = pixels[..., y - half : y + half, x - half : x + half]
            found = pool_crops(encoder, crop, passes)[0]
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


def test_context_beyond_the_crop_is_unknown():
    encoder = DenseEncoder(nn.Conv2d(3, 4, 8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    regions = (Region("nucleus", "shape"), Region("east", "disc", 10.0, (90.0, 0.0)))
    config = PASTConfig(name="test", regions=regions)
    pooled = pool_crops(encoder, torch.rand(2, 3, 160, 160), image_passes(config, encoder))
    assert pooled[:, 0].isfinite().all() and pooled[:, 1].isnan().all()


def test_hash_of_weights_ignores_low_rank_additions():
    torch.manual_seed(0)
    network = timm.create_model("test_vit")
    state = {k: v.clone() for k, v in network.state_dict().items()}
    plain = backbone_sha256(build_encoder(vit_config(), network))
    again = timm.create_model("test_vit")
    again.load_state_dict(state)
    assert backbone_sha256(build_encoder(vit_config(backbone_training="lora"), again)) == plain
    with torch.no_grad():
        again.cls_token.add_(1)
    assert backbone_sha256(build_encoder(vit_config(), again)) != plain
