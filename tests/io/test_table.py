"""Write-back of a table: the store always holds a whole table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata

from pastpy.io import write_table


@pytest.fixture
def stored(toy_sdata, tmp_path):
    sdata = toy_sdata(size=96, n_cells=9)
    sdata.write(tmp_path / "toy.zarr")
    return spatialdata.read_zarr(tmp_path / "toy.zarr")


def names_on_disk(sdata) -> list[str]:
    return sorted(p.name for p in (Path(sdata.path) / "tables").iterdir() if p.is_dir())


def test_replaces_the_table_and_the_attrs(stored):
    table = stored.tables["cells"]
    genes = pd.DataFrame(
        np.random.default_rng(0).random((9, 2), dtype=np.float32), index=table.obs_names, columns=["ERBB2", "HLA-A"]
    )
    table.obsm["past_expression"] = genes
    table.obs["past_valid"] = [True] * 8 + [False]
    table.uns["past"] = {"embed": {"model": "past-mini", "mpp": 0.5, "genes": ["ERBB2"], "seed": None}}
    stored.attrs["past"] = {**stored.attrs["past"], "added": ["cells"]}
    write_table(stored, "cells")

    back = spatialdata.read_zarr(stored.path)
    pd.testing.assert_frame_equal(back.tables["cells"].obsm["past_expression"], genes, check_names=False)
    assert back.tables["cells"].obs["past_valid"].tolist() == [True] * 8 + [False]
    assert back.tables["cells"].uns["past"]["embed"]["model"] == "past-mini"
    assert back.attrs["past"] == {"mpp": {"he": 0.5}, "added": ["cells"]}
    assert names_on_disk(stored) == ["cells"] == list(stored.tables)


def test_nothing_is_said_that_is_meant_for_anndata_s_own_callers(stored, recwarn):
    write_table(stored, "cells")
    assert not [w for w in recwarn if "autosharding" in str(w.message)]


def test_writes_a_table_that_the_store_has_not_seen(stored):
    stored.tables["more"] = stored.tables["cells"].copy()
    write_table(stored, "more")
    assert sorted(spatialdata.read_zarr(stored.path).tables) == ["cells", "more"] == names_on_disk(stored)


def test_twice_in_a_row(stored):
    for value in (1, 2):
        stored.tables["cells"].obs["run"] = value
        write_table(stored, "cells")
    assert set(spatialdata.read_zarr(stored.path).tables["cells"].obs["run"]) == {2}


def check_old_one_is_intact(stored):
    back = spatialdata.read_zarr(stored.path).tables
    assert list(back) == ["cells"] == names_on_disk(stored) == list(stored.tables)
    assert "run" not in back["cells"].obs
    np.testing.assert_array_equal(back["cells"].X.toarray(), stored.tables["cells"].X.toarray())


def test_failure_while_writing_leaves_the_old_table(stored, monkeypatch):
    """The disk is full half-way: the folder is there, the table is not whole."""
    stored.tables["cells"].obs["run"] = 1
    write_element = type(stored).write_element

    def half(self, name, **kwargs):
        write_element(self, name, **kwargs)
        for file in (Path(self.path) / "tables" / name / "X").rglob("*"):
            if file.is_file():
                file.unlink()
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(stored), "write_element", half)
        with pytest.raises(OSError, match="no space left"):
            write_table(stored, "cells")
    check_old_one_is_intact(stored)
    write_table(stored, "cells")  # and the next call works
    assert set(spatialdata.read_zarr(stored.path).tables["cells"].obs["run"]) == {1}


def test_failure_in_the_swap_puts_the_old_table_back(stored, monkeypatch):
    stored.tables["cells"].obs["run"] = 1
    rename = Path.rename

    def fail_for_new(self, target):
        if self.name.startswith("past-new"):
            raise OSError("device busy")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_for_new)
        with pytest.raises(OSError, match="device busy"):
            write_table(stored, "cells")
    check_old_one_is_intact(stored)


def test_content_that_cannot_be_stored_leaves_the_old_table(stored):
    stored.tables["cells"].uns["past"] = {"embed": {"path": Path("somewhere")}}
    stored.tables["cells"].obs["run"] = 1
    with pytest.raises(Exception, match=r"(?i)path"):
        write_table(stored, "cells")
    check_old_one_is_intact(stored)


def test_a_table_needs_what_it_annotates_in_the_store(stored, toy_sdata):
    more = toy_sdata(size=96, n_cells=9, shapes_key="outlines", table_key="more")
    stored.shapes["outlines"], stored.tables["more"] = more.shapes["outlines"], more.tables["more"]
    with pytest.raises(ValueError, match=r"'more' annotates \['outlines'\].*write them first.*write_element"):
        write_table(stored, "more")
    assert names_on_disk(stored) == ["cells"]
    stored.write_element(["outlines"])
    write_table(stored, "more")
    back = spatialdata.read_zarr(stored.path)
    assert sorted(back.shapes) == ["nuclei", "outlines"] and sorted(back.tables) == ["cells", "more"]


def test_errors(stored, toy_sdata):
    with pytest.raises(KeyError, match=r"no table named 'spots'; this object has \['cells'\]"):
        write_table(stored, "spots")
    with pytest.raises(ValueError, match=r"not backed .* sdata\.write"):
        write_table(toy_sdata(size=96, n_cells=9), "cells")
