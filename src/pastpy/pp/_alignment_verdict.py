"""From evidence to a verdict on the alignment."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pastpy.pp._alignment_evidence import Evidence
from pastpy.pp._alignment_fit import Fit, Pose, fit_windows, point_scene, poses
from pastpy.pp._alignment_shift import spot_shift
from pastpy.pp._alignment_size import BLOB_LIMITS, PROFILE_LIMITS, blob_width, profile_width

__all__ = ["Verdict", "is_unmatched", "judge"]

IDENTITY = Pose("identity", 1.0)
#: Shifts of cells up to this are tried, µm.
_REACH_UM = 48.0
#: Windows on which poses other than the identity are tried first.
_SCREENED = 6
#: Fewer units say nothing.
_FEWEST = {"cell": 50, "spot": 20}
#: Spots of arrays lie 1.8 (Visium) to 2 (Spatial Transcriptomics) of their widths apart; nearer than the first they
#: would touch, farther than the second other spots would fit between them.
_APART = (1.2, 3.0)
#: A width that differs from what was read by this factor is of another µm/px.
_ANOTHER = 1.3
#: The profile of haematoxylin under cells is this many times wider than the image's blobs only where cells scatter
#: around nuclei; µm/px changes both alike. The ratio was 0.6 to 1.0 on her2st, CMU-1, HGSC and simulated tissue at once
#: to twice their µm/px, 1.4 for simulated cells turned by 1°.
_SCATTERED = 1.2
#: The same where outlines are of whole cells, whose centres lie some µm off: 1.5 at 3.5 µm along either axis.
_SCATTERED_CELLS = 1.7
#: Outlines so many times as wide as the image's nuclei are those of whole cells, whatever the µm/px.
_WHOLE_CELL = 1.6
#: Units on tissue where a pair fits, and a difference between two orientations that counts.
_MOST, _CLEAR = 0.9, 0.1
#: A pair with a smaller share on the image or the tissue is suspicious whatever else.
_LEAST_ON_IMAGE, _LEAST_ON_TISSUE = 0.9, 0.5


@dataclass(frozen=True)
class Verdict:
    """What :func:`pastpy.pp.check_alignment` reports beside counts and shares; the columns are explained there."""

    orientation: str | None = None
    scale: float = float("nan")
    shift_x_um: float = float("nan")
    shift_y_um: float = float("nan")
    shift_error_um: float = float("nan")
    score: float = float("nan")
    z: float = float("nan")
    resolution_um: float = float("nan")
    nuclear_width_um: float = float("nan")
    verdict: str = "unknown"
    reason: str = ""


def judge(evidence: Evidence, *, tolerance_um: float, seed: int = 0) -> Verdict:
    """The verdict: position first, then µm/px, which can only make it worse."""
    if len(evidence.points) < _FEWEST[evidence.unit]:
        return Verdict(reason=f"only {len(evidence.points)} {evidence.unit}s with a place, too few to tell")
    if not evidence.tissue.any():
        return Verdict(reason="no tissue was found on the image")
    fine = evidence.unit == "cell" or evidence.dapi is not None
    pose, fit = _best_pose(evidence) if fine else (IDENTITY, None)
    what = "cells lie" if evidence.dapi is None else "DAPI lies"
    verdict = _of_fit(pose, fit, tolerance_um, what) if fit is not None else _of_tissue(evidence, seed)
    if evidence.unit == "spot" and verdict.verdict != "suspicious":
        verdict = _with_shift(verdict, evidence, tolerance_um, seed)
    if evidence.on_image < _LEAST_ON_IMAGE and verdict.verdict != "suspicious":
        verdict = replace(
            verdict, verdict="suspicious", reason=f"{1 - evidence.on_image:.0%} of the units lie beyond the image"
        )
    if evidence.unit == "spot":
        verdict = _with_array(verdict, evidence)
    return _with_size(verdict, evidence, _centres(evidence, pose, fit))


def is_unmatched(verdict: Verdict, evidence: Evidence) -> bool:
    """Whether there are cells enough and tissue, and the cells match its nuclei nowhere."""
    enough = len(evidence.points) >= _FEWEST[evidence.unit] and bool(evidence.tissue.any())
    return evidence.unit == "cell" and enough and verdict.verdict == "unknown" and verdict.orientation is None


def _best_pose(evidence: Evidence) -> tuple[Pose, Fit | None]:
    """The pose whose fit stands out, with the fit; the others are tried only where the points as they are do not."""
    fit = _fit(evidence, IDENTITY)
    if fit.found:
        return IDENTITY, fit
    # few windows show which poses are worth all of them
    promising = [pose for pose in poses()[1:] if _fit(evidence, pose, _SCREENED).found]
    fits = [(pose, _fit(evidence, pose)) for pose in promising]
    found = [(pose, fit) for pose, fit in fits if fit.found]
    return max(found, key=lambda one: one[1].z) if found else (IDENTITY, None)


def _fit(evidence: Evidence, pose: Pose, windows: int | None = None) -> Fit:
    """How the points fit in a pose, on every so-manieth window if only some are wanted."""
    every = slice(None, None, max(1, len(evidence.maps) // windows) if windows else 1)
    if evidence.dapi is not None:
        scene = evidence.dapi(pose)
    else:
        scene = point_scene(pose.apply(evidence.points, evidence.size_um))
    return fit_windows(evidence.maps[every], evidence.corners_um[every], scene, reach_um=_REACH_UM)


def _of_fit(pose: Pose, fit: Fit, tolerance_um: float, what: str) -> Verdict:
    x, y = fit.shift_um
    off = float(np.hypot(x, y))
    verdict = Verdict(
        orientation=pose.orientation, scale=pose.scale, shift_x_um=x, shift_y_um=y, score=fit.score, z=fit.z,
        resolution_um=1.0,
    )  # fmt: skip
    if pose != IDENTITY:
        done = [] if pose.orientation == "identity" else [pose.orientation]
        done += [] if pose.scale == 1 else [f"scaling by {pose.scale:g}"]
        return replace(
            verdict,
            verdict="suspicious",
            reason=f"{what} on the nuclei only after {' and '.join(done)} of the positions",
        )
    if off > tolerance_um:
        return replace(verdict, verdict="suspicious", reason=f"{what} {off:.1f} µm off the nuclei ({_direction(x, y)})")
    return replace(verdict, verdict="ok", reason=f"{what} on the nuclei, {off:.1f} µm off")


def _direction(x: float, y: float) -> str:
    """A shift in words, of an image whose y axis points down."""
    return f"{abs(x):.1f} to the {'right' if x > 0 else 'left'}, {abs(y):.1f} {'down' if y > 0 else 'up'}"


def _of_tissue(evidence: Evidence, seed: int) -> Verdict:
    """Verdict by where the tissue is, for spots, and for cells that match no nuclei."""
    shares = {pose: evidence.on_tissue(pose.apply(evidence.points, evidence.size_um)) for pose in poses()}
    here = shares.pop(IDENTITY)
    other = max(shares, key=lambda pose: shares[pose])
    there = shares[other]
    verdict = Verdict(score=_counts_follow(evidence, IDENTITY), resolution_um=_resolution(evidence, here))
    if there >= _MOST and there - here >= _CLEAR:
        return replace(
            verdict, orientation=other.orientation, scale=other.scale, verdict="suspicious",
            reason=f"{here:.0%} of the {evidence.unit}s lie on tissue, but {there:.0%} after {other.orientation}"
            f"{'' if other.scale == 1 else f' and scaling by {other.scale:g}'} of their positions",
        )  # fmt: skip
    if here < _LEAST_ON_TISSUE:
        return replace(verdict, verdict="suspicious", reason=f"only {here:.0%} of the {evidence.unit}s lie on tissue")
    if evidence.unit == "cell":
        return replace(
            verdict, resolution_um=float("nan"),
            reason=f"{_unmatched(evidence)} of another section, or off by more than {_REACH_UM:g} µm",
        )  # fmt: skip
    if here >= _MOST and here - there >= _CLEAR:
        return replace(
            verdict, orientation="identity", scale=1.0, verdict="ok",
            reason=f"{here:.0%} of the spots lie on tissue, at most {there:.0%} in any other orientation",
        )  # fmt: skip
    rivals = [pose for pose, share in shares.items() if share > here - _CLEAR]
    return _of_counts(evidence, verdict, rivals, seed)


def _unmatched(evidence: Evidence) -> str:
    """The beginning of the reason where neither cells nor DAPI, whichever is compared, fit the image's nuclei."""
    if evidence.dapi is not None:
        return "DAPI matches the H&E's nuclei in no orientation; it may not overlap the H&E, be"
    return "cells match the image's nuclei in no orientation; they may be"


