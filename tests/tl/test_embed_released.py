"""The released PAST in ``tl.embed``: its own crops, its own tokens, and warnings where it is used otherwise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

import pastpy as past
from pastpy.models import tokenize
from pastpy.models.released import ReleasedConfig, ReleasedPAST

SMALL = ReleasedConfig(
    image_dim=32, image_depth=2, image_heads=2, n_tokens=64, cell_dim=16, cell_depth=1, cell_heads=2,
    cell_feedforward=16, graph=False, embedding_dim=8,
)  # fmt: skip
VOCABULARY = pd.Series({f"GENE{i}": i for i in range(10)})
MEANS = pd.Series({f"GENE{i}": 100.0 + i for i in range(10)})
TOKENIZER = {"vocabulary": VOCABULARY, "means": MEANS, "assay": "xenium"}


@pytest.fixture(scope="module")
def small() -> ReleasedPAST:
    torch.manual_seed(0)
    model = ReleasedPAST(SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False).eval()


def crops(sdata, side: int = 224) -> torch.Tensor:
    """Crops around the nuclei of level 0, black beyond the image, normalised as the release does."""
    pixels = np.pad(np.asarray(sdata["he"].data), ((0, 0), (side, side), (side, side))) / np.float32(255)
    cut = []
    for geometry in sdata["nuclei"].geometry:
        x, y = (int(np.round(v - side / 2)) + side for v in (geometry.centroid.x, geometry.centroid.y))
        cut.append(pixels[:, y : y + side, x : x + side])
    mean, std = (np.array(v, dtype=np.float32)[:, None, None] for v in ReleasedPAST.image_stats)
    return torch.from_numpy(((np.stack(cut) - mean) / std).astype(np.float32))


def test_crops_are_embedded_as_the_release_does(toy_sdata, small):
    sdata = toy_sdata(mpp=0.25)
    past.tl.embed(sdata, small, modality="image", progress=False)
    table = sdata["cells"]
    expected = small.embed_image(crops(sdata)).numpy()
    assert np.std(expected, axis=0).max() > 0.01, "the crops differ"
    np.testing.assert_allclose(table.obsm["X_past_image"], expected, atol=1e-5)
    np.testing.assert_allclose(table.obsm["X_past"], expected, atol=1e-5)
    assert np.isnan(table.obsm["X_past_expression"]).all()
    facts = table.uns["past"]["embed"]
    assert (facts["model"], facts["mode"], facts["target_mpp"], facts["mpp"]) == ("past-released", "crop", 0.25, 0.25)


def test_crops_are_resampled_to_the_stated_resolution(toy_sdata, small):
    """A slide that is stored twice as fine gives nearly the same embeddings."""
    coarse = toy_sdata(mpp=0.25)
    fine = toy_sdata(mpp=0.25)
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Scale

    pixels = np.asarray(coarse["he"].data).repeat(2, axis=1).repeat(2, axis=2)
    fine["he"] = Image2DModel.parse(
        pixels, dims=("c", "y", "x"), transformations={"global": Scale([0.5, 0.5], axes=("x", "y"))}
    )
    fine.attrs["past"] = {"mpp": {"he": 0.125}}
    for sdata in (coarse, fine):
        past.tl.embed(sdata, small, modality="image", progress=False)
    cosine = (coarse["cells"].obsm["X_past_image"] * fine["cells"].obsm["X_past_image"]).sum(axis=1)
    assert cosine.min() > 0.99


def test_counts_become_tokens(toy_sdata, small):
    sdata = toy_sdata(mpp=0.25)
    table = sdata["cells"]
    counts = table.X.toarray()
    counts[3] = 0
    table.X = csr_matrix(counts)
    past.tl.embed(sdata, small, tokenizer=TOKENIZER, progress=False)
    tokens = tokenize(table.X, table.var_names.tolist(), **TOKENIZER)
    expected = small.embed_tokens(tokens.token_ids, tokens.padding_mask).numpy()
    there = np.arange(len(expected)) != 3
    np.testing.assert_allclose(table.obsm["X_past_expression"][there], expected[there], atol=1e-5)
    assert np.isnan(table.obsm["X_past_expression"][3]).all()
    np.testing.assert_allclose(table.obsm["X_past"][3], table.obsm["X_past_image"][3], atol=1e-6)
    assert "10 of 12 genes have tokens" in table.uns["past"]["embed"]["tokens"]
    cells = table.copy()
    with pytest.warns(UserWarning, match="1 of 40 rows could not be embedded"):
        past.tl.embed(cells, small, tokenizer=TOKENIZER, key_added="alone", progress=False)
    np.testing.assert_allclose(cells.obsm["X_alone"][there], expected[there], atol=1e-5)


def test_counts_without_a_vocabulary(toy_sdata, small):
    sdata = toy_sdata(mpp=0.25)
    with pytest.warns(UserWarning, match="only the image is used.*pass tokenizer="):
        past.tl.embed(sdata, small, progress=False)
    for modality in ("expression", "both"):
        with pytest.raises(ValueError, match="pass tokenizer="):
            past.tl.embed(sdata, small, modality=modality, progress=False)
    with pytest.raises(ValueError, match=r"tokenizer has the entries \['genes'\]"):
        past.tl.embed(sdata, small, tokenizer={"genes": []}, progress=False)


def test_a_tokenizer_is_for_the_release_alone(toy_sdata, tiny_model):
    with pytest.raises(ValueError, match="tokenizer= is for the released PAST"):
        past.tl.embed(toy_sdata(), tiny_model, tokenizer=TOKENIZER)


def test_dense_is_opt_in_and_warned(toy_sdata, small):
    sdata = toy_sdata(mpp=0.25)
    with pytest.warns(UserWarning, match="trained on the class token of a crop"):
        past.tl.embed(sdata, small, modality="image", mode="dense", progress=False)
    table = sdata["cells"]
    np.testing.assert_allclose(np.linalg.norm(table.obsm["X_past"], axis=1), 1, atol=1e-5)
    assert table.uns["past"]["embed"]["mode"] == "dense"


def test_a_coarse_image_is_warned_of(toy_sdata, small):
    with pytest.warns(UserWarning, match="0.5 µm/px and is enlarged to the 0.25"):
        past.tl.embed(toy_sdata(), small, modality="image", progress=False)


def test_the_release_predicts_no_expression(toy_sdata, small):
    with pytest.raises(TypeError, match="has no decoder.*past-mini"):
        past.tl.impute_expression(toy_sdata(), small)
