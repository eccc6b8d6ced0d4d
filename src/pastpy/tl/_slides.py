"""Many slides: one after the other, in their own stores; one that fails does not stop the rest."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, Any, TypeVar

from pastpy import _keys
from pastpy._settings import show_progress
from pastpy._warn import warn_user

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

__all__ = [
    "Outcome",
    "apply",
    "one_line",
    "own_name",
    "refuse_repeated",
    "refuse_store",
    "report",
    "result_of",
    "set_source",
    "store_names",
    "work_through",
]

#: Digits that tell slides apart whose files are named alike.
_DIGITS = 8

Item = TypeVar("Item")


@dataclass
class Outcome:
    """What became of a slide.

    Attributes
    ----------
    name
        Name of the slide.
    seconds
        Duration.
    n_obs
        Rows of its table with the results; 0 if it failed.
    table
        That table, where it was to be kept and there is one.
    error
        Why it failed.
    """

    name: str
    seconds: float
    n_obs: int = 0
    table: AnnData | None = None
    error: Exception | None = None


def work_through(
    items: Mapping[str, Item], work: Callable[[Item], AnnData], *, keep_tables: bool = False
) -> list[Outcome]:
    """Do the work for every slide; whatever an exception says of one is kept, and the next one is begun."""
    return [_outcome(name, item, work, keep_tables) for name, item in items.items()]


def _outcome(name: str, item: Item, work: Callable[[Item], AnnData], keep_table: bool) -> Outcome:
    start = time.perf_counter()
    try:
        table = work(item)
    # a slide may be broken in any way, and the others must not pay for it
    except Exception as error:  # noqa: BLE001
        _clear_frames(error)
        return Outcome(name, time.perf_counter() - start, error=error)
    return Outcome(name, time.perf_counter() - start, table.n_obs, table if keep_table else None)


def _clear_frames(error: BaseException) -> None:
    """Free what the frames of an error hold, the slide among it; where it arose can still be read."""
    chain: list[BaseException] = []
    behind: BaseException | None = error
    while behind is not None and behind not in chain:
        clear_frames(behind.__traceback__)
        chain.append(behind)
        behind = behind.__context__ or behind.__cause__


def one_line(error: BaseException) -> str:
    """An exception's message on one line."""
    said = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(said).split()) or type(error).__name__


def report(outcomes: Sequence[Outcome]) -> str:
    """A line a slide, and one that counts them.

    Examples
    --------
    >>> print(report([Outcome("a.svs", 1.0, error=ValueError("no image"))]))
    a.svs  failed after 1 s: no image
    0 of 1 slides done
    """
    width = max((len(o.name) for o in outcomes), default=0)
    lines = []
    for o in outcomes:
        done = f"{o.n_obs} rows in {o.seconds:.0f} s"
        lines.append(
            f"{o.name:{width}}  "
            + (done if o.error is None else f"failed after {o.seconds:.0f} s: {one_line(o.error)}")
        )
    lines.append(f"{sum(o.error is None for o in outcomes)} of {len(outcomes)} slides done")
    return "\n".join(lines)


def apply(
    data: Any, work: Callable[..., AnnData], *, copy: bool, resume: str | Path | None, progress: bool
) -> AnnData | list[AnnData | None] | None:
    """Apply ``work`` to an object, to a stored one whose table is then written back, or to every object of a list.

    Parameters
    ----------
    data
        SpatialData, AnnData, path of a SpatialData zarr store, or a list of these.
    work
        Function of one object, ``copy`` and ``resume`` that returns the table with the results.
    copy
        Return the tables instead of changing the objects.
    resume
        Store of unfinished results; for a list, a folder of such stores.
    progress
        Print a report of a list, if somebody looks.

    Raises
    ------
    FileExistsError
        If ``resume`` of a list is itself a store.
    Exception
        That of the object, or of the first of a list of which none could be done.
    """
    if not isinstance(data, list | tuple):
        table = _apply_one(data, work, copy=copy, resume=resume)
        return table if copy else None
    if resume is not None:
        refuse_store(Path(resume), "resume")
    items = _named(data)
    stores = dict.fromkeys(items) if resume is None else {n: Path(resume) / s for n, s in store_names(items).items()}
    outcomes = work_through(
        {name: (item, stores[name]) for name, item in items.items()},
        lambda pair: _apply_one(pair[0], work, copy=copy, resume=pair[1]),
        keep_tables=copy,
    )
    failed = [o for o in outcomes if o.error is not None]
    if failed and len(failed) == len(outcomes):
        assert failed[0].error is not None
        failed[0].error.add_note(report(outcomes))
        raise failed[0].error
    if show_progress(progress):
        print(report(outcomes))
    if failed:
        said = "; ".join(f"{o.name}: {one_line(o.error)}" for o in failed if o.error is not None)
        warn_user(f"{len(failed)} of {len(outcomes)} slides failed and have no results ({said}); the others are done")
    return [o.table for o in outcomes] if copy else None


