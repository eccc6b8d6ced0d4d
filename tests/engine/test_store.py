"""What is in the manifest is in the store, and only results of the same call are taken up again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pastpy.engine import Field, ZarrSink
from pastpy.engine.fingerprint import array_fingerprint, model_fingerprint

FIELDS = [Field(8 * i, 0, 8, 8, np.array([2 * i, 2 * i + 1])) for i in range(4)]
IDENTITY = {"model": "a", "µm/px": 0.5}


def row(i: int) -> np.ndarray:
    return np.array([[i, i + 0.5]], dtype=np.float32)


def test_rows_come_back_in_the_table_s_order(tmp_path):
    sink = ZarrSink(tmp_path / "run.zarr", 9, IDENTITY)
    assert not sink.begin(FIELDS)
    sink.write(2, np.array([5]), {"x": row(5)})
    sink.write(0, np.array([0, 1]), {"x": np.concatenate([row(0), row(1)]), "y": np.zeros((2, 1), np.float32)})
    sink.write(1, np.array([], dtype=int), {})
    assert "x" in sink and "z" not in sink
    expected = np.full((9, 2), np.nan, dtype=np.float32)
    expected[[0, 1, 5]] = np.concatenate([row(0), row(1), row(5)])
    np.testing.assert_array_equal(sink["x"], expected)
    assert np.flatnonzero(np.isfinite(sink["y"][:, 0])).tolist() == [0, 1]
    sink.end()
    again = ZarrSink(tmp_path / "run.zarr", 9, IDENTITY)
    assert set(again.begin(FIELDS)) == {0, 1, 2}
    np.testing.assert_array_equal(again["x"], expected)


def test_another_call_is_refused_by_name(tmp_path):
    path = tmp_path / "run.zarr"
    sink = ZarrSink(path, 8, IDENTITY)
    sink.begin(FIELDS)
    sink.write(0, np.array([0]), {"x": row(0)})
    sink.end()
    with pytest.raises(ValueError, match=r"begun with another µm/px \(µm/px was 0.5, is 0.25\)"):
        ZarrSink(path, 8, {**IDENTITY, "µm/px": 0.25}).begin(FIELDS)
    with pytest.raises(ValueError, match="begun with another model"):
        ZarrSink(path, 8, {**IDENTITY, "model": "b"}).begin(FIELDS)
    with pytest.raises(ValueError, match="begun with another fields"):
        ZarrSink(path, 8, IDENTITY).begin(FIELDS[:3])
    np.testing.assert_array_equal(_open(path)["x"][0], row(0)[0])


def _open(path: Path) -> ZarrSink:
    sink = ZarrSink(path, 8, IDENTITY)
    sink.begin(FIELDS)
    sink.end()
    return sink


def test_something_else_at_the_path_is_left_alone(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no results of pastpy"):
        ZarrSink(tmp_path / "notes", 8, IDENTITY).begin(FIELDS)
    assert [p.name for p in (tmp_path / "notes").iterdir()] == ["a.txt"]


def test_a_line_that_was_cut_off_does_not_count(tmp_path):
    path = tmp_path / "run.zarr"
    sink = ZarrSink(path, 8, IDENTITY)
    sink.begin(FIELDS)
    sink.write(0, np.array([0]), {"x": row(0)})
    sink.end()
    manifest = path / "finished.jsonl"
    whole = manifest.read_bytes()
    for cut in (b'{"field": 1', b'{"field": 1, "rows": 2}'):
        manifest.write_bytes(whole + cut)
        sink = ZarrSink(path, 8, IDENTITY)
        assert set(sink.begin(FIELDS)) == {0}
        sink.write(3, np.array([6]), {"x": row(6)})
        sink.end()
        assert [json.loads(line)["field"] for line in manifest.read_text().splitlines()] == [0, 3]


def test_arrays_of_a_run_that_finished_nothing_are_made_anew(tmp_path):
    path = tmp_path / "run.zarr"
    sink = ZarrSink(path, 8, IDENTITY)
    sink.begin(FIELDS)
    sink.end()
    (path / "x").mkdir()
    (path / "x" / "zarr.json").write_text('{"half')
    sink = ZarrSink(path, 8, IDENTITY)
    assert not sink.begin(FIELDS)
    sink.write(0, np.array([0]), {"x": row(0)})
    np.testing.assert_array_equal(sink["x"][0], row(0)[0])


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_two_runs_do_not_share_a_store(tmp_path):
    first, second = (ZarrSink(tmp_path / "run.zarr", 8, IDENTITY) for _ in range(2))
    first.begin(FIELDS)
    with pytest.raises(ValueError, match="in use by another run"):
        second.begin(FIELDS)
    first.end()
    second.begin(FIELDS)


@pytest.mark.skipif(sys.platform == "win32", reason="files are not locked there")
def test_of_two_runs_that_begin_together_one_is_refused(tmp_path, monkeypatch):
    path, rename = tmp_path / "run.zarr", Path.rename
    faster = []

    def late(self, target):
        monkeypatch.undo()
        faster.append(ZarrSink(path, 8, IDENTITY))
        assert not faster[0].begin(FIELDS)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    with pytest.raises(ValueError, match="in use by another run"):
        ZarrSink(path, 8, IDENTITY).begin(FIELDS)
    faster[0].write(0, np.array([0]), {"x": row(0)})
    assert [p.name for p in tmp_path.iterdir()] == ["run.zarr"], "nothing half-made is left behind"


@pytest.fixture
def stored(tmp_path) -> Path:
    """A store with rows of three fields of four; those of the second are all NaN."""
    path = tmp_path / "run.zarr"
    sink = ZarrSink(path, 8, IDENTITY)
    sink.begin(FIELDS)
    for i in range(3):
        rows = np.concatenate([row(2 * i), row(2 * i + 1)])
        sink.write(i, FIELDS[i].units, {"x": np.full_like(rows, np.nan) if i == 1 else rows})
    sink.end()
    return path


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _flip(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))


@pytest.mark.parametrize("harm", [Path.unlink, _cut, _flip, lambda file: file.write_bytes(b"")])
@pytest.mark.parametrize(("file", "lost"), [("x/c/2/0/0", {2}), ("x/zarr.json", {0, 1, 2})])
def test_fields_whose_files_were_lost_or_damaged_are_computed_again(stored, harm, file, lost):
    harm(stored / file)
    sink = ZarrSink(stored, 8, IDENTITY)
    assert set(sink.begin(FIELDS)) == {0, 1, 2} - lost
    sink.write(2, np.array([4, 5]), {"x": np.concatenate([row(4), row(5)])})
    sink.end()
    again = _open(stored)
    np.testing.assert_array_equal(again["x"][4:6], np.concatenate([row(4), row(5)]))
    assert np.isfinite(again["x"][:2]).all() == (0 not in lost)


def test_a_lost_array_is_made_again(stored):
    shutil.rmtree(stored / "x")
    sink = ZarrSink(stored, 8, IDENTITY)
    assert not sink.begin(FIELDS) and "x" not in sink
    sink.write(0, np.array([0]), {"x": row(0)})
    np.testing.assert_array_equal(sink["x"][0], row(0)[0])


@pytest.mark.parametrize(
    "line",
    [b"\x00\xff\x00garbage\n", b"hello}\n", b"[]\n", b"7\n", b'{"rows": 3}\n', b'{"field": 3, "rows": 2}\n']
    + [b'{"field": 999, "rows": 3, "files": {}, "crc32": 0}\n', b'{"field": "a", "files": 1, "crc32": null}\n'],
)
def test_lines_that_are_no_record_are_left_out(stored, line):
    manifest = stored / "finished.jsonl"
    whole = manifest.read_bytes()
    manifest.write_bytes(line + whole)
    assert set(ZarrSink(stored, 8, IDENTITY).begin(FIELDS)) == {0, 1, 2}
    assert manifest.read_bytes() == whole


def test_a_line_that_was_changed_does_not_count(stored):
    manifest = stored / "finished.jsonl"
    manifest.write_bytes(manifest.read_bytes().replace(b'"field": 1', b'"field": 3'))
    assert set(ZarrSink(stored, 8, IDENTITY).begin(FIELDS)) == {0, 2}


@pytest.mark.parametrize("text", ["{", "[]", "\x00\xff"])
def test_a_store_that_cannot_be_mended_is_refused_by_name(stored, text):
    (stored / "zarr.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"resume='.*run\.zarr' is damaged .*; remove it"):
        ZarrSink(stored, 8, IDENTITY).begin(FIELDS)


def test_a_store_whose_group_cannot_be_opened_is_refused_by_name(stored):
    text = (stored / "zarr.json").read_text()
    (stored / "zarr.json").write_text(text.replace('"zarr_format": 3', '"zarr_format": 7'))
    with pytest.raises(ValueError, match=r"resume='.*run\.zarr' is damaged .*; remove it"):
        ZarrSink(stored, 8, IDENTITY).begin(FIELDS)


def test_a_check_touches_nothing(stored, tmp_path):
    ZarrSink(tmp_path / "new.zarr", 8, IDENTITY).check()
    ZarrSink(stored, 8, IDENTITY).check()
    with pytest.raises(ValueError, match="begun with another model"):
        ZarrSink(stored, 8, {**IDENTITY, "model": "b"}).check()
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ValueError, match="holds no results of pastpy"):
        ZarrSink(tmp_path / "notes", 8, IDENTITY).check()
    assert {p.name for p in tmp_path.iterdir()} == {"run.zarr", "notes"}


def test_a_full_disk_is_named(stored, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    sink = ZarrSink(stored, 8, IDENTITY)
    sink.begin(FIELDS)
    monkeypatch.setattr("zarr.Array.__setitem__", full)
    with pytest.raises(OSError, match=r"make room, .* TMPDIR .*run\.zarr") as caught:
        sink.write(3, np.array([6]), {"x": row(6)})
    assert caught.value.errno == errno.ENOSPC


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_and_resumed(tmp_path):
    """Processes are killed with SIGKILL at random moments; benchmarks/resume.py does so with a whole model."""
    script = Path(__file__).with_name("kill_and_resume.py")
    done = subprocess.run([sys.executable, script, tmp_path, "6"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["killed"] == 6, "every process was killed before it finished"
    assert result["identical"] and result["each_field_once"]
    assert signal.SIGKILL in result["signals"] and len(set(result["signals"])) == 1


def test_fingerprints_tell_values_types_and_shapes_apart():
    import torch

    zeros = np.zeros(4, dtype=np.float32)
    others = [np.zeros(4), np.zeros((2, 2), np.float32), np.array([0, 0, 0, 1], np.float32), np.zeros(0, np.float32)]
    assert len({array_fingerprint(a) for a in [zeros, *others]}) == 5
    model = torch.nn.Linear(2, 2)
    before = model_fingerprint(model)
    assert before == model_fingerprint(model)
    with torch.no_grad():
        model.bias[0] += 1e-3
    assert model_fingerprint(model) != before


def test_rows_are_read_for_some_units(tmp_path):
    rng = np.random.default_rng(0)
    units = np.array_split(rng.permutation(50)[:45], 12)  # five are in no field
    fields = [Field(i, 0, 8, 8, part) for i, part in enumerate(units)]
    sink = ZarrSink(tmp_path / "run.zarr", 50, {})
    sink.begin(fields)
    for i, part in enumerate(units):
        kept = part[1:]  # one of each field got no row
        sink.write(i, kept, {"x": np.stack([kept, -kept], axis=1).astype(np.float32)[:, None]})
    sink.end()
    rows = sink.rows("x", (1, 2))
    for _ in range(20):
        asked = rng.permutation(50)[: rng.integers(0, 50)]
        np.testing.assert_array_equal(rows(asked), sink["x"][asked])
    missing = np.r_[np.setdiff1d(np.arange(50), np.concatenate(units)), [part[0] for part in units]]
    assert np.isnan(rows(missing)).all()


def test_rows_of_a_run_without_units_are_unknown(tmp_path):
    sink = ZarrSink(tmp_path / "run.zarr", 3, {})
    sink.begin([])
    sink.end()
    assert np.isnan(sink.rows("x", (2, 4))(np.array([0, 2]))).all()
    assert sink.rows("x", (2, 4))(np.array([0, 2])).shape == (2, 2, 4)
