"""Lists of slides, resumed calls, and the check of alignment that comes first."""

from __future__ import annotations

import gc
import shutil
import traceback
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import spatialdata

import pastpy as past
from pastpy.tl._slides import Outcome, report, store_names, work_through


@pytest.fixture
def without_mpp(toy_sdata):
    return toy_sdata(mpp=None)


def test_one_failing_slide_does_not_stop_the_rest(toy_sdata, without_mpp, tiny_model, tmp_path):
    toy_sdata(seed=2).write(tmp_path / "b.zarr")
    slides = [toy_sdata(), without_mpp, tmp_path / "b.zarr", tmp_path / "nowhere.zarr"]
    nowhere = "nowhere.zarr: no SpatialData store, Xenium bundle or slide"
    with pytest.warns(UserWarning, match=rf"2 of 4 slides failed.*object 1: µm/px.*{nowhere}") as seen:
        assert past.tl.embed(slides, tiny_model, progress=False) is None
    (told,) = [w for w in seen if "slides failed" in str(w.message)]
    assert told.filename == __file__, "the warning points at the call"
    assert np.isfinite(slides[0]["cells"].obsm["X_past"]).all()
    assert "X_past" not in without_mpp["cells"].obsm
    assert np.isfinite(spatialdata.read_zarr(tmp_path / "b.zarr")["cells"].obsm["X_past"]).all()


def test_copies_of_a_list(toy_sdata, without_mpp, tiny_model):
    with pytest.warns(UserWarning, match="1 of 2 slides failed"):
        tables = past.tl.impute_expression(
            [without_mpp, toy_sdata()], tiny_model, genes=["KRT8"], copy=True, progress=False
        )
    assert tables[0] is None and tables[1].obsm["past_expression"].shape == (40, 1)


def test_if_all_fail_the_first_error_is_raised(without_mpp, tiny_model):
    with pytest.raises(ValueError, match="µm/px of image 'he' is unknown") as raised:
        past.tl.embed([without_mpp, without_mpp], tiny_model, progress=False)
    assert "0 of 2 slides done" in raised.value.__notes__[0]


def test_a_report_names_every_slide():
    outcomes = [
        Outcome("a.svs", 12.3, n_obs=40),
        Outcome("long/b.svs", 0.2, error=KeyError("no image\nhere")),
    ]
    assert report(outcomes).splitlines() == [
        "a.svs       40 rows in 12 s",
        "long/b.svs  failed after 0 s: no image here",
        "1 of 2 slides done",
    ]


def test_the_report_is_printed_where_somebody_looks(toy_sdata, tiny_model, monkeypatch, capsys):
    monkeypatch.setattr("pastpy.tl._slides.show_progress", lambda asked: False)
    past.tl.embed([toy_sdata()], tiny_model, modality="image")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("pastpy.tl._slides.show_progress", lambda asked: asked)
    past.tl.embed([toy_sdata()], tiny_model, modality="image")
    assert "1 of 1 slides done" in capsys.readouterr().out


def test_a_path_twice_is_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="stands more than once"):
        past.tl.embed([tmp_path / "a.zarr"] * 2, tiny_model)
    with pytest.raises(ValueError, match="stands more than once"):
        past.tl.embed([tmp_path / "a.zarr", f"{tmp_path}/b/../a.zarr"], tiny_model)


def test_a_stores_name_is_that_of_the_file_where_no_other_is_named_alike():
    assert store_names(["a/x.svs", "b/y.svs"]) == {"a/x.svs": "x.zarr", "b/y.svs": "y.zarr"}


def test_a_stores_name_does_not_hang_on_the_order_of_the_list():
    two, three = store_names(["a/1.svs", "b/1.svs"]), store_names(["c/1.svs", "b/1.svs", "a/1.svs"])
    assert two == {name: three[name] for name in two} and len(set(three.values())) == 3
    absolute = str(Path("a/1.svs").absolute())
    assert store_names([absolute, "b/1.svs"])[absolute] == two["a/1.svs"]


def test_no_two_slides_share_a_store():
    first, second = store_names(["a/1.svs", "b/1.svs"]).values()
    results = [f"out/{first}", f"out/{second}"]
    names = store_names(["a/1.svs", "b/1.svs", "B/1.SVS", "b/X.svs", "c/x.svs", *results])
    assert len({store.casefold() for store in names.values()}) == len(names)


def test_a_store_is_no_folder_of_stores(toy_sdata, tiny_model, tmp_path):
    toy_sdata().write(tmp_path / "run")
    with pytest.raises(FileExistsError, match="resume=.*run' is a zarr store, and a store for each slide would be"):
        past.tl.embed([toy_sdata()], tiny_model, resume=tmp_path / "run", progress=False)


class Slide:
    """What a slide needs memory for."""

    n_obs = 3


def alive_at_each(work) -> list[int]:
    """How many slides of those before are in memory when the next one begins."""
    slides: list = []
    alive: list[int] = []

    def counted(item):
        gc.collect()
        alive.append(sum(slide() is not None for slide in slides))
        slide = Slide()
        slides.append(weakref.ref(slide))
        return work(slide)

    outcomes = work_through({str(i): i for i in range(4)}, counted)
    assert len(outcomes) == 4
    return alive


def test_memory_does_not_grow_with_the_number_of_slides():
    assert alive_at_each(lambda slide: slide) == [0, 0, 0, 0]


