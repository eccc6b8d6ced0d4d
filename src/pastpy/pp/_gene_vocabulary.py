"""Which gene a name means: symbols, Ensembl ids, previous symbols and aliases of one species."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import os

    import pandas as pd

__all__ = ["SPECIES", "GeneVocabulary", "guess_species", "load_vocabulary", "vocabulary_source"]

SPECIES = ("human", "mouse")
#: Columns of a vocabulary file; the last two hold names joined by "|".
COLUMNS = ("species", "symbol", "ensembl_id", "previous", "alias")
#: How a name was matched, in the order in which it is tried.
MATCHES = ("symbol", "ensembl_id", "previous", "alias", "case")
AMBIGUOUS, UNKNOWN = "ambiguous", "unknown"

_SHIPPED = Path(__file__).with_name("gene_vocabulary.parquet")
_VERSION = re.compile(r"(ENS[A-Z]*G\d{11})(?:\.\d+)?(?:_PAR_Y)?", re.IGNORECASE)


class GeneVocabulary:
    """The names of one species' genes.

    Parameters
    ----------
    genes
        A row a gene: ``symbol``, ``ensembl_id``, ``previous`` and ``alias``, strings, the last two with ``"|"`` between
        names; empty where there is none.
    """

    def __init__(self, genes: pd.DataFrame) -> None:
        self.symbol = genes["symbol"].to_numpy(dtype=object)
        self.ensembl_id = genes["ensembl_id"].to_numpy(dtype=object)
        self._rows = {
            "symbol": _index((s,) for s in self.symbol),
            "ensembl_id": _index((i,) for i in self.ensembl_id),
            "previous": _index(names.split("|") for names in genes["previous"]),
            "alias": _index(names.split("|") for names in genes["alias"]),
            "case": _index((s.upper(),) for s in self.symbol),
        }

    def resolve(self, names: Sequence[str]) -> tuple[np.ndarray, list[str], list[str]]:
        """Row of the gene that each name means.

        The first of :data:`MATCHES` that knows the name decides; what several genes share there is ambiguous, and stays
        without a row.

        Returns
        -------
        row
            int64 (n,), −1 where ambiguous or unknown.
        match
            How it was matched, ``"ambiguous"`` or ``"unknown"``.
        candidates
            Symbols that an ambiguous name could mean, joined by ``"|"``; else empty.
        """
        row = np.full(len(names), -1, dtype=np.int64)
        match, candidates = [UNKNOWN] * len(names), [""] * len(names)
        for i, name in enumerate(names):
            plain = _plain(name)
            for kind in MATCHES:
                found = self._rows[kind].get(plain.upper() if kind == "case" else plain)
                if found is None:
                    continue
                if len(found) == 1:
                    row[i], match[i] = found[0], kind
                else:
                    match[i], candidates[i] = AMBIGUOUS, "|".join(sorted(self.symbol[list(found)]))
                break
        return row, match, candidates

    def n_known(self, names: Iterable[str]) -> int:
        """How many names are current symbols or Ensembl ids."""
        known = self._rows["symbol"].keys() | self._rows["ensembl_id"].keys()
        return sum(_plain(name) in known for name in names)


def _plain(name: str) -> str:
    """A name without spaces around it; an Ensembl id in capitals, without version and ``_PAR_Y``."""
    versioned = _VERSION.fullmatch(name.strip())
    return versioned[1].upper() if versioned else name.strip()


def _index(names: Iterable[Iterable[str]]) -> dict[str, tuple[int, ...]]:
    """Rows in which each name stands."""
    rows: dict[str, tuple[int, ...]] = {}
    for row, some in enumerate(names):
        for name in dict.fromkeys(some):
            if name:
                rows[name] = (*rows.get(name, ()), row)
    return rows


def load_vocabulary(vocabulary: str | os.PathLike[str], species: str) -> GeneVocabulary:
    """The vocabulary of a species: ``"past"``, the shipped one, or a file of the user's.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it lacks a column, or has no gene of the species.
    """
    if species not in SPECIES:
        raise ValueError(f"species must be one of {SPECIES}, got {species!r}")
    path = _path(vocabulary)
    return _load(path, species, path.stat().st_mtime_ns)


def guess_species(names: Sequence[str], vocabulary: str | os.PathLike[str]) -> Literal["human", "mouse"]:
    """The species in whose vocabulary most names are.

    Raises
    ------
    ValueError
        If no name is in either, or as many are in both.
    """
    n_known = {}
    for species in SPECIES:
        try:
            n_known[species] = load_vocabulary(vocabulary, species).n_known(names)
        except _NoSuchSpecies:
            n_known[species] = 0
    human, mouse = (n_known[s] for s in SPECIES)
    if human == mouse:
        some = "none" if not human else f"as many ({human})"
        raise ValueError(
            f"the species cannot be told: {some} of the {len(names)} genes, e.g. {list(names[:3])}, are symbols or "
            f"Ensembl ids of {' and of '.join(SPECIES)}; pass species='human' or 'mouse', and check that these are "
            "names of genes"
        )
    return "human" if human > mouse else "mouse"


def vocabulary_source(vocabulary: str | os.PathLike[str]) -> dict[str, Any]:
    """Where a vocabulary is from: its path's name, and what a file made by pastpy says of its sources."""
    import pyarrow.parquet as pq

    path = _path(vocabulary)
    noted = pq.read_schema(path).metadata or {} if path.suffix == ".parquet" else {}
    return {"file": path.name, **json.loads(noted.get(b"past", b"{}"))}


class _NoSuchSpecies(ValueError):
    """A vocabulary without a gene of the species."""


def _path(vocabulary: str | os.PathLike[str]) -> Path:
    path = _SHIPPED if vocabulary == "past" else Path(vocabulary)
    if not path.is_file():
        raise FileNotFoundError(f"no gene vocabulary {str(path)!r}; pass 'past' or a file with the columns {COLUMNS}")
    return path


@lru_cache(maxsize=4)
def _load(path: Path, species: str, changed: int) -> GeneVocabulary:
    """``changed``, the time of the file's last change, keeps an old version from being used again."""
    import pandas as pd

    try:
        if path.suffix == ".parquet":
            genes = pd.read_parquet(path)
        else:
            genes = pd.read_csv(path, sep="\t" if ".tsv" in path.suffixes else ",", dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:
        raise ValueError(f"gene vocabulary {path} is no table that can be read: {error}") from error
    missing = [c for c in ("species", "symbol") if c not in genes]
    if missing:
        raise ValueError(f"gene vocabulary {path} lacks the columns {missing}; it has {genes.columns.tolist()}")
    genes = genes.reindex(columns=list(COLUMNS)).fillna("").astype(str)
    genes = genes[genes["species"] == species]
    if genes.empty:
        raise _NoSuchSpecies(f"gene vocabulary {path} has no gene of species {species!r}")
    return GeneVocabulary(genes)
