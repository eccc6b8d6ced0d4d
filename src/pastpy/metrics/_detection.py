"""Agreement of detected and true objects: detection F1 and panoptic quality."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["DetectionScore", "PanopticScore", "detection", "match_points", "panoptic_quality"]


@dataclass(frozen=True)
class DetectionScore:
    """Counts of a detection; scores of several images are pooled by adding them.

    Attributes
    ----------
    tp, fp, fn
        Detections that match a true object, detections that match none, true objects without a detection.

    Examples
    --------
    >>> import pastpy as past
    >>> (past.metrics.DetectionScore(2, 1, 0) + past.metrics.DetectionScore(1, 0, 1)).f1
    0.75
    """

    tp: int
    fp: int
    fn: int

    def __add__(self, other: DetectionScore) -> DetectionScore:
        return DetectionScore(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """Part of the detections that match; NaN without detections."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else float("nan")

    @property
    def recall(self) -> float:
        """Part of the true objects that are matched; NaN without true objects."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else float("nan")

    @property
    def f1(self) -> float:
        """2·tp / (2·tp + fp + fn); NaN where there is nothing on either side."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else float("nan")


@dataclass(frozen=True)
class PanopticScore:
    """Sum of overlaps and counts of a segmentation; scores of several images are pooled by adding them.

    Attributes
    ----------
    iou
        Sum of the intersection over union of the matched pairs.
    tp, fp, fn
        Matched pairs, predicted objects without match, true objects without match.

    Examples
    --------
    >>> import pastpy as past
    >>> past.metrics.PanopticScore(iou=1.5, tp=2, fp=1, fn=1).pq
    0.5
    """

    iou: float
    tp: int
    fp: int
    fn: int

    def __add__(self, other: PanopticScore) -> PanopticScore:
        return PanopticScore(self.iou + other.iou, self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def pq(self) -> float:
        """Panoptic quality, iou / (tp + fp/2 + fn/2); NaN where there is nothing on either side."""
        total = self.tp + (self.fp + self.fn) / 2
        return self.iou / total if total else float("nan")

    @property
    def segmentation_quality(self) -> float:
        """Mean overlap of the matched pairs; NaN without any."""
        return self.iou / self.tp if self.tp else float("nan")


def match_points(predicted: np.ndarray, true: np.ndarray, *, max_distance: float) -> tuple[np.ndarray, np.ndarray]:
    """Pair points one to one: as many pairs as possible, among these the ones with the least total distance.

    Parameters
    ----------
    predicted
        float (n, 2).
    true
        float (m, 2), same unit.
    max_distance
        Pairs further apart are none.

    Returns
    -------
    predicted_rows, true_rows
        int (k,), positions of the pairs.

    Raises
    ------
    ValueError
        If an array is not (n, 2) or has a value that is not finite, or ``max_distance`` is not positive.

    Examples
    --------
    >>> match_points([[0, 0], [1, 0]], [[0.6, 0], [9, 9]], max_distance=1)
    (array([1]), array([0]))
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    predicted, true = _points(predicted, "predicted"), _points(true, "true")
    if not (np.isfinite(max_distance) and max_distance > 0):
        raise ValueError(f"max_distance must be a positive number, got {max_distance!r}")
    n, m = len(predicted), len(true)
    if not n or not m:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    near = KDTree(predicted).sparse_distance_matrix(KDTree(true), max_distance, output_type="coo_matrix")
    rows, columns, distance = near.row.astype(np.int64), near.col.astype(np.int64), near.data
    # Only points that are linked by some pair compete, so each group of them is solved on its own.
    group = connected_components(coo_array((np.ones(len(rows)), (rows, n + columns)), shape=(n + m, n + m)))[1][rows]
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) > 0])
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for members in np.split(order, starts[1:]) if len(order) else []:
        i, row = np.unique(rows[members], return_inverse=True)
        j, column = np.unique(columns[members], return_inverse=True)
        # A forbidden pair costs more than any set of allowed ones.
        forbidden = (min(len(i), len(j)) + 1) * float(max_distance)
        cost = np.full((len(i), len(j)), forbidden)
        cost[row, column] = distance[members]
        a, b = linear_sum_assignment(cost)
        allowed = cost[a, b] < forbidden
        pairs.append((i[a[allowed]], j[b[allowed]]))
    if not pairs:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate([p for p, _ in pairs]), np.concatenate([t for _, t in pairs])


def detection(predicted: np.ndarray, true: np.ndarray, *, max_distance: float) -> DetectionScore:
    """Count detections by the distance of centroids.

    Parameters
    ----------
    predicted
        float (n, 2), centroids, usually in µm.
    true
        float (m, 2), centroids in the same unit.
    max_distance
        A pair counts up to this distance. Every object is in at most one pair.

    Raises
    ------
    ValueError
        If an array is not (n, 2) or has a value that is not finite, or ``max_distance`` is not positive.

    Examples
    --------
    >>> import pastpy as past
    >>> past.metrics.detection([[0, 0], [5, 5]], [[1, 0]], max_distance=3)
    DetectionScore(tp=1, fp=1, fn=0)
    """
    tp = len(match_points(predicted, true, max_distance=max_distance)[0])
    return DetectionScore(tp, len(predicted) - tp, len(true) - tp)


def panoptic_quality(predicted: np.ndarray, true: np.ndarray) -> PanopticScore:
    """Score a label image by the overlap of objects.

    A pair matches if its intersection over union exceeds ½, which leaves at most one partner for each object.

    Parameters
    ----------
    predicted
        Non-negative int (h, w), 0 is background.
    true
        Non-negative int (h, w).

    Raises
    ------
    ValueError
        If the shapes differ or the arrays are not non-negative integers.

    References
    ----------
    Kirillov et al., Panoptic segmentation, CVPR (2019), https://doi.org/10.1109/CVPR.2019.00963

    Examples
    --------
    >>> import numpy as np
    >>> import pastpy as past
    >>> past.metrics.panoptic_quality(np.array([[1, 1, 0, 2]]), np.array([[1, 1, 1, 0]]))
    PanopticScore(iou=0.6666666666666666, tp=1, fp=1, fn=0)
    """
    predicted, true = np.asarray(predicted), np.asarray(true)
    if predicted.shape != true.shape:
        raise ValueError(
            f"predicted labels have shape {predicted.shape}, true labels {true.shape}; both must be one grid"
        )
    for name, labels in (("predicted", predicted), ("true", true)):
        if not np.issubdtype(labels.dtype, np.integer) or labels.min(initial=0) < 0:
            raise ValueError(f"{name} labels must be non-negative integers, got {labels.dtype}")
    p_ids, p = np.unique(predicted, return_inverse=True)
    t_ids, t = np.unique(true, return_inverse=True)
    p_area, t_area = np.bincount(p.ravel()), np.bincount(t.ravel())
    both, overlap = np.unique(p.ravel().astype(np.int64) * len(t_ids) + t.ravel(), return_counts=True)
    p, t = both // len(t_ids), both % len(t_ids)
    real = (p_ids[p] > 0) & (t_ids[t] > 0)
    p, t, overlap = p[real], t[real], overlap[real]
    iou = overlap / (p_area[p] + t_area[t] - overlap)
    matched = iou > 0.5
    tp = int(matched.sum())
    return PanopticScore(float(iou[matched].sum()), tp, int((p_ids > 0).sum()) - tp, int((t_ids > 0).sum()) - tp)


def _points(values: np.ndarray, name: str) -> np.ndarray:
    points = np.asarray(values, dtype=float)
    if points.size == 0:
        return np.empty((0, 2))
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"{name} must be finite coordinates of shape (n, 2), got shape {points.shape}")
    return points
