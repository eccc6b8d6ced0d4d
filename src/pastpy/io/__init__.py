"""Readers, which add µm/px and checks, and safe write-back."""

from pastpy.io._st import read_st
from pastpy.io._store import write_store
from pastpy.io._table import write_table

__all__ = ["read_st", "write_store", "write_table"]
