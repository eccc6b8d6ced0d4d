"""Simulated donors as training data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import pastpy as past
from pastpy.datasets import TissueParameters
from pastpy.train import TrainConfig, simulated
from pastpy.train.coexpression import Coexpression
from pastpy.train.loop import OutlineAugmentation, SimulatedDraws, _untrained
from pastpy.train.objective import Objective


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    model = {"name": "toy", "dim": 16, "embedding_dim": 8}
    return TrainConfig(model=model, simulated_cohorts=2, simulated_donors=2, batch_simulated=64)


@pytest.fixture(scope="module")
def cells(config, tmp_path_factory):
    """Two small cohorts, with what was simulated counted."""
    patch = pytest.MonkeyPatch()
    patch.setattr(simulated, "_CELLS", (60, 80))
    patch.setattr(simulated, "N_GENES", 40)
    cache = tmp_path_factory.mktemp("cache")
    with patch.context(), past.settings.context(cache_dir=cache):
        yield simulated.simulated_cells(config, _untrained(config, ["none"]), progress=False)
    patch.undo()


def draws(config: TrainConfig, model, cells, n: int | None = None) -> SimulatedDraws:
    return SimulatedDraws(model, cells, n or config.batch_simulated, OutlineAugmentation(model, config))


def test_cells_of_all_donors_are_there_with_what_is_to_be_expected_of_them(cells):
    assert np.unique(cells.donor).tolist() == [0, 1, 2, 3] and (np.diff(cells.donor) >= 0).all()
    assert len(cells.genes) == 40 and cells.expected.shape == (len(cells.donor), 40)
    rng = np.random.default_rng([simulated.FIRST_SEED, 0])
    n = 2 * int(np.exp(rng.uniform(*np.log((60, 80)))))
    truth = past.datasets.simulate_tissue(n, 40, 2, simulated.FIRST_SEED).tables["cells_true"]
    first = cells.expected[: truth.n_obs].astype(float)
    np.testing.assert_allclose(first, truth.layers["bayes_log1p"], rtol=1e-3)
    assert np.isfinite(cells.pooled).all() and cells.pooled.shape[1:] == (3, 40)


def test_a_cohort_that_was_made_is_not_made_again(cells, config, monkeypatch, tmp_path):
    made = []
    arrays = {"pooled": cells.pooled, "expected": cells.expected, "donor": cells.donor % 2, "cohort": cells.cohort}

    def once(number, n_donors, model):
        made.append(number)
        return simulated.SimulatedCells(**arrays, genes=cells.genes)

    monkeypatch.setattr(simulated, "_simulate", once)
    model = _untrained(config, ["none"])
    with past.settings.context(cache_dir=tmp_path):
        for _ in range(2):
            simulated.simulated_cells(config, model)
        assert made == [0, 1]
        simulated.simulated_cells(replace(config, simulated_donors=3), model)
    assert made == [0, 1, 0, 1], "other cohorts are not taken for these"


def test_parameters_that_are_drawn_hold_the_defaults_inside():
    rng = np.random.default_rng(0)
    drawn = [simulated.draw_parameters(rng) for _ in range(200)]
    defaults = TissueParameters()
    for name in (*simulated._UNIFORM, *simulated._LOG_UNIFORM, "jpeg_quality"):
        values = [getattr(p, name) for p in drawn]
        assert min(values) < getattr(defaults, name) < max(values), name


def test_seeds_are_not_those_of_protocols_and_tests():
    from pastpy.bench import _simulated

    assert simulated.FIRST_SEED > 10 * _simulated.SEED


def test_steps_hold_as_many_cells_of_each_donor(cells, config):
    model = _untrained(config, ["GENE", *cells.genes[:30]])
    batch = draws(config, model, cells).draw(np.random.default_rng(0))
    assert torch.bincount(batch.donor).tolist() == [16] * 4
    assert batch.genes.tolist() == list(range(1, 31)), "genes that the model does not know are left out"
    assert batch.expected.shape == (64, 30)


def test_loss_is_one_less_the_correlation_within_donors(cells, config):
    model = _untrained(config, cells.genes)
    torch.nn.init.normal_(model.members[0].decoder.readout)
    batch = draws(config, model, cells, 256).draw(np.random.default_rng(0))
    found = Objective(model, config, torch.tensor([0]))._simulated(batch)["simulated"].item()
    with torch.no_grad():
        share = model.log_profile(model.image_tokens(batch.pooled)).exp()
    predicted, measured = torch.log1p(1e4 * share).numpy(), batch.expected.numpy()
    donor = batch.donor.numpy()
    for values in (predicted, measured):
        for d in np.unique(donor):
            values[donor == d] -= values[donor == d].mean(axis=0)
    seen = measured.std(axis=0) > 0
    r = np.zeros(len(seen))
    r[seen] = [np.corrcoef(predicted[:, g], measured[:, g])[0, 1] for g in np.flatnonzero(seen)]
    assert found == pytest.approx(1 - r.mean(), abs=1e-4)


def test_genes_that_are_not_simulated_are_taught_by_those_that_are(cells, config):
    model = _untrained(config, ["GENE", *cells.genes])
    torch.nn.init.normal_(model.members[0].decoder.readout)
    others = Coexpression(["GENE"], np.eye(len(cells.genes), 1, -2, dtype=np.float32), False)  # as the third gene
    drawn = SimulatedDraws(model, cells, 256, OutlineAugmentation(model, config), others)
    batch = drawn.draw(np.random.default_rng(0))
    assert batch.other_genes.tolist() == [0]
    np.testing.assert_allclose(batch.others[:, 0], batch.expected[:, 2])
    losses = Objective(model, config, torch.tensor([0]))._simulated(batch)
    losses["coexpression"].backward()
    moved = model.members[0].decoder.bias.grad if model.members[0].decoder.bias.grad is not None else torch.zeros(1)
    assert moved[0] != 0 and 0 < losses["coexpression"].item() < 2
    alone = SimulatedDraws(model, cells, 256, OutlineAugmentation(model, config)).draw(np.random.default_rng(0))
    assert set(Objective(model, config, torch.tensor([0]))._simulated(alone)) == {"simulated"}


def test_outlines_of_whole_donors_are_hidden_now_and_then(cells, config):
    regions = [{"name": "nucleus", "kind": "shape"}, {"name": "outline", "kind": "outline"}]
    with_outlines = replace(config, model={**config.model, "regions": regions}, outline_dropout=0.5)
    model = _untrained(with_outlines, cells.genes)
    told = replace(cells, pooled=cells.pooled[:, :2])
    rng, hidden = np.random.default_rng(0), []
    for _ in range(30):
        batch = draws(with_outlines, model, told).draw(rng)
        missing = batch.pooled.isnan()
        assert not missing[:, 0].any(), "what is seen of the image stays"
        of_cell = missing[:, 1].all(dim=1)
        assert torch.equal(of_cell, missing[:, 1].any(dim=1))
        of_donor = torch.stack([of_cell[batch.donor == d] for d in range(4)])
        assert torch.equal(of_donor.all(dim=1), of_donor.any(dim=1)), "of a donor all cells or none"
        hidden += of_donor[:, 0].tolist()
        loss = Objective(model, with_outlines, torch.tensor([0]))._simulated(batch)["simulated"]
        assert loss.isfinite()
    assert 0.35 < np.mean(hidden) < 0.65
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_outlines_with_noise_keep_their_mean_and_spread(cells, config):
    regions = [{"name": "nucleus", "kind": "shape"}, {"name": "outline", "kind": "outline"}]
    noisy = replace(config, model={**config.model, "regions": regions}, outline_noise=1.0)
    model = _untrained(noisy, cells.genes)
    model.feature_mean[1, :2], model.feature_std[1, :2] = torch.tensor([4.0, 0.3]), torch.tensor([0.5, 0.2])
    augmentation, rng = OutlineAugmentation(model, noisy), np.random.default_rng(0)
    pooled = rng.normal(size=(4000, 2, 40)).astype(np.float32)
    pooled[:, 1, :2] = pooled[:, 1, :2] * [0.5, 0.2] + [4.0, 0.3]
    kept = []
    for _ in range(40):
        out = augmentation.of_donor(pooled, rng)
        np.testing.assert_array_equal(out[:, 0], pooled[:, 0])
        np.testing.assert_array_equal(out[:, 1, 2:], pooled[:, 1, 2:])
        np.testing.assert_allclose(out[:, 1, :2].mean(axis=0), [4.0, 0.3], atol=0.04)
        np.testing.assert_allclose(out[:, 1, :2].std(axis=0), [0.5, 0.2], rtol=0.06)
        kept.append(np.corrcoef(out[:, 1, 0], pooled[:, 1, 0])[0, 1])
    assert max(kept) > 0.97 and 0.53 < min(kept) < 0.7, "from hardly any noise to one and a half standard deviations"


def test_a_model_without_outlines_draws_the_same_cells_whatever_the_dropout(cells, config):
    model = _untrained(config, cells.genes)
    drawn = [
        draws(replace(config, outline_dropout=share, outline_noise=share), model, cells)
        .draw(np.random.default_rng(0))
        .pooled
        for share in (0.0, 0.9)
    ]
    torch.testing.assert_close(*drawn)
