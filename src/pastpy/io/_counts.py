"""Tables of counts as text: their header, and what every one of them is refused for."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["are_counts", "header_of", "refuse_duplicates"]


def header_of(path: Path, delimiter: str) -> list[str]:
    """First line of a table, gzipped or not; read apart, since pandas would rename a gene that is there twice."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return next(csv.reader(file, delimiter=delimiter), [])


def are_counts(values: np.ndarray) -> np.ndarray:
    """Where values are non-negative integers that int32 holds; NaN is none."""
    return (values >= 0) & (values == np.floor(values)) & (values < 2**31)


def refuse_duplicates(index: pd.Index, where: str, what: str) -> None:
    """Raise a ``ValueError`` that names the first entry that is there twice."""
    if index.has_duplicates:
        raise ValueError(
            f"{where} has the {what} {index[index.duplicated()].tolist()[0]!r} more than once; make it unique"
        )
