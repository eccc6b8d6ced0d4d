"""Write: where the rows of a run end up."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from pastpy.engine.plan import Field

__all__ = ["MemorySink", "Sink"]


class Sink(Protocol):
    """Receives the outputs of finished fields."""

    def begin(self, fields: Sequence[Field]) -> Collection[int]:
        """Get ready for a run over these fields; returns the positions of those that are finished already."""
        ...

    def write(self, field: int, units: np.ndarray, outputs: Mapping[str, np.ndarray]) -> None:
        """Store one row per unit, float32 (len(units), …), for every named output; the field is then finished."""
        ...

    def end(self) -> None:
        """The run is over, be it finished or not."""
        ...


class MemorySink:
    """Keeps rows in memory, NaN where none was written.

    Parameters
    ----------
    n_units
        Number of rows.

    Examples
    --------
    >>> import numpy as np
    >>> sink = MemorySink(2)
    >>> sink.write(0, np.array([1]), {"x": np.ones((1, 2), dtype=np.float32)})
    >>> sink["x"].tolist()
    [[nan, nan], [1.0, 1.0]]
    """

    def __init__(self, n_units: int) -> None:
        self._n = n_units
        self._arrays: dict[str, np.ndarray] = {}

    def begin(self, fields: Sequence[Field]) -> Collection[int]:
        """Nothing is finished yet."""
        return ()

    def write(self, field: int, units: np.ndarray, outputs: Mapping[str, np.ndarray]) -> None:
        """Store one row per unit."""
        for name, rows in outputs.items():
            if name not in self._arrays:
                self._arrays[name] = np.full((self._n, *rows.shape[1:]), np.nan, dtype=np.float32)
            self._arrays[name][units] = rows

    def end(self) -> None:
        """Nothing is left to do."""

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]
