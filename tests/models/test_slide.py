"""Features relative to their slide."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pastpy.models import PAST, ModelCard, PASTConfig, SlideStatistics
from pastpy.models.slide import slide_statistics

USUAL = SlideStatistics(torch.full((2, 3), 1.0), torch.full((2, 3), 2.0), 0)


def make(**entries) -> PAST:
    torch.manual_seed(0)
    config = PASTConfig(name="tiny", dim=16, embedding_dim=8, dropout=0.0, **entries)
    return PAST(config, ModelCard(pd.DataFrame({"gene": ["A", "B", "C"]}), {})).eval()


@given(factor=st.floats(0.2, 5), offset=st.floats(-10, 10), n=st.integers(2, 40), seed=st.integers(0, 1000))
def test_without_a_prior_scanner_and_stain_of_a_whole_slide_do_not_matter(factor, offset, n, seed):
    pooled = torch.randn(n, 2, 3, generator=torch.Generator().manual_seed(seed)).double() + 0.5
    other = pooled * factor + offset
    here, there = (slide_statistics(p, USUAL, prior=0).standardise(p) for p in (pooled, other))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)


def test_statistics_are_those_of_the_slide_and_the_prior_together():
    pooled = torch.randn(50, 2, 3)
    found = slide_statistics(pooled, USUAL, prior=50)
    # as if 50 cells with the usual mean and spread stood beside those of the slide
    beside = USUAL.mean + USUAL.std * torch.tensor([-1.0, 1.0]).repeat(25)[:, None, None]
    together = torch.cat([pooled, beside])
    torch.testing.assert_close(found.mean, together.mean(dim=0))
    torch.testing.assert_close(found.std, together.std(dim=0, correction=0))
    assert found.n_cells == 50


def test_missing_regions_are_left_out():
    pooled = torch.randn(20, 2, 3)
    gaps = pooled.clone()
    gaps[5:, 1] = float("nan")
    found = slide_statistics(gaps, USUAL)
    torch.testing.assert_close(found.mean[0], slide_statistics(pooled, USUAL).mean[0])
    torch.testing.assert_close(found.mean[1], slide_statistics(pooled[:5], USUAL).mean[1])


@pytest.mark.parametrize("n", [0, 1])
def test_few_cells_are_taken_relative_to_the_training_slides(n):
    found = slide_statistics(torch.randn(n, 2, 3), USUAL)
    torch.testing.assert_close(found.mean, USUAL.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(found.std, USUAL.std, atol=0.1, rtol=0)


def test_a_model_asks_for_its_slide_only_if_it_was_made_so():
    pooled = torch.randn(300, 3, 40) + 3
    plain, relative = make(), make(slide_norm=True)
    relative.load_state_dict(plain.state_dict())
    torch.testing.assert_close(plain.image_tokens(pooled, plain.slide_statistics(pooled)), plain.image_tokens(pooled))
    torch.testing.assert_close(relative.image_tokens(pooled), plain.image_tokens(pooled))
    moved = relative.image_tokens(pooled, relative.slide_statistics(pooled))
    assert (moved - plain.image_tokens(pooled)).abs().max() > 0.1