def test_errors_do_not_keep_their_slides_but_where_they_arose():
    def read(slide):
        raise OSError("tile 7 is broken")

    def fail(slide):
        try:
            read(slide)
        except OSError as error:
            raise ValueError("no slide") from error

    assert alive_at_each(fail) == [0, 0, 0, 0]
    (outcome,) = work_through({"a": Slide()}, fail)
    assert [frame.name for frame in traceback.extract_tb(outcome.error.__traceback__)][-1] == "fail"


def test_a_slide_file_cannot_hold_results(tiny_model, tmp_path):
    from PIL import Image

    Image.fromarray(np.full((64, 64, 3), 230, dtype=np.uint8)).save(tmp_path / "a.png", dpi=(50800, 50800))
    with pytest.raises(ValueError):
        past.tl.embed(tmp_path / "a.png", tiny_model)


def test_a_call_that_was_stopped_goes_on(toy_sdata, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("pastpy.engine.plan.CORE_UM", 48.0)
    monkeypatch.setattr("pastpy.engine.plan.CORE_REACHES", 0)
    alone, stopped = toy_sdata(), toy_sdata()
    past.tl.embed(alone, tiny_model, progress=False)
    written = []
    write = past.engine.ZarrSink.write

    def stop(self, field, *rest):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(field)
        write(self, field, *rest)

    path = tmp_path / "run.zarr"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(past.engine.ZarrSink, "write", stop)
        past.tl.embed(stopped, tiny_model, resume=path, progress=False)
    assert "X_past" not in stopped["cells"].obsm
    past.tl.embed(stopped, tiny_model, resume=path, progress=False)
    for key in ("X_past", "X_past_image", "X_past_expression"):
        assert stopped["cells"].obsm[key].tobytes() == alone["cells"].obsm[key].tobytes()


def test_a_changed_model_resolution_image_or_gene_is_refused(toy_sdata, tiny_model, tmp_path):
    import copy

    path = tmp_path / "run.zarr"
    options = {"genes": ["ERBB2"], "modality": "image", "progress": False}
    past.tl.impute_expression(toy_sdata(), tiny_model, resume=path, **options)
    past.tl.impute_expression(toy_sdata(), tiny_model, resume=path, **options)
    other = copy.deepcopy(tiny_model)
    other.members[0].decoder.bias.data[0] += 1
    painted = toy_sdata()
    painted["he"].data = painted["he"].data.copy()
    painted["he"].data[:, :5, :5] = 0
    with pytest.raises(ValueError, match="begun with another model "):
        past.tl.impute_expression(toy_sdata(), other, resume=path, **options)
    with pytest.raises(ValueError, match="begun with another.*µm/px"):
        past.tl.impute_expression(toy_sdata(mpp=0.45), tiny_model, resume=path, **options)
    with pytest.raises(ValueError, match="begun with another image "):
        past.tl.impute_expression(painted, tiny_model, resume=path, **options)
    boxed = toy_sdata()
    boxed["nuclei"] = boxed["nuclei"].set_geometry(boxed["nuclei"].geometry.envelope)
    with pytest.raises(ValueError, match="begun with another outlines "):
        past.tl.impute_expression(boxed, tiny_model, resume=path, **options)
    with pytest.raises(ValueError, match="begun with another genes "):
        past.tl.impute_expression(toy_sdata(), tiny_model, resume=path, **{**options, "genes": ["KRT8"]})
    with pytest.raises(ValueError, match="begun with another.*output"):
        past.tl.embed(toy_sdata(), tiny_model, resume=path, modality="image", progress=False)
    shutil.rmtree(path)
    past.tl.embed(toy_sdata(), tiny_model, resume=path, modality="image", progress=False)


def test_every_slide_of_a_list_has_its_own_store(toy_sdata, tiny_model, tmp_path):
    for name in "ab":
        toy_sdata(seed=ord(name)).write(tmp_path / f"{name}.zarr")
    for _ in range(2):
        past.tl.embed(
            [tmp_path / "a.zarr", tmp_path / "b.zarr"], tiny_model, modality="image", resume=tmp_path / "runs",
            progress=False,
        )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["a.zarr", "b.zarr"]


def test_alignment_is_checked_once_an_object(toy_sdata, tiny_model, monkeypatch):
    asked = []

    def guard(sdata, **arguments):
        asked.append(arguments)
        if arguments["on_misaligned"] == "raise":
            raise ValueError("cells do not lie on the tissue")

    monkeypatch.setitem(__import__("sys").modules, "pastpy.pp._alignment", SimpleNamespace(guard=guard, __spec__=1))
    past.tl.embed([toy_sdata(), toy_sdata()], tiny_model, progress=False)
    assert len(asked) == 2
    units = asked[0].pop("units")
    assert units.mpp == 0.5 and len(units.centroids) == toy_sdata()["cells"].n_obs
    assert asked[0] == {
        "image_key": "he", "shapes_key": "nuclei", "table_key": "cells", "coordinate_system": "global",
        "on_misaligned": "warn", "workers": None,
    }  # fmt: skip
    past.tl.embed(toy_sdata(), tiny_model, on_misaligned="ignore", progress=False)
    past.tl.embed(toy_sdata(), tiny_model, modality="expression", progress=False)
    assert len(asked) == 2
    sdata = toy_sdata()
    with pytest.raises(ValueError, match="do not lie on the tissue"):
        past.tl.impute_expression(sdata, tiny_model, on_misaligned="raise", progress=False)
    assert "past" not in sdata["cells"].uns
    with pytest.raises(ValueError, match="on_misaligned='shout' is unknown"):
        past.tl.embed(sdata, tiny_model, on_misaligned="shout")


def test_no_warning_without_reason(toy_sdata, tiny_model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        past.tl.embed([toy_sdata(), toy_sdata()], tiny_model, progress=False)
