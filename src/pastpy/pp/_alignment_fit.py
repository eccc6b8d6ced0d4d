"""How well a set of points sits on the nuclei of an image, over shifts: pure array maths, µm throughout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "ORIENTATIONS",
    "SCALES",
    "Fit",
    "Pose",
    "fit_windows",
    "point_density",
    "point_scene",
    "poses",
    "shift_scores",
]

#: The eight ways to lay a slide down: what must be done to the points to undo each.
ORIENTATIONS = {
    "identity": ((1, 0), (0, 1)),
    "flip_x": ((-1, 0), (0, 1)),
    "flip_y": ((1, 0), (0, -1)),
    "rotate_180": ((-1, 0), (0, -1)),
    "swap_xy": ((0, 1), (1, 0)),
    "rotate_90": ((0, -1), (1, 0)),
    "rotate_270": ((0, 1), (-1, 0)),
    "swap_xy_rotate_180": ((0, -1), (-1, 0)),
}
#: Factors by which points may be off: right, or a level of the pyramid mistaken for another.
SCALES = (1.0, 0.5, 2.0)

#: µm per pixel of the maps that are compared, and the standard deviation of the Gaussian at each point.
MAP_MPP, POINT_UM = 1.0, 2.5
#: A window with fewer points tells nothing.
_LEAST_POINTS = 15
#: Peaks nearer than this to the joint peak agree with it, µm.
_AGREE_UM = 3.0


@dataclass(frozen=True)
class Pose:
    """A way to lay the points on the image: orientation about the image's frame, and a factor from its corner."""

    orientation: str
    scale: float

    def apply(self, xy: np.ndarray, size: tuple[float, float]) -> np.ndarray:
        """Points (n, 2) so laid on an image of ``size`` (width, height).

        Examples
        --------
        >>> Pose("flip_x", 1.0).apply(np.array([[2.0, 3.0]]), (10.0, 8.0)).tolist()
        [[8.0, 3.0]]
        """
        turn = np.array(ORIENTATIONS[self.orientation], dtype=float)
        corner = np.where(turn.sum(axis=1) < 0, size, 0.0)
        return (self.scale * xy) @ turn.T + corner

    def undo(self, xy: np.ndarray, size: tuple[float, float]) -> np.ndarray:
        """Where points (n, 2) of the image came from."""
        turn = np.array(ORIENTATIONS[self.orientation], dtype=float)
        return (xy - np.where(turn.sum(axis=1) < 0, size, 0.0)) @ turn / self.scale


def poses() -> list[Pose]:
    """All orientations and scales, the identity first."""
    return [Pose(name, scale) for scale in SCALES for name in ORIENTATIONS]


@dataclass(frozen=True)
class Fit:
    """Where points fit best on windows of an image.

    Attributes
    ----------
    shift_um
        How far right and down the points lie of the nuclei, µm (x, y); NaN where no window holds enough points.
    score
        Mean correlation (−1 to 1) at that shift.
    z
        How far the score stands out from those of other shifts, in robust standard deviations.
    agreement
        Share of the windows whose own best shift is the same.
    windows
        How many windows held enough points.
    """

    shift_um: tuple[float, float]
    score: float
    z: float
    agreement: float
    windows: int

    @property
    def found(self) -> bool:
        """Whether the shift stands out beyond doubt.

        Of some 10,000 shifts the best of unrelated maps lies 4 to 5 standard deviations up.
        """
        return self.windows >= 2 and self.z >= 7 and self.score >= 0.08 and self.agreement >= 0.3


NO_FIT = Fit((np.nan, np.nan), np.nan, np.nan, np.nan, 0)


def point_density(xy: np.ndarray, corner: np.ndarray, side: int) -> np.ndarray:
    """A Gaussian at every point: float32 (side, side) at :data:`MAP_MPP`, from ``corner`` (x, y) on."""
    from scipy.ndimage import gaussian_filter

    at = np.floor((xy - corner) / MAP_MPP).astype(int)
    at = at[((at >= 0) & (at < side)).all(axis=1)]
    count = np.bincount(at[:, 1] * side + at[:, 0], minlength=side * side).reshape(side, side)
    return gaussian_filter(count.astype(np.float32), POINT_UM / MAP_MPP, mode="constant")


