"""Whether two sections hold the same units, which would then stand on both sides of a fold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from anndata import AnnData

    from pastpy.bench._folds import Arrangement

__all__ = ["refuse_held_out_units", "refuse_shared_units"]

#: A row is taken for a fingerprint of its unit if it has so many different genes.
_FINGERPRINT_GENES = 20
#: Share of a section's fingerprints that another one may have before the two are taken for the same tissue.
_SAME_SHARE = 0.05


def refuse_shared_units(tables: Mapping[str, AnnData], *, layer: str | None = None) -> None:
    """Raise if two sections hold the same units: a copy, or two cuts of one table, under different names.

    Units are recognised by their counts of the genes that both sections list, where at least 20 of these are found.

    Raises
    ------
    ValueError
        If more than a twentieth of one section's units are in another.
    """
    marked = {name: _Marked.of(table, _counts(table, layer)) for name, table in tables.items()}
    for a, b in combinations(marked, 2):
        both = _n_shared(marked[a], marked[b])
        if both:
            raise ValueError(
                f"sections {a!r} and {b!r} share {both} units with identical counts: the same tissue would stand on "
                "both sides; leave one of them out"
            )


def refuse_held_out_units(arranged: Arrangement, layer: str | None) -> None:
    """Raise if any table of a training object, of which methods see all, holds units that are scored."""
    # asked for only where an object has other tables
    marked = cache(lambda name: _Marked.of(arranged.tables[name], _counts(arranged.tables[name], layer)))
    sides = {(s, t) for train, test in arranged.folds.values() for s in train for t in test}
    for section in sorted({s for s, _ in sides}):
        for key, table in arranged.sections[section].tables.items():
            if table is arranged.tables[section] or not table.n_vars:
                continue
            others = [_Marked.of(table, x) for x in (table.X, *table.layers.values()) if x is not None]
            for held in sorted(t for s, t in sides if s == section):
                both = max((_n_shared(other, marked(held)) for other in others), default=0)
                if both:
                    raise ValueError(
                        f"table {key!r} of section {section!r} holds {both} units of section {held!r}, from which it "
                        "is apart in a fold: a method would see what it is scored on; remove them from that table"
                    )


def _counts(table: AnnData, layer: str | None) -> Any:
    return table.X if layer is None else table.layers[layer]


class _Marked:
    """A table of which every count is hashed with the name of its gene, to compare units over any set of genes.

    The hash of a unit is the sum of those of its counts: whichever genes are compared, in whichever order they are.
    """

    def __init__(self, genes: np.ndarray, column: np.ndarray, start: np.ndarray, marks: np.ndarray) -> None:
        self.genes = genes
        self._column, self._start, self._marks = column, start, marks
        self._found: dict[bytes, np.ndarray] = {}

    @classmethod
    def of(cls, table: AnnData, counts: Any) -> _Marked:
        from scipy.sparse import csr_matrix

        found = csr_matrix(counts, copy=True)
        found.eliminate_zeros()
        genes = table.var_names.to_numpy().astype(str)
        names = np.array([_hash_of(gene) for gene in genes], dtype=np.uint64)
        marks = _mixed(names[found.indices] ^ _mixed(found.data.astype(np.float64).view(np.uint64)))
        return cls(genes, found.indices, found.indptr, marks)

    def units(self, genes: np.ndarray) -> np.ndarray:
        """Hashes of the units in which enough of the genes are found, uint64 and without repeats."""
        chosen = np.isin(self.genes, genes)
        key = chosen.tobytes()
        if key not in self._found:
            at = chosen[self._column]
            total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(np.where(at, self._marks, np.uint64(0)))])
            number = np.concatenate([[0], np.cumsum(at)])
            enough = number[self._start[1:]] - number[self._start[:-1]] >= _FINGERPRINT_GENES
            self._found[key] = np.unique((total[self._start[1:]] - total[self._start[:-1]])[enough])
        return self._found[key]


def _n_shared(a: _Marked, b: _Marked) -> int:
    """Units that both hold, if they are too many for chance, else 0."""
    genes = np.intersect1d(a.genes, b.genes)
    if len(genes) < _FINGERPRINT_GENES:
        return 0
    first, second = a.units(genes), b.units(genes)
    both = len(np.intersect1d(first, second, assume_unique=True))
    return both if both > _SAME_SHARE * min(len(first), len(second)) else 0


def _hash_of(text: str) -> int:
    from hashlib import blake2b

    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _mixed(bits: np.ndarray) -> np.ndarray:
    """Every bit spread over all 64 (the finaliser of SplitMix64); sums of such numbers hardly ever agree by chance."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
