"""Any network as an image encoder: dense tokens whose spacing and reach are known."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["DenseEncoder", "PatchTokens", "WindowEncoder", "measure_geometry"]

#: Windows encoded at once.
WINDOWS = 32
_WINDOW = (
    "read it in windows: set window_px in the configuration, or wrap it as pastpy.models.WindowEncoder(network, "
    "window_px=…, stride=…, channels=…, mean=…, std=…)"
)
#: Sides of the fields in which a network's reach is looked for, px.
PROBE_SIDES = (128, 256, 512)


class _Normalising(nn.Module):
    """Part of both adapters: pixels in [0, 1] are normalised before the network sees them."""

    mean: torch.Tensor
    std: torch.Tensor
    stride: int
    alignment: int
    halo: int
    token_centre: float
    channels: int
    crop_px: int | None

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(tuple(std)).view(1, -1, 1, 1), persistent=False)

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode RGB pixels in [0, 1], float32 (b, 3, h, w)."""
        return self((pixels - self.mean) / self.std)


class DenseEncoder(_Normalising):
    """A network whose tokens see only their surroundings: convolutions without global pooling.

    Parameters
    ----------
    network
        Maps normalised pixels (b, 3, h, w) to features (b, channels, h / stride, w / stride).
    mean, std
        Pixel statistics, for pixels in [0, 1].
    stride, channels, halo, token_centre
        Geometry, as :class:`pastpy.engine.TokenEncoder` defines it; what is not given is measured.

    Raises
    ------
    ValueError
        If the network gives no grid of features, or its tokens see the whole field.

    Examples
    --------
    >>> from torch import nn
    >>> import pastpy as past
    >>> network = nn.Conv2d(3, 5, kernel_size=4, stride=4)
    >>> encoder = past.models.DenseEncoder(network, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> encoder.stride, encoder.halo, encoder.channels
    (4, 0, 5)
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        stride: int | None = None,
        channels: int | None = None,
        halo: int | None = None,
        token_centre: float | None = None,
    ) -> None:
        super().__init__(network, mean, std)
        if stride is None or channels is None or halo is None:
            measured = measure_geometry(network)
            given = (stride, channels, halo, token_centre)
            stride, channels, halo, token_centre = (m if g is None else g for g, m in zip(given, measured, strict=True))  # type: ignore[assignment]
        assert stride is not None and channels is not None and halo is not None
        self.stride, self.channels, self.halo = stride, channels, halo
        self.token_centre = stride / 2 if token_centre is None else token_centre
        self.alignment, self.crop_px = stride, None

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode normalised pixels, float32 (b, 3, h, w), as (b, channels, h/stride, w/stride)."""
        return last_grid(self.network(pixels))


