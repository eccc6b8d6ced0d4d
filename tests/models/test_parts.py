"""Likelihood, expression encoder and decoder against known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pastpy.metrics._columns import nb_deviance
from pastpy.models.blocks import Attention, Block, length_groups
from pastpy.models.decoder import GeneDecoder
from pastpy.models.expression import ExpressionEncoder
from pastpy.models.nb import nb_log_likelihood, zinb_log_likelihood


@given(st.integers(0, 500), st.floats(0.01, 300), st.floats(0.05, 50))
def test_likelihood_equals_scipys(count, mu, theta):
    found = nb_log_likelihood(*(torch.tensor(v, dtype=torch.float64) for v in (count, mu, theta)))
    assert float(found) == pytest.approx(stats.nbinom.logpmf(count, theta, theta / (theta + mu)), rel=1e-6, abs=1e-8)


@given(st.integers(1, 300), st.floats(0.1, 300), st.floats(0.05, 50))
def test_deviance_is_twice_the_lost_likelihood(count, mu, theta):
    y, m, t = (torch.tensor(float(v), dtype=torch.float64) for v in (count, mu, theta))
    lost = 2 * (nb_log_likelihood(y, y, t) - nb_log_likelihood(y, m, t))
    assert float(nb_deviance(*(v.numpy() for v in (y, m, t)))) == pytest.approx(float(lost), rel=1e-6, abs=1e-8)


def test_deviance_of_zero_counts_is_finite():
    (value,) = nb_deviance(np.zeros(1), np.ones(1), np.ones(1))
    assert float(value) == pytest.approx(2 * np.log(2))


@pytest.fixture(scope="module")
def encoder() -> ExpressionEncoder:
    torch.manual_seed(0)
    return ExpressionEncoder(n_genes=30, dim=16, n_tokens=3, heads=4, dropout=0.1).eval()


def shuffled_and_padded(seed: int, n: int, padding: int):
    """Genes and counts of a cell, the same in another order with padding, and that order."""
    rng = np.random.default_rng(seed)
    genes = torch.from_numpy(rng.permutation(30)[:n])[None]
    counts = torch.from_numpy(rng.integers(1, 50, (1, n)).astype(np.float32))
    order = torch.from_numpy(rng.permutation(n))
    padded = (
        torch.nn.functional.pad(genes[:, order], (0, padding), value=-1),
        torch.nn.functional.pad(counts[:, order], (0, padding)),
    )
    return genes, counts, padded, order


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(0, 10))
def test_order_and_padding_of_genes_do_not_matter(encoder, seed, n, padding):
    genes, counts, padded, _ = shuffled_and_padded(seed, n, padding)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(*padded), encoder(genes, counts), atol=1e-5, rtol=1e-5)


def test_values_and_depth_matter(encoder):
    genes = torch.tensor([[1, 2]])
    with torch.inference_mode():
        a, b, c = (encoder(genes, torch.tensor([v])) for v in ([5.0, 1.0], [1.0, 5.0], [50.0, 10.0]))
    assert (a - b).abs().max() > 1e-3
    assert (a - c).abs().max() > 1e-3


def literal_decoder(decoder: GeneDecoder, tokens: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """Cross-attention gene by gene and head by head, as the textbook writes it."""
    n, _, dim = tokens.shape
    width = dim // decoder.heads
    key, value = decoder.key(tokens), decoder.value(tokens)
    out = torch.zeros(n, len(decoder.bias))
    for g in range(len(decoder.bias)):
        for h in range(decoder.heads):
            part = slice(h * width, (h + 1) * width)
            score = key[..., part] @ decoder.query[g, part] / width**0.5
            attention = score.masked_fill(padding, float("-inf")).softmax(dim=1)
            attended = torch.einsum("nt,ntd->nd", attention, value[..., part])
            out[:, g] += attended @ decoder.readout[g, part]
    return out + decoder.bias


@pytest.fixture(scope="module")
def decoder() -> GeneDecoder:
    torch.manual_seed(0)
    decoder = GeneDecoder(n_genes=7, dim=8, heads=2)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    return decoder


def test_decoder_equals_the_literal_attention(decoder):
    tokens, padding = torch.randn(5, 4, 8), torch.zeros(5, 4, dtype=torch.bool)
    padding[1, 2:] = True
    with torch.inference_mode():
        torch.testing.assert_close(decoder(tokens, padding), literal_decoder(decoder, tokens, padding))


def test_padded_tokens_and_chosen_genes(decoder):
    tokens = torch.randn(3, 4, 8)
    padding = torch.zeros(3, 4, dtype=torch.bool)
    padding[:, 3] = True
    with torch.inference_mode():
        torch.testing.assert_close(decoder(tokens, padding), decoder(tokens[:, :3]))
        torch.testing.assert_close(decoder(tokens, genes=torch.tensor([5, 1])), decoder(tokens)[:, [5, 1]])


@given(st.integers(0, 50), st.floats(0.01, 100), st.floats(0.05, 50), st.floats(-6, 6))
def test_inflated_likelihood_equals_scipys_mixture(count, mu, theta, logit):
    parts = (torch.tensor(v, dtype=torch.float64) for v in (count, mu, theta, logit))
    zero = 1 / (1 + np.exp(-logit))
    expected = (1 - zero) * stats.nbinom.pmf(count, theta, theta / (theta + mu)) + zero * (count == 0)
    assert float(zinb_log_likelihood(*parts)) == pytest.approx(np.log(expected), rel=1e-5, abs=1e-8)


@given(st.integers(1, 40), st.integers(1, 2**12))
def test_chunks_of_genes_do_not_matter(decoder, n, chunk_elements):
    tokens = torch.randn(n, 4, 8, generator=torch.Generator().manual_seed(n))
    whole = decoder(tokens).detach()  # undivided, since gradients are recorded
    with torch.inference_mode():
        torch.testing.assert_close(decoder(tokens, chunk_elements=chunk_elements), whole)
        some = torch.tensor([6, 0, 3])
        torch.testing.assert_close(decoder(tokens, None, some, chunk_elements=chunk_elements), whole[:, some])


def test_zero_logits_are_read_from_the_same_attention():
    torch.manual_seed(0)
    decoder = GeneDecoder(n_genes=7, dim=8, heads=2, zero_inflation=True)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(3, 4, 8)
    with torch.no_grad():
        found = decoder.zero_logits(tokens)
        decoder.readout.copy_(decoder.zero_readout)
        decoder.bias.copy_(decoder.zero_bias)
        torch.testing.assert_close(found, decoder(tokens))


@pytest.fixture(scope="module")
def low_rank() -> GeneDecoder:
    torch.manual_seed(0)
    decoder = GeneDecoder(n_genes=40, dim=8, heads=2, rank=3, zero_inflation=True)
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter)
    return decoder


def test_genes_of_a_low_rank_decoder_are_a_baseline_and_loadings_on_few_programs(low_rank):
    tokens, padding = torch.randn(30, 4, 8), torch.zeros(30, 4, dtype=torch.bool)
    padding[1, 2:] = True
    programs = GeneDecoder(n_genes=3, dim=8, heads=2)
    entries = {name: getattr(low_rank, name) for name in ("query", "readout")}
    with torch.no_grad():
        programs.load_state_dict({**low_rank.state_dict(), **entries, "bias": torch.zeros(3)}, strict=False)
        latent = literal_decoder(programs, tokens, padding)
        found = low_rank(tokens, padding)
        torch.testing.assert_close(low_rank.latent(tokens, padding), latent)
        torch.testing.assert_close(found, low_rank.bias + latent @ low_rank.loadings.T)
        torch.testing.assert_close(
            low_rank.zero_logits(tokens, padding), low_rank.zero_bias + latent @ low_rank.zero_readout.T
        )
        some = torch.tensor([6, 0, 30])
        torch.testing.assert_close(low_rank(tokens, padding, some), found[:, some])
        log_profile = found.log_softmax(dim=1) - low_rank.bias
    # the normalisation adds one number a cell
    values = torch.linalg.svdvals((log_profile - log_profile.mean(dim=1, keepdim=True)).double())
    assert (values > 1e-4 * values[0]).sum() == 3


def test_a_new_low_rank_decoder_predicts_its_baseline_and_can_learn():
    decoder = GeneDecoder(n_genes=5, dim=8, heads=2, rank=2)
    out = decoder(torch.randn(3, 4, 8))
    assert torch.equal(out, decoder.bias.expand(3, 5))
    out[0, 0].backward()
    assert decoder.readout.grad is not None and decoder.readout.grad.abs().max() > 0


@pytest.fixture(scope="module")
def deep_encoder() -> ExpressionEncoder:
    torch.manual_seed(0)
    return ExpressionEncoder(
        n_genes=30, dim=16, n_tokens=3, heads=4, dropout=0.1, layers=2, technologies=("xenium", "cosmx"),
        gene_tokens=True,
    ).eval()  # fmt: skip


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(0, 10))
def test_order_and_padding_do_not_matter_in_depth(deep_encoder, seed, n, padding):
    genes, counts, padded, order = shuffled_and_padded(seed, n, padding)
    with torch.inference_mode():
        expected, found = deep_encoder(genes, counts), deep_encoder(*padded)
    torch.testing.assert_close(found[:, :3], expected[:, :3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 3 : 3 + n], expected[:, 3:][:, order], atol=1e-5, rtol=1e-5)
    assert found[:, 3 + n :].isnan().all()


def test_technology_matters_and_unknown_ones_are_the_default(deep_encoder):
    genes, counts = torch.tensor([[1, 2]]).expand(3, -1), torch.tensor([[5.0, 1.0]]).expand(3, -1)
    told = deep_encoder.technology_index(["xenium", "cosmx", "visium"])
    assert told.tolist() == [1, 2, 0]
    with torch.inference_mode():
        xenium, cosmx, visium = deep_encoder(genes, counts, told)
        torch.testing.assert_close(visium, deep_encoder(genes, counts)[0])
    assert (xenium - cosmx).abs().max() > 1e-3 and (xenium - visium).abs().max() > 1e-3


def test_attention_is_that_of_the_textbook():
    torch.manual_seed(0)
    layer = Attention(8, 2)
    x, tokens = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    bias = torch.randn(3, 2, 5, 4)
    q, k, v = layer.query(x), layer.key(tokens), layer.value(tokens)
    heads = []
    for h in range(2):
        part = slice(4 * h, 4 * h + 4)
        weight = (q[..., part] @ k[..., part].transpose(1, 2) / 2 + bias[:, h]).softmax(dim=2)
        heads.append(weight @ v[..., part])
    torch.testing.assert_close(layer(x, tokens, bias), layer.out(torch.cat(heads, dim=2)))


def test_padding_is_not_looked_at_by_a_block():
    torch.manual_seed(0)
    block = Block(8, 2, 0.1).eval()
    tokens, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 3 + [True] * 2] * 2)
    with torch.inference_mode():
        torch.testing.assert_close(block(tokens, padding)[:, :3], block(tokens[:, :3]))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=50), st.integers(1, 400))
def test_groups_hold_every_row_once_and_little_padding(lengths, max_tokens):
    lengths = torch.tensor(lengths)
    groups = length_groups(lengths, max_tokens=max_tokens)
    assert torch.cat(groups).sort().values.tolist() == list(range(len(lengths)))
    for rows in groups:
        longest = int(lengths[rows].max())
        assert len(rows) == 1 or len(rows) * longest <= max(max_tokens, longest)
        assert len(rows) == 1 or longest == 0 or 2 * int(lengths[rows].min()) > longest or longest == 1
