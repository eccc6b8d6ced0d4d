"""Models whose predictions are the mean of several members."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix

import pastpy as past
from pastpy.engine import Region
from pastpy.models import PAST, ModelCard, PASTConfig
from pastpy.models.subnetworks import subnetwork
from pastpy.models.tokens import split_absent
from pastpy.train import TrainConfig
from pastpy.train.objective import Objective

GENES = ["A", "B", "C", "D"]


def make(members: int = 3, **entries) -> PAST:
    torch.manual_seed(0)
    entries = {"rank": 2, "summary_tokens": 1, "summary_width": 12, "dropout": 0.0, **entries}
    config = PASTConfig(name="tiny", dim=16, embedding_dim=8, members=members, **entries)
    model = PAST(config, ModelCard(pd.DataFrame({"gene": GENES}), {}))
    for parameter in model.trained_parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return model.eval()


@pytest.fixture
def pooled() -> torch.Tensor:
    return torch.randn(6, 3, 40, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def counts() -> csr_matrix:
    return csr_matrix([[5.0, 0, 1, 0], [0, 0, 0, 0], [1, 2, 3, 4], [0, 7, 0, 0], [1, 0, 0, 1], [2, 2, 0, 0]])


def told(model: PAST, pooled: torch.Tensor | None, counts: csr_matrix | None) -> torch.Tensor:
    with torch.inference_mode():
        image = None if pooled is None else model.image_tokens(pooled)
        expression = None if counts is None else model.encode_counts(counts, model.columns_of(GENES))
        return model.predict_expression(image, expression)


@pytest.mark.parametrize("modality", ["image", "expression", "both"])
def test_log_rates_are_the_mean_of_the_members(pooled, counts, modality):
    model = make()
    given = (None if modality == "expression" else pooled, None if modality == "image" else counts)
    members = torch.stack([told(model.alone(i), *given) for i in range(3)])
    assert (members[0] - members[1]).abs().nan_to_num().max() > 0.01
    expected = members.log().mean(dim=0).softmax(dim=1)
    torch.testing.assert_close(told(model, *given), expected, equal_nan=True)
    if modality == "expression":
        assert told(model, *given)[1].isnan().all(), "a cell without counts and without image is not known"


def test_zero_inflation_is_averaged_too(pooled):
    model = make(zero_inflation=True)
    tokens = model.image_tokens(pooled)
    alone = [model.alone(i) for i in range(3)]
    expected = torch.stack([m.zero_logits(m.image_tokens(pooled)) for m in alone]).mean(dim=0)
    torch.testing.assert_close(model.zero_logits(tokens), expected)


def test_a_region_that_is_missing_is_missing_to_every_member(pooled):
    model = make()
    pooled[0, 1] = float("nan")
    pooled[1] = float("nan")
    absent = model.image_tokens(pooled)[..., 0].isnan()
    assert absent.shape == (6, model.n_image_tokens) == (6, 12)
    assert absent[0].tolist() == [False, True, False, False] * 3 and absent[1].all() and not absent[2:].any()
    share = told(model, pooled, None)
    assert share[1].isnan().all() and share[[0, 2]].isfinite().all()


def test_the_joint_space_is_made_from_the_tokens_of_all(pooled, counts):
    model = make(linear_share=0.3)
    columns = model.columns_of(GENES)
    with torch.inference_mode():
        image = sum(m.image_projection(m.image_tokens(pooled).flatten(1)) for m in map(model.alone, range(3)))
        image = image - 2 * model.image_projection.bias - model.image_centre
        torch.testing.assert_close(model.project_image(model.image_tokens(pooled)), image)
        rows = [0, 2, 3]
        cell = sum(
            m.cell_projection(m.encode_counts(counts, columns)[rows].flatten(1)) for m in map(model.alone, range(3))
        )
        cell = cell - 2 * model.cell_projection.bias - model.expression_centre
        found = model.embed_expression(counts, GENES)
    torch.testing.assert_close(found[rows], torch.nn.functional.normalize(cell, dim=1))
    assert found[1].isnan().all()


def test_a_member_alone_is_trained_in_place_and_starts_as_it_would_by_itself():
    torch.manual_seed(0)
    model = PAST(make(2, linear_share=0.3).config, ModelCard(pd.DataFrame({"gene": GENES}), {}))
    first, second = model.alone(0), model.alone(1)
    assert second.members[0] is model.members[1] and second.linear is None
    assert second.image_encoder is not model.image_encoder
    torch.testing.assert_close(first.image_projection.weight, second.image_projection.weight)
    assert first.image_projection.in_features == first.member_tokens * 16


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("modality", ["image", "expression", "both"])
def test_subnetworks_are_parts_of_the_members_in_turn(pooled, counts, number, modality):
    model = make(dropout=0.4)
    given = (None if modality == "expression" else pooled, None if modality == "image" else counts)
    with subnetwork(number):
        found, expected = told(model, *given), told(model.alone(number % 3), *given)
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert (found - told(model.alone(number % 3), *given)).abs().nan_to_num().max() > 1e-4, "nothing was dropped"


def test_a_model_with_members_is_saved_and_loaded(pooled, tmp_path):
    model = make()
    model.save(tmp_path / "three")
    loaded = past.models.load(tmp_path / "three")
    assert len(loaded.members) == 3
    torch.testing.assert_close(told(loaded, pooled, None), told(model, pooled, None))


@pytest.mark.parametrize("entries", [{"gene_tokens": True}, {"neighbours": 4}, {"joint": "attention"}])
def test_what_members_cannot_do_is_refused(entries):
    with pytest.raises(ValueError, match="members=2 with linear_share=0.0 needs gene_tokens=False"):
        make(2, **entries)


def test_there_is_at_least_one_member():
    with pytest.raises(ValueError, match="members must be 1 or more, got 0"):
        make(0)


@pytest.mark.parametrize("number", [None, 1])
def test_members_readout_outlines_and_counts_together(counts, number):
    regions = [Region("nucleus", "shape"), Region("outline", "outline"), Region("context", "disc", 30.0)]
    model = make(linear_share=0.3, regions=regions, dropout=0.4)
    for name, value in model.linear.named_buffers():
        value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)
    features = torch.randn(6, 3, 40, generator=torch.Generator().manual_seed(3))
    features[:, 1] = float("nan")
    networks = deepcopy(model)
    networks.linear = None
    with subnetwork(number) if number is not None else nullcontext():
        both, by_networks = told(model, features, counts), told(networks, features, counts)
        alone, image = told(model, features, None), model.image_tokens(features)
        of_networks = networks.log_profile(*split_absent(networks.image_tokens(features)))
    uncounted = [1]
    torch.testing.assert_close(both[uncounted], alone[uncounted])
    torch.testing.assert_close(both[[0, 2, 3, 4, 5]], by_networks[[0, 2, 3, 4, 5]])
    expected = (0.7 * of_networks + 0.3 * model.linear.log_rates(image[:, -1])).softmax(dim=1)
    torch.testing.assert_close(alone, expected)
    assert (alone - of_networks.exp()).abs().max() > 1e-3


def test_tokens_of_some_members_alone_are_refused(pooled):
    model = make(linear_share=0.3)
    with pytest.raises(ValueError, match="model 'tiny' has 13 image tokens a cell, got 4"):
        model.predict_expression(model.image_tokens(pooled)[:, :4])


def test_members_and_readout_work_under_autocast(pooled):
    model = make(linear_share=0.3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = told(model, pooled, None)
    torch.testing.assert_close(found.float(), told(model, pooled, None), atol=0.03, rtol=0.1)
    double = deepcopy(model).double()
    torch.testing.assert_close(told(double, pooled.double(), None).float(), told(model, pooled, None))


def test_the_objective_takes_one_member(pooled):
    config = TrainConfig.from_json("past-mini")
    for model in (make(2), make(1, linear_share=0.3)):
        with pytest.raises(ValueError, match="members are trained one at a time"):
            Objective(model, config, torch.arange(2))
