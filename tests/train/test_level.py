"""Genes' levels after training, and the styles that training sections are seen in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix

from pastpy.train import TrainConfig
from pastpy.train.card import predicted_share
from pastpy.train.data import Section
from pastpy.train.level import set_levels
from pastpy.train.loop import Batches


@pytest.fixture
def sections(tiny_model):
    """Two sections of ten spots with four cells each; genes with very different totals, one never counted."""
    rng = np.random.default_rng(0)
    regions, channels = tiny_model.feature_mean.shape
    rates = np.r_[0.0, np.geomspace(0.2, 300, 13)]
    return [
        Section(
            name, rng.normal(size=(2, 40, regions, channels)).astype(np.float32), np.repeat(np.arange(10), 4),
            csr_matrix(rng.poisson(rates, (10, 14)).astype(np.float32)), tiny_model.gene_names,
            np.zeros((10, regions, channels), dtype=np.float32),
        )
        for name in ("a", "b")
    ]  # fmt: skip


def test_predicted_totals_become_the_counted_ones(tiny_model, sections):
    before = predicted_share(tiny_model, sections[0])
    set_levels(tiny_model, sections)
    counts = np.concatenate([s.counts.toarray() for s in sections])
    share = np.concatenate([predicted_share(tiny_model, s) for s in sections])
    expected, counted = counts.sum(axis=1) @ share, counts.sum(axis=0)
    np.testing.assert_allclose(expected[1:], counted[1:], rtol=0.05)
    assert 0 < expected[0] < 1, "a gene that was never counted stays possible"
    # one gene's cells keep their order: only the level moves
    gene = int(np.argmax(before.std(axis=0) / before.mean(axis=0)))
    ratio = predicted_share(tiny_model, sections[0])[:, gene] / before[:, gene]
    assert np.corrcoef(ratio * before[:, gene], before[:, gene])[0, 1] > 0.9


def test_a_section_is_seen_in_one_style_a_step(tiny_model, sections):
    config = replace(TrainConfig.from_json("past-mini"), cells_per_spot=4, batch_spots=20, views=0)
    flat = [replace(s, pooled=np.ones_like(s.pooled)) for s in sections]
    with torch.no_grad():
        tiny_model.feature_std.fill_(2.0)
    plain, styled = (
        next(Batches(tiny_model, replace(config, style_sd=sd), flat, None, None).epoch(np.random.default_rng(0)))
        for sd in (0.0, 0.3)
    )
    assert (plain.pooled == 1).all()
    section = np.unique(styled.pooled.numpy().round(5).reshape(len(styled.pooled), -1), axis=0)
    assert len(section) == 2, "all cells of a section are changed alike, those of the other section otherwise"
    # the factor acts about the mean (0 here), the offset in units of the spread (2)
    many = [
        next(Batches(tiny_model, replace(config, style_sd=0.3), flat, None, None).epoch(np.random.default_rng(i)))
        for i in range(20)
    ]
    values = torch.cat([b.pooled[:1].flatten() for b in many])
    assert abs(values.mean().item() - np.exp(0.3**2 / 2)) < 0.1
    assert abs(values.std().item() - np.hypot(0.6, 0.31)) < 0.1
