"""Encode: a field goes through the network in tiles of one size, whose tokens are put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pastpy._settings import settings
from pastpy._warn import warn_user
from pastpy.engine.device import Batches, autocast
from pastpy.engine.read import as_unit

if TYPE_CHECKING:
    import torch

    from pastpy.engine.read import FieldPixels

__all__ = ["FieldEncoder", "TokenEncoder", "plan_tiles"]

#: Side of a tile, target pixels: the activations of larger ones leave a processor's cache.
TILE_PX = 512
#: Tiles in a first batch on a GPU.
_GPU_TILES = 8


class TokenEncoder(Protocol):
    """A network that turns fields into a grid of tokens.

    Attributes
    ----------
    stride
        Pixels between tokens.
    alignment
        Origins and sides of fields must be multiples of this many pixels, so that a token does not depend on the field
        that it was computed in.
    halo
        Pixels around a token's own square that it can see; tokens nearer than this to a field's edge are not used.
    token_centre
        Pixel coordinate of the centre of the first token's receptive field, measured from the field's corner. Networks
        that pad on one side see a point off the middle of the token's square.
    channels
        Length of a token.
    """

    stride: int
    alignment: int
    halo: int
    token_centre: float
    channels: int

    def tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode RGB pixels in [0, 1], float32 (b, 3, h, w), as tokens, float32 (b, channels, h/stride, w/stride)."""
        ...


def plan_tiles(length: int, *, halo: int, alignment: int, tile_px: int = TILE_PX) -> list[tuple[int, int, int, int]]:
    """Divide one side of a field into overlapping tiles of one size.

    Parameters
    ----------
    length
        Side of the field, a multiple of ``alignment``.
    halo
        Pixels at a tile's edge whose tokens are not used, unless the edge is that of the field.
    alignment
        Tiles begin and end at multiples of this.
    tile_px
        Largest side of a tile, unless halo and alignment ask for more.

    Returns
    -------
    Start and end of each tile, and start and end of the part of it that is used, all from the field's corner.

    Examples
    --------
    >>> plan_tiles(1240, halo=40, alignment=8)
    [(0, 472, 0, 432), (392, 864, 432, 824), (768, 1240, 808, 1240)]
    """
    margin = -(-halo // alignment) * alignment
    inner = max((tile_px - 2 * margin) // alignment, 1) * alignment
    if length <= inner + 2 * margin:
        return [(0, length, 0, length)]
    n = -(-(length - 2 * margin) // inner)
    inner = -(-(length - 2 * margin) // (n * alignment)) * alignment
    side = inner + 2 * margin
    starts = [min(i * inner, length - side) for i in range(n)]
    used = [(s + margin if s else 0, s + side - margin if s + side < length else length) for s in starts]
    return [(s, s + side, *part) for s, part in zip(starts, used, strict=True)]


def _compiled(encode: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> Callable[..., torch.Tensor]:
    """The function compiled for a device other than a CPU, where that takes minutes and ends with slower code."""
    import torch

    if device.type == "cpu":
        warn_user("settings.compile is for GPUs: on a CPU image encoders run as they are, which is faster")
        return encode
    return torch.compile(encode, dynamic=True)


class FieldEncoder:
    """An encoder on its device: fields and crops in, arrays of tokens out.

    Parameters
    ----------
    encode
        Maps RGB pixels in [0, 1], float32 (b, 3, h, w) on the device, to (b, …).
    device
        Where its parameters are.
    batch_size
        Tiles or crops encoded together; found by itself if ``None``.
    precision, compile
        As the settings of these names, which are taken unless given.
    name
        Name of the image, for messages.
    """

    def __init__(
        self,
        encode: Callable[[torch.Tensor], torch.Tensor],
        *,
        device: torch.device,
        batch_size: int | None = None,
        precision: str | None = None,
        compile: bool | None = None,
        name: str = "image",
    ) -> None:
        self.device, self._batch_size, self._name = device, batch_size, name
        self._encode, self._precision = encode, precision
        if settings.compile if compile is None else compile:
            self._encode = _compiled(encode, device)
        self._batches: dict[tuple[int, int], Batches] = {}

    def tokens(self, pixels: FieldPixels, encoder: TokenEncoder) -> np.ndarray:
        """Tokens of a field, float32 (channels, h/stride, w/stride)."""
        height, width = pixels.field.height, pixels.field.width
        stride = encoder.stride
        rows, columns = (plan_tiles(n, halo=encoder.halo, alignment=encoder.alignment) for n in (height, width))
        tiles = [(row, column) for row in rows for column in columns]
        cut = (pixels.cut(c[0], r[0], c[1] - c[0], r[1] - r[0]) for r, c in tiles)
        out = np.empty((encoder.channels, height // stride, width // stride), dtype=np.float32)
        for (r, c), grid in zip(tiles, self.images(cut, (rows[0][1], columns[0][1])), strict=True):
            (ya, yb), (xa, xb) = ((part[2] // stride, part[3] // stride) for part in (r, c))
            y0, x0 = r[0] // stride, c[0] // stride
            out[:, ya:yb, xa:xb] = grid[:, ya - y0 : yb - y0, xa - x0 : xb - x0]
        return out

    def images(self, images: Iterable[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
        """Encode images one by one, each (3, h, w) with the given height and width; batches are made on the way."""
        for part in self._batches_of(size).map(self._encode_batch, images):
            yield from part.float().cpu().numpy()

    def _batches_of(self, size: tuple[int, int]) -> Batches:
        if size not in self._batches:
            tiles = 1 if self.device.type == "cpu" else _GPU_TILES
            first = max(1, tiles * TILE_PX**2 // (size[0] * size[1]))
            self._batches[size] = Batches(self.device, first=first, limit=self._batch_size)
        return self._batches[size]

    def _encode_batch(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        import torch

        stack = np.stack(images)
        # bytes are a quarter of the way to a device
        narrow = stack.dtype == np.uint8
        pixels = torch.from_numpy(stack if narrow else as_unit(stack, self._name))
        if self.device.type == "cuda":
            pixels = pixels.pin_memory()
        pixels = pixels.to(self.device, non_blocking=True)
        with autocast(self.device, self._precision):
            return self._encode(pixels.float() / 255 if narrow else pixels)
