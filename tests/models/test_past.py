"""The whole model: saved, loaded, and the same by every way in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

import pastpy as past
from pastpy.models import PASTConfig
from pastpy.models.past import join_tokens, pad_rows


@pytest.fixture
def saved(tiny_model, tmp_path):
    tiny_model.save(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_saved_model_is_the_same_model(tiny_model, saved):
    loaded = past.models.load(saved)
    assert loaded.config == tiny_model.config
    assert loaded.gene_names == tiny_model.gene_names
    assert len(loaded.sha256) == 64
    pixels = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.embed_image(pixels), tiny_model.embed_image(pixels))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "genes.parquet", "card.json"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {name}"):
        past.models.load(saved)


def test_damaged_and_foreign_files_are_named(saved):
    (saved / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        past.models.load(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        past.models.load(saved)
    (saved / "config.json").write_text('{"hidden": 3}')
    with pytest.raises(ValueError, match="is not a pastpy model configuration"):
        past.models.load(saved)


def test_weights_of_another_architecture_are_refused(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "dim": 32}))
    with pytest.raises(ValueError, match="does not fit"):
        past.models.load(saved)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(ValueError, match="no model 'past-giant'.*past-mini"):
        past.models.load("past-giant")


def test_config_refuses_what_cannot_be_built():
    with pytest.raises(ValueError, match="dim=10 must be a multiple of heads=4"):
        PASTConfig(name="odd", dim=10)
    with pytest.raises(ValueError, match="target_mpp must be positive"):
        PASTConfig(name="odd", target_mpp=0)


def test_the_bundled_model_is_listed_and_loads():
    row = past.models.available().set_index("name").loc["past-mini"]
    assert row["size_mb"] <= 25
    model = past.models.load("past-mini")
    assert model.sha256 == row["sha256"]
    assert {"ERBB2", "KRT8"} <= set(model.gene_names)


def test_embeddings_are_normalised_and_ignore_gene_order(tiny_model):
    rng = np.random.default_rng(0)
    counts, genes = rng.poisson(3, (4, 14)), np.array(tiny_model.gene_names)
    order = rng.permutation(14)
    with torch.inference_mode():
        a = tiny_model.embed_expression(counts, genes)
        b = tiny_model.embed_expression(csr_matrix(counts[:, order]), genes[order])
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.norm(dim=1), torch.ones(4))


def test_cells_without_known_counts_are_unknown(tiny_model):
    with torch.inference_mode():
        found = tiny_model.embed_expression([[0, 5], [2, 5]], ["GENE0", "NOSUCHGENE"])
    assert torch.isnan(found[0]).all() and torch.isfinite(found[1]).all()


def test_shares_sum_to_one_over_the_vocabulary(tiny_model):
    tokens = torch.randn(5, 3, 16)
    with torch.inference_mode():
        share = tiny_model.predict_expression(tokens)
        some = tiny_model.predict_expression(tokens, genes=torch.tensor([3, 0]))
    torch.testing.assert_close(share.sum(dim=1), torch.ones(5))
    torch.testing.assert_close(some, share[:, [3, 0]])


def test_masked_expression_is_not_looked_at(tiny_model):
    image, expression = torch.randn(4, 3, 16), torch.randn(4, 4, 16)
    has = torch.tensor([True, False, True, False])
    with torch.inference_mode():
        both = tiny_model.predict_expression(image, expression, has_expression=has)
        torch.testing.assert_close(both[~has], tiny_model.predict_expression(image)[~has])
        assert (both[has] - tiny_model.predict_expression(image)[has]).abs().max() > 1e-4
    with pytest.raises(ValueError, match="got neither"):
        join_tokens(None, None)


def test_rows_are_padded_left_aligned():
    counts = csr_matrix(np.array([[0, 2, 0, 1], [0, 0, 0, 0], [4, 0, 9, 0]], dtype=np.float32))
    genes, values = pad_rows(counts, np.array([7, 5, -1, 0]))
    assert genes.tolist() == [[5, 0], [-1, -1], [7, -1]]
    assert values.tolist() == [[2, 1], [0, 0], [4, 0]]
