"""Proportions of cell types and single cells, as training reads them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pastpy.train.data import read_cells, read_proportions, read_section


@pytest.fixture
def root(tmp_path):
    """Spots 1x1 to 5x1: the third has no counts, the fourth no proportions, and the fifth lies off the tissue."""
    for folder in ("counts", "spots", "deconvolution"):
        (tmp_path / folder).mkdir()
    counts = pd.DataFrame({"A": [1, 2, 3], "B": [0, 1, 0]}, index=["4x1", "1x1", "2x1"])
    counts.loc["5x1"] = 1
    counts.to_csv(tmp_path / "counts" / "S.tsv.gz", sep="\t")
    spots = pd.DataFrame({"x": [1, 2, 3, 4, 5], "y": 1, "pixel_x": 5.0, "pixel_y": 5.0, "selected": [1, 1, 1, 1, 0]})
    spots.to_csv(tmp_path / "spots" / "S_selection.tsv", sep="\t", index=False)
    types = pd.DataFrame({"b": [0.3, 0.2, 0.1], "t": [0.7, 0.8, 0.9]}, index=["3x1", "2x1", "1x1"])
    types.to_csv(tmp_path / "deconvolution" / "S.tsv", sep="\t")
    return tmp_path


def test_proportions_are_in_the_order_of_spots(root):
    found = read_proportions(root, "S")
    assert found is not None and found.index.tolist() == ["1x1", "2x1", "4x1"]
    np.testing.assert_equal(found["t"].to_numpy(), [0.9, 0.8, np.nan])


def test_no_file_and_no_spot_in_it_are_none(root):
    assert read_proportions(root, "other") is None
    pd.DataFrame({"b": [1.0]}, index=["9x9"]).to_csv(root / "deconvolution" / "S.tsv", sep="\t")
    assert read_proportions(root, "S") is None


def test_real_proportions_have_the_order_of_real_spots(shared_data):
    found = read_proportions(shared_data / "her2st", "C3")
    spots = read_section(shared_data / "her2st", "C3", mpp=0.69, spot_diameter_um=100).tables["spots"]
    assert found is not None and found.index.tolist() == spots.obs_names.tolist()
    assert found.notna().all(axis=None) and np.allclose(found.sum(axis=1), 1, atol=1e-3)


def test_real_cells_have_types_that_their_markers_say(shared_data):
    cells = read_cells(shared_data)
    counts = pd.DataFrame(cells.counts.toarray(), columns=cells.genes)
    mean = counts.groupby(cells.types).mean()
    markers = {"B-cells": "MS4A1", "Endothelial": "VWF", "CAFs": "LUM", "Epithelial": "EPCAM", "T-cells": "TRAC"}
    markers |= {"Myeloid": "CD163", "Plasma Cells": "MZB1"}
    assert {t: mean[g].idxmax() for t, g in markers.items()} == {t: t for t in markers}
    assert set(mean.index) <= set(read_proportions(shared_data / "her2st", "C3").columns)


def test_cells_without_the_file_of_types(shared_data, tmp_path):
    folder = tmp_path / "xenium_breast_cells"
    folder.mkdir()
    name = "expr_mat_breast_demo.csv"
    head = (shared_data / "xenium_breast_cells" / name).read_text().splitlines()[:3]
    (folder / name).write_text("\n".join(head) + "\n")
    cells = read_cells(tmp_path)
    assert cells.counts.shape == (2, 280) and cells.types is None
