"""Store: results on disk, field by field, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy.engine.fingerprint import plan_fingerprint

if TYPE_CHECKING:
    import zarr

    from pastpy.engine.plan import Field

__all__ = ["ZarrSink"]

_ATTRIBUTE = "pastpy_run"
_MANIFEST = "finished.jsonl"
#: Fields whose rows stay in memory while others read them; four meet at a corner.
_FIELDS_KEPT = 6


class ZarrSink:
    """Streams rows to a zarr store with a manifest of finished fields.

    Every output is an array (fields, units of the fullest field, …) with one chunk a field. A field's chunks are
    written first and its line in the manifest last, each in one piece; so whatever a kill leaves half-done is not in
    the manifest, and is written again. The manifest is a text file in the store, one JSON object a line.

    Parameters
    ----------
    path
        The store; made if there is none.
    n_units
        Number of rows.
    identity
        What the results depend on, plain JSON-like values. A store that was begun with other values is refused.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from pastpy.engine import Field
    >>> sink = ZarrSink(f"{tempfile.mkdtemp()}/run.zarr", 2, {"model": "mine"})
    >>> len(sink.begin([Field(0, 0, 8, 8, np.array([1]))]))
    0
    >>> sink.write(0, np.array([1]), {"x": np.ones((1, 2), dtype=np.float32)})
    >>> sink["x"].tolist()
    [[nan, nan], [1.0, 1.0]]
    """

    def __init__(self, path: str | Path, n_units: int, identity: Mapping[str, Any]) -> None:
        self._path, self._n = Path(path), n_units
        # through JSON, as it comes back from the store
        self._identity = json.loads(json.dumps(dict(identity)))
        self._fields: Sequence[Field] = ()
        self._group: zarr.Group | None = None
        self._arrays: dict[str, Any] = {}
        self._lock: int | None = None

    def begin(self, fields: Sequence[Field]) -> Collection[int]:
        """Open or make the store; returns the positions of the fields in its manifest.

        Raises
        ------
        ValueError
            If there is something else at the path, or the store was begun with another identity or other fields; the
            message says what differs.
        """
        import zarr

        self._fields, self._arrays = fields, {}
        identity = {**self._identity, "fields": plan_fingerprint(fields)}
        if self._path.exists():
            _check(self._path, identity)
        else:
            _create(self._path, identity)
        self._lock = _lock(self._path)
        finished = self._finished()
        _cut_to_lines(self._path / _MANIFEST)
        if not finished:
            # whatever is there may be incomplete
            for name in [p.name for p in self._path.iterdir() if p.is_dir()]:
                shutil.rmtree(self._path / name)
        self._group = zarr.open_group(self._path, mode="r+", use_consolidated=False)
        return finished

    def write(self, field: int, units: np.ndarray, outputs: Mapping[str, np.ndarray]) -> None:
        """Store the rows of a field, then enter the field into the manifest."""
        assert self._group is not None
        at = np.flatnonzero(np.isin(self._fields[field].units, units))
        for name, rows in outputs.items():
            array = self._array(name, rows)
            chunk = np.full(array.shape[1:], np.nan, dtype=np.float32)
            chunk[at] = rows
            array[field] = chunk
        with (self._path / _MANIFEST).open("ab", buffering=0) as manifest:
            manifest.write((json.dumps({"field": field, "rows": len(units)}) + "\n").encode())

    def end(self) -> None:
        """Let other runs use the store."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __contains__(self, name: str) -> bool:
        return self._group is not None and name in self._group

    def __getitem__(self, name: str) -> np.ndarray:
        assert self._group is not None
        array: Any = self._group[name]
        out = np.full((self._n, *array.shape[2:]), np.nan, dtype=np.float32)
        for field in sorted(self._finished()):
            units = self._fields[field].units
            out[units] = array[field][: len(units)]
        return out

    def rows(self, name: str, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
        """A function that reads an output of the finished run for some units: positions in, float32 (m, …) out.

        Parameters
        ----------
        name
            Of the output.
        shape
            Of a row.
        """
        assert self._group is not None
        field, place = np.full(self._n, -1, np.int32), np.zeros(self._n, np.int32)
        # without an array no unit has a row
        for i in self._finished() if name in self._group else ():
            units = self._fields[i].units
            field[units], place[units] = i, np.arange(len(units))
        return StoredRows(self._group.get(name), shape, field, place)

    def _array(self, name: str, rows: np.ndarray) -> Any:
        assert self._group is not None
        if name in self._arrays:
            return self._arrays[name]
        if name not in self._group:
            capacity = max(len(f.units) for f in self._fields)
            self._group.create_array(
                name, shape=(len(self._fields), capacity, *rows.shape[1:]), chunks=(1, capacity, *rows.shape[1:]),
                dtype=np.float32, fill_value=np.nan,
            )  # fmt: skip
        self._arrays[name] = self._group[name]
        return self._arrays[name]

    def _finished(self) -> set[int]:
        """Fields in the manifest; a last line without its end was cut off by a kill and does not count."""
        manifest = self._path / _MANIFEST
        text = manifest.read_text() if manifest.exists() else ""
        return {json.loads(line)["field"] for line in text.splitlines(keepends=True) if line.endswith("}\n")}


@dataclass
class StoredRows:
    """Rows in a store, read field by field.

    Attributes
    ----------
    array
        zarr array (fields, units of the fullest field, …); ``None`` where no unit has a row.
    shape
        Of a row.
    field, place
        int32 (n,): every unit's field, -1 for none, and its place there.
    """

    array: Any
    shape: tuple[int, ...]
    field: np.ndarray
    place: np.ndarray

    def __post_init__(self) -> None:
        # fields of the next pass that follow each other want the same ones
        self._read = lru_cache(_FIELDS_KEPT)(lambda field: self.array[field])

    def __call__(self, units: np.ndarray) -> np.ndarray:
        """Rows of some units, float32 (m, …), NaN where there is none."""
        rows = np.full((len(units), *self.shape), np.nan, dtype=np.float32)
        fields, places = self.field[units], self.place[units]
        for field in np.unique(fields[fields >= 0]):
            here = fields == field
            rows[here] = self._read(int(field))[places[here]]
        return rows


def _check(path: Path, identity: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless the store is one of these results."""
    attributes: dict[str, Any] = {}
    with suppress(OSError, json.JSONDecodeError):
        attributes = json.loads((path / "zarr.json").read_text()).get("attributes", {})
    if _ATTRIBUTE not in attributes:
        raise ValueError(
            f"resume={str(path)!r} exists and holds no results of pastpy; choose another path, or remove it"
        )
    before = attributes[_ATTRIBUTE]
    differs = sorted(k for k in {*before, *identity} if before.get(k) != identity.get(k))
    if differs:
        said = "; ".join(f"{k} was {_short(before.get(k))}, is {_short(identity.get(k))}" for k in differs)
        raise ValueError(
            f"resume={str(path)!r} was begun with another {', '.join(differs)} ({said}); repeat that call, choose "
            "another path, or remove the store"
        )


def _lock(path: Path) -> int | None:
    """Claim a store until the file is closed, if only by the end of the process; not where files cannot be locked."""
    try:
        import fcntl
    except ImportError:
        return None
    file = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(file)
        raise ValueError(f"resume={str(path)!r} is in use by another run; wait, or choose another path") from error
    return file


def _cut_to_lines(manifest: Path) -> None:
    """Remove a last line that was cut off, so that the next one does not continue it."""
    if manifest.exists():
        text = manifest.read_bytes()
        os.truncate(manifest, text.rfind(b"\n") + 1)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _create(path: Path, identity: dict[str, Any]) -> None:
    """Make the empty store beside its place and move it there, so that it is never half-made."""
    import zarr

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    zarr.create_group(unfinished, zarr_format=3, attributes={_ATTRIBUTE: identity})
    unfinished.rename(path)
