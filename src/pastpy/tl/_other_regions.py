"""What stays of the rows that a call leaves out: of a table that annotates several shapes, it worked some alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy._warn import warn_user

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["OtherRegions"]

#: What says of two results that they may stand in one column.
_SAME = ("model", "model_sha256", "model_blake2b", "mode", "target_sum")
#: Of a model that was never saved nobody knows whether it still is the same.
_UNKNOWN = "unsaved"


class OtherRegions:
    """Rows whose earlier results a call keeps, where they are of the same model.

    Parameters
    ----------
    worked
        bool (n,), rows that the call has worked; ``None`` if all.
    facts
        What is to be recorded of the call.
    before
        What was recorded of the last call that filled the same slots.

    Examples
    --------
    >>> others = OtherRegions(np.array([True, False]), {"model": "a"}, {"model": "a"})
    >>> others.merged(np.array([1.0, 2.0]), np.array([8.0, 9.0])).tolist()
    [1.0, 9.0]
    """

    def __init__(self, worked: np.ndarray | None, facts: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        self.worked = worked
        known = facts.get("model_sha256") != _UNKNOWN
        self.same = bool(before) and known and all(before.get(name) == facts.get(name) for name in _SAME)
        self._facts, self._before = facts, before

    def merged(self, found: np.ndarray, earlier: Any, absent: Any = np.nan) -> np.ndarray:
        """``found``, (n, …), in which the rows that were left out are those of ``earlier``, or ``absent``; in place."""
        if self.worked is None:
            return found
        others = ~self.worked
        fits = earlier is not None and np.shape(earlier) == found.shape
        found[others] = np.asarray(earlier)[others] if self.same and fits else absent
        return found

    def warn_of_lost(self, table: AnnData, slot: str) -> None:
        """Warn where rows that were left out lose what is in an ``obsm`` slot."""
        if self.worked is None or self.same or slot not in table.obsm:
            return
        lost = int(np.isfinite(np.asarray(table.obsm[slot], dtype=float)[~self.worked]).any(axis=1).sum())
        if lost:
            warn_user(
                f"{lost:,} rows of other shapes had results of another model, or of one that was not saved, in "
                f"obsm[{slot!r}]; they are NaN now. Work all shapes with one model, or pass key_added="
            )

    def facts(self) -> dict[str, Any]:
        """What is recorded: of the shapes that were left out, what was recorded of them."""
        kept = self._before.get("regions", {}) if self.worked is not None and self.same else {}
        return {**self._facts, **({"regions": {**kept, **self._facts["regions"]}} if kept else {})}
