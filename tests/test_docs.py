"""The pages keep up with the package: every example runs, and every public name has its place."""

from __future__ import annotations

import dataclasses
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import pastpy

ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api"
PUBLIC = ("bench", "datasets", "engine", "get", "io", "metrics", "models", "pl", "pp", "tl", "train")
#: Pages whose Python blocks run from top to bottom in one namespace.
PAGES = ("README.md", "docs/usage.md")

needs_checkout = pytest.mark.skipif(not API.is_dir(), reason="needs the documentation of a source checkout")


def modules() -> list[str]:
    found = pkgutil.walk_packages(pastpy.__path__, "pastpy.")
    return sorted(m.name for m in found if not m.name.endswith("__main__"))


def public_names(part: str) -> list[str]:
    module = importlib.import_module(f"pastpy.{part}")
    return [f"{part}.{name}" for name in getattr(module, "__all__", ())]


def listed_names() -> set[str]:
    """Entries of the autosummary lists of the API pages."""
    names = set()
    for page in API.glob("*.md"):
        for block in re.findall(r"autosummary::\n(.*?)```", page.read_text(), flags=re.DOTALL):
            names |= set(re.findall(r"^   ([A-Za-z_][\w.]*)$", block, flags=re.MULTILINE))
    return names


@needs_checkout
@pytest.mark.parametrize("part", PUBLIC)
def test_public_names_are_on_the_api_pages(part):
    missing = sorted(set(public_names(part)) - listed_names())
    assert not missing, f"add {missing} to docs/api/{part}.md"


@needs_checkout
def test_api_pages_list_only_what_is_there():
    there = {name for part in PUBLIC for name in public_names(part)}
    assert not sorted(listed_names() - there)


@pytest.mark.parametrize("part", sorted({*PUBLIC} - {"engine", "models", "train"}))
def test_public_functions_have_an_example(part):
    module = importlib.import_module(f"pastpy.{part}")
    things = {name: getattr(module, name.split(".")[1]) for name in public_names(part)}
    without = [name for name, thing in things.items() if callable(thing) and ">>> " not in (thing.__doc__ or "")]
    assert not without


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    tests = [t for t in doctest.DocTestFinder(exclude_empty=True).find(module) if t.examples]
    public = {one.split(".")[1] for part in PUBLIC if part != "engine" for one in public_names(part)}
    for test in tests:
        if test.name.removeprefix(f"{name}.").split(".")[0] in public:
            test.globs = {}  # as a user types it, who has imported nothing
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []
    for test in tests:
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


@needs_checkout
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_python_on_pages_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    assert blocks
    namespace: dict[str, object] = {}
    # a page may change settings for good; the tests after it shall not notice
    with pastpy.settings.context(**dataclasses.asdict(pastpy.settings)):
        for i, block in enumerate(blocks):
            exec(compile(block, f"{page}, block {i + 1}", "exec"), namespace)


@needs_checkout
def test_the_readme_has_the_r_of_the_gene_that_it_shows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    gene, r = re.search(r"by the\s+(\w+) expression.*?\(right; r = (0\.\d\d)", text, re.DOTALL).groups()
    by_card = pastpy.models.load("past-mini").card.genes.set_index("gene").loc[gene, "validation_r"]
    assert r == f"{by_card:.2f}"