def shift_scores(template: np.ndarray, scene: np.ndarray) -> np.ndarray:
    """Pearson's r of a map with each equally large part of a larger one: float (m − n + 1, m − n + 1).

    References
    ----------
    Lewis, Fast Normalized Cross-Correlation, Vision Interface (1995)
    """
    from scipy import fft

    n = template.size
    unit = template - template.mean()
    norm = float(np.linalg.norm(unit))
    height, width = (s - t + 1 for s, t in zip(scene.shape, template.shape, strict=True))
    if norm == 0:
        return np.zeros((height, width))
    # at shifts that keep the template inside, a cyclic correlation of the scene's own size does not wrap around
    size = [fft.next_fast_len(s, real=True) for s in scene.shape]
    spectrum = fft.rfft2(scene.astype(np.float32), size) * fft.rfft2((unit / norm).astype(np.float32), size).conj()
    product = fft.irfft2(spectrum, size)[:height, :width]
    scene = scene.astype(np.float64)
    total, square = _window_sums(scene, template.shape), _window_sums(scene**2, template.shape)
    spread = square - total**2 / n
    flat = spread <= 1e-9 * max(float(square.max()), 1e-12)
    return np.where(flat, 0.0, product / np.sqrt(np.where(flat, 1.0, spread)))


def point_scene(points: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray | None]:
    """Density of points (n, 2), µm, as a function of corner and side; ``None`` where there are too few."""

    def scene(corner: np.ndarray, side: int) -> np.ndarray | None:
        near = points[((points >= corner) & (points < corner + side * MAP_MPP)).all(axis=1)]
        return point_density(near, corner, side) if len(near) >= _LEAST_POINTS else None

    return scene


def fit_windows(
    templates: Sequence[np.ndarray],
    corners: np.ndarray,
    scene: Callable[[np.ndarray, int], np.ndarray | None],
    *,
    reach_um: float,
) -> Fit:
    """Best shift of points, or of another image, against haematoxylin maps.

    Parameters
    ----------
    templates
        Maps of haematoxylin, (side, side) each at :data:`MAP_MPP`.
    corners
        float (n, 2): their top-left corners, µm.
    scene
        What is shifted: a function of a corner (x, y), µm, and a side in pixels, that gives a map (side, side) from
        there on, or ``None`` where there is nothing to compare; :func:`point_scene` makes one of points.
    reach_um
        Shifts up to this along each axis are tried.
    """
    reach = round(reach_um / MAP_MPP)
    maps = []
    for template, corner in zip(templates, corners, strict=True):
        around = scene(corner - reach * MAP_MPP, template.shape[0] + 2 * reach)
        if around is not None:
            maps.append(shift_scores(template, around))
    if not maps:
        return NO_FIT
    joint = np.mean(maps, axis=0)
    peak = _peak(joint)
    own = np.array([np.unravel_index(np.argmax(m), m.shape) for m in maps])
    agreement = np.mean(np.abs(own - peak).max(axis=1) * MAP_MPP <= _AGREE_UM)
    middle = float(np.median(joint))
    spread = 1.4826 * float(np.median(np.abs(joint - middle)))
    score = float(joint.max())
    x, y = ((peak[i] - reach) * MAP_MPP for i in (1, 0))
    return Fit((float(x), float(y)), score, (score - middle) / max(spread, 1e-9), float(agreement), len(maps))


def _peak(scores: np.ndarray) -> np.ndarray:
    """Row and column of the maximum, refined by a parabola along each axis."""
    at = np.array(np.unravel_index(np.argmax(scores), scores.shape))
    fine = at.astype(float)
    for axis in (0, 1):
        if not 0 < at[axis] < scores.shape[axis] - 1:
            continue
        step = np.eye(2, dtype=int)[axis]
        before, here, after = (scores[tuple(at + k * step)] for k in (-1, 0, 1))
        bend = before - 2 * here + after
        if bend < 0:
            fine[axis] += 0.5 * (before - after) / bend
    return fine


def _window_sums(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    h, w = shape
    return total[h:, w:] - total[:-h, w:] - total[h:, :-w] + total[:-h, :-w]