class WindowEncoder(_Normalising):
    """A network whose tokens see a whole window: a vision transformer, or convolutions with global pooling.

    A field is covered with overlapping windows whose places are fixed on the slide; a token is taken from the window
    in whose core it lies, so it is the same in whichever field it is computed. Cores whose window does not fit into
    the field are left NaN; they lie in the halo. An input of the window's own size is a crop, encoded as it is.

    Parameters
    ----------
    network
        Maps normalised pixels (b, 3, window, window) to features (b, channels, window / stride, window / stride).
    window_px
        Side of the window, px; a multiple of ``stride``, at least three times it.
    stride, channels
        Pixels between tokens, and length of a token.
    mean, std
        Pixel statistics, for pixels in [0, 1].

    Raises
    ------
    ValueError
        If the window does not fit the stride.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        window_px: int,
        stride: int,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(network, mean, std)
        if window_px % stride or window_px < 3 * stride:
            raise ValueError(f"window_px={window_px} must be a multiple of the stride {stride}, at least {3 * stride}")
        n = window_px // stride
        #: Tokens at each side of a window that are left to the next one: an eighth of it.
        self.margin = max(1, n // 8)
        self.crop_px = window_px
        self.stride, self.channels, self.token_centre = stride, channels, stride / 2
        self.core_px = (n - 2 * self.margin) * stride
        self.alignment = self.halo = self.core_px

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode normalised pixels, float32 (b, 3, h, w): crops of the window's size, or fields of whole cores."""
        height, width = pixels.shape[-2:]
        if (height, width) == (self.crop_px, self.crop_px):
            return last_grid(self.network(pixels))
        if height % self.core_px or width % self.core_px or min(height, width) < 3 * self.core_px:
            raise ValueError(
                f"pixels are {height} × {width}; this encoder takes crops of {self.crop_px} × {self.crop_px}, or "
                f"fields whose sides are multiples of {self.core_px}, at least three"
            )
        first = self.core_px - self.margin * self.stride
        inside = pixels[..., first : height - first, first : width - first]
        assert self.crop_px is not None
        windows = inside.unfold(2, self.crop_px, self.core_px).unfold(3, self.crop_px, self.core_px)
        b, _, rows, columns = windows.shape[:4]
        flat = windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        core = slice(self.margin, -self.margin)
        cores = torch.cat([last_grid(self.network(part))[..., core, core] for part in flat.split(WINDOWS)])
        grid = cores.unflatten(0, (b, rows, columns)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        return F.pad(grid, (self.core_px // self.stride,) * 4, value=float("nan"))


class PatchTokens(nn.Module):
    """The patch tokens of one of timm's vision transformers as a grid; class and register tokens are left out.

    Parameters
    ----------
    transformer
        A ``timm`` network with ``patch_embed`` and ``num_prefix_tokens``.
    window_px
        Side of its input, px: the position embedding is resampled to it. ``None`` leaves it as it is.

    Examples
    --------
    >>> import timm
    >>> tokens = PatchTokens(timm.create_model("vit_tiny_patch16_224"), 96)
    >>> tokens(torch.zeros(1, 3, 96, 96)).shape
    torch.Size([1, 192, 6, 6])
    """

    def __init__(self, transformer: nn.Module, window_px: int | None) -> None:
        super().__init__()
        self.transformer = transformer
        size = transformer.patch_embed.img_size  # type: ignore[union-attr]
        if window_px is not None and (size is None or tuple(size) != (window_px, window_px)):  # type: ignore[arg-type]
            transformer.set_input_size(img_size=(window_px, window_px))  # type: ignore[operator]

    @property
    def window_px(self) -> int:
        """Side of the input, px."""
        return int(self.transformer.patch_embed.img_size[0])  # type: ignore[union-attr, index, arg-type]

    @property
    def stride(self) -> int:
        """Side of a patch, px."""
        return int(self.transformer.patch_embed.patch_size[0])  # type: ignore[union-attr, index, arg-type]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels, (b, 3, window, window), as (b, channels, rows, columns)."""
        features = self.transformer.forward_features(pixels)  # type: ignore[operator]
        patches = features[:, self.transformer.num_prefix_tokens :]  # type: ignore[misc]
        rows, columns = (side // self.stride for side in pixels.shape[-2:])
        return patches.transpose(1, 2).unflatten(2, (rows, columns))


class StageFeatures(nn.Module):
    """One of timm's staged networks up to a stage, as a network that gives the features of that stage.

    Parameters
    ----------
    network
        A ``timm`` network with ``forward_intermediates``; what follows the stage is cut off.
    stage
        Index of the stage among the network's ``feature_info``.

    Raises
    ------
    ValueError
        If there is no such stage.
    """

    def __init__(self, network: nn.Module, stage: int) -> None:
        super().__init__()
        n_stages = len(network.feature_info)  # type: ignore[arg-type]
        if not 0 <= stage < n_stages:
            raise ValueError(f"backbone_stage={stage} is not one of the {n_stages} stages of the backbone")
        network.prune_intermediate_layers([stage], prune_norm=True, prune_head=True)  # type: ignore[operator]
        self.network, self.stage = network, stage

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised pixels (b, 3, h, w) as (b, channels, rows, columns)."""
        (features,) = self.network.forward_intermediates(  # type: ignore[operator]
            pixels, indices=[self.stage], stop_early=True, intermediates_only=True
        )
        return features


def last_grid(features: object) -> torch.Tensor:
    """The features themselves, or the last of several; ``ValueError`` where they are no grid."""
    if isinstance(features, list | tuple) and features:
        features = features[-1]
    if not isinstance(features, torch.Tensor) or features.ndim != 4:
        found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ValueError(f"an image backbone must give features (b, channels, rows, columns), got {found}")
    return features


def measure_geometry(network: nn.Module) -> tuple[int, int, int, float]:
    """Stride, channels, halo and token centre of a network, from which pixels move one of its tokens.

    Parameters
    ----------
    network
        Maps pixels (b, 3, h, w) to a grid of features.

    Raises
    ------
    ValueError
        If it gives no grid, or one token sees all of a field of 512 px.
    """
    probed = copy.deepcopy(network).eval()
    for parameter in probed.parameters():
        if not parameter.any():  # branches of a residual network are often zero before it is trained
            nn.init.ones_(parameter)
    for side in PROBE_SIDES:
        found = _probe(probed, side)
        if found is not None:
            return found
    raise ValueError(
        f"one token of this backbone sees a whole field of {PROBE_SIDES[-1]} px (global pooling or attention); "
        f"{_WINDOW}"
    )


def _probe(network: nn.Module, side: int) -> tuple[int, int, int, float] | None:
    """Geometry found in a field of this side, or ``None`` if a token's reach meets its edge."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    moved = torch.zeros(side, dtype=torch.bool)
    for _ in range(3):  # a rectified unit that is off hides what is behind it
        pixels = torch.randn(1, 3, side, side, generator=generator).to(device).requires_grad_()
        with torch.enable_grad():
            try:
                grid = last_grid(network(pixels))
            except (RuntimeError, AssertionError) as error:
                raise ValueError(f"this backbone takes no field of {side} × {side} px ({error}); {_WINDOW}") from error
            n = grid.shape[-1]
            if side % n:
                raise ValueError(f"{side} px give {n} tokens; the stride of a backbone must be a whole number of px")
            (gradient,) = torch.autograd.grad(grid[0, :, n // 2, n // 2].abs().sum(), pixels)
        moved |= (gradient != 0).any(dim=(0, 1, 2)).cpu() | (gradient != 0).any(dim=(0, 1, 3)).cpu()
    stride, first, last = side // n, int(moved.nonzero().min()), int(moved.nonzero().max()) + 1
    if first == 0 or last == side:
        return None
    start = n // 2 * stride
    reach = max(start - first, last - (start + stride), 0)
    return stride, grid.shape[1], -(-reach // stride) * stride, (first + last) / 2 - start
