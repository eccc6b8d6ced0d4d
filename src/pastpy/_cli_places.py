"""Where the command line writes: places are checked before anything is computed, and every slide gets its own."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["check_folders", "check_place", "places"]


def check_place(path: Path, option: str) -> None:
    """Refuse a place at which nothing can be written, before hours of work.

    Raises
    ------
    FileExistsError
        If it lies in something that is no folder.
    PermissionError
        If its folder is read-only.
    """
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise FileExistsError(f"{option} {str(path)!r}: {str(there)!r} is a file and no folder; choose another place")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{option} {str(path)!r}: the folder {str(there)!r} is read-only; choose another place")


def check_folders(args: argparse.Namespace) -> None:
    """Refuse a store where a folder with a store for each slide is wanted."""
    from pastpy.tl._slides import refuse_store

    refuse_store(args.out, "out")
    if args.resume is not None:
        refuse_store(args.resume, "resume")


def places(args: argparse.Namespace) -> dict[Path, tuple[Path, Path | None]]:
    """Where each slide's result and its unfinished results go; slides that are done are left out with ``--resume``."""
    from pastpy.tl._slides import refuse_repeated, result_of, store_names

    refuse_repeated(args.slides)
    done = [slide for slide in args.slides if result_of(slide, args.out)]
    if done and args.resume is None:
        raise FileExistsError(
            f"{len(done)} of {len(args.slides)} results exist in {str(args.out)!r} (that of {done[0]} is the first); "
            "remove them, choose another folder, or pass --resume to leave these slides out"
        )
    names = store_names(str(slide) for slide in args.slides)
    free = _free_names({slide: names[str(slide)] for slide in args.slides if slide not in done}, args.out)
    return {
        slide: (args.out / name, None if args.resume is None else args.resume / name) for slide, name in free.items()
    }


def _free_names(names: dict[Path, str], folder: Path) -> dict[Path, str]:
    """Names of results to write, with another one for each that something else in the folder has, and a warning."""
    from pastpy.tl._slides import own_name

    others = {slide: own_name(slide) for slide, name in names.items() if (folder / name).exists()}
    if others:
        slide, name = next(iter(others.items()))
        warnings.warn(
            f"{len(others)} of {len(names)} slides are named like something in {str(folder)!r} that was not made from "
            f"them; their results get names of their own, that of {slide} is {name}",
            stacklevel=1,
        )
    return names | others