def _of_counts(evidence: Evidence, verdict: Verdict, rivals: list[Pose], seed: int) -> Verdict:
    """Where tissue fits several poses as well: the one in which counts follow haematoxylin, if that is beyond doubt."""
    unsure = replace(
        verdict, reason="the tissue would hold the spots in other orientations too, and their counts do not tell"
    )
    if evidence.counts is None:
        return unsure
    rng = np.random.default_rng(seed)
    n = len(evidence.points)
    draws = [rng.choice(n, n) for _ in range(400)]
    here = np.array([_counts_follow(evidence, IDENTITY, d) for d in draws])
    wins = {rival: np.mean(here > np.array([_counts_follow(evidence, rival, d) for d in draws])) for rival in rivals}
    # Bonferroni over the 23 rivals at 5 %
    sure = 0.05 / 23
    if all(w >= 1 - sure for w in wins.values()):
        reason = "counts follow haematoxylin better than in any other orientation that keeps the spots on tissue"
        return replace(verdict, orientation="identity", scale=1.0, verdict="ok", reason=reason)
    worst = min(wins, key=lambda rival: wins[rival])
    if wins[worst] <= sure:
        reason = f"counts follow haematoxylin better after {worst.orientation} of the spots' positions"
        return replace(verdict, orientation=worst.orientation, scale=worst.scale, verdict="suspicious", reason=reason)
    return unsure


