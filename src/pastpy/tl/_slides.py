"""Many slides: one after the other, in their own stores; one that fails does not stop the rest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pastpy._settings import show_progress
from pastpy._warn import warn_user

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Outcome", "apply", "one_line", "report", "store_names", "work_through"]

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
    table
        Its table with the results, ``None`` if it failed.
    error
        Why it failed.
    """

    name: str
    seconds: float
    table: AnnData | None = None
    error: Exception | None = None


def work_through(items: Mapping[str, Item], work: Callable[[Item], AnnData]) -> list[Outcome]:
    """Do the work for every slide; whatever an exception says of one is kept, and the next one is begun."""
    outcomes = []
    for name, item in items.items():
        start, table, failed = time.perf_counter(), None, None
        try:
            table = work(item)
        # a slide may be broken in any way, and the others must not pay for it
        except Exception as error:  # noqa: BLE001
            failed = error
        outcomes.append(Outcome(name, time.perf_counter() - start, table, failed))
    return outcomes


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
        done = f"{o.table.n_obs} rows in {o.seconds:.0f} s" if o.table is not None else ""
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
    Exception
        That of the object, or of the first of a list of which none could be done.
    """
    if not isinstance(data, list | tuple):
        table = _apply_one(data, work, copy=copy, resume=resume)
        return table if copy else None
    items = _named(data)
    stores = dict.fromkeys(items) if resume is None else {n: Path(resume) / s for n, s in store_names(items).items()}
    outcomes = work_through(
        {name: (item, stores[name]) for name, item in items.items()},
        lambda pair: _apply_one(pair[0], work, copy=copy, resume=pair[1]),
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
    named: dict[str, Any] = {}
    for i, item in enumerate(items):
        name = str(item) if isinstance(item, str | Path) else f"object {i}"
        if name in named:
            raise ValueError(f"{name!r} stands more than once in the list")
        named[name] = item
    return named


def store_names(names: Iterable[str]) -> dict[str, str]:
    """A store's name for each slide: that of the file, with a number where several files are named alike.

    Examples
    --------
    >>> store_names(["a/1.svs", "b/1.svs", "b/2.svs"])
    {'a/1.svs': '1-0.zarr', 'b/1.svs': '1-1.zarr', 'b/2.svs': '2.zarr'}
    """
    stems = {name: Path(name).stem for name in names}
    alike = Counter(stems.values())
    return {n: f"{stem}.zarr" if alike[stem] == 1 else f"{stem}-{i}.zarr" for i, (n, stem) in enumerate(stems.items())}


def _apply_one(item: Any, work: Callable[..., AnnData], *, copy: bool, resume: str | Path | None) -> AnnData:
    if not isinstance(item, str | Path):
        return work(item, copy=copy, resume=resume)
    from pastpy.io._open import read_any
    from pastpy.io._table import check_writable, write_table

    path = Path(item)
    sdata = read_any(path)
    if not copy and sdata.path is None:
        raise ValueError(
            f"{str(path)!r} is a slide, which cannot hold results; use the command 'pastpy embed', or open it with "
            "pastpy.io.read_wsi, find its nuclei, and pass the object"
        )
    if not copy:
        check_writable(path)
    table = work(sdata, copy=copy, resume=resume)
    if not copy:
        write_table(sdata, next(name for name, known in sdata.tables.items() if known is table))
    return table
