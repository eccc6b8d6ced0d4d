"""Likelihood, expression encoder and decoder against known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pastpy.models.decoder import GeneDecoder
from pastpy.models.expression import ExpressionEncoder
from pastpy.models.nb import nb_deviance, nb_log_likelihood


@given(st.integers(0, 500), st.floats(0.01, 300), st.floats(0.05, 50))
def test_likelihood_equals_scipys(count, mu, theta):
    found = nb_log_likelihood(*(torch.tensor(v, dtype=torch.float64) for v in (count, mu, theta)))
    assert float(found) == pytest.approx(stats.nbinom.logpmf(count, theta, theta / (theta + mu)), rel=1e-6, abs=1e-8)


@given(st.integers(1, 300), st.floats(0.1, 300), st.floats(0.05, 50))
def test_deviance_is_twice_the_lost_likelihood(count, mu, theta):
    y, m, t = (torch.tensor(float(v), dtype=torch.float64) for v in (count, mu, theta))
    lost = 2 * (nb_log_likelihood(y, y, t) - nb_log_likelihood(y, m, t))
    assert float(nb_deviance(y, m, t)) == pytest.approx(float(lost), rel=1e-6, abs=1e-8)


def test_deviance_of_zero_counts_is_finite():
    value = nb_deviance(torch.zeros(1), torch.ones(1), torch.ones(1))
    assert float(value) == pytest.approx(2 * np.log(2))


@pytest.fixture(scope="module")
def encoder() -> ExpressionEncoder:
    torch.manual_seed(0)
    return ExpressionEncoder(n_genes=30, dim=16, n_tokens=3, heads=4, dropout=0.1).eval()


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(0, 10))
def test_order_and_padding_of_genes_do_not_matter(encoder, seed, n, padding):
    rng = np.random.default_rng(seed)
    genes = torch.from_numpy(rng.permutation(30)[:n])[None]
    counts = torch.from_numpy(rng.integers(1, 50, (1, n)).astype(np.float32))
    order = torch.from_numpy(rng.permutation(n))
    padded = (
        torch.nn.functional.pad(genes[:, order], (0, padding), value=-1),
        torch.nn.functional.pad(counts[:, order], (0, padding)),
    )
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
