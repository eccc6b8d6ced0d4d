"""Detection F1 and panoptic quality against cases worked out by hand and against brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pastpy.metrics._detection import (
    DetectionScore,
    PanopticScore,
    detection,
    match_points,
    panoptic_quality,
)

POINTS = hnp.arrays(
    float, st.tuples(st.integers(0, 5), st.just(2)), elements=st.integers(0, 24).map(lambda quarter: quarter / 4)
)


def best_by_trying(a: np.ndarray, b: np.ndarray, radius: float) -> tuple[int, float]:
    """Most pairs, then least total distance, over all assignments."""
    if len(a) > len(b):
        a, b = b, a
    distance = np.linalg.norm(a[:, None] - b[None], axis=2).reshape(len(a), len(b))
    best = (0, 0.0)
    for chosen in permutations(range(len(b)), len(a)):
        d = distance[np.arange(len(a)), list(chosen)]
        d = d[d <= radius]
        best = min(best, (-len(d), float(d.sum())))
    return -best[0], best[1]


@given(POINTS, POINTS, st.sampled_from([1, 2, 2.5, 4.3]))
def test_matching_is_the_best_one_to_one(a, b, radius):
    rows, columns = match_points(a, b, max_distance=radius)
    assert len(set(rows.tolist())) == len(rows)
    assert len(set(columns.tolist())) == len(columns)
    total = float(np.linalg.norm(a[rows] - b[columns], axis=1).sum())
    n, least = best_by_trying(a, b, radius)
    assert len(rows) == n
    assert total == pytest.approx(least)


def test_the_nearer_of_two_is_matched():
    assert [p.tolist() for p in match_points([[0, 0], [1, 0]], [[0.6, 0]], max_distance=1)] == [[1], [0]]


def test_counts_by_hand():
    score = detection([[0, 0], [0.5, 0], [50, 50]], [[0, 0], [10, 10]], max_distance=3)
    assert score == DetectionScore(tp=1, fp=2, fn=1)
    assert score.f1 == pytest.approx(2 / 5)
    assert score.precision == pytest.approx(1 / 3)
    assert score.recall == pytest.approx(1 / 2)


def test_a_pair_at_exactly_the_distance_counts():
    assert detection([[0, 0]], [[3, 0]], max_distance=3).tp == 1
    assert detection([[0, 0]], [[3.001, 0]], max_distance=3).tp == 0


def test_coincident_points_are_a_pair():
    assert detection([[1, 1]], [[1, 1]], max_distance=3) == DetectionScore(1, 0, 0)


def test_nothing_on_a_side():
    assert detection([], [[1, 1]], max_distance=3) == DetectionScore(0, 0, 1)
    assert np.isnan(detection([], [], max_distance=3).f1)


@pytest.mark.parametrize(
    ("predicted", "distance", "message"),
    [([[1, 2, 3]], 3, "predicted must be"), ([[np.nan, 1]], 3, "predicted must be"), ([[1, 1]], 0, "max_distance")],
)
def test_bad_points_are_refused(predicted, distance, message):
    with pytest.raises(ValueError, match=message):
        detection(predicted, [[1, 1]], max_distance=distance)


def test_panoptic_by_hand():
    predicted = np.array([[5, 5, 0, 0], [0, 7, 7, 7]])
    true = np.array([[1, 1, 0, 0], [2, 2, 2, 0]])
    # 5 against 1 is exact; 7 against 2 shares two of four pixels, and ½ is not enough
    score = panoptic_quality(predicted, true)
    assert score == PanopticScore(iou=1.0, tp=1, fp=1, fn=1)
    assert score.pq == pytest.approx(0.5)
    assert score.segmentation_quality == 1.0


@given(hnp.arrays(np.int32, (6, 7), elements=st.integers(0, 4)))
def test_panoptic_of_itself_is_one_whatever_the_labels_are_called(labels):
    score = panoptic_quality(np.array([0, 40, 3, 17, 9])[labels], labels)
    n = len(set(np.unique(labels)) - {0})
    assert (score.tp, score.fp, score.fn) == (n, 0, 0)
    assert score.iou == pytest.approx(n)


@given(
    hnp.arrays(np.int32, (6, 7), elements=st.integers(0, 3)), hnp.arrays(np.int32, (6, 7), elements=st.integers(0, 3))
)
def test_panoptic_against_loops(predicted, true):
    ious = [
        np.sum((predicted == p) & (true == t)) / np.sum((predicted == p) | (true == t))
        for p in set(np.unique(predicted)) - {0}
        for t in set(np.unique(true)) - {0}
    ]
    matched = [iou for iou in ious if iou > 0.5]
    score = panoptic_quality(predicted, true)
    assert score.tp == len(matched)
    assert score.iou == pytest.approx(sum(matched))


def test_panoptic_without_objects_is_unknown():
    assert np.isnan(panoptic_quality(np.zeros((2, 2), int), np.zeros((2, 2), int)).pq)


@pytest.mark.parametrize("bad", [np.zeros((2, 2)), np.array([[-1, 0], [0, 0]]), np.zeros((2, 3), int)])
def test_bad_labels_are_refused(bad):
    with pytest.raises(ValueError, match="labels"):
        panoptic_quality(bad, np.zeros((2, 2), int))
