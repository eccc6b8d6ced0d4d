"""Store: results on disk, field by field, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

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
#: What a disk, or a user's share of it, is full with.
_FULL = (errno.ENOSPC, errno.EDQUOT)


class ZarrSink:
    """Streams rows to a zarr store with a manifest of finished fields.

    Every output is an array (fields, units of the fullest field, …) with one chunk a field. A field's chunks are
    written first and its line in the manifest last, each in one piece; so whatever a kill leaves half-done is not in
    the manifest, and is written again. The manifest is a text file in the store, one JSON object a line. A line tells
    size and checksum of the files that hold the field, and its own checksum: fields whose files were lost or damaged
    since, or whose line was, are not finished.

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
        #: Those that hold rows of finished fields, or are about to.
        self._arrays: dict[str, Any] = {}
        self._finished: set[int] = set()
        self._lock: int | None = None

    def check(self) -> None:
        """Refuse what :meth:`begin` would refuse whatever the fields are; touches nothing.

        Raises
        ------
        ValueError
            If there is something else at the path, or the store was begun with another identity.
        """
        if self._path.exists():
            before = {k: v for k, v in _begun_with(self._path).items() if k != "fields"}
            _compare(self._path, before, self._identity)

    def begin(self, fields: Sequence[Field]) -> Collection[int]:
        """Open or make the store; returns the positions of the fields that are finished.

        Raises
        ------
        ValueError
            If there is something else at the path, it is damaged, or the store was begun with another identity or other
            fields; the message says what differs.
        """
        with _where_full(self._path):
            identity = {**self._identity, "fields": plan_fingerprint(fields)}
            if not self._path.exists():
                _create(self._path, identity)
            # also one that was made just now: another run may have been faster
            _compare(self._path, _begun_with(self._path), identity)
            self._lock = _lock(self._path)
            records = _whole_records(self._path)
        self._fields, self._finished = fields, {record["field"] for record in records}
        self._group = _open(self._path)
        names = {Path(file).parts[0] for record in records for file in record["files"]}
        self._arrays = {name: self._group[name] for name in names}
        return set(self._finished)

    def write(self, field: int, units: np.ndarray, outputs: Mapping[str, np.ndarray]) -> None:
        """Store the rows of a field, then enter the field into the manifest."""
        at = np.flatnonzero(np.isin(self._fields[field].units, units))
        with _where_full(self._path):
            files = {}
            for name, rows in outputs.items():
                array = self._array(name, rows)
                chunk = np.full(array.shape[1:], np.nan, dtype=np.float32)
                chunk[at] = rows
                array[field] = chunk
                files.update(self._flushed(name, array, field))
            with (self._path / _MANIFEST).open("ab", buffering=0) as manifest:
                manifest.write(_line({"field": field, "rows": len(units), "files": files}))
        self._finished.add(field)

    def end(self) -> None:
        """Let other runs use the store."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def __getitem__(self, name: str) -> np.ndarray:
        array = self._arrays[name]
        out = np.full((self._n, *array.shape[2:]), np.nan, dtype=np.float32)
        for field in sorted(self._finished):
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
        field, place = np.full(self._n, -1, np.int32), np.zeros(self._n, np.int32)
        # without an array no unit has a row
        for i in self._finished if name in self._arrays else ():
            units = self._fields[i].units
            field[units], place[units] = i, np.arange(len(units))
        return StoredRows(self._arrays.get(name), shape, field, place)

    def _array(self, name: str, rows: np.ndarray) -> Any:
        if name not in self._arrays:
            assert self._group is not None
            capacity = max(len(f.units) for f in self._fields)
            # no finished field needs what may be there: it is half-made, or was damaged
            self._arrays[name] = self._group.create_array(
                name, shape=(len(self._fields), capacity, *rows.shape[1:]), chunks=(1, capacity, *rows.shape[1:]),
                dtype=np.float32, fill_value=np.nan, overwrite=True,
            )  # fmt: skip
        return self._arrays[name]

    def _flushed(self, name: str, array: Any, field: int) -> dict[str, list[int]]:
        """Files that hold a field of an array, by their path in the store, now on the disk: size and checksum."""
        chunk = array.metadata.encode_chunk_key((field,) + (0,) * (array.ndim - 1))
        files = [f"{name}/zarr.json", f"{name}/{chunk}"]
        # zarr writes no chunk of nothing but NaN
        there = [file for file in files if (self._path / file).exists()]
        for file in there:
            with (self._path / file).open("rb+") as written:
                os.fsync(written.fileno())
        return {file: _sum(self._path / file) for file in there}


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


def _begun_with(path: Path) -> dict[str, Any]:
    """Identity of a store; ``ValueError`` if there is something else at the path."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        return dict(json.loads((path / "zarr.json").read_bytes())["attributes"][_ATTRIBUTE])
    if (path / _MANIFEST).exists():
        raise ValueError(
            f"resume={str(path)!r} is damaged (zarr.json cannot be read); remove it, or choose another path"
        )
    raise ValueError(f"resume={str(path)!r} exists and holds no results of pastpy; choose another path, or remove it")


def _compare(path: Path, before: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless a store was begun with this identity."""
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


def _whole_records(path: Path) -> list[dict[str, Any]]:
    """Records of the manifest whose files are as they were written; the manifest is left with these alone."""
    manifest = path / _MANIFEST
    lines = manifest.read_bytes().splitlines(keepends=True) if manifest.exists() else []
    records = [record for record in map(_record, lines) if record is not None and _is_whole(path, record)]
    kept = [_line(record) for record in records]
    if kept != lines:
        # in one piece, and so that the next line does not continue one that was cut off
        rewritten = manifest.with_suffix(".new")
        rewritten.write_bytes(b"".join(kept))
        rewritten.replace(manifest)
    return records


def _is_whole(path: Path, record: dict[str, Any]) -> bool:
    with suppress(OSError):
        return all(_sum(path / file) == said for file, said in record["files"].items())
    return False


def _line(record: dict[str, Any]) -> bytes:
    """A line of the manifest: a record of a field, with its checksum."""
    return (json.dumps({**record, "crc32": crc32(json.dumps(record).encode())}) + "\n").encode()


def _record(line: bytes) -> dict[str, Any] | None:
    """Record of a field from a line; ``None`` if :func:`_line` did not make the line, or it was damaged since."""
    with suppress(ValueError, LookupError, TypeError, AttributeError):
        record = json.loads(line)
        del record["crc32"]
        if _line(record) == line:
            return record
    return None


def _sum(file: Path) -> list[int]:
    """Size and checksum of a file."""
    data = file.read_bytes()
    return [len(data), crc32(data)]


@contextmanager
def _where_full(path: Path) -> Iterator[None]:
    """Say where there is no more room: the error of a full disk names no file."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        said = "make room, or choose another folder by resume=, or by TMPDIR where a call has no resume="
        raise OSError(error.errno, f"{os.strerror(error.errno)} ({said})", str(path)) from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "…"


def _create(path: Path, identity: dict[str, Any]) -> None:
    """Make the empty store beside its place and move it there, so that it is never half-made."""
    import zarr

    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own: two runs may begin at the same time
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.unfinished")
    zarr.create_group(unfinished, zarr_format=3, attributes={_ATTRIBUTE: identity})
    try:
        unfinished.rename(path)
    except OSError:
        shutil.rmtree(unfinished)
        # else another run was faster
        if not path.exists():
            raise


def _open(path: Path) -> zarr.Group:
    import zarr

    try:
        return zarr.open_group(path, mode="r+", use_consolidated=False)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"resume={str(path)!r} is damaged ({error}); remove it, or choose another path") from error
