"""The whole model: saved, loaded, and the same by every way in."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from scipy.sparse import csr_matrix

import pastpy as past
from pastpy.models import PAST, ModelCard, PASTConfig, context_grid, misfits
from pastpy.models.tokens import join_tokens, pad_rows


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


def test_the_weights_file_of_a_folder_stands_for_it(tiny_model, saved):
    loaded = past.models.load(str(saved / "model.safetensors"))
    assert loaded.sha256 == past.models.load(saved).sha256 and loaded.gene_names == tiny_model.gene_names
    (saved / "card.json").unlink()
    with pytest.raises(ValueError, match=r"not hold the weights of a released.*is loaded from its whole folder"):
        past.models.load(saved / "model.safetensors")


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


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.uint8])
def test_columns_of_one_gene_are_summed(tiny_model, dtype):
    rng = np.random.default_rng(0)
    once, genes = rng.integers(0, 500, (4, 14)), list(tiny_model.gene_names)
    half = (once // 2).astype(dtype)
    with torch.inference_mode():
        expected = tiny_model.embed_expression(once, genes)
        found = tiny_model.embed_expression(np.hstack([half, (once - half).astype(dtype)]), genes + genes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_cells_without_known_counts_are_unknown(tiny_model):
    with torch.inference_mode():
        found = tiny_model.embed_expression([[0, 5], [2, 5]], ["GENE0", "NOSUCHGENE"])
    assert torch.isnan(found[0]).all() and torch.isfinite(found[1]).all()


@pytest.mark.parametrize(
    ("counts", "genes", "message"),
    [
        (-np.eye(2), ["ERBB2", "KRT8"], "counts must hold raw counts .* 2 values are not, e.g. -1"),
        ([[0.5, np.nan]], ["ERBB2", "KRT8"], "counts must hold raw counts .* 2 values are not, e.g. 0.5"),
        (np.eye(2), ["ERBB2"], "counts have 2 columns and genes 1 names"),
    ],
)
def test_what_are_no_counts_is_refused(tiny_model, counts, genes, message):
    with pytest.raises(ValueError, match=message):
        tiny_model.embed_expression(counts, genes)


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (torch.zeros(1, 3, 96, 96, dtype=torch.uint8), r"uint8 \(1, 3, 96, 96\)"),
        (torch.zeros(3, 96, 96), r"float32 \(3, 96, 96\)"),
        (torch.zeros(1, 96, 96, 3), r"float32 \(1, 96, 96, 3\)"),
    ],
)
def test_what_are_no_crops_is_refused(tiny_model, pixels, found):
    with pytest.raises(ValueError, match=rf"pixels must be float \(n, 3, h, w\), got {found}.*image_stats"):
        tiny_model.embed_image(pixels)


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


FULL = {
    "dim": 16, "embedding_dim": 8, "expression_layers": 1, "fusion_layers": 1, "neighbours": 3, "joint": "attention",
    "zero_inflation": True, "logit_bias": True, "technologies": ("xenium",), "gene_tokens": True,
}  # fmt: skip


def make(trained: list[bool] | None = None, **entries) -> PAST:
    torch.manual_seed(0)
    genes = pd.DataFrame({"gene": [f"GENE{i}" for i in range(6)]})
    if trained is not None:
        genes["trained"] = trained
    model = PAST(PASTConfig(**{"name": "full", **FULL, **entries}), ModelCard(genes, {}))
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


def test_every_part_survives_saving(tmp_path):
    regions = PASTConfig(name="x").regions + context_grid()
    model = make(regions=regions)
    model.save(tmp_path / "full")
    loaded = past.models.load(tmp_path / "full")
    pooled, counts = torch.randn(4, 11, 40), csr_matrix(np.random.default_rng(0).poisson(2, (4, 6)))
    pooled[0, 5] = float("nan")
    with torch.inference_mode():
        results = []
        for m in (model, loaded):
            tokens = m.image_tokens(pooled)
            tokens = m.add_neighbours(tokens, torch.tensor([[1], [0], [3], [2]]), torch.full((4, 1), 9.0))
            told = m.technology_index(["xenium", "other", "xenium", "xenium"])
            cells = m.encode_counts(counts, np.arange(6), told)
            results.append([m.embed_joint(tokens, cells), m.predict_expression(tokens, cells), m.project_image(tokens)])
    for found, expected in zip(results[1], results[0], strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, expected)


def test_a_missing_region_leaves_the_others_as_they_are():
    model = make()
    pooled = torch.randn(3, 3, 40)
    pooled[1, 2] = float("nan")
    with torch.inference_mode():
        tokens, whole = model.image_tokens(pooled), model.image_tokens(pooled.nan_to_num())
        share = model.predict_expression(tokens)
    assert tokens[1, 2].isnan().all()
    torch.testing.assert_close(tokens[:, :2], whole[:, :2])
    assert share.isfinite().all()


def test_context_tokens_know_where_they_lie():
    regions = PASTConfig(name="x").regions + context_grid()
    model = make(regions=regions)
    with torch.no_grad():
        for layer in model.members[0].region_in:  # the same weights everywhere: only the place can tell them apart
            layer.load_state_dict(model.members[0].region_in[0].state_dict())
        tokens = model.image_tokens(torch.ones(1, 11, 40))[0]
    apart = torch.cdist(tokens, tokens)
    assert apart[:3, :3].max() < 1e-5
    assert (apart[3:, 3:] + torch.eye(8)).min() > 1e-3


def test_visible_genes_move_the_prediction_of_others():
    model = make()
    counts = np.array([[4, 0, 1, 0, 0, 0], [0, 9, 1, 0, 0, 0]])
    with torch.inference_mode():
        tokens = model.encode_counts(csr_matrix(counts), np.arange(6))
        a, b = model.predict_expression(expression_tokens=tokens)
    assert tokens.shape == (2, 4 + 2, 16)
    assert (a - b)[3:].abs().max() > 1e-4


def test_grouping_by_length_changes_nothing():
    model = make(technologies=())
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.uniform(0.01, 2, (60, 1)), (60, 6))
    counts[7] = 0
    with torch.inference_mode():
        together = model.encode_counts(csr_matrix(counts), np.arange(6))
        for i, row in enumerate(counts):
            alone = model.encode_counts(csr_matrix(row[None]), np.arange(6))[0]
            torch.testing.assert_close(together[i, : len(alone)], alone, atol=1e-5, rtol=1e-5, equal_nan=True)
            assert together[i, len(alone) :].isnan().all()
    assert together[7].isnan().all()


def test_genes_never_trained_are_unknown():
    model = make([True, True, False, True, False, True])
    tokens = torch.randn(5, 3, 16)
    with torch.inference_mode():
        share = model.predict_expression(tokens)
        some = model.predict_expression(tokens, genes=torch.tensor([2, 5]))
    assert share[:, [2, 4]].isnan().all() and share[:, [0, 1, 3, 5]].isfinite().all()
    torch.testing.assert_close(share.nansum(dim=1), torch.ones(5))
    torch.testing.assert_close(some, share[:, [2, 5]], equal_nan=True)
    assert np.isnan(model.theta()).tolist() == [False, False, True, False, True, False]


def test_a_cell_without_any_token_is_unknown():
    model = make()
    tokens = torch.randn(3, 3, 16)
    tokens[1] = float("nan")
    with torch.inference_mode():
        share, joint = model.predict_expression(tokens), model.embed_joint(tokens)
    assert share[1].isnan().all() and joint[1].isnan().all()
    assert share[[0, 2]].isfinite().all() and joint[[0, 2]].isfinite().all()


def test_crops_give_gradients_to_the_backbone():
    model = make(backbone_training="full")
    model.embed_image(torch.rand(2, 3, 160, 160))[0, 0].backward()
    assert max(p.grad.abs().max() for p in model.image_encoder.parameters()) > 0


def test_what_is_trained_follows_the_configuration():
    frozen, lora, full = (make(backbone_training=how) for how in ("frozen", "lora", "full"))
    heads = {n for n, _ in frozen.named_parameters() if not n.startswith("image_encoder.")}
    names = [{id(p): n for n, p in m.named_parameters()} for m in (frozen, lora, full)]
    found = [{n[id(p)] for p in m.trained_parameters()} for n, m in zip(names, (frozen, lora, full), strict=True)]
    assert found[0] == heads
    assert found[1] > heads and all(".lora_" in n for n in found[1] - heads)
    assert found[2] == set(dict(full.named_parameters()))
    assert not frozen.train().image_encoder.training and full.train().image_encoder.training


def test_a_backbone_may_stay_where_it_is(tmp_path):
    torch.manual_seed(1)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 1), torch.nn.AvgPool2d(8))
    entries = {"backbone": "module", "store_backbone": False, "backbone_training": "lora", "technologies": ()}

    def with_backbone(network: torch.nn.Module) -> PAST:
        card = ModelCard(pd.DataFrame({"gene": ["A", "B"]}), {})
        return PAST(PASTConfig(**{"name": "far", **FULL, **entries}), card, backbone=network)

    model = with_backbone(copy.deepcopy(backbone)).eval()
    torch.nn.init.normal_(model.image_encoder.network[0].lora_b.weight)
    model.save(tmp_path / "far")
    stored = load_file(tmp_path / "far" / "model.safetensors")
    assert {k for k in stored if k.startswith("image_encoder.")} == {
        "image_encoder.network.0.lora_a.weight", "image_encoder.network.0.lora_b.weight",
    }  # fmt: skip
    loaded = past.models.load(tmp_path / "far", backbone=copy.deepcopy(backbone))
    pixels = torch.rand(1, 3, 160, 160)
    torch.testing.assert_close(loaded.embed_image(pixels), model.embed_image(pixels))
    with pytest.raises(ValueError, match="backbone of your own"):
        past.models.load(tmp_path / "far")
    with torch.no_grad():
        backbone[0].weight.add_(1)
    with pytest.raises(ValueError, match="other weights than the one"):
        past.models.load(tmp_path / "far", backbone=backbone)


@pytest.mark.parametrize("name", ["model.safetensors", "genes.parquet"])
def test_a_file_that_is_not_the_cards_is_refused(tiny_model, saved, name, tmp_path):
    other = copy_with_other_numbers(tiny_model)
    other.save(tmp_path / "other")
    (saved / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ValueError, match=f"{name} is not the file that card.json was written for"):
        past.models.load(saved)


def copy_with_other_numbers(model: PAST) -> PAST:
    card = ModelCard(model.card.genes.assign(q95=9.0), model.card.facts)
    other = PAST(model.config, card)
    other.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
    return other


def test_known_models_are_listed_with_their_terms_and_not_fetched():
    table = past.models.available().set_index("name")
    assert table.loc["past-mini", "location"] == "bundled" and table.loc["past-mini", "commercial_use"]
    remote = table[table["location"] == "remote"]
    assert {"hf-hub:MahmoodLab/UNI2-h", "hf-hub:paige-ai/Virchow2", "hf-hub:bioptimus/H-optimus-1"} <= set(remote.index)
    assert not remote.loc["hf-hub:MahmoodLab/UNI2-h", "commercial_use"]
    assert pd.isna(remote.loc["past-released", "commercial_use"])
    assert remote["sha256"].isna().all() and remote["licence"].str.len().gt(0).all()
    with pytest.raises(ValueError, match="nothing is fetched.*licence: not stated"):
        past.models.load("past-released")
    with pytest.raises(ValueError, match="is an image backbone.*CC-BY-NC-ND-4.0"):
        past.models.load("hf-hub:MahmoodLab/UNI2-h")


def test_a_path_comes_before_a_bundled_name(saved, monkeypatch):
    monkeypatch.chdir(saved.parent)
    saved.rename(saved.with_name("past-mini"))
    assert past.models.load("past-mini").config.name == "tiny"


def test_a_model_names_what_it_does_not_fit(tiny_model):
    genes = tiny_model.gene_names[:12]
    assert misfits(tiny_model, genes=[*genes, "OTHER"], mpp=0.69, stain="H&E") == []
    assert misfits(tiny_model, stain="Hematoxylin and eosin") == []
    (coarse,) = misfits(tiny_model, mpp=1.0)
    assert "1 µm/px" in coarse and "reads 0.5" in coarse
    (stain,) = misfits(tiny_model, stain="IHC HER2")
    assert "stained with IHC HER2" in stain
    (ensembl,) = misfits(tiny_model, genes=[f"ENSG{i:011d}" for i in range(5)])
    assert "5 of 5 genes" in ensembl and "Ensembl ids" in ensembl
    (mouse,) = misfits(tiny_model, genes=["Erbb2", "Krt8", "Gene3"])
    assert "mouse symbols" in mouse


def test_a_range_of_resolutions_in_the_card_is_held_to(tiny_model):
    narrow = PAST(tiny_model.config, ModelCard(tiny_model.card.genes, {"mpp_range": [0.4, 0.6]}))
    assert misfits(narrow, mpp=0.5) == []
    assert "trained on images of 0.4 to 0.6" in misfits(narrow, mpp=0.25)[0]
