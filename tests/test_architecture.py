"""The import rules of docs/architecture.md, read from every import statement of the package."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pastpy

PACKAGE = Path(pastpy.__file__).parent
#: Modules that may import the two uppermost parts: the package's own front, the command line and its demo.
FRONT = {"pastpy", "pastpy.__main__", "pastpy.cli", "pastpy._cli_places", "pastpy._cli_scores", "pastpy._demo"}


@dataclass(frozen=True)
class Import:
    """One imported module: from where, what, and whether it is only for the type checker."""

    importer: str
    imported: str
    typing_only: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def imports_of(source: str, importer: str) -> list[Import]:
    """All imports of a module, also those inside functions; ``from a import b`` is ``a.b`` where that is a module.

    Relative imports do not occur: the linter forbids them.
    """
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{a.name}" if is_module(f"{base}.{a.name}") else base for a in node.names]
        found += [Import(importer, name, id(node) in typing_only) for name in names]
    return found


def all_imports() -> list[Import]:
    return [
        found for path in sorted(PACKAGE.rglob("*.py")) for found in imports_of(path.read_text(), module_name(path))
    ]


def below(name: str, *parents: str) -> bool:
    return any(name == parent or name.startswith(f"{parent}.") for parent in parents)


def part_of(name: str) -> str:
    """``pastpy.tl`` for ``pastpy.tl._embed``; ``pastpy`` for the package itself."""
    return ".".join(name.split(".")[:2])


def broken(rule: str, wrong: list[Import]) -> str:
    return f"{rule}:\n" + "\n".join(f"  {i.importer} imports {i.imported}" for i in wrong)


def test_imports_are_found():
    source = (
        "import torch.nn\nfrom pastpy import tl\nfrom pastpy._keys import PAST\n"
        "if TYPE_CHECKING:\n    from anndata import AnnData\n"
        "def f():\n    import spatialdata as sd\n"
    )
    found = {(i.imported, i.typing_only) for i in imports_of(source, "pastpy.x")}
    assert found == {
        ("torch.nn", False),
        ("pastpy.tl", False),
        ("pastpy._keys", False),
        ("anndata", True),
        ("spatialdata", False),
    }


def test_models_know_no_spatialdata():
    allowed = ("pastpy.models", "pastpy.engine", "pastpy._settings")
    unknown = ("anndata", "geopandas", "lifelines", "matplotlib", "scanpy", "spatialdata", "spatialdata_io", "squidpy")
    wrong = [
        i
        for i in all_imports()
        if below(i.importer, "pastpy.models")
        and (below(i.imported, *unknown) or (below(i.imported, "pastpy") and not below(i.imported, *allowed)))
    ]
    assert not wrong, broken("models may import only torch, models and engine", wrong)


def test_engine_knows_no_genes_and_no_model():
    allowed = ("pastpy.engine", "pastpy._settings", "pastpy._warn")
    unknown = ("anndata", "geopandas", "pandas", "scanpy", "spatialdata", "spatialdata_io", "squidpy", "timm")
    wrong = [
        i
        for i in all_imports()
        if below(i.importer, "pastpy.engine")
        and (below(i.imported, *unknown) or (below(i.imported, "pastpy") and not below(i.imported, *allowed)))
    ]
    assert not wrong, broken("engine may import of the package itself, settings and warnings alone", wrong)


@pytest.mark.parametrize("top", ["pastpy.tl", "pastpy.pl"])
def test_nothing_imports_the_top(top):
    wrong = [
        i for i in all_imports() if below(i.imported, top) and not below(i.importer, top) and i.importer not in FRONT
    ]
    assert not wrong, broken(f"only {sorted(FRONT)} may import {top}", wrong)


def test_parts_import_each_other_in_no_circle():
    graph: dict[str, set[str]] = {}
    for i in all_imports():
        here, there = part_of(i.importer), part_of(i.imported)
        if below(there, "pastpy") and here not in (there, "pastpy") and there != "pastpy" and not i.typing_only:
            graph.setdefault(here, set()).add(there)
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"parts import each other in a circle: {' → '.join(error.args[1])}")
