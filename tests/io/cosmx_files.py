"""A CosMx run that readers take for whole."""

from __future__ import annotations

import shutil

import pandas as pd

RUN = "Run5642_S3_Quarter"


def make_run(shared_data, tmp_path):
    """The real cut run with the positions of its field of view, which it lacks."""
    folder = tmp_path / "run"
    shutil.copytree(shared_data / "xenium_cosmx_mini" / "cosmx", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    write_positions(folder, {"fov": [1], "x_global_px": [171400.0], "y_global_px": [11341.67]})
    return folder


def write_positions(folder, columns):
    pd.DataFrame(columns).to_csv(folder / f"{RUN}_fov_positions_file.csv", index=False)