def _counts_follow(evidence: Evidence, pose: Pose, rows: np.ndarray | None = None) -> float:
    """Correlation of log counts with haematoxylin around the units, NaN where either does not vary."""
    if evidence.counts is None:
        return float("nan")
    od = evidence.sample(evidence.haematoxylin_around, pose.apply(evidence.points, evidence.size_um))
    counts = evidence.counts
    if rows is not None:
        od, counts = od[rows], counts[rows]
    if od.std() == 0 or counts.std() == 0:
        return float("nan")
    return float(np.corrcoef(od, counts)[0, 1])


def _resolution(evidence: Evidence, here: float) -> float:
    """The least shift, µm, that takes a clear part of the units off the tissue whatever its direction; NaN if none."""
    angle = np.arange(8) * np.pi / 4
    for distance in np.geomspace(25, 3200, 29):
        shares = [evidence.on_tissue(evidence.points + distance * np.array([np.cos(a), np.sin(a)])) for a in angle]
        if max(shares) <= here - _CLEAR:
            return float(distance)
    return float("nan")


def _with_shift(verdict: Verdict, evidence: Evidence, tolerance_um: float, seed: int) -> Verdict:
    """The verdict on spots with the shift that their expression tells, and the least that would be seen."""
    found = None
    if evidence.profiles is not None and evidence.dapi is None:
        found = spot_shift(
            evidence.overview, evidence.points, evidence.radius_um, evidence.profiles, tolerance_um=tolerance_um,
            seed=seed,
        )  # fmt: skip
    if found is not None:
        x, y = found.shift_um
        resolution = float(np.nanmin([found.resolution_um, verdict.resolution_um]))
        verdict = replace(
            verdict, shift_x_um=x, shift_y_um=y, shift_error_um=found.error_um, resolution_um=resolution
        )  # fmt: skip
        if found.certain:
            reason = (
                f"spots lie {np.hypot(x, y):.0f} ± {found.error_um:.0f} µm off the place where the image predicts "
                f"their expression best ({x:+.0f} right, {y:+.0f} down)"
            )
            return replace(verdict, verdict="suspicious", reason=reason)
    if verdict.verdict == "ok" and np.isfinite(verdict.resolution_um):
        reason = f"{verdict.reason}; shifts below {verdict.resolution_um:.0f} µm cannot be seen"
        return replace(verdict, reason=reason)
    return verdict


