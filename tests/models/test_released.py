"""Released PAST: parity with the authors' modules, its parts against literal versions, its files."""

from __future__ import annotations

import argparse
import importlib.util
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pastpy.models.released import (
    ReleasedConfig,
    ReleasedPAST,
    _GraphAttention,
    mean_with_padding,
    token_ids_as_features,
)
from pastpy.models.released_import import convert_released, is_released, load_released

SMALL = ReleasedConfig(
    image_dim=16, image_depth=1, image_heads=2, n_tokens=64, cell_dim=16, cell_depth=2, cell_heads=2,
    cell_feedforward=16, graph_dim=8, graph_heads=2, embedding_dim=8,
)  # fmt: skip
LAYER = "cell_encoder.encoder_layer.norm1.weight"


@pytest.fixture(scope="module")
def release(shared_data: Path) -> ModuleType:
    """The maker of seeded weights and inputs."""
    path = shared_data.parent / "past_release" / "past_state.py"
    if not path.is_file():
        pytest.skip(f"no seeded release at {path}")
    spec = importlib.util.spec_from_file_location("past_state", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(release: ModuleType) -> dict[str, np.ndarray]:
    """What the released modules compute from the seeded weights."""
    with np.load(Path(release.__file__ or "").with_name("reference_io.npz"), allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def released(release: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReleasedPAST]:
    """The full-size model with the seeded weights, loaded from a checkpoint as the authors save it."""
    path = tmp_path_factory.mktemp("release") / "checkpoint-context300.pth"
    torch.save({"model": release.state(), "epoch": 0}, path)
    model = load_released(path)
    path.unlink()  # 1.3 GB; the mapped pages stay
    yield model


@pytest.fixture
def small() -> ReleasedPAST:
    torch.manual_seed(0)
    model = ReleasedPAST(SMALL)
    for parameter in model.parameters():  # GATConv's parameters start at zero
        torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.temperature.fill_(0.07)
    return model.requires_grad_(False).eval()


def cells(n: int, n_genes: int = 300 - 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(30, 64, (n, 300), generator=torch.Generator().manual_seed(seed))
    ids[:, :3] = torch.tensor([4, 9, 5])
    ids[:, 3 + n_genes :] = 1
    return ids, ids == 1


def full_size_state(*, graph: bool) -> dict[str, torch.Tensor]:
    """Names and shapes of the release; each tensor is one number, so that a file of them is small."""
    with torch.device("meta"):
        model = ReleasedPAST(ReleasedConfig(graph=graph))
    state = {name: torch.tensor(0.5).expand(value.shape) for name, value in model.state_dict().items()}
    return {**state, LAYER: torch.tensor(0.5).expand(512)}


@contextmanager
def outputs_of(module: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """What a part of the model puts out meanwhile."""
    outputs: list[torch.Tensor] = []
    hook = module.register_forward_hook(lambda *args: outputs.append(args[-1]))
    yield outputs
    hook.remove()


def apart(result: torch.Tensor, expected: np.ndarray) -> float:
    assert result.shape == expected.shape and result.dtype == torch.float32
    return float(np.abs(result.numpy() - expected).max())


def test_image_parity(released: ReleasedPAST, release: ModuleType, reference: dict[str, np.ndarray]) -> None:
    with outputs_of(released.image_encoder) as features:
        embedding = released.embed_image(release.inputs()[0])
    assert apart(features[0], reference["image_features"]) <= 1e-4
    assert apart(embedding, reference["image_embedding"]) <= 1e-5


def test_cell_parity(released: ReleasedPAST, release: ModuleType, reference: dict[str, np.ndarray]) -> None:
    ids = release.inputs()[1]
    with outputs_of(released.cell_encoder) as features:
        embedding = released.embed_tokens(ids, ids == 1)
    assert apart(features[0], reference["cell_features"]) <= 1e-4
    assert apart(embedding, reference["cell_embedding"]) <= 1e-5


def test_graph_parity(released: ReleasedPAST, release: ModuleType, reference: dict[str, np.ndarray]) -> None:
    ids = release.inputs()[1]
    graphs = [torch.from_numpy(reference[f"neighbour_tokens_{i}"]) for i in range(2)]
    with outputs_of(released.fusion_norm) as features:
        embedding = released.embed_tokens(ids, ids == 1, graphs)
    assert apart(features[0], reference["fused_features"]) <= 1e-4
    assert apart(embedding, reference["fused_embedding"]) <= 1e-5


def test_released_sizes(released: ReleasedPAST) -> None:
    assert released.config == ReleasedConfig(graph=True)
    assert (released.embedding_dim, released.crop_px, released.target_mpp, released.mode) == (256, 224, None, "crop")
    assert not released.training and not any(p.requires_grad for p in released.parameters())
    assert released.temperature.item() == pytest.approx(0.07)


def test_graph_attention_is_that_of_its_definition() -> None:
    torch.manual_seed(1)
    layer = _GraphAttention(5, 3).requires_grad_(False)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    nodes = torch.randn(4, 5)
    h = nodes @ layer.lin.weight.T
    expected = torch.zeros(4, 3)
    for i in range(4):
        edge = [float(layer.att_dst[0, 0] @ h[i] + layer.att_src[0, 0] @ h[j]) for j in range(4)]
        weight = np.exp([e if e > 0 else 0.2 * e for e in edge])
        expected[i] = sum(w / weight.sum() * h[j] for j, w in enumerate(weight)) + layer.bias
    padded = torch.cat([nodes, torch.full((2, 5), 9.0)])
    absent = torch.tensor([[False] * 4 + [True] * 2])
    torch.testing.assert_close(layer(padded[None], absent)[0, :4], expected)


def test_quirks_have_known_answers() -> None:
    outputs = torch.arange(6.0)[None, :, None]
    assert mean_with_padding(outputs).item() == 4.0
    assert token_ids_as_features(torch.tensor([[4, 31]])).tolist() == [[4.0, 31.0]]


def test_padding_is_not_attended_to_but_enters_the_mean(small: ReleasedPAST) -> None:
    ids, mask = cells(2, n_genes=100)
    with outputs_of(small.cell_encoder.encoder) as outputs:
        before = small.cell_encoder(ids, mask)
        ids[:, 200:] = 40  # behind the mask
        after = small.cell_encoder(ids, mask)
    torch.testing.assert_close(outputs[0][:, :103], outputs[1][:, :103])
    assert (before - after).abs().max() > 1e-3


def test_gradients_do_not_change_the_embedding(small: ReleasedPAST) -> None:
    ids, mask = cells(2, n_genes=10)
    with torch.no_grad():
        frozen = small.embed_tokens(ids, mask)
    trained = small.requires_grad_(True).embed_tokens(ids, mask)
    assert trained.requires_grad
    torch.testing.assert_close(trained, frozen)


def test_embeddings_are_normalised_and_dropout_rests_in_eval(small: ReleasedPAST) -> None:
    pixels = torch.randn(2, 3, 224, 224)
    once, again = small.embed_image(pixels), small.embed_image(pixels)
    assert torch.equal(once, again)
    torch.testing.assert_close(once.norm(dim=1), torch.ones(2))
    assert not torch.equal(small.train().embed_image(pixels), once)


def test_neighbours_in_any_order_and_batch(small: ReleasedPAST) -> None:
    ids, mask = cells(3)
    others = cells(6, seed=1)[0]
    graphs = [torch.cat([others[:k], ids[i : i + 1]]) for i, k in enumerate((6, 2, 0))]
    together = small.embed_tokens(ids, mask, graphs)
    turned = [torch.cat([graph[:-1].flip(0), graph[-1:]]) for graph in graphs]
    torch.testing.assert_close(small.embed_tokens(ids, mask, turned), together)
    alone = torch.cat([small.embed_tokens(ids[i : i + 1], mask[i : i + 1], [graphs[i]]) for i in range(3)])
    torch.testing.assert_close(alone, together)
    assert (together - small.embed_tokens(ids, mask)).abs().max() > 1e-3


def test_no_cells_give_no_embeddings(small: ReleasedPAST) -> None:
    assert small.embed_tokens(*cells(0), []).shape == (0, 8)


def test_logits_use_the_clamped_temperature(small: ReleasedPAST) -> None:
    one = torch.tensor([[1.0, 0.0]])
    for temperature, expected in ((0.5, 2.0), (1e-6, 100.0), (30.0, 1.0)):
        small.temperature.fill_(temperature)
        assert small.logits(one, one).item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(2, 3, 256, 256), (3, 224, 224), (2, 4, 224, 224)])
def test_pixels_of_another_shape(small: ReleasedPAST, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pixels must be \(n, 3, 224, 224\)"):
        small.embed_image(torch.zeros(shape))


def test_tokens_that_do_not_fit(small: ReleasedPAST) -> None:
    ids, mask = cells(2, n_genes=10)
    for wrong, message in (
        ((ids[:, :200], mask[:, :200]), r"token_ids must be integers \(n, 300\)"),
        ((ids.float(), mask), "token_ids must be integers"),
        ((ids, mask.long()), "padding_mask must be bool"),
        ((ids, ~mask), "True marks padding"),
        ((ids + 20_345, mask), "must lie in 0–63"),
    ):
        with pytest.raises(ValueError, match=message):
            small.embed_tokens(*wrong)


def test_graphs_that_do_not_fit(small: ReleasedPAST) -> None:
    ids, mask = cells(2)
    good = [ids[[1, 0]], ids[[0, 1]]]
    for graphs, message in (
        (good[:1], "1 graphs for 2 cells"),
        ([good[0], ids[:, :10]], r"neighbour_tokens\[1\] must be \(k \+ 1, 300\)"),
        ([good[0], ids[:0]], r"neighbour_tokens\[1\] must be \(k \+ 1, 300\)"),
        ([good[0], ids[[1, 0]]], r"last row of neighbour_tokens\[1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            small.embed_tokens(ids, mask, graphs)


def test_save_and_load(small: ReleasedPAST, tmp_path: Path) -> None:
    small.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert len({stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}) == 1
    loaded = load_released(tmp_path)
    loaded.save(tmp_path)  # over the file that it is mapped from
    again = load_released(tmp_path)
    ids, mask = cells(2)
    graphs = [ids[[1, 0]], ids[[0, 1]]]
    for model in (loaded, again):
        assert model.config == SMALL
        assert torch.equal(model.embed_tokens(ids, mask, graphs), small.embed_tokens(ids, mask, graphs))


@pytest.mark.parametrize("graph", [True, False])
def test_variant_is_read_off_the_entries(tmp_path: Path, graph: bool) -> None:
    path = tmp_path / "checkpoint.pth"
    others: dict[str, Any] = {"epoch": 3, "optimizer": {"state": {}}, "scaler": {"scale": 2.0}}
    torch.save({"model": full_size_state(graph=graph), **others}, path)
    model = load_released(path)
    assert model.config == ReleasedConfig(graph=graph)
    assert not model.training
    if not graph:
        ids, mask = cells(1)
        with pytest.raises(ValueError, match="no graph branch"):
            model.embed_tokens(ids, mask, [ids])


def test_every_wrong_entry_in_one_error(tmp_path: Path) -> None:
    state = full_size_state(graph=True)
    del state["fusion_norm.bias"], state["image_encoder.model.norm.bias"]
    state["decoder.weight"] = torch.zeros(3)
    state["cell_projection.fc.bias"] = torch.zeros(7)
    torch.save({"model": state}, tmp_path / "bad.pth")
    with pytest.raises(ValueError) as error:
        convert_released(tmp_path / "bad.pth", tmp_path / "out")
    told = str(error.value)
    assert "bad.pth" in told and "encoder_layer" not in told
    assert "2 missing: image_encoder.model.norm.bias, fusion_norm.bias" in told
    assert "1 unexpected: decoder.weight" in told
    assert "1 of another shape: cell_projection.fc.bias (7,) instead of (256,)" in told
    assert not (tmp_path / "out").exists()


def test_temperature_is_clamped_and_half_precision_widened(small: ReleasedPAST, tmp_path: Path) -> None:
    small.save(tmp_path)
    state = {name: value.half() for name, value in load_file(tmp_path / "model.safetensors").items()}
    save_file({**state, "temperature": torch.tensor(5.0)}, tmp_path / "model.safetensors")
    model = load_released(tmp_path)
    assert model.temperature.item() == 1.0
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_checkpoint_with_arguments_says_how_to_keep_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-context300.pth"
    torch.save({"model": full_size_state(graph=False), "args": argparse.Namespace(lr=5e-4)}, path)
    with pytest.raises(ValueError, match="argparse.Namespace") as error:
        load_released(path)
    snippet = "\n".join(line[4:] for line in str(error.value).splitlines() if line.startswith("    "))
    exec(snippet)  # what the message says must work
    assert load_released(tmp_path / "checkpoint-context300-weights.pth").config == ReleasedConfig(graph=False)


def test_checkpoint_in_the_old_format(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"model": full_size_state(graph=False)}, path, _use_new_zipfile_serialization=False)
    assert not load_released(path).config.graph


def test_files_that_are_no_release(small: ReleasedPAST, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.pth"):
        load_released(tmp_path / "nowhere.pth")
    for name, content in (("text.pth", b"not a checkpoint"), ("empty.pth", b""), ("cut.pth", b"PK\x03\x04cut")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a torch checkpoint"):
            load_released(tmp_path / name)
    torch.save(small.state_dict(), tmp_path / "bare.pth")
    with pytest.raises(ValueError, match='no state dict under the key "model"'):
        load_released(tmp_path / "bare.pth")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(ValueError, match=r"text\.safetensors cannot be read as safetensors"):
        load_released(tmp_path / "text.safetensors")


def test_folders_that_are_no_release(small: ReleasedPAST, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json, model\.safetensors"):
        load_released(tmp_path)
    small.save(tmp_path)
    for config, message in (
        ("{", "is not valid JSON"),
        ('{"name": "past-mini"}', "not a converted PAST release"),
        ('{"architecture": "past-released", "graph": 1}', "entries .*'graph'"),
    ):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(ValueError, match=message):
            load_released(tmp_path)


def test_is_released(small: ReleasedPAST, tmp_path: Path) -> None:
    small.save(tmp_path / "converted")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"name": "past-mini"}')
    assert is_released(tmp_path / "converted") and is_released("somewhere/checkpoint-context300.pth")
    assert not is_released(tmp_path / "other") and not is_released(tmp_path) and not is_released("past-mini")


def test_conversion_keeps_the_weights(small: ReleasedPAST, tmp_path: Path) -> None:
    small.save(tmp_path / "first")
    weights = load_file(tmp_path / "first" / "model.safetensors")
    save_file({**weights, LAYER: torch.zeros(16)}, tmp_path / "first" / "model.safetensors")
    assert convert_released(tmp_path / "first", tmp_path / "second") == tmp_path / "second"
    converted = load_file(tmp_path / "second" / "model.safetensors")
    assert converted.keys() == weights.keys()
    assert all(torch.equal(converted[name], weights[name]) for name in weights)
