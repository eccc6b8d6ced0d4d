"""What the project's files say of it agrees."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_version_is_the_same_everywhere(pyproject):
    stated = pyproject["project"]["version"]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert citation is not None
    assert citation.group(1) == stated == version("pastpy")


def test_hosted_workflow_tests_the_interpreters_of_the_matrix(pyproject):
    (matrix,) = pyproject["tool"]["hatch"]["envs"]["hatch-test"]["matrix"]
    workflow = (ROOT / ".github" / "workflows" / "test.yaml").read_text()
    listed = re.search(r"^ +python: \[(.*)\]$", workflow, flags=re.MULTILINE)
    assert listed is not None
    assert re.findall(r"[\d.]+", listed.group(1)) == matrix["python"]
    classifiers = "\n".join(pyproject["project"]["classifiers"])
    assert all(f"Python :: {python}\n" in f"{classifiers}\n" for python in matrix["python"])
    assert f">={matrix['python'][0]}" == pyproject["project"]["requires-python"]


def test_extras_that_messages_and_pages_name_exist(pyproject):
    root = Path(__file__).parents[1]
    texts = [
        p.read_text(encoding="utf-8")
        for f in ("src", "docs")
        for p in (root / f).rglob("*")
        if p.suffix in (".py", ".md")
    ]
    named = {name for text in texts for name in re.findall(r"pastpy\[(\w+)\]", text)}
    assert "onnx" in named and named <= set(pyproject["project"]["optional-dependencies"])


def test_every_dependency_group_names_an_extra(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    for group in pyproject["dependency-groups"].values():
        for requirement in group:
            assert re.fullmatch(r"pastpy\[(\w+)\]", requirement).group(1) in extras


def test_actions_are_pinned_to_commits():
    used = [
        (path.name, action)
        for path in (ROOT / ".github" / "workflows").glob("*.yaml")
        for action in re.findall(r"uses: (\S+)", path.read_text())
    ]
    assert used
    assert not [(name, action) for name, action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)]
