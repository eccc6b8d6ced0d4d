"""``import pastpy`` is cheap, and everything it promises is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

HEAVY = (
    "torch", "anndata", "pandas", "spatialdata", "squidpy", "scanpy", "scipy", "skimage", "matplotlib", "lifelines",
    "dask", "numpy", "timm",
)  # fmt: skip


def fresh(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own."""
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True)


def test_import_loads_nothing_heavy():
    loaded = json.loads(fresh("import sys, json, pastpy; print(json.dumps(sorted(sys.modules)))").stdout)
    assert "pastpy" in loaded
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)


def test_import_takes_less_than_half_a_second():
    times = fresh("import pastpy", "-X", "importtime").stderr
    found = re.search(r"\|\s*(\d+) \| pastpy$", times, flags=re.MULTILINE)
    assert found is not None
    seconds = int(found.group(1)) / 1e6
    print(f"import pastpy: {seconds:.3f} s")
    assert seconds < 0.5


@pytest.mark.parametrize("module", ["io", "datasets"])
def test_subpackages_import_no_heavy_dependency(module):
    code = f"import sys, json, pastpy; pastpy.{module}; print(json.dumps(sorted(sys.modules)))"
    loaded = {name.split(".")[0] for name in json.loads(fresh(code).stdout)}
    assert not loaded & (set(HEAVY) - {"numpy"})


def test_public_names():
    import pastpy as past

    assert set(past.__all__) <= set(dir(past))
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", past.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = past.nothing
