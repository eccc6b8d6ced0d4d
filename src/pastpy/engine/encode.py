"""What the engine asks of an image encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


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
