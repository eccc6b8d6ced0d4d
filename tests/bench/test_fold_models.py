"""Models of folds are trained without the held-out section and scored from their cells."""

from __future__ import annotations

import json

import numpy as np
import pytest

import pastpy as past
from pastpy.bench import Fold, FoldModels, to_spots
from pastpy.bench._fold_models import _spots_of_cells
from pastpy.bench._folds import blind
from pastpy.train import TrainConfig

CONFIG = TrainConfig.from_json("past-mini")


def fold_of(name, names, sdata=None, genes=("ERBB2",)) -> Fold:
    train = {s: sdata for s in names if s != name}
    return Fold(name, train, {name: sdata}, list(genes), dict.fromkeys(train, "C"))


def test_held_out_section_takes_no_part(tmp_path):
    names = ("C2", "C3", "C4", "C5", "C6")
    method = FoldModels(CONFIG, tmp_path, tmp_path)
    for name in names:
        config = method.fold_config(fold_of(name, names))
        assert sorted([*config.train_sections, name]) == sorted(names) and config.validation_sections == ()
        assert (config.model, config.epochs, config.seed) == (CONFIG.model, CONFIG.epochs, CONFIG.seed)


def test_cells_are_predicted_as_impute_expression_does(breast):
    genes = ["ERBB2", "KRT8", "not a gene"]
    model = past.models.load("past-mini")
    fold = fold_of("s", ("s", "t"), blind(breast), genes)
    found = _spots_of_cells(model, fold.test["s"], fold)
    past.pp.segment_nuclei(breast, progress=False)
    past.tl.impute_expression(breast, model, genes=genes[:2], modality="image", progress=False)
    assert list(fold.test["s"].tables) == ["spots"]  # the fold's object is left as it was
    expected = to_spots(breast["cells"], breast["spots"]).to_df()
    np.testing.assert_allclose(found[genes[:2]], expected, atol=1e-3)
    assert found["not a gene"].isna().all() and found["ERBB2"].notna().sum() > 5


def test_models_that_are_there_are_used_if_they_fit(tmp_path, monkeypatch, tiny_model):
    calls = []

    def fit(config, out, *, data):
        calls.append(config)
        tiny_model.save(out)
        return tiny_model

    monkeypatch.setattr("pastpy.train.fit", fit)
    fold = fold_of("C2", ("C2", "C3", "C4"))
    first = FoldModels(CONFIG, tmp_path, "data")
    first.model(fold)
    first.model(fold)
    assert len(calls) == 1 and "C2" not in calls[0].train_sections
    assert json.loads((tmp_path / "C2" / "fold.json").read_text())["epochs"] == CONFIG.epochs
    with pytest.raises(ValueError, match="with this configuration"):
        FoldModels(TrainConfig(CONFIG.model, epochs=1), tmp_path, "data").model(fold)
