"""Tables between comments of a page of the documentation, each made from a JSON file in docs/_data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
_LAST = "<!-- end of table -->"


def fill(page: Path, tables: Mapping[str, Callable[[Any], str]], *, missing: str | None = None) -> None:
    """Write every table into its place on the page; where its file is not there, ``missing``, else an error."""
    text = page.read_text(encoding="utf-8")
    for name, make in tables.items():
        first, path = f"<!-- table of _data/{name}.json -->", DOCS / "_data" / f"{name}.json"
        if missing is not None and not path.is_file():
            filled = missing
        else:
            filled = make(json.loads(path.read_text(encoding="utf-8")))
        before, rest = text.split(first)
        text = f"{before}{first}\n\n{filled}\n\n{_LAST}{rest.split(_LAST, 1)[1]}"
    page.write_text(text, encoding="utf-8")


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table in markdown."""
    names = list(header)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