def _named(items: Sequence[Any]) -> dict[str, Any]:
    """Slides by a name each: the path, or the position; twice the same path is refused."""
    names = [str(item) if isinstance(item, str | Path) else f"object {i}" for i, item in enumerate(items)]
    refuse_repeated(names)
    return dict(zip(names, items, strict=True))


def refuse_repeated(paths: Iterable[str | Path]) -> None:
    """Raise ``ValueError`` where a path stands more than once in a list, however it is written."""
    named = Counter(os.path.abspath(path) for path in paths)
    repeated = next((path for path, n in named.items() if n > 1), None)
    if repeated is not None:
        raise ValueError(f"{repeated!r} stands more than once in the list")


def refuse_store(folder: Path, argument: str) -> None:
    """Raise ``FileExistsError`` where what is to be a folder of stores is a store."""
    if any((folder / name).is_file() for name in ("zarr.json", ".zgroup")):
        raise FileExistsError(
            f"{argument}={str(folder)!r} is a zarr store, and a store for each slide would be written inside it; "
            "choose another folder"
        )


def store_names(names: Iterable[str]) -> dict[str, str]:
    """A store's name for each slide: that of the file, or :func:`own_name` where several files are named alike.

    Examples
    --------
    >>> store_names(["a/1.svs", "b/2.svs"])
    {'a/1.svs': '1.zarr', 'b/2.svs': '2.zarr'}
    >>> [name[:2] for name in store_names(["a/1.svs", "b/1.svs"]).values()]
    ['1-', '1-']
    """
    own = {name: own_name(name) for name in names}
    plain = {name: f"{Path(name).stem}.zarr" for name in own}
    # some disks do not tell case
    taken = Counter(store.casefold() for store in [*plain.values(), *own.values()])
    return {name: store if taken[store.casefold()] == 1 else own[name] for name, store in plain.items()}


def own_name(path: str | Path) -> str:
    """A store's name that no other slide has, whatever else is in a list: the file's, with a digest of its path."""
    digest = sha256(os.fsencode(os.path.abspath(path))).hexdigest()
    return f"{Path(path).stem}-{digest[:_DIGITS]}.zarr"


def set_source(sdata: SpatialData, path: Path) -> None:
    """Note the slide from which a result is made; :func:`result_of` finds it by that."""
    from pastpy._elements import past_attrs

    sdata.attrs[_keys.PAST] = {**past_attrs(sdata), _keys.SOURCE: os.path.abspath(path)}


def result_of(path: Path, folder: Path) -> Path | None:
    """The result in a folder that was made from this very slide; one of another may have the name of its file."""
    stores = (folder / f"{path.stem}.zarr", folder / own_name(path))
    return next((store for store in stores if _source_of(store) == os.path.abspath(path)), None)


def _source_of(store: Path) -> str | None:
    from pastpy.io._slide_zarr import zarr_attributes

    try:
        return zarr_attributes(store).get(_keys.PAST, {}).get(_keys.SOURCE)
    # nothing there, or nothing that could be a result
    except ValueError:
        return None


def _apply_one(item: Any, work: Callable[..., AnnData], *, copy: bool, resume: str | Path | None) -> AnnData:
    if not isinstance(item, str | Path):
        return work(item, copy=copy, resume=resume)
    from pastpy.io._open import read_any
    from pastpy.io._table import check_writable, write_table

    path = Path(item)
    sdata = read_any(path)
    if not copy and sdata.path is None:
        raise ValueError(
            f"{str(path)!r} is no SpatialData store, and cannot hold results; use the command 'pastpy embed', or open "
            "it with a reader of pastpy.io, for a slide find its nuclei, and pass the object"
        )
    if not copy:
        check_writable(path)
    table = work(sdata, copy=copy, resume=resume)
    if not copy:
        write_table(sdata, next(name for name, known in sdata.tables.items() if known is table))
    return table
