"""From files to a saved model, on painted tissue whose genes follow what the nuclei look like."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import pastpy as past
import pastpy.train.coexpression
import pastpy.train.members
import pastpy.train.simulated
from pastpy.train import Ranks, TrainConfig
from pastpy.train.coexpression import Coexpression
from pastpy.train.data import read_section
from pastpy.train.loop import on_one_level
from pastpy.train.simulated import SimulatedCells

FILES = ["card.json", "config.json", "genes.parquet", "model.safetensors"]
GENES = [f"GENE{i}" for i in range(12)]


def write_section(folder, name: str, toy_sdata, seed: int) -> None:
    """A section in her2st's files: spots of 40 µm, whose counts are the sum of the cells under them."""
    sdata = toy_sdata(size=384, n_cells=200, mpp=0.69, seed=seed)
    cells = sdata["cells"]
    pixels = sdata["he"].data.compute().transpose(1, 2, 0)
    root = folder / "her2st"
    for part in ("images", "counts", "spots", "deconvolution"):
        (root / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(root / "images" / f"{name}.jpg", quality=98)
    centre = cells.obsm["spatial"] / 0.69
    spots, counts = [], {}
    rng = np.random.default_rng(seed)
    for y in range(6):
        for x in range(6):
            at = np.array([x, y]) * 60.0 + 40
            under = np.linalg.norm(centre - at, axis=1) < 29
            spots.append({"x": x, "y": y, "pixel_x": at[0], "pixel_y": at[1], "selected": 1})
            total = np.asarray(cells.X[under].sum(axis=0)).ravel()
            counts[f"{x}x{y}"] = total + rng.poisson(1.0, len(GENES))
    pd.DataFrame(spots).to_csv(root / "spots" / f"{name}_selection.tsv", sep="\t", index=False)
    with gzip.open(root / "counts" / f"{name}.tsv.gz", "wt") as file:
        pd.DataFrame(counts, index=GENES).T.to_csv(file, sep="\t")
    proportions = pd.DataFrame(rng.dirichlet([1, 1], len(counts)), index=list(counts), columns=["a", "b"])
    proportions.to_csv(root / "deconvolution" / f"{name}.tsv", sep="\t")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, toy_sdata):
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(["T1", "T2", "V1"]):
        write_section(folder, name, toy_sdata, seed)
    (folder / "xenium_breast_cells").mkdir()
    rng = np.random.default_rng(0)
    cells = pd.DataFrame(rng.poisson(4, (50, 8)), columns=GENES[:8])
    cells.insert(0, "cell_id", range(50))
    cells.to_csv(folder / "xenium_breast_cells" / "expr_mat_breast_demo.csv")
    return folder


@pytest.fixture
def config() -> TrainConfig:
    base = TrainConfig.from_json("past-mini")
    return replace(
        base,
        model={
            **base.model,
            "members": 1,
            "name": "toy",
            "dim": 16,
            "embedding_dim": 8,
            "summary_width": 16,
            "dropout": 0.5,
        },
        train_sections=("T1", "T2"),
        validation_sections=("V1",),
        simulated_cohorts=0,
        spot_diameter_um=40.0,
        views=1,
        epochs=16,
        batch_spots=12,
        expression_every=1,
        learning_rate=1e-2,
    )


def test_a_model_learns_and_is_saved(folder, config, tmp_path):
    with past.settings.context(cache_dir=tmp_path / "cache"):
        model = past.train.fit(config, tmp_path / "toy", data=folder, progress=False)
        assert len(list((tmp_path / "cache" / "train").glob("*.npz"))) == 3
        again = past.train.fit(config, tmp_path / "again", data=folder, progress=False)
    scores = model.card.facts["scores"]
    # two kinds of nuclei express two sets of genes: the image tells, another cell's image does not
    assert scores["mean_r_variable"] > 0.4
    assert abs(scores["mean_r_shuffled"]) < 0.25
    assert scores["nb_deviance"] < scores["nb_deviance_gene_mean"]
    assert again.card.facts["scores"] == scores, "the same seed gives the same model"
    history = model.card.facts["history"]
    assert history[-1]["image"] < history[0]["image"]
    loaded = past.models.load(tmp_path / "toy")
    assert loaded.card.facts.pop("sha256").keys() == {"model.safetensors", "genes.parquet"}
    assert loaded.card.facts == json.loads(json.dumps(model.card.facts))
    assert set(loaded.card.genes.columns) == {"gene", "variable", "trusted", "validation_r", "q05", "q95"}
    assert (loaded.card.genes["q05"] <= loaded.card.genes["q95"]).all()


