"""Views change colour, focus and orientation, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pastpy.models import PASTConfig
from pastpy.models.image import ImageEncoder
from pastpy.train.augment import View, ViewEncoder, draw_view, restain


def test_the_plain_view_changes_nothing():
    pixels = torch.rand(1, 3, 16, 16) * 0.9 + 0.05
    torch.testing.assert_close(restain(pixels, View()), pixels, atol=1e-5, rtol=1e-5)


def test_more_haematoxylin_is_darker_and_glass_stays_glass():
    pixels = torch.full((1, 3, 8, 8), 0.5)
    pixels[..., :4] = 1.0
    stained = restain(pixels, View(stain_gain=(1.5, 1.0, 1.0), stain_shift=(0.1, 0.0, 0.0)))
    assert (stained[..., 4:].mean(dim=(0, 2, 3)) < 0.5).any()
    torch.testing.assert_close(stained[..., :4], pixels[..., :4])


@pytest.mark.parametrize(
    "view", [View(flip_x=True), View(flip_y=True), View(transpose=True), View(flip_x=True, transpose=True)]
)
def test_tokens_of_a_mirrored_view_are_in_the_originals_frame(view):
    """A bright square is found at the same tokens, to within the one-sided padding."""
    torch.manual_seed(0)
    encoder = ImageEncoder(PASTConfig(name="test")).eval()
    pixels = torch.zeros(1, 3, 192, 256)
    pixels[..., 48:80, 160:192] = 1.0
    with torch.inference_mode():
        empty = ViewEncoder(encoder, view).tokens(torch.zeros_like(pixels))
        energy = (ViewEncoder(encoder, view).tokens(pixels) - empty)[:, :, 2:-2, 2:-2].abs().sum(dim=(0, 1)).numpy()
    y, x = np.indices(energy.shape) + 2
    centre = [(energy * v).sum() / energy.sum() * 8 + 4 for v in (x, y)]
    np.testing.assert_allclose(centre, [176, 64], atol=8)


def test_views_are_drawn_by_seed():
    a, b = (draw_view(np.random.default_rng(3)) for _ in range(2))
    assert a == b != draw_view(np.random.default_rng(4))
