"""Which device to compute on, how exactly, and how much at once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from pastpy._settings import settings

if TYPE_CHECKING:
    import torch

__all__ = ["Batches", "autocast", "autocast_dtype", "resolve_device"]

Item = TypeVar("Item")

#: What a CPU allocator and Apple's say when memory has run out; CUDA has an exception of its own.
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
#: Share of a GPU's memory up to which batches grow.
_FILL = 0.4


def resolve_device(device: str = "auto") -> torch.device:
    """Torch device for ``device``; ``"auto"`` takes the setting, then CUDA, MPS, CPU, whichever is there.

    Raises
    ------
    ValueError
        If the name is not a device, or the device is not on this machine.
    """
    import torch

    name = settings.device if device == "auto" else device
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"device={name!r} is not a torch device; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'"
        ) from error
    missing = (chosen.type == "cuda" and not torch.cuda.is_available()) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise ValueError(f"device={name!r}: this machine has no {chosen.type} device; use 'auto' or 'cpu'")
    return chosen


def autocast_dtype(device: torch.device, precision: str | None = None) -> torch.dtype | None:
    """Reduced precision in which a device is faster, or ``None`` to compute in float32.

    ``precision`` is ``settings.precision`` unless given. ``"auto"`` takes float16 where autocast is known for the
    device, and float32 on a CPU. The eight digits of bfloat16 move an embedding of ``past-mini`` by more than is worth
    its speed, also where a processor has AMX tiles for it.

    Raises
    ------
    ValueError
        If it is not ``"auto"``, ``"float32"``, ``"bfloat16"`` or ``"float16"``.
    """
    import torch

    named = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
    precision = settings.precision if precision is None else precision
    if precision != "auto":
        if precision not in named:
            raise ValueError(f"settings.precision={precision!r} is unknown; use one of {['auto', *named]}")
        return named[precision]
    return torch.float16 if device.type != "cpu" and torch.amp.is_autocast_available(device.type) else None


def autocast(device: torch.device, precision: str | None = None) -> AbstractContextManager[object]:
    """Autocast to the device's reduced precision; nothing where it has none. As :func:`autocast_dtype`."""
    import torch

    dtype = autocast_dtype(device, precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory has run out."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _OUT_OF_MEMORY)


class Batches:
    """How many images go through a network at once: found by itself, halved when memory runs out.

    Parameters
    ----------
    device
        Where the network is.
    first
        Images in the first batch.
    limit
        Largest batch; ``None`` lets batches double on a GPU as long as its memory has room.

    Attributes
    ----------
    size
        Images in the next batch.
    """

    def __init__(self, device: torch.device, *, first: int, limit: int | None = None) -> None:
        self._device, self._limit = device, limit
        self._lock = threading.Lock()
        self.size = first if limit is None else limit

    def map(self, encode: Callable[[Sequence[Item]], torch.Tensor], items: Iterable[Item]) -> Iterator[torch.Tensor]:
        """Encode items batch by batch, in order; a batch that does not fit is tried again in halves.

        Raises
        ------
        MemoryError
            If a single item does not fit.
        """
        source = iter(items)
        waiting: list[Item] = []
        while True:
            waiting += islice(source, max(0, self.size - len(waiting)))
            if not waiting:
                return
            batch = waiting[: self.size]
            encoded, failed = self._try(encode, batch)
            if failed is not None:
                self._shrink(len(batch), failed)
                continue
            assert encoded is not None
            yield encoded
            del waiting[: len(batch)]
            self._grow(len(batch))

    def _try(
        self, encode: Callable[[Sequence[Item]], torch.Tensor], batch: Sequence[Item]
    ) -> tuple[torch.Tensor | None, BaseException | None]:
        try:
            return encode(batch), None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # its frames keep the tensors that filled the memory
            return None, error.with_traceback(None)

    def _shrink(self, size: int, error: BaseException) -> None:
        import torch

        if size == 1:
            raise MemoryError(f"not enough memory on {self._device} for a single image; use another device") from error
        with self._lock:
            self.size = min(self.size, max(1, size // 2))
            self._limit = self.size
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _grow(self, size: int) -> None:
        if self._limit is not None or self._device.type != "cuda":
            return
        import torch

        used, total = torch.cuda.max_memory_reserved(self._device), torch.cuda.mem_get_info(self._device)[1]
        with self._lock:
            if size == self.size and used < _FILL * total:
                self.size *= 2
