"""Maps against scikit-image and against Moran's formula."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from pastpy import metrics
from pastpy.metrics._maps import morans_i, rasterize, spacing, ssim, ssim_map


def test_full_maps_as_in_scikit_image():
    from skimage.metrics import structural_similarity

    rng = np.random.default_rng(0)
    a, b = rng.random((2, 3, 24, 31))
    a, b = ((m - m.min((1, 2), keepdims=True)) / np.ptp(m, axis=(1, 2), keepdims=True) for m in (a, b))
    local, inside = ssim_map(a, b)
    for k in range(3):
        expected = structural_similarity(a[k], b[k], data_range=1, full=True)[1]
        np.testing.assert_allclose(local[k, 3:-3, 3:-3], expected[3:-3, 3:-3], atol=1e-10)
    assert inside[3:-3, 3:-3].all()


def test_what_lies_off_the_tissue_does_not_count():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 1, 40, 40))
    b = 0.7 * a + 0.3 * b
    whole = ssim(a, b)[0]
    for m in (a, b):
        m[:, :, 20:] = np.nan
    half = ssim(a, b)[0]
    assert half == pytest.approx(ssim(a[:, :, :20], b[:, :, :20])[0])
    assert half == pytest.approx(whole, abs=0.05) and 0.3 < whole < 0.999
    assert ssim(a, a)[0] == pytest.approx(1) and np.isnan(ssim(a, np.where(np.isnan(a), a, 2.0)))[0]


def test_units_of_one_pixel_are_averaged():
    xy = np.array([[0.0, 0], [0.1, 0], [10, 0], [0, 20]])
    found = rasterize(np.array([[1.0], [3], [5], [7]]), xy, 10.0)
    np.testing.assert_array_equal(found[0], [[2, 5], [np.nan, np.nan], [7, np.nan]])
    assert spacing(np.array([[0.0, 0], [3, 4], [6, 8], [np.nan, 0]])) == 5
    with pytest.raises(ValueError, match="at least two units"):
        spacing(np.zeros((3, 2)))


def test_moran_by_its_formula():
    rng = np.random.default_rng(2)
    xy = rng.random((80, 2)) * 100
    x = np.column_stack([xy[:, 0], rng.normal(size=80), np.ones(80)])
    near = cKDTree(xy).query(xy, k=7)[1][:, 1:]
    z = x - x.mean(0)
    with np.errstate(invalid="ignore"):
        expected = (z * z[near].sum(1)).sum(0) / 6 / (z**2).sum(0)
    found = morans_i(x, xy)
    np.testing.assert_allclose(found[:2], expected[:2], rtol=0.02, atol=0.005)
    assert found[0] > 0.7 > 0.2 > abs(found[1]) and np.isnan(found[2])


def test_expression_scores_maps_within_a_group():
    rng = np.random.default_rng(3)
    side = np.arange(12) * 10.0
    xy = np.array([(x, y) for x in side for y in side])
    truth = pd.DataFrame({"wave": np.sin(xy[:, 0] / 20), "noise": rng.normal(size=144)})
    where = pd.DataFrame(xy)
    found = metrics.expression(truth + rng.normal(0, 0.1, truth.shape), truth, coordinates=where)
    assert found.loc["wave", "ssim"] > 0.8
    assert found.loc["wave", "morans_i_measured"] > 0.6 > 0.2 > abs(found.loc["noise", "morans_i_measured"])
    two = metrics.expression(
        pd.concat([truth, truth], ignore_index=True), pd.concat([truth, truth], ignore_index=True),
        coordinates=pd.concat([where, where], ignore_index=True), groups=pd.Series(np.repeat(["a", "b"], 144)),
    )  # fmt: skip
    np.testing.assert_allclose(two["morans_i_measured"], found["morans_i_measured"])


def test_a_gene_is_mapped_over_its_own_units():
    rng = np.random.default_rng(5)
    side = np.arange(12) * 10.0
    where = pd.DataFrame([(x, y) for x in side for y in side])
    truth = pd.DataFrame({"a": np.sin(where[0] / 20), "b": np.cos(where[1] / 30)})
    predicted = truth + rng.normal(0, 0.1, truth.shape)
    alone = metrics.expression(predicted[["a"]], truth, genes=["a"], coordinates=where)
    predicted.loc[:100, "b"] = np.nan
    both = metrics.expression(predicted, truth, coordinates=where)
    pd.testing.assert_frame_equal(both.loc[["a"]], alone)
    rest = metrics.expression(predicted[101:], truth, genes=["b"], coordinates=where)
    pd.testing.assert_frame_equal(both.loc[["b"]], rest)
    # no unit is known for both genes
    predicted.loc[101:, "a"] = np.nan
    apart = metrics.expression(predicted, truth, coordinates=where)
    assert apart[["ssim", "morans_i_predicted", "morans_i_measured"]].notna().all(axis=None)
    expected = morans_i(truth[["a"]].to_numpy(), where.to_numpy())
    np.testing.assert_array_equal(morans_i(truth.assign(b=np.nan).to_numpy(), where.to_numpy()), [expected[0], np.nan])


def test_maps_without_score_say_why():
    side = np.arange(6) * 10.0
    xy = pd.DataFrame([(x, y) for x in side for y in side])
    rng = np.random.default_rng(6)
    truth = pd.DataFrame(rng.random((36, 4)), columns=["ok", "measured", "predicted", "few"])
    predicted = truth + rng.normal(0, 0.1, truth.shape)
    truth["measured"], predicted["predicted"] = 1.0, 2.0
    predicted.loc[5:, "few"] = np.nan
    found = metrics.expression(predicted, truth, coordinates=xy)["map_reason"]
    assert found.tolist() == [
        "", "constant in measured", "constant in predicted", "fewer than 8 units with coordinates",
    ]  # fmt: skip
    heap = metrics.expression(predicted, truth, genes=["ok"], coordinates=xy * 0)
    assert heap["map_reason"].tolist() == ["all units in one place"] and np.isnan(heap["ssim"].iloc[0])
    coarse = metrics.expression(predicted, truth, genes=["ok"], coordinates=xy, raster_um=1000)
    assert coarse["map_reason"].tolist() == ["map too small or too sparse"]
    donor = pd.Series(np.repeat(["a", "b"], 18))
    grouped = metrics.expression(predicted, truth, coordinates=xy, groups=donor)
    assert grouped["map_reason"].tolist() == found.tolist()


def test_columns_and_maps_agree_on_what_is_constant():
    side = np.arange(6) * 10.0
    xy = pd.DataFrame([(x, y) for x in side for y in side])
    rng = np.random.default_rng(0)
    truth = pd.DataFrame(rng.random((36, 3)), columns=["rounding", "large", "small"])
    predicted = truth.assign(rounding=np.where(rng.random(36) < 0.5, 0.1 + 0.2, 0.3), large=1e6 + 0.1)
    predicted["small"] *= 1e-11
    found = metrics.expression(predicted, truth, coordinates=xy)
    for column in ("reason", "map_reason"):
        assert found[column].tolist() == ["constant in predicted", "constant in predicted", ""]
    assert found.loc["small", "pearson"] == pytest.approx(1)
    assert found.loc[["rounding", "large"], ["ssim", "morans_i_predicted"]].isna().all(axis=None)
