"""The commands behind the figures of the docs can be started: what they import at their top is there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IMPORT_ALL = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"


@pytest.mark.parametrize("folder", ["scripts", "benchmarks"])
def test_everything_imports(folder):
    names = [path.stem for path in sorted((ROOT / folder).glob("*.py"))]
    assert names
    found = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, *names], cwd=ROOT / folder, capture_output=True, text=True
    )
    assert not found.returncode, found.stderr[-2000:]
