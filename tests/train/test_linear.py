"""The linear readout: known effects found, and its share where it is to have one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

from pastpy.models import PAST, ModelCard, PASTConfig
from pastpy.train import TrainConfig
from pastpy.train.coexpression import Coexpression
from pastpy.train.data import Section
from pastpy.train.level import set_levels
from pastpy.train.linear import _low_rank, fit_linear
from pastpy.train.simulated import SimulatedCells

GENES = ["A", "B", "C", "D", "E"]
#: Features that tell of genes A, B and C, in spots; what E goes with in spots, simulated cells contradict.
EFFECT = np.zeros((120, 5))
EFFECT[3, 0] = EFFECT[50, 1] = EFFECT[7, 2] = EFFECT[20, 4] = 0.5


def make(**entries) -> PAST:
    torch.manual_seed(0)
    entries = {"linear_share": 0.4, "rank": 2, "dropout": 0.0, "members": 2, **entries}
    model = PAST(
        PASTConfig(name="tiny", dim=16, embedding_dim=8, **entries), ModelCard(pd.DataFrame({"gene": GENES}), {})
    )
    for member in model.members:
        torch.nn.init.normal_(member.decoder.readout, std=0.3)
        torch.nn.init.normal_(member.decoder.bias, std=0.3)
    return model.eval()


@pytest.fixture
def section() -> Section:
    rng = np.random.default_rng(0)
    spot = np.repeat(np.arange(300), 4)
    pooled = rng.normal(size=(2, 1200, 3, 40)).astype(np.float32)
    pooled[1] = pooled[0] + rng.normal(scale=0.1, size=pooled[0].shape)
    of_spots = pooled[0].reshape(300, 4, 120).mean(axis=1)
    rate = np.exp(2 * of_spots @ EFFECT)
    counts = csr_matrix(rng.poisson(2000 * rate / rate.sum(axis=1, keepdims=True)).astype(np.float32))
    return Section("T", pooled, spot, counts, GENES, pooled[0, ::4])


def simulated(effect: np.ndarray, genes: list[str]) -> SimulatedCells:
    rng = np.random.default_rng(1)
    pooled = rng.normal(size=(2000, 3, 40)).astype(np.float16)
    donor = np.repeat(np.arange(10), 200)
    level = rng.normal(scale=5.0, size=(10, len(genes)))[donor]  # no image shows a donor's own level
    return SimulatedCells(
        pooled, (pooled.reshape(2000, 120) @ effect + level).astype(np.float16), donor, donor // 5, genes
    )


def effects(model: PAST) -> np.ndarray:
    """What the readout makes of each feature, (features, genes)."""
    assert model.linear is not None
    return (model.linear.weight.T @ model.linear.loadings.T).numpy()


def test_effects_of_spots_are_found(section):
    model = make()
    fit_linear(model, TrainConfig.from_json("past-mini"), [section], None, None)
    found = np.abs(effects(model)).argmax(axis=0)
    assert found[[0, 1, 2, 4]].tolist() == [3, 50, 7, 20]


def test_simulated_cells_overrule_spots_where_they_weigh_more_and_leave_other_genes_alone(section):
    against = np.zeros((120, 2))
    against[20, 0], against[90, 1] = -1.0, 1.0
    cells = simulated(against, ["E", "A"])
    config = TrainConfig.from_json("past-mini")
    model, alone = make(), make()
    fit_linear(alone, config, [section], None, None)
    fit_linear(model, replace(config, linear_simulated=100.0), [section], cells, None)
    assert effects(alone)[20, 4] > 0 > effects(model)[20, 4]
    assert np.abs(effects(model)[:, 0]).argmax() == 90
    untaught = [GENES.index(g) for g in ("B", "C")]
    np.testing.assert_allclose(effects(model)[:, untaught], effects(alone)[:, untaught], atol=1e-4)


def test_what_is_inferred_from_the_panel_counts_as_simulated(section):
    effect = np.zeros((120, 2))
    effect[90, 0] = 1.0
    others = Coexpression(["B"], np.array([[-1.0], [0.0]], dtype=np.float32), by_types=False)
    model = make()
    config = replace(TrainConfig.from_json("past-mini"), linear_simulated=100.0)
    fit_linear(model, config, [section], simulated(effect, ["A", "D"]), others)
    found = effects(model)
    assert found[90, 0] > 0 > found[90, 1]
    assert np.abs(found[:, 1]).argmax() == 90


def test_the_readout_has_the_members_mean_and_spread(section):
    model = make()
    fit_linear(model, TrainConfig.from_json("past-mini"), [section], None, None)
    pooled = torch.from_numpy(section.pooled[0])
    with torch.inference_mode():
        tokens = model.image_tokens(pooled)
        members = model.log_profile(tokens[:, :-1])
        linear = model.linear.log_rates(tokens[:, -1])
    torch.testing.assert_close(linear.mean(dim=0), members.mean(dim=0), atol=1e-4, rtol=0)
    torch.testing.assert_close(linear.std(dim=0), members.std(dim=0), atol=1e-4, rtol=1e-3)


def test_levels_are_set_with_the_readout(section):
    model = make()
    fit_linear(model, TrainConfig.from_json("past-mini"), [section], None, None)
    set_levels(model, [section])
    with torch.inference_mode():
        share = model.predict_expression(model.image_tokens(torch.from_numpy(section.pooled[0])))
    counted = np.asarray(section.counts.sum(axis=0)).ravel()
    np.testing.assert_allclose(share.numpy().mean(axis=0), counted / counted.sum(), rtol=0.02)


def test_a_low_rank_keeps_what_features_show_most():
    rng = np.random.default_rng(2)
    effect = rng.normal(size=(6, 1)) @ rng.normal(size=(1, 4)) + rng.normal(size=(6, 1)) @ rng.normal(size=(1, 4))
    root = rng.normal(size=(6, 6))
    weight, loadings = _low_rank(effect, root @ root.T + np.eye(6), rank=3)
    np.testing.assert_allclose(weight.T @ loadings.T, effect, atol=1e-8)
    assert weight.shape == (3, 6) and loadings.shape == (4, 3)
    # of two features, the one that varies a hundred times as much
    weight, loadings = _low_rank(np.eye(2), np.diag([1.0, 100.0]), rank=1)
    np.testing.assert_allclose(weight.T @ loadings.T, np.diag([0.0, 1.0]), atol=1e-8)


def test_cells_with_counts_are_left_to_the_members(section):
    model = make()
    fit_linear(model, TrainConfig.from_json("past-mini"), [section], None, None)
    pooled = torch.from_numpy(section.pooled[0, :3])
    pooled[2] = float("nan")
    counts = csr_matrix([[3.0, 0, 1, 0, 0], [0] * 5, [1, 2, 3, 4, 5]])
    without = make()
    without.load_state_dict(model.state_dict())
    without.linear = None
    with torch.inference_mode():
        image, members = model.image_tokens(pooled), without.image_tokens(pooled)
        expression = model.encode_counts(counts, model.columns_of(GENES))
        both, expected = model.predict_expression(image, expression), without.predict_expression(members, expression)
        torch.testing.assert_close(both[[0, 2]], expected[[0, 2]])
        torch.testing.assert_close(both[1], model.predict_expression(image)[1])
        hidden = model.predict_expression(image, expression, has_expression=torch.tensor([False] * 3))
        assert (both[1] - expected[1]).abs().max() > 1e-3
        torch.testing.assert_close(hidden, model.predict_expression(image), equal_nan=True)
        assert hidden[2].isnan().all()
        logits = (1 - 0.4) * without.log_profile(members[:2]) + 0.4 * model.linear.log_rates(image[:2, -1])
        torch.testing.assert_close(model.predict_expression(image)[:2], logits.softmax(dim=1))


def test_a_region_that_is_missing_is_a_usual_one(section):
    model = make()
    fit_linear(model, TrainConfig.from_json("past-mini"), [section], None, None)
    pooled = torch.from_numpy(section.pooled[0, :1].copy())
    usual = pooled.clone()
    pooled[0, 1], usual[0, 1] = float("nan"), model.feature_mean[1]
    torch.testing.assert_close(model.image_tokens(pooled)[:, -1], model.image_tokens(usual)[:, -1])


def test_penalties_that_are_none_are_refused():
    base = TrainConfig.from_json("past-mini")
    with pytest.raises(ValueError, match="linear_penalty must be positive and linear_simulated 0 or more; got 0.0"):
        replace(base, linear_penalty=0.0)
    with pytest.raises(ValueError, match="got 30.0 and -1"):
        replace(base, linear_simulated=-1)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match="linear_share is a share, from 0 to below 1"):
        make(linear_share=share)


def test_a_harder_penalty_shrinks_what_spots_tell(section):
    size = []
    for penalty in (0.01, 1000.0):
        model = make()
        fit_linear(model, replace(TrainConfig.from_json("past-mini"), linear_penalty=penalty), [section], None, None)
        of_a = np.abs(effects(model)[:, 0])
        size.append(of_a[3] / of_a.sum())  # the spread is that of the members whatever the penalty
    assert size[0] > 1.5 * size[1]


def test_every_view_is_learnt_from(section):
    turned = section.pooled.copy()
    turned[1] = turned[1][..., ::-1]  # what the first view shows in one channel, the second shows in another
    alone, both = make(), make()
    config = TrainConfig.from_json("past-mini")
    fit_linear(alone, config, [replace(section, pooled=turned[:1])], None, None)
    fit_linear(both, config, [replace(section, pooled=turned)], None, None)
    mirrored = 39 - 3
    first, second = (np.abs(effects(model)[:, 0]) for model in (alone, both))
    assert second[mirrored] / second[3] > 3 * first[mirrored] / first[3]