def test_two_passes_and_a_low_rank_are_trained(folder, config, tmp_path):
    entries = {**config.model, "coarse_mpp": 2.0, "coarse_radii_um": (25.0,), "rank": 3}
    short = replace(config, model=entries, epochs=2, views=1, single_cells=False)
    with past.settings.context(cache_dir=tmp_path / "cache"):
        model = past.train.fit(short, tmp_path / "two", data=folder, progress=False)
    assert model.feature_std.shape[0] == 9 and (model.feature_std > 1e-3).any(dim=1).all()
    assert model.members[0].decoder.readout.abs().max() > 0
    assert past.models.load(tmp_path / "two").config.rank == 3
    with past.settings.context(cache_dir=tmp_path / "cache"):
        alone = past.train.fit(replace(short, validation_sections=()), tmp_path / "alone", data=folder, progress=False)
    assert_same(alone, model)  # the validation section changes nothing


def test_members_are_trainings_of_their_own_and_a_stopped_run_goes_on(folder, config, tmp_path, monkeypatch):
    short = replace(config, epochs=2, model={**config.model, "members": 2})
    with past.settings.context(cache_dir=tmp_path / "cache"):
        model = past.train.fit(short, tmp_path / "two", data=folder, progress=False)
        assert sorted(p.name for p in (tmp_path / "two").iterdir()) == FILES

        whole, seeds = pastpy.train.members.optimise, []

        def stopped(model, config, batches, train, seed, *arguments):
            seeds.append(seed)
            if seeds == [0, 1]:
                raise KeyboardInterrupt
            return whole(model, config, batches, train, seed, *arguments)

        monkeypatch.setattr(pastpy.train.members, "optimise", stopped)
        with pytest.raises(KeyboardInterrupt):
            past.train.fit(short, tmp_path / "again", data=folder, progress=False)
        again = past.train.fit(short, tmp_path / "again", data=folder, progress=False)
        assert seeds == [0, 1, 1], "the first member was taken from where it was kept"
        assert_same(again, model)
        assert again.card.facts == model.card.facts

        with pytest.raises(KeyboardInterrupt):
            seeds.clear()
            past.train.fit(short, tmp_path / "other", data=folder, progress=False)
        other = replace(short, weights={**short.weights, "image": 0.5})
        past.train.fit(other, tmp_path / "other", data=folder, progress=False)
        assert seeds == [0, 1, 0, 1], "members of another configuration are of no use"
    first, second = (member.summary.network[0].weight for member in model.members)
    assert not torch.equal(first, second)
    assert [epoch["epoch"] for epoch in model.card.facts["history"]] == [0, 1]


def test_two_processes_make_the_model_of_one(folder, config, tmp_path):
    some = {
        "epochs": 1,
        "simulated_cohorts": 2,
        "simulated_donors": 1,
        "weights": {**config.weights, "coexpression": 0.0},
    }
    entries = asdict(replace(config, **some, model={**config.model, "members": 3, "linear_share": 0.2}))
    (tmp_path / "toy.json").write_text(json.dumps(entries))
    code = "import sys, torch; torch.set_num_threads(1); from pastpy.cli import main; sys.exit(main())"
    (tmp_path / "run.py").write_text(code)
    launched = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    written = {}
    for name, start in {"one": [sys.executable], "two": launched}.items():
        run = [*start, "run.py", "pretrain", "toy.json", "--out", name, "--data", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path / f"cache-{name}")}
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(f"wrote {name}") == 1
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == FILES
        written[name] = [(tmp_path / name / file).read_bytes() for file in FILES]
    assert written["two"] == written["one"]


def test_a_disk_that_is_not_shared_is_noticed(folder, config, tmp_path, monkeypatch):
    monkeypatch.setattr(Ranks, "wait", lambda self: None)
    short = replace(config, epochs=1, views=0, model={**config.model, "members": 2})
    with (
        past.settings.context(cache_dir=tmp_path / "cache"),
        pytest.raises(FileNotFoundError, match=r"1\.safetensors is not what another process has trained.*share"),
    ):
        past.train.fit(short, tmp_path / "model", data=folder, progress=False, ranks=Ranks(0, 2))


