"""Processes that train one model together, as torchrun starts them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Ranks"]

#: How long a process waits for one that has more to do.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """Which of several processes this is; by default the only one.

    What can be done apart, each does a share of, and keeps it on a disk that all of them see.

    Attributes
    ----------
    index
        Of this process, from 0.
    size
        Number of processes.

    Examples
    --------
    >>> from pastpy.train import Ranks
    >>> list(Ranks(1, 3).share(8))
    [1, 4, 7]
    """

    index: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def of_torchrun(cls) -> Iterator[Ranks]:
        """The processes that torchrun has started with this one, which leave together; without it, this one."""
        import torch.distributed as dist

        if not dist.is_available() or not dist.is_torchelastic_launched():
            yield cls()
            return
        dist.init_process_group("gloo", timeout=PATIENCE)
        try:
            yield cls(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this is the process that does what cannot be shared."""
        return self.index == 0

    def share(self, n: int) -> range:
        """Positions among ``n`` pieces of work that are this process' own."""
        return range(self.index, n, self.size)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        import torch.distributed as dist

        if self.size > 1:
            dist.barrier()