def _with_array(verdict: Verdict, evidence: Evidence) -> Verdict:
    """The verdict by what is known of the array that spots were read from, which depends on µm/px alone."""
    width, read = 2 * evidence.radius_um, evidence.read_width_um
    if not np.isfinite(read):
        return verdict
    if not 1 / _ANOTHER < width / read < _ANOTHER:
        off = f"µm/px, or the scale of their positions, is {width / read:.2g} times what it was"
        return _worse(verdict, f"spots are {width:.0f} µm wide, but were read as {read:.0f}: {off}")
    apart = evidence.pitch_um / width
    if apart < _APART[0]:
        pitch = f"spots of {width:.0f} µm lie {evidence.pitch_um:.0f} µm apart"
        return _worse(verdict, f"{pitch}, and would touch: µm/px, or their width, may be twofold off")
    if apart > _APART[1]:
        far = f"spots lie {apart:.1f} widths apart, twice what arrays have: spots are missing, or µm/px is too large"
        return replace(verdict, reason=f"{verdict.reason}; {far}")
    return verdict


def _worse(verdict: Verdict, reason: str) -> Verdict:
    """A suspicious verdict: for this reason, after what was suspicious already."""
    if verdict.verdict == "suspicious":
        return replace(verdict, reason=f"{verdict.reason}; {reason}")
    return replace(verdict, verdict="suspicious", reason=reason)


def _centres(evidence: Evidence, pose: Pose, fit: Fit | None) -> list[np.ndarray] | None:
    """Where the cells' nuclei are in each window, pixels, once cells are known to lie on nuclei."""
    if fit is None or evidence.unit != "cell" or evidence.dapi is not None:
        return None
    points = pose.apply(evidence.points, evidence.size_um) - fit.shift_um
    return [(points - corner) / evidence.window_mpp for corner in evidence.corners_um]


def _with_size(verdict: Verdict, evidence: Evidence, centres: list[np.ndarray] | None) -> Verdict:
    """The verdict with the width of nuclei, and worse if that is implausible.

    Blobs need no cells, and err with none that were found at a wrong µm/px; where cells lie on nuclei the profile
    around these is the sharper measure, as other dark structures do not enter. Either may raise the alarm.
    """
    blobs = blob_width(evidence.window_maps, evidence.window_mpp)
    verdict = replace(verdict, nuclear_width_um=blobs)
    measured = [(blobs, BLOB_LIMITS, "nuclei")]
    if centres is not None:
        profile = profile_width(evidence.window_maps, evidence.window_mpp, centres)
        # the centre of a whole cell is not that of its nucleus: the profile holds their distances, and is wider
        whole_cells = 2 * evidence.radius_um > _WHOLE_CELL * blobs
        scattered = (_SCATTERED_CELLS if whole_cells else _SCATTERED) * blobs
        if BLOB_LIMITS.least <= blobs <= BLOB_LIMITS.most and profile > max(PROFILE_LIMITS.most, scattered):
            reason = (
                f"haematoxylin under the cells is {profile:.1f} µm wide, and the image's nuclei are {blobs:.1f}: cells "
                "scatter around their nuclei, as after a turn by a degree, or a scale that is a per cent or two off"
            )
            return _worse(verdict, reason)
        limits = replace(PROFILE_LIMITS, most=np.inf) if whole_cells else PROFILE_LIMITS
        measured.append((profile, limits, "the nuclei under the cells"))
    measured = [one for one in measured if np.isfinite(one[0])]
    for width, limits, what in measured:
        if limits.least <= width <= limits.most:
            continue
        how = "large" if width > limits.most else "small"
        reason = (
            f"{what} would be {width:.1f} µm wide ({limits.least:g} to {limits.most:g} is usual): µm/px may be too "
            f"{how}, about twofold"
        )
        return _worse(verdict, reason)
    # a small width is of small nuclei as long as the other measure is where it should be
    if measured and verdict.verdict == "ok" and all(width < limits.sure for width, limits, _ in measured):
        width, _, what = measured[0]
        reason = f"{verdict.reason}; but {what} are only {width:.1f} µm wide: µm/px may be too small, twofold"
        return replace(verdict, verdict="unknown", reason=reason)
    return verdict
