"""Readers, which add µm/px and checks, and safe write-back."""

from pastpy.io._cosmx import read_cosmx
from pastpy.io._explorer import read_xenium_explorer, write_xenium_explorer_groups
from pastpy.io._geojson import read_geojson
from pastpy.io._geojson_out import write_geojson
from pastpy.io._label_image import read_labels
from pastpy.io._st import read_st
from pastpy.io._store import write_store
from pastpy.io._table import write_table
from pastpy.io._visium import read_visium
from pastpy.io._visium_hd import read_visium_hd
from pastpy.io._wsi import read_wsi
from pastpy.io._xenium import read_xenium

__all__ = [
    "read_cosmx",
    "read_geojson",
    "read_labels",
    "read_st",
    "read_visium",
    "read_visium_hd",
    "read_wsi",
    "read_xenium",
    "read_xenium_explorer",
    "write_geojson",
    "write_store",
    "write_table",
    "write_xenium_explorer_groups",
]