def assert_same(found, expected) -> None:
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_genes_that_simulated_cells_lack_are_learnt_from_training_sections_alone(folder, config, tmp_path, monkeypatch):
    asked = []

    def learn(sections, cells, panel, vocabulary):
        asked.extend(sections)
        assert cells.genes == GENES[:8] and panel == GENES[:3] and vocabulary == sorted(GENES)
        return Coexpression(GENES[8:], np.ones((3, 4), dtype=np.float32), by_types=True)

    def simulate(config, model, *, progress):
        rng = np.random.default_rng(0)
        pooled = rng.normal(size=(80, *model.feature_mean.shape)).astype(np.float16)
        donor = np.repeat(np.arange(4), 20)
        return SimulatedCells(pooled, rng.normal(size=(80, 3)).astype(np.float16), donor, donor // 2, GENES[:3])

    monkeypatch.setattr(pastpy.train.coexpression, "coexpression", learn)
    monkeypatch.setattr(pastpy.train.simulated, "simulated_cells", simulate)
    short = replace(config, epochs=1, simulated_cohorts=2, simulated_donors=2, batch_simulated=16)
    with past.settings.context(cache_dir=tmp_path / "cache"):
        model = past.train.fit(short, tmp_path / "toy", data=folder, progress=False)
    assert [s.name for s in asked] == ["T1", "T2"]
    for section in asked:
        assert len(section.proportions) == section.counts.shape[0]
        assert section.proportions.notna().all(axis=None)
    assert "coexpression" in model.card.facts["history"][0]
    assert any("proportions" in part for part in model.card.facts["train"])


def test_models_of_folds_are_scored_from_their_cells(folder, config, tmp_path):
    sections = {
        n: read_section(folder / "her2st", n, mpp=config.mpp, spot_diameter_um=config.spot_diameter_um)
        for n in ("T1", "T2", "V1")
    }
    method = past.bench.FoldModels(replace(config, epochs=8), tmp_path / "folds", folder)
    with past.settings.context(cache_dir=tmp_path / "cache", progress=False):
        found = past.bench.run_loso(
            sections, {"toy": method}, donors=dict.fromkeys(sections, "P"), within_patient=True, n_genes=12,
            folds=[(["T1", "V1"], ["T2"])],
        )  # fmt: skip
    assert found.table().loc["toy", "mean"] > 0.3
    used = json.loads((tmp_path / "folds" / "fold0" / "fold.json").read_text())
    assert used["train_sections"] == ["T1", "V1"] and used["validation_sections"] == []
    card = past.models.load(tmp_path / "folds" / "fold0").card
    assert card.facts["scores"] == {} and not card.genes["trusted"].any() and card.genes["validation_r"].isna().all()


def test_a_folds_folder_holds_its_model_or_what_a_stopped_run_left(config, tmp_path, monkeypatch):
    made = []

    def fit(config, out, *, data):
        made.append(config)
        (out / ".unfinished").rmdir()

    monkeypatch.setattr(past.train, "fit", fit)
    method = past.bench.FoldModels(config, tmp_path, tmp_path)
    fold = SimpleNamespace(name="fold0", train=("T1", "V1"))
    (tmp_path / "fold0" / ".unfinished").mkdir(parents=True)
    method.model(fold)
    assert made == [method.fold_config(fold)]
    (tmp_path / "fold0" / "fold.json").unlink()
    with pytest.raises(ValueError, match="fold0' was not trained to its end"):
        method.model(fold)


def test_missing_files_are_named(folder, config, tmp_path):
    with (
        past.settings.context(cache_dir=tmp_path),
        pytest.raises(FileNotFoundError, match="T9"),
    ):
        past.train.fit(replace(config, train_sections=("T9",)), tmp_path / "m", data=folder, progress=False)
    assert not (tmp_path / "m").exists()


def test_configurations_are_checked(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('{"model": {"name": "a"}, "lerning_rate": 1}')
    with pytest.raises(ValueError, match="c.json is not a training configuration"):
        TrainConfig.from_json(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        TrainConfig.from_json(path)


def test_sections_are_put_on_one_level():
    rng = np.random.default_rng(0)
    sections = [rng.normal(level, 1.0, (n, 3)) for level, n in ((1.0, 40), (3.0, 10))]
    moved = on_one_level(sections)
    whole = np.concatenate(sections).mean(axis=0)
    for before, after in zip(sections, moved, strict=True):
        np.testing.assert_allclose(after.mean(axis=0), whole)
        np.testing.assert_allclose(after - after[0], before - before[0])
    np.testing.assert_allclose(on_one_level(sections[:1])[0], sections[0], atol=1e-12)
