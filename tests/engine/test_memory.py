"""What glibc is told to do with freed memory, and what nobody else is."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pastpy.engine import memory


@pytest.fixture
def told(monkeypatch) -> list[tuple[int, ...]]:
    """Calls of the C library of a Linux that may be another system."""
    calls: list[tuple[int, ...]] = []
    library = SimpleNamespace(mallopt=lambda *what: calls.append(what), malloc_trim=lambda *what: calls.append(what))
    monkeypatch.setattr("pastpy.engine.memory.sys.platform", "linux")
    monkeypatch.setattr("pastpy.engine.memory.ctypes.CDLL", lambda name: library)
    return calls


@pytest.mark.parametrize(("asked", "expected"), [("65536", [(-1, 2**28), (-3, 2**25)]), ("0", []), (None, [])])
def test_a_worker_keeps_freed_memory_unless_its_user_has_a_wish(monkeypatch, told, asked, expected):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    if asked is not None:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", asked)
    memory.keep_freed_memory.__wrapped__()
    assert told == expected


def test_freed_memory_is_given_back(told):
    memory.return_freed_memory()
    assert told == [(0,)]


@pytest.mark.parametrize("elsewhere", ["win32", "darwin", "musl"])
def test_nothing_happens_without_glibc(monkeypatch, told, elsewhere):
    if elsewhere == "musl":
        monkeypatch.setattr("pastpy.engine.memory.ctypes.CDLL", lambda name: SimpleNamespace())
    else:
        monkeypatch.setattr("pastpy.engine.memory.sys.platform", elsewhere)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    memory.keep_freed_memory.__wrapped__()
    memory.return_freed_memory()
    assert told == []


def test_the_process_shrinks():
    psutil = pytest.importorskip("psutil")
    if memory._of_glibc("malloc_trim") is None:
        pytest.skip("not glibc")
    blocks = [np.ones(10_000) for _ in range(2_000)]  # 160 MB in pieces that no map of their own holds
    pin = np.ones(10_000)
    del blocks
    before = psutil.Process().memory_info().rss
    memory.return_freed_memory()
    assert psutil.Process().memory_info().rss < before - 100e6
    assert pin.all()
