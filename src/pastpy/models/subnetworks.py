"""Subnetworks: one member of a model with some units left out, to see how far its predictions depend on either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn

__all__ = ["SubnetworkDropout", "computing_members", "subnetwork"]

#: Number of the subnetwork that computes in this thread; ``None`` is the whole network.
_number: ContextVar[int | None] = ContextVar("subnetwork", default=None)


class SubnetworkDropout(nn.Dropout):
    """Dropout that also works outside training, inside :func:`subnetwork`: with one mask for all rows.

    The mask depends on the subnetwork's number, the layer's own and the shape of a row, so a cell's value does not
    depend on the cells that are computed with it.

    Parameters
    ----------
    p
        Share of the units that are left out.
    layer
        Number of the layer in the model.
    """

    def __init__(self, p: float, layer: int) -> None:
        super().__init__(p)
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop units of x, (n, …): at random in training, those of the subnetwork inside one, none otherwise."""
        number = _number.get()
        if self.training or number is None or not self.p:
            return super().forward(x)
        generator = torch.Generator().manual_seed(1000 * number + self.layer)
        kept = torch.rand(x.shape[1:], generator=generator) >= self.p
        return x * (kept / (1 - self.p)).to(x)


def computing_members(n: int) -> Sequence[int]:
    """Which of n members compute: all, or inside :func:`subnetwork` the one that it is a part of.

    Examples
    --------
    >>> with subnetwork(5):
    ...     inside = computing_members(3)
    >>> list(computing_members(3)), inside
    ([0, 1, 2], (2,))
    """
    number = _number.get()
    return range(n) if number is None else (number % n,)


@contextmanager
def subnetwork(number: int) -> Iterator[None]:
    """Compute with one of the subnetworks of every model inside the ``with`` block, in this thread.

    Of a model with several members, subnetworks take turns in being a part of the first, the second, and so on.

    Parameters
    ----------
    number
        Which; the same number always is the same subnetwork.

    References
    ----------
    Gal & Ghahramani, Dropout as a Bayesian Approximation, ICML 2016, arXiv:1506.02142; fixed masks as in Durasov et
    al., Masksembles, CVPR 2021, arXiv:2012.08334.

    Examples
    --------
    >>> layer = SubnetworkDropout(0.5, layer=0).eval()
    >>> with subnetwork(3):
    ...     first, again = layer(torch.ones(2, 8)), layer(torch.ones(2, 8))
    >>> bool((first == again).all()), bool((first[0] == first[1]).all()), bool((layer(torch.ones(1)) == 1).all())
    (True, True, True)
    """
    token = _number.set(number)
    try:
        yield
    finally:
        _number.reset(token)
