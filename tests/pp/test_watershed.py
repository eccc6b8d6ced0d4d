"""The array maths of the watershed: known stains, painted nuclei, independence of the cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pastpy.pp._watershed import NucleiParameters, _box_sum, _local_mean_std, haematoxylin, watershed_nuclei

BACKGROUND, NUCLEUS = (226, 172, 205), (90, 60, 140)


def painted(centres, radius_um=3.5, *, side_um=60, mpp=0.5):
    """Round nuclei on pink ground; centres in µm."""
    n = round(side_um / mpp)
    y, x = (np.mgrid[:n, :n] + 0.5) * mpp
    image = np.full((n, n, 3), BACKGROUND, dtype=np.uint8)
    for cx, cy in centres:
        image[(x - cx) ** 2 + (y - cy) ** 2 <= radius_um**2] = NUCLEUS
    return image


def test_pure_stains_are_told_apart():
    stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    rgb = np.rint(256 * 10.0 ** (-0.6 * stains) - 1).astype(np.uint8)
    haem, eosin = haematoxylin(rgb[None])[0]
    assert haem == pytest.approx(0.6, abs=0.01)
    assert eosin == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("mpp", [0.25, 0.5, 0.69])
def test_painted_nuclei_are_found_where_they_are(mpp):
    centres = np.array([[12.0, 14.0], [30.0, 30.0], [45.0, 20.0], [20.0, 48.0]])
    labels = watershed_nuclei(painted(centres, mpp=mpp), mpp)
    found = [(np.argwhere(labels == i).mean(axis=0)[::-1] + 0.5) * mpp for i in np.unique(labels)[1:]]
    assert len(found) == len(centres)
    for centre in centres:
        assert np.linalg.norm(np.array(found) - centre, axis=1).min() < mpp


@pytest.mark.parametrize("radius_um", [2.5, 3.5, 4.5, 6.0, 8.0])
def test_a_flat_round_nucleus_stays_in_one_piece(radius_um):
    labels = watershed_nuclei(painted([(30.0, 30.0)], radius_um), 0.5)
    assert len(np.unique(labels)) == 2
    # at most one pixel too wide
    assert np.sqrt((labels > 0).sum() * 0.25 / np.pi) == pytest.approx(radius_um, abs=0.5)


def test_touching_nuclei_are_parted():
    labels = watershed_nuclei(painted([(26.0, 30.0), (32.5, 30.0)]), 0.5)
    assert len(np.unique(labels)) == 3


def test_area_limits_are_in_um2():
    image = painted([(15.0, 15.0)], 2.0)
    image = np.minimum(image, painted([(40.0, 40.0)], 3.8))
    areas = np.bincount(watershed_nuclei(image, 0.5).ravel())[1:] * 0.25
    small, large = sorted(areas[areas > 0])
    assert small < 30 < large
    least = watershed_nuclei(image, 0.5, NucleiParameters(min_area_um2=30.0))
    most = watershed_nuclei(image, 0.5, NucleiParameters(max_area_um2=30.0))
    assert least[80, 80] and not least[30, 30]
    assert most[30, 30] and not most[80, 80]


def test_half_the_lower_limit_holds_at_the_edge():
    cut = watershed_nuclei(painted([(0.0, 30.0)], 3.5), 0.5, NucleiParameters(min_area_um2=30.0))
    whole = watershed_nuclei(painted([(30.0, 30.0)], 2.4), 0.5, NucleiParameters(min_area_um2=30.0))
    assert 15 < (cut > 0).sum() * 0.25 < 30
    assert not whole.any()


@pytest.mark.parametrize("colour", [(255, 255, 255), (235, 220, 234), (236, 175, 214)])
def test_glass_and_eosin_hold_no_nuclei(colour):
    rng = np.random.default_rng(0)
    image = np.clip(np.array(colour) + rng.normal(0, 4, (120, 120, 3)), 0, 255).astype(np.uint8)
    assert not watershed_nuclei(image, 0.5).any()


@given(st.integers(0, 40), st.integers(0, 40))
@settings(max_examples=8)
def test_a_pixel_far_from_the_cut_does_not_feel_it(top, left):
    rng = np.random.default_rng(3)
    parameters = NucleiParameters(window_um=8.0, max_area_um2=60.0)
    image = np.minimum(painted(rng.uniform(5, 195, (260, 2)), 2.8, side_um=200), rng.integers(150, 255, (400, 400, 3)))
    image = image.astype(np.uint8)
    halo = int(np.ceil(parameters.halo_um / 0.5))
    whole = watershed_nuclei(image, 0.5, parameters) > 0
    part = watershed_nuclei(image[top:, left:], 0.5, parameters) > 0
    inside = part[halo:, halo:]
    assert inside.size > 10_000 and inside.any()
    np.testing.assert_array_equal(inside, whole[top + halo :, left + halo :])


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40))
def test_local_statistics_against_loops(height, width, reach):
    od = np.random.default_rng(height * 31 + width).uniform(0, 2, (height, width))
    mean, std = _local_mean_std(od, reach)
    row, column = height // 2, width // 3
    window = od[max(row - reach, 0) : row + reach + 1, max(column - reach, 0) : column + reach + 1]
    assert mean[row, column] == pytest.approx(window.mean(), abs=1e-3)
    assert std[row, column] == pytest.approx(window.std(), abs=2e-3)


def test_box_sum_by_hand():
    np.testing.assert_array_equal(_box_sum(np.array([[1, 2, 3, 4]]), 1, axis=1), [[3, 6, 9, 7]])


@pytest.mark.parametrize(
    "wrong", [{"smooth_um": 0.0}, {"window_um": -1.0}, {"floor_od": np.nan}, {"min_area_um2": 600.0}]
)
def test_senseless_parameters_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        NucleiParameters(**wrong)
