"""Sphinx configuration."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import metadata
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))

info = metadata("pastpy")
project = info["Name"]
author = "pastpy developers"
project_copyright = f"2026, {author}"
release = version = info["Version"]

extensions = [
    "myst_nb",
    "prose_returns",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# Sphinx reads only what lies below this folder; the notebooks stand beside it for readers of the repository.
shutil.copytree(
    HERE.parent / "notebooks",
    HERE / "notebooks",
    dirs_exist_ok=True,
    ignore=shutil.ignore_patterns(".ipynb_checkpoints", "*.zarr"),
)

# -- API pages --------------------------------------------------------------------------------------------------------
autosummary_generate = True
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_type_aliases = {
    "AnnData": "anndata.AnnData",
    "Axes": "matplotlib.axes.Axes",
    "CoxPHFitter": "lifelines.CoxPHFitter",
    "DataArray": "xarray.DataArray",
    "DataFrame": "pandas.DataFrame",
    "Figure": "matplotlib.figure.Figure",
    "GeoDataFrame": "geopandas.GeoDataFrame",
    "SpatialData": "spatialdata.SpatialData",
}
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring = False
napoleon_include_init_with_doc = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Every name of pastpy that a page refers to has to exist. Names of other packages are resolved only where their
# inventories can be fetched, so that the pages build without a network.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!pastpy\.).*")]
# Parts of the released model that docstrings name, and that no page shows.
nitpick_ignore = [
    ("py:class", "pastpy.models.released.ReleasedConfig"),
    ("py:func", "pastpy.models.released_import.load_released"),
    ("py:func", "pastpy.models.tokenizer.tokenize"),
]
if os.environ.get("READTHEDOCS") or os.environ.get("GITHUB_ACTIONS"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "geopandas": ("https://geopandas.org/en/stable/", None),
        "lifelines": ("https://lifelines.readthedocs.io/en/latest/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable/", None),
        "squidpy": ("https://squidpy.readthedocs.io/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
        "xarray": ("https://docs.xarray.dev/en/stable/", None),
    }

# -- Pages and notebooks ----------------------------------------------------------------------------------------------
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "html_image"]
myst_heading_anchors = 3
# Notebooks are kept without outputs and run here: what a page shows is what today's code gives.
nb_execution_mode = "auto"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
# Progress bars, and warnings of other packages with the paths of the machine that built the page.
nb_output_stderr = "remove"

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_theme_options = {
    "path_to_docs": "docs",
    "repository_branch": "main",
    "repository_url": "https://github.com/pastpy/pastpy",
    "use_repository_button": True,
}
