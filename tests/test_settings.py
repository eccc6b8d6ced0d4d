"""Settings: known names only, put back after a block, progress bars only where somebody looks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pastpy import settings
from pastpy._settings import Settings, show_progress


def test_defaults(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh = Settings()
    assert (fresh.device, fresh.progress, fresh.verbosity) == ("auto", True, 1)
    assert fresh.cache_dir == tmp_path / "pastpy"
    assert not fresh.cache_dir.exists()  # looking makes no folder


def test_cache_dir_is_a_path():
    fresh = Settings()
    fresh.cache_dir = "somewhere"
    assert fresh.cache_dir == Path("somewhere")


def test_context_puts_values_back_even_after_an_error():
    before = (settings.device, settings.progress)

    def fail_inside():
        with settings.context(device="cpu", progress=False) as inside:
            assert inside is settings and settings.device == "cpu" and not settings.progress
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()
    assert (settings.device, settings.progress) == before


def test_unknown_settings_are_refused_and_change_nothing():
    with pytest.raises(AttributeError, match="devise"):
        settings.devise = "cpu"
    with pytest.raises(AttributeError, match="devise"), settings.context(device="cpu", devise="cpu"):
        pass
    assert settings.device == Settings().device


@pytest.mark.parametrize(
    ("asked", "setting", "terminal", "shown"),
    [(True, True, True, True), (False, True, True, False), (True, False, True, False), (True, True, False, False)],
)
def test_progress_bars(monkeypatch, asked, setting, terminal, shown):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with settings.context(progress=setting):
        assert show_progress(asked) is shown


def test_progress_bars_show_in_a_notebook(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert show_progress()


def test_no_progress_bars_without_a_standard_error(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not show_progress() and not show_progress(False)
