"""Measures and outlines of objects against scikit-image and against drawn cases."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage as ndi
from skimage.measure import regionprops

from pastpy.pp._objects import measure_objects, outlines


def blobs(seed=0, side=160):
    field = ndi.gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 4)
    return ndi.label(field > 0.02)[0]


def test_measures_agree_with_scikit_image():
    labels = blobs()
    intensity = np.random.default_rng(1).random(labels.shape)
    found = measure_objects(labels, intensity, origin=(30, 7))
    expected = regionprops(labels, intensity)
    assert found.label.tolist() == [r.label for r in expected]
    np.testing.assert_allclose(found.area, [r.area for r in expected])
    np.testing.assert_allclose(found.centroid, [(r.centroid[1] + 7.5, r.centroid[0] + 30.5) for r in expected])
    np.testing.assert_allclose(found.eccentricity, [r.eccentricity for r in expected], atol=1e-6)
    np.testing.assert_allclose(found.mean, [r.intensity_mean for r in expected])


def test_labels_may_have_gaps_and_be_absent():
    assert measure_objects(np.array([[0, 5], [9, 9]]), np.zeros((2, 2))).label.tolist() == [5, 9]
    assert len(measure_objects(np.zeros((3, 3), int), np.zeros((3, 3))).label) == 0
    assert len(outlines(np.zeros((3, 3), int), np.array([], int))) == 0


def test_outline_of_a_disc():
    y, x = np.mgrid[:40, :40] + 0.5
    labels = ((x - 21.0) ** 2 + (y - 17.0) ** 2 <= 100).astype(int) * 3
    (polygon,) = outlines(labels, np.array([3]))
    assert polygon.centroid.distance(shapely.Point(21, 17)) < 0.05
    assert polygon.area == pytest.approx((labels > 0).sum(), rel=0.02)
    assert polygon.symmetric_difference(shapely.Point(21, 17).buffer(10)).area < 0.05 * polygon.area


def test_outline_reaches_the_edge_of_the_image():
    (polygon,) = outlines(np.ones((6, 8), int), np.array([1]))
    assert polygon.bounds == (0, 0, 8, 6)


def test_holes_are_left_out_and_the_largest_piece_counts():
    labels = np.zeros((12, 20), int)
    labels[1:11, 1:11] = 1
    labels[4:7, 4:7] = 0
    labels[2:4, 15:17] = 1
    (polygon,) = outlines(labels, np.array([1]))
    assert not polygon.interiors
    assert polygon.contains(shapely.Point(5.5, 5.5))
    assert not polygon.contains(shapely.Point(16, 3))


def test_pieces_that_touch_by_a_corner_are_not_one():
    labels = np.zeros((8, 8), int)
    labels[1:5, 1:5] = 1
    labels[5:7, 5:7] = 1
    (polygon,) = outlines(labels, np.array([1]))
    assert polygon.bounds == (1, 1, 5, 5)


def test_only_wanted_objects_are_outlined():
    labels = np.zeros((6, 14), int)
    labels[1:5, 1:5], labels[1:5, 5:9], labels[1:5, 9:13] = 1, 2, 3
    first, last = outlines(labels, np.array([1, 3]))
    assert first.bounds == (1, 1, 5, 5)
    assert last.bounds == (9, 1, 13, 5)


@given(hnp.arrays(np.int8, (9, 11), elements=st.integers(0, 3)))
def test_any_labels_give_valid_polygons_inside_their_objects(labels):
    labels = labels.astype(int)
    wanted = np.unique(labels[labels > 0])
    polygons = outlines(labels, wanted)
    assert len(polygons) == len(wanted)
    for label, polygon in zip(wanted, polygons, strict=True):
        assert isinstance(polygon, shapely.Polygon)
        assert polygon.is_valid and polygon.area > 0
        pieces, n = ndi.label(labels == label)
        largest = max(ndi.binary_fill_holes(pieces == i).sum() for i in range(1, n + 1))
        assert polygon.area <= largest
        # smoothing takes most of an object of one pixel, and hardly any of a nucleus
        assert polygon.area >= 0.125 * largest


def test_neighbours_overlap_hardly():
    labels = np.arange(1, 26).reshape(5, 5).repeat(7, 0).repeat(7, 1)
    polygons = outlines(labels, np.arange(1, 26))
    assert shapely.area(polygons).sum() - shapely.union_all(polygons).area < 1e-6
