"""Shared by the readers of instruments' output folders, which spatialdata-io reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pastpy import _keys

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

__all__ = ["annotate", "bundle_folder", "element_name", "opened_by", "require_files"]


def bundle_folder(path: str | Path, what: str) -> Path:
    """The folder at ``path``, or a ``FileNotFoundError`` that says what was expected."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"no {what} at {str(path)!r}; expected its output folder")
    return folder


def element_name(folder: Path) -> str:
    """A folder's name as part of element names: SpatialData takes letters, digits, '_', '-' and '.'."""
    return re.sub(r"[^\w.-]", "_", folder.resolve().name).lstrip("_.") or "sample"


def require_files(folder: Path, what: str, names: Iterable[str]) -> None:
    """Raise a ``FileNotFoundError`` that names all files that a bundle lacks."""
    missing = sorted({name for name in names if not (folder / name).exists()})
    if missing:
        raise FileNotFoundError(f"{what} {folder.name} lacks {', '.join(missing)}; copy the whole output folder")


@contextmanager
def opened_by(what: str) -> Iterator[None]:
    """Turn what a reader below raises for damaged files into one ``ValueError`` that names the bundle.

    Options that the reader does not know stay a ``TypeError``, missing files a ``FileNotFoundError``.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise
        raise ValueError(f"{what} cannot be read ({error}); is it complete?") from error
    except Exception as error:  # readers of others, and what those call: no list of their errors would be complete
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ValueError(f"{what} cannot be read ({text}); is it complete?") from error


def annotate(
    sdata: SpatialData, table_key: str, shapes_key: str, instance_key: str, *, table: AnnData | None = None
) -> None:
    """Make a table annotate a shapes element, whatever it annotated before; pass ``table`` if it is yet to be added."""
    import pandas as pd
    from spatialdata.models import TableModel

    if table is None:
        table = sdata.tables[table_key]
        del sdata.tables[table_key]  # setting one that is there warns
    table.obs[_keys.REGION] = pd.Categorical([shapes_key] * table.n_obs)
    table.uns.pop(TableModel.ATTRS_KEY, None)
    sdata.tables[table_key] = TableModel.parse(
        table, region=shapes_key, region_key=_keys.REGION, instance_key=instance_key
    )
