"""Views: the same tissue as another scanner and another stainer would have shown it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from pastpy.models.image import ImageEncoder

__all__ = ["View", "ViewEncoder", "draw_view", "views_of"]

#: Optical densities of haematoxylin, eosin and residual in R, G, B (Ruifrok & Johnston 2001, PMID 11531144).
_HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


@dataclass(frozen=True)
class View:
    """How a view differs from the original.

    Attributes
    ----------
    stain_gain, stain_shift
        Factor and offset of each stain's optical density.
    brightness
        Factor on the pixels.
    blur_px
        Standard deviation of a Gaussian blur, target pixels; 0 for none.
    zoom
        Factor on the µm/px at which the image is read.
    flip_x, flip_y, transpose
        Mirror the field, or swap its axes.
    """

    stain_gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stain_shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    brightness: float = 1.0
    blur_px: float = 0.0
    zoom: float = 1.0
    flip_x: bool = False
    flip_y: bool = False
    transpose: bool = False


def draw_view(rng: np.random.Generator) -> View:
    """Draw a view at random."""
    return View(
        stain_gain=tuple(np.exp(rng.normal(0, 0.2, 3)).tolist()),
        stain_shift=tuple(rng.normal(0, 0.03, 3).tolist()),
        brightness=float(np.exp(rng.normal(0, 0.05))),
        blur_px=float(max(0.0, rng.normal(0.2, 0.6))),
        zoom=float(np.exp(rng.normal(0, 0.08))),
        flip_x=bool(rng.integers(2)),
        flip_y=bool(rng.integers(2)),
        transpose=bool(rng.integers(2)),
    )


def views_of(name: str, n: int, seed: int) -> list[View]:
    """The original of a section and ``n`` views of it, the same in every run that shares the seed.

    They do not depend on the other sections, so models that leave one out after the other share what was read.
    """
    rng = np.random.default_rng([seed, *name.encode()])
    return [View(), *(draw_view(rng) for _ in range(n))]


class ViewEncoder:
    """An image encoder that sees a view of the pixels, and gives its tokens in the original's frame."""

    def __init__(self, encoder: ImageEncoder, view: View) -> None:
        self.encoder, self.view = encoder, view
        self.stride, self.alignment = encoder.stride, encoder.alignment
        self.halo, self.channels = encoder.halo, encoder.channels
        # mirroring moves the receptive fields of one-sided padding to the other side of the token's square
        mirrored = view.flip_x or view.flip_y
        self.token_centre = encoder.stride / 2 if mirrored else encoder.token_centre

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tokens of the view, float32 (b, channels, rows, columns)."""
        view = self.view
        flips = [axis for axis, on in ((-1, view.flip_x), (-2, view.flip_y)) if on]
        x = torch.flip(restain(pixels, view), flips)
        x = self.encoder.tokens(x.mT if view.transpose else x)
        return torch.flip(x.mT if view.transpose else x, flips)


def restain(pixels: torch.Tensor, view: View) -> torch.Tensor:
    """Change stains, brightness and focus of RGB pixels in [0, 1], float32 (b, 3, h, w)."""
    from torchvision.transforms.v2.functional import gaussian_blur

    hed = torch.tensor(_HED)
    hed = hed / hed.norm(dim=1, keepdim=True)
    density = -torch.log(pixels.clamp(min=1 / 255))
    stains = torch.einsum("bchw,cs->bshw", density, torch.linalg.inv(hed))
    gain, shift = (torch.tensor(v).view(1, 3, 1, 1) for v in (view.stain_gain, view.stain_shift))
    # the shift is for stained tissue; glass stays glass
    stains = stains * gain + shift * (density.mean(dim=1, keepdim=True) > 0.1)
    out = torch.exp(-torch.einsum("bshw,sc->bchw", stains, hed)) * view.brightness
    if view.blur_px > 0.3:
        out = gaussian_blur(out, kernel_size=[2 * int(np.ceil(3 * view.blur_px)) + 1] * 2, sigma=[view.blur_px] * 2)
    return out.clamp(0, 1)
