"""The distance to the training data is calibrated on groups left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from pastpy.metrics import FeatureReference, feature_distance, feature_reference, feature_shift
from pastpy.metrics._shift import LEVELS


def tissue(rng, groups=6, n=150, d=20, offset=0.0, between=0.3):
    """Correlated features of several sections, each a little off the others."""
    mixing = np.linalg.qr(np.random.default_rng(9).normal(size=(d, d)))[0] * np.geomspace(0.1, 10, d)
    x = rng.standard_normal((groups, n, d)) + between * rng.standard_normal((groups, 1, d)) + offset
    return (x @ mixing).reshape(-1, d), np.repeat([f"s{i}" for i in range(groups)], n)


def test_tissue_of_the_kind_is_not_far_and_other_tissue_is():
    rng = np.random.default_rng(0)
    reference = feature_reference(*tissue(rng))
    same = [feature_shift(tissue(rng, groups=1)[0], reference) for _ in range(30)]
    assert sum(s.far for s in same) <= 1
    assert np.mean([s.share_beyond for s in same]) == pytest.approx(0.05, abs=0.03)
    assert np.mean([s.percentile for s in same]) == pytest.approx(50, abs=10)
    for offset in (1.5, 5.0):
        found = feature_shift(tissue(rng, groups=1, offset=offset)[0], reference)
        assert found.far and found.percentile > 90 and "far from" in found.message


def test_left_out_distances_are_larger_than_those_of_fitted_units():
    rng = np.random.default_rng(1)
    reference = feature_reference(*tissue(rng, groups=3, n=20, d=20))
    fitted = feature_distance(tissue(np.random.default_rng(1), groups=3, n=20, d=20)[0], reference)
    # so a reference that was calibrated on its own units would call every new section far
    assert np.median(fitted) < np.interp(0.5, LEVELS, reference.quantiles)


def test_distance_is_mahalanobis_and_nan_stays():
    rng = np.random.default_rng(2)
    x, groups = tissue(rng, groups=2, n=4000, d=3, between=0)
    reference = feature_reference(x, groups)
    z = x[:50] - x.mean(0)
    expected = np.sqrt(np.einsum("ni,ij,nj->n", z, np.linalg.inv(np.cov(x.T)), z))
    x[0, 0] = np.nan
    found = feature_distance(x[:50], reference)
    np.testing.assert_allclose(found[1:], expected[1:], rtol=0.02)
    assert np.isnan(found[0])


def test_there_and_back_as_json():
    reference = feature_reference(*tissue(np.random.default_rng(3)))
    back = FeatureReference.from_dict(json.loads(json.dumps(reference.to_dict(), allow_nan=False)))
    np.testing.assert_allclose(back.covariance, reference.covariance)
    np.testing.assert_array_equal(back.quantiles, reference.quantiles)
    with pytest.raises(ValueError, match="lacks \\['n'\\]"):
        FeatureReference.from_dict({k: v for k, v in reference.to_dict().items() if k != "n"})


def test_what_is_wrong_is_named():
    x, groups = tissue(np.random.default_rng(4))
    reference = feature_reference(x, groups)
    with pytest.raises(ValueError, match="at least two groups"):
        feature_reference(x, np.zeros(len(x)))
    with pytest.raises(ValueError, match="the reference has 20 features"):
        feature_shift(x[:, :3], reference)
    with pytest.raises(ValueError, match="all rows hold NaN"):
        feature_shift(x * np.nan, reference)
