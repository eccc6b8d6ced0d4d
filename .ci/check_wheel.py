"""Check that a wheel holds every file of the package: code, weights, sample data and the type marker."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

#: What editors and interpreters leave behind.
LEFTOVERS = {".pyc", ".pyo", ".swp"}


def missing_files(wheel: Path, source: Path) -> list[str]:
    """Names of the files below ``source/pastpy`` that the wheel lacks."""
    there = {path.relative_to(source).as_posix() for path in (source / "pastpy").rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    return sorted(name for name in there - packed if Path(name).suffix not in LEFTOVERS)


if __name__ == "__main__":
    wheel = Path(sys.argv[1])
    missing = missing_files(wheel, Path(__file__).resolve().parents[1] / "src")
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            if not info.filename.endswith(".py"):
                print(f"{info.file_size:>10} {info.filename}")
    print(f"{wheel.stat().st_size / 1e6:.1f} MB packed, {len(missing)} files missing {missing}")
    sys.exit(bool(missing))
