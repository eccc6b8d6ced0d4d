"""Progress: cells a second, fields and the time that is left; silent where nobody looks."""

from __future__ import annotations

from importlib.util import find_spec
from types import TracebackType
from typing import Any

from pastpy._settings import show_progress

__all__ = ["Progress"]


class Progress:
    """A bar over the cells of a run.

    Parameters
    ----------
    cells, fields
        How many there are.
    finished
        How many of both an earlier run has finished; they do not enter the cells a second.
    show
        Draw it, if standard error is a terminal or a notebook.
    """

    def __init__(self, cells: int, fields: int, *, finished: tuple[int, int] = (0, 0), show: bool = True) -> None:
        self._fields, self._fields_done = fields, finished[1]
        self._bar = _bar_class()(
            total=cells, initial=finished[0], desc="pastpy", unit=" cells", unit_scale=True,
            disable=not show_progress(show),
        )  # fmt: skip

    def advance(self, cells: int) -> None:
        """Count a field with this many cells."""
        self._fields_done += 1
        self._bar.set_postfix_str(f"field {self._fields_done} of {self._fields}", refresh=False)
        self._bar.update(cells)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()


def _bar_class() -> Any:
    """A notebook's own bar where its widgets are installed; the plain one does not complain about their absence."""
    if find_spec("ipywidgets") is not None:
        from tqdm.auto import tqdm as automatic

        return automatic
    from tqdm import tqdm

    return tqdm
