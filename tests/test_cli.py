"""The command line: instant help, one line for bad input, and nothing written."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spatialdata
from tests.io.xenium_files import make_bundle

from pastpy.cli import main
from pastpy.models import PAST, ModelCard, available


@pytest.fixture
def store(toy_sdata, tmp_path):
    def write(name: str = "in.zarr", **arguments):
        toy_sdata(**arguments).write(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def model(tiny_model, tmp_path):
    tiny_model.save(tmp_path / "tiny")
    return str(tmp_path / "tiny")


@pytest.fixture
def bundle(shared_data, tmp_path):
    """A Xenium bundle without an H&E."""
    return make_bundle(shared_data, tmp_path)


@pytest.mark.parametrize("command", ["demo", "embed", "impute", "stain", "pretrain", "bench", "models"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: pastpy {command}" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["impute", "stain"])
def test_help_tells_how_to_give_several(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "separated by commas; the option may be repeated" in " ".join(capsys.readouterr().out.split())


def test_help_loads_nothing_heavy():
    code = "import sys; from pastpy.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'anndata', 'pandas', 'numpy', 'spatialdata'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_embed_impute_stain(store, model, tmp_path, capsys):
    source = store()
    assert main(["embed", str(source), "--out", str(tmp_path / "e.zarr"), "--model", model, "--modality", "image"]) == 0
    table = spatialdata.read_zarr(tmp_path / "e.zarr")["cells"]
    assert np.isfinite(table.obsm["X_past"]).all()
    out = tmp_path / "i.zarr"
    assert main(["impute", str(source), "--out", str(out), "--model", model, "--genes", "ERBB2, GENE1"]) == 0
    assert spatialdata.read_zarr(out)["cells"].obsm["past_expression"].columns.tolist() == ["ERBB2", "GENE1"]
    out = tmp_path / "s.zarr"
    assert main(["stain", str(source), "--out", str(out), "--model", model, "--marker", "HER2"]) == 0
    assert "virtual_stain" in spatialdata.read_zarr(out).images
    assert "research use only" in capsys.readouterr().out


def test_nuclei_are_found_where_there_is_no_table(toy_sdata, model, tmp_path):
    sdata = toy_sdata(size=512)
    del sdata.tables["cells"], sdata.shapes["nuclei"]
    sdata.write(tmp_path / "plain.zarr")
    assert main(["embed", str(tmp_path / "plain.zarr"), "--out", str(tmp_path / "e.zarr"), "--model", model]) == 0
    assert spatialdata.read_zarr(tmp_path / "e.zarr")["cells"].n_obs > 5


def test_a_slide_file(shared_data, model, tmp_path):
    out = tmp_path / "e.zarr"
    slide = shared_data / "svs" / "cmu-1-small-region.svs"
    assert main(["embed", str(slide), "--out", str(out), "--model", model]) == 0
    table = spatialdata.read_zarr(out)["cells"]
    assert table.n_obs > 1000 and np.isfinite(table.obsm["X_past"]).mean() > 0.99
    assert table.uns["past"]["embed"]["mpp"] == pytest.approx(0.499, abs=1e-3)


def test_several_slides(store, model, tmp_path, capsys):
    good, broken, other = store("a.zarr"), store("b.zarr", mpp=None), store("c.zarr", seed=1)
    out, resume = tmp_path / "out", tmp_path / "runs"
    slides = [str(good), str(broken), str(other), str(tmp_path / "nowhere.svs")]
    arguments = ["embed", *slides, "--out", str(out), "--model", model, "--modality", "image"]
    assert main([*arguments, "--resume", str(resume)]) == 2
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"{good} ") and " 40 rows in " in said[0]
    assert re.search(r"failed after \d+ s: µm/px of image 'he' is unknown", said[1])
    assert "no SpatialData store, Xenium bundle or slide" in said[3] and said[4] == "2 of 4 slides done"
    assert sorted(p.name for p in out.iterdir()) == ["a.zarr", "c.zarr"]
    assert np.isfinite(spatialdata.read_zarr(out / "c.zarr")["cells"].obsm["X_past"]).all()
    assert sorted(p.name for p in resume.iterdir()) == ["a.zarr", "c.zarr"]

    assert main(arguments) == 2
    assert "2 of 4 results exist" in capsys.readouterr().err
    assert main([*arguments[:2], *arguments[5:], "--resume", str(resume)]) == 0
    assert capsys.readouterr().out.splitlines() == ["1 of 1 slides were done before"]
    assert main(["embed", str(good), str(good), "--out", str(tmp_path / "new"), "--model", model]) == 2
    assert "stands more than once" in capsys.readouterr().err


def test_slides_whose_files_are_named_alike(toy_sdata, model, tmp_path, capsys):
    slides = {}
    for name, size in (("w", 192), ("x", 256), ("y", 320)):
        (tmp_path / name).mkdir()
        slides[name] = tmp_path / name / "1.zarr"
        toy_sdata(size=size).write(slides[name])
    out = tmp_path / "res"

    def run(names: str) -> tuple[int, str, str]:
        arguments = [
            "embed",
            *(str(slides[name]) for name in names),
            "--out",
            str(out),
            "--resume",
            str(tmp_path / "r"),
        ]
        code = main([*arguments, "--model", model, "--modality", "image", "--on-misaligned", "ignore"])
        return code, *capsys.readouterr()

    out.mkdir()
    assert run("x")[0] == 0 and [p.name for p in out.iterdir()] == ["1.zarr"]
    code, said, warned = run("y")
    assert code == 0 and "1 of 1 slides are named like something in" in warned, "the result of x is not that of y"
    assert run("xy")[1].splitlines() == ["2 of 2 slides were done before"]
    code, said, warned = run("wxy")
    assert code == 0 and said.splitlines()[0] == "2 of 3 slides were done before" and not warned
    assert f"{slides['w']}  " in said and str(slides["y"]) not in said
    assert run("ywx")[1].splitlines() == ["3 of 3 slides were done before"]
    results = {}
    for path in out.iterdir():
        sdata = spatialdata.read_zarr(path)
        results[sdata.attrs["past"]["source"]] = sdata["he"].shape[-1]
    assert results == {str(slides["w"]): 192, str(slides["x"]): 256, str(slides["y"]): 320}


def test_a_store_gets_no_stores_inside(store, model, tmp_path, capsys):
    slides = [str(store("a.zarr")), str(store("b.zarr"))]
    result, runs = str(store("res")), str(store("runs"))
    before = sorted((tmp_path / "res").iterdir())
    for given, said in (
        ([*slides, "--out", result], f"--out '{result}' is a zarr store"),
        ([slides[0], "--out", result], f"--out '{result}' is a zarr store"),
        ([*slides, "--out", str(tmp_path / "new"), "--resume", runs], f"--resume '{runs}' is a zarr store"),
    ):
        assert main(["embed", *given, "--model", model]) == 2
        assert said in capsys.readouterr().err
    assert sorted((tmp_path / "res").iterdir()) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "out.zarr"),
            "[Errno 28] No space left on device: 'out.zarr'",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "out.zarr"), "[Errno 13] Permission denied: 'out.zarr'"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_machine_without_room_is_told_in_one_line(store, model, tmp_path, capsys, monkeypatch, raised, said):
    def write(sdata, path):
        raise raised

    monkeypatch.setattr("pastpy.io.write_store", write)
    arguments = ["embed", str(store()), "--out", str(tmp_path / "out.zarr"), "--model", model, "--modality", "image"]
    assert refused(arguments, tmp_path / "out.zarr", capsys) == f"pastpy embed: error: {said}\n"


def test_one_slide_into_a_folder(store, model, tmp_path):
    (tmp_path / "results").mkdir()
    arguments = ["impute", str(store("a.zarr")), "--out", str(tmp_path / "results"), "--model", model]
    assert main([*arguments, "--genes", "ERBB2"]) == 0
    assert "past_expression" in spatialdata.read_zarr(tmp_path / "results" / "a.zarr")["cells"].obsm


def test_warnings_and_errors_speak_of_options(store, model, tmp_path, capsys):
    arguments = ["impute", str(store("a.zarr")), "--out", str(tmp_path / "o.zarr"), "--model", model]
    assert main([*arguments, "--genes", "NOSUCH,HER2"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert "pastpy impute: warning: 1 of 2 genes go by another name in 'tiny': HER2 as ERBB2" in said
    assert any(line.startswith("pastpy impute: warning: 1 of 2 genes are not in the vocabulary") for line in said)
    frame = spatialdata.read_zarr(tmp_path / "o.zarr")["cells"].obsm["past_expression"]
    assert np.isfinite(frame["HER2"]).all() and frame["NOSUCH"].isna().all()
    unknown = ["impute", str(store("b.zarr", mpp=None)), "--out", str(tmp_path / "p.zarr"), "--model", model]
    assert "pass --mpp (" in refused(unknown, tmp_path / "p.zarr", capsys)
    assert "knows none of the genes ['NOSUCH']" in refused([*unknown, "--genes", "NOSUCH"], tmp_path / "p.zarr", capsys)


def test_several_markers(store, model, tmp_path, capsys):
    out = tmp_path / "s.zarr"
    assert main(["stain", str(store()), "--out", str(out), "--model", model, "--marker", "HER2, KRT8"]) == 0
    said = capsys.readouterr().out
    assert "HER2, research use only" in said and "KRT8, research use only" in said
    assert {"virtual_stain_HER2", "virtual_stain_KRT8"} <= set(spatialdata.read_zarr(out).images)


@pytest.mark.parametrize(("command", "option"), [("impute", "--genes"), ("stain", "--marker")])
def test_an_option_that_names_nothing(command, option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "a.zarr", "--out", "b.zarr", option, ","])
    assert stopped.value.code == 2
    assert f"argument {option}: ',' names nothing" in capsys.readouterr().err


def test_repeated_options_add_up(store, model, tmp_path):
    source = str(store())
    call = [source, "--out", str(tmp_path / "s.zarr"), "--model", model]
    assert main(["stain", *call, "--marker", "HER2", "--marker", "KRT8, GENE1,"]) == 0
    stained = {f"virtual_stain_{marker}" for marker in ("HER2", "KRT8", "GENE1")}
    assert stained <= set(spatialdata.read_zarr(tmp_path / "s.zarr").images)
    call[2] = str(tmp_path / "i.zarr")
    assert main(["impute", *call, "--genes", "ERBB2,GENE1", "--genes", "KRT8"]) == 0
    frame = spatialdata.read_zarr(tmp_path / "i.zarr")["cells"].obsm["past_expression"]
    assert frame.columns.tolist() == ["ERBB2", "GENE1", "KRT8"]


def test_a_marker_is_printed_with_what_the_card_says_of_its_own_genes(store, tiny_model, tmp_path, capsys):
    genes = tiny_model.card.genes.set_index("gene")
    genes.loc[["ERBB2", "KRT8", "GENE1"], "validation_r"] = [0.55, 0.1, np.nan]
    genes.loc[["KRT8", "GENE1"], "trusted"] = False
    statement = "same patient: mean r 0.39 over the 250 most variable genes"
    card = ModelCard(genes.reset_index(), {**tiny_model.card.facts, "transfer_statement": statement})
    PAST(tiny_model.config, card).save(tmp_path / "doubtful")
    source = store()
    call = ["stain", str(source), "--out", str(tmp_path / "s.zarr"), "--model", str(tmp_path / "doubtful")]
    assert main([*call, "--marker", "HER2,KRT8", "--marker", "GENE1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"H-scores of {source}, research use only"
    assert [line for line in said if "0.39" in line] == [f"tiny as a whole: {statement}"]
    doubt = "the model's card does not trust its prediction of"
    assert said[2:5] == [
        "HER2, research use only: ERBB2 r 0.55; trusted by the model's card",
        f"KRT8, research use only: KRT8 r 0.10; {doubt} KRT8",
        f"GENE1, research use only: GENE1 not measured; {doubt} GENE1",
    ]
    rows = {line.split()[0]: line.split() for line in said[5:]}
    assert rows["h_score"][-3:] == ["pct_3", "transfer_score", "trusted_genes"]
    assert [rows[marker][-4:] for marker in ("HER2", "KRT8", "GENE1")] == [
        ["0.55", "1", "of", "1"], ["0.10", "0", "of", "1"], ["nan", "0", "of", "1"],
    ]  # fmt: skip


class TestStainOfAStoreWithAPrediction:
    @pytest.fixture
    def predicted(self, store, model, tmp_path, capsys):
        """A store whose ERBB2 and KRT8 are predicted from the image alone, with uncertainty."""
        call = ["impute", str(store()), "--out", str(tmp_path / "p.zarr"), "--model", model, "--modality", "image"]
        assert main([*call, "--genes", "ERBB2,KRT8", "--uncertainty"]) == 0
        capsys.readouterr()
        return tmp_path / "p.zarr"

    @pytest.fixture
    def stain(self, predicted, model, tmp_path, capsys):
        def run(*arguments):
            out = tmp_path / "s.zarr"
            code = main(["stain", str(predicted), "--out", str(out), "--model", model, *arguments])
            return code, capsys.readouterr().err, spatialdata.read_zarr(out)["cells"] if code == 0 else None

        return run

    @pytest.fixture
    def before(self, predicted):
        return spatialdata.read_zarr(predicted)["cells"].obsm

    def test_what_was_predicted_before_stays(self, stain, before, predicted):
        code, _, table = stain("--marker", "HER2,GENE1")
        assert code == 0
        for name in before:
            np.testing.assert_array_equal(table.obsm[name], before[name])
        assert table.obsm["stain_expression"].columns.tolist() == ["ERBB2", "GENE1"]
        made = table.uns["past"]["impute_expression"]
        asked = spatialdata.read_zarr(predicted)["cells"].uns["past"]["impute_expression"]
        assert made["modality"] == "auto" and made["others"]["past"]["modality"] == "image" == asked["modality"]
        assert table.uns["past"]["virtual_stain"]["expression_key"] == "stain_expression"

    def test_stains_that_were_there_stay(self, stain, model, tmp_path):
        assert stain("--marker", "HER2")[0] == 0
        again = ["stain", str(tmp_path / "s.zarr"), "--out", str(tmp_path / "t.zarr"), "--model", model]
        assert main([*again, "--marker", "KRT8"]) == 0
        first, second = (spatialdata.read_zarr(tmp_path / name) for name in ("s.zarr", "t.zarr"))
        assert set(second.images) == {*first.images, "virtual_stain_KRT8"}
        drawn = second["cells"].uns["past"]["virtual_stain"]["markers"]
        assert [drawn[name]["image"] for name in ("HER2", "KRT8")] == ["virtual_stain", "virtual_stain_KRT8"]

    def test_a_marker_can_be_stained_once_more(self, stain, model, tmp_path):
        assert stain("--marker", "HER2")[0] == 0
        again = ["stain", str(tmp_path / "s.zarr"), "--out", str(tmp_path / "t.zarr"), "--model", model]
        assert main([*again, "--marker", "HER2"]) == 0
        first, second = (spatialdata.read_zarr(tmp_path / name) for name in ("s.zarr", "t.zarr"))
        assert set(first.images) == set(second.images)
        column = "past_stain_class_HER2"
        np.testing.assert_array_equal(first["cells"].obs[column], second["cells"].obs[column])


@pytest.mark.parametrize("command", ["embed", "impute"])
def test_counts_of_a_bundle_need_no_he(command, bundle, tmp_path):
    out = tmp_path / "x.zarr"
    assert main([command, str(bundle), "--modality", "expression", "--out", str(out)]) == 0
    obsm = spatialdata.read_zarr(out)["table"].obsm
    values = np.asarray(obsm["X_past_expression" if command == "embed" else "past_expression"])
    assert np.isfinite(values).all(axis=1).mean() > 0.5


def test_what_looks_at_a_bundle_needs_its_he(bundle, model, tmp_path, capsys):
    out = tmp_path / "out.zarr"
    call = [str(bundle), "--out", str(out), "--model", model]
    for arguments in (
        ["embed", *call],
        ["impute", *call, "--modality", "both"],
        ["stain", *call, "--marker", "HER2"],
    ):
        said = refused(arguments, out, capsys)
        assert "is an H&E" in said and "--he-image" in said and "--modality" in said


def test_a_bundle_that_was_not_copied_whole(shared_data, model, tmp_path, capsys):
    part, out = shared_data / "xenium_cosmx_mini" / "xenium", tmp_path / "out.zarr"
    said = "Xenium bundle xenium lacks experiment.xenium; copy the whole output folder"
    for he in ([], ["--he-image", str(tmp_path / "he.tif")]):
        assert said in refused(["embed", str(part), "--out", str(out), "--model", model, *he], out, capsys)
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "cells.csv").touch()
    arguments = ["embed", str(tmp_path / "slides"), "--out", str(out), "--model", model]
    assert "holds no .dcm file" in refused(arguments, out, capsys), "one file of that name makes no bundle"


def refused(arguments: list[str], out, capsys) -> str:
    """Run with bad input; returns the one line that was printed."""
    before = sorted(p.name for p in out.parent.iterdir())
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"pastpy {arguments[0]}: error: ") and captured.err.count("\n") == 1
    assert not out.exists() and sorted(p.name for p in out.parent.iterdir()) == before
    return captured.err


def test_bad_input(store, toy_sdata, model, tmp_path, capsys):
    out = tmp_path / "out.zarr"
    good = store()
    plain = toy_sdata()
    del plain.images["he"]
    plain.write(tmp_path / "noimage.zarr")
    two = toy_sdata()
    two["other"] = two["he"].copy()
    two.write(tmp_path / "two.zarr")
    loose = toy_sdata()
    loose["cells"].uns.pop("spatialdata_attrs")
    loose["cells"].obs = loose["cells"].obs.drop(columns=["region", "cell_id"])
    loose.write(tmp_path / "loose.zarr")
    unknown = store("unknown.zarr", mpp=None)
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "noimage.zarr", model, "has no image"),
        (tmp_path / "two.zarr", model, "2 images"),
        (tmp_path / "loose.zarr", model, "annotates no element"),
        (unknown, model, "µm/px of image 'he' is unknown"),
        (good, "past-maxi", "no model 'past-maxi'"),
        (good, str(tmp_path / "empty"), "lacks config.json, model.safetensors"),
        (tmp_path / "nowhere.zarr", model, "no SpatialData store, Xenium bundle or slide"),
    ]
    for command in ("embed", "impute"):
        for source, name, message in cases:
            assert message in refused([command, str(source), "--out", str(out), "--model", name], out, capsys)
    # before a slide is opened, in which nuclei may have to be found first
    call = ["impute", "slide.svs", "--out", str(out), "--model", model, "--table-added", "q/r"]
    assert "--table-added 'q/r' is no element name" in refused(call, out, capsys)


def test_an_existing_result_is_left_alone(store, model, tmp_path, capsys):
    out = tmp_path / "out.zarr"
    out.mkdir()
    assert main(["embed", str(store()), "--out", str(out), "--model", model]) == 2
    assert "exists" in capsys.readouterr().err
    assert list(out.iterdir()) == []


def test_training_data_must_be_there(tmp_path, capsys):
    arguments = ["pretrain", "past-mini", "--out", str(tmp_path / "m"), "--data", str(tmp_path / "none")]
    assert "no training data at" in refused(arguments, tmp_path / "m", capsys)
    arguments[1] = "past-huge"
    assert "no training configuration 'past-huge'" in refused(arguments, tmp_path / "m", capsys)


def test_a_training_goes_on_but_writes_over_nothing(tmp_path, capsys):
    out = tmp_path / "m"
    (out / ".unfinished").mkdir(parents=True)
    arguments = ["pretrain", "past-mini", "--out", str(out), "--data", str(tmp_path / "none")]
    assert main(arguments) == 2
    assert "no training data at" in capsys.readouterr().err, "a run that was stopped left the folder"
    (out / ".unfinished").rmdir()
    assert main(arguments) == 2
    assert "exists; choose another folder or remove it" in capsys.readouterr().err


def test_models_are_listed(capsys):
    assert main(["models"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert set(available()["name"]) <= set(said)
    assert "  sha256 " in "\n".join(said) and "  licence: CC-BY-NC-ND-4.0" in said
    assert "  backbone, remote, ViT-g/14; commercial use: yes, gated: unknown" in said
    assert max(map(len, said)) <= 80


def test_demo(tmp_path, capsys):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    said, noise = capsys.readouterr()
    assert "Creating graph" not in said + noise
    for phrase in ("same patient, validation section", "shuffled", "research use only", "SIMULATED", "49 spots"):
        assert phrase in said
    sdata = spatialdata.read_zarr(out / "demo.zarr")
    cells = sdata["cells"]
    readme = " ".join((Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split())
    stated = re.search(r"49 spots\) .*? mean r of ([\d.]+) over 250 genes; .*? shuffled, ([\d.]+)\.", readme)
    found = [float(r) for r in re.findall(r"mean r = (-?[\d.]+)", said)]
    assert stated and found == pytest.approx([float(r) for r in stated.groups()], abs=0.008)
    assert f"{cells.n_obs:,} cells, grouped" in readme
    assert {"X_past", "X_past_image", "past_expression", "spatial"} <= set(cells.obsm)
    assert {"embed", "impute_expression", "segment_nuclei"} <= set(cells.uns["past"])
    assert "virtual_stain" in sdata.images
    assert len(list(out.glob("*.png"))) == 5
    assert json.dumps(sdata.attrs["past"]["mpp"])
    assert main(["demo", "--out", str(out)]) == 2
    assert "from an earlier demo" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--resume"])
def test_a_place_that_cannot_be_written_is_refused_first(store, model, option, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pastpy.tl.embed", lambda *_, **__: pytest.fail("was computed"))
    (tmp_path / "file").write_text("")
    places = {"--out": str(tmp_path / "o.zarr"), option: str(tmp_path / "file" / "x.zarr")}
    arguments = ["embed", str(store()), "--model", model]
    assert main([*arguments, *(word for pair in places.items() for word in pair)]) == 2
    assert f"{option} " in (said := capsys.readouterr().err) and "is a file and no folder" in said
    places[option] = str(tmp_path / "locked" / "x.zarr")
    monkeypatch.setattr("os.access", lambda *_: False)
    assert main([*arguments, *(word for pair in places.items() for word in pair)]) == 2
    assert "is read-only; choose another place" in capsys.readouterr().err


def test_the_demo_is_refused_first_too(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pastpy.datasets.breast_st", lambda: pytest.fail("was computed"))
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "is a file and no folder" in capsys.readouterr().err


@pytest.mark.parametrize(("resume", "goes_on"), [([], False), (["--resume", "r.zarr"], True)])
def test_an_interrupted_command_says_so_in_a_line(store, model, resume, goes_on, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pastpy.tl.embed", interrupted)
    assert main(["embed", str(store()), "--out", "o.zarr", "--model", model, *resume]) == 130
    said = capsys.readouterr().err.strip()
    assert said.startswith("pastpy embed: stopped") and len(said.splitlines()) == 1
    assert ("the same command goes on" in said) == goes_on
    assert not (tmp_path / "o.zarr").exists()


@pytest.mark.parametrize("arguments", [["embed", "a.svs"], ["embed", "a.svs", "--out", "b", "--mpp", "abc"], ["sing"]])
def test_what_cannot_be_parsed_is_told_in_a_line(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = capsys.readouterr().err
    assert end.value.code == 2 and "error: " in said and len(said.splitlines()) == 1


def test_an_unknown_model_names_the_command_that_lists_them(store, tmp_path, capsys):
    assert main(["embed", str(store()), "--out", str(tmp_path / "o.zarr"), "--model", "none"]) == 2
    assert "see pastpy models" in capsys.readouterr().err
