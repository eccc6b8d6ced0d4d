"""Alignment of two images of one section: an affine from a file or from pairs of points, checked before it is used."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pastpy.io._resolution import check_plausible

__all__ = ["Alignment", "affine_mpp", "fit_affine", "read_alignment"]

#: Columns of a keypoint file: H&E x, y in pixels, then the other image's x, y. Xenium Explorer names the image that
#: stays fixed, the morphology image, and the one that is aligned to it.
_KEYPOINTS = {
    ("he_x", "he_y", "dapi_x", "dapi_y"): "px",
    ("alignmentX", "alignmentY", "fixedX", "fixedY"): "px",
    ("he_x", "he_y", "x_um", "y_um"): "µm",
}

#: Points closer to a line than this share of their spread fix no affine that can be trusted away from it.
_COLLINEAR = 0.02
#: Ratio of the two scales of an affine that stretching of tissue and a hand's error explain.
_ANISOTROPY = 1.05
#: Residual in µm from which a fit is doubtful: about a cell.
_DOUBTFUL_UM = 10.0


@dataclass(frozen=True)
class Alignment:
    """An affine from H&E pixels to another image's pixels.

    Attributes
    ----------
    matrix
        float64 (3, 3), acts on (x, y, 1).
    n_points
        Number of pairs of points it was fitted to; 0 for a matrix from a file.
    residual_um
        Root mean square distance of the mapped points in µm; NaN where nothing was fitted, or three pairs only, which
        any affine meets exactly.
    """

    matrix: np.ndarray
    n_points: int = 0
    residual_um: float = float("nan")


def read_alignment(path: Path, *, pixel_um: float) -> Alignment:
    """Read 10x's 3×3 matrix, or a keypoint file.

    Parameters
    ----------
    path
        Comma-separated file: three rows of three numbers (``*_he_imagealignment.csv``), or a header with the columns
        ``he_x``, ``he_y`` and ``dapi_x``, ``dapi_y`` (pixels) or ``x_um``, ``y_um``, or those of Xenium Explorer's
        keypoints (``alignmentX``, ``alignmentY``, ``fixedX``, ``fixedY``), and a row a pair of points.
    pixel_um
        µm per pixel of the image that is aligned to.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is neither, or its affine cannot be an alignment.
    """
    if not path.is_file():
        raise FileNotFoundError(f"alignment {str(path)!r} is not a file; check the path")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"alignment {path.name} is not a comma-separated text file ({error})") from error
    for columns, unit in _KEYPOINTS.items():
        if rows and set(columns) <= set(rows[0]):
            table = _numbers(rows[1:], path, [rows[0].index(c) for c in columns])
            target = table[:, 2:] / (pixel_um if unit == "µm" else 1.0)
            return fit_affine(table[:, :2], target, pixel_um=pixel_um, name=path.name)
    if [len(row) for row in rows] != [3, 3, 3]:
        raise ValueError(
            f"alignment {path.name} is neither a 3×3 matrix nor a keypoint file; expected three rows of three numbers, "
            f"or a header with one of {[list(c) for c in _KEYPOINTS]}"
        )
    matrix = _numbers(rows, path, [0, 1, 2])
    _check_affine(matrix, path.name)
    return Alignment(matrix)


def fit_affine(source: np.ndarray, target: np.ndarray, *, pixel_um: float, name: str) -> Alignment:
    """Least-squares affine from pairs of points.

    Parameters
    ----------
    source, target
        float (n, 2), x and y in pixels of either image; the affine maps ``source`` to ``target``.
    pixel_um
        µm per pixel of the target.
    name
        What messages call the file.

    Raises
    ------
    ValueError
        If there are fewer than three pairs, or the points of either image lie on a line.
    """
    if len(source) < 3:
        raise ValueError(
            f"alignment {name} has {len(source)} pairs of points; an affine needs three, better six or more"
        )
    for points in (source, target):
        spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if spread[1] <= _COLLINEAR * spread[0]:
            raise ValueError(f"alignment {name}: its points lie on a line, which fixes no affine; spread them out")
    # Centred, so that the solution does not lose digits to the offset of a slide's far corner.
    centre = source.mean(axis=0)
    solution = np.linalg.lstsq(np.column_stack([source - centre, np.ones(len(source))]), target, rcond=None)[0]
    matrix = np.eye(3)
    matrix[:2, :2] = solution[:2].T
    matrix[:2, 2] = solution[2] - matrix[:2, :2] @ centre
    _check_affine(matrix, name)
    if len(source) == 3:
        return Alignment(matrix, 3)
    off = source @ matrix[:2, :2].T + matrix[:2, 2] - target
    residual = float(np.sqrt((off**2).sum(axis=1).mean()) * pixel_um)
    if residual > _DOUBTFUL_UM:
        worst = int((off**2).sum(axis=1).argmax())
        warnings.warn(
            f"alignment {name} fits its {len(source)} pairs of points to {residual:.1f} µm only; the worst is pair "
            f"{worst + 1}: check it",
            UserWarning,
            stacklevel=4,
        )
    return Alignment(matrix, len(source), residual)


def affine_mpp(matrix: np.ndarray, *, pixel_um: float, name: str) -> float:
    """µm per source pixel that an affine implies, for µm per target pixel."""
    return check_plausible(
        float(np.sqrt(abs(np.linalg.det(matrix[:2, :2])))) * pixel_um, f"µm/px of the H&E by alignment {name}"
    )


def _check_affine(matrix: np.ndarray, name: str) -> None:
    if not np.allclose(matrix[2], [0, 0, 1], atol=1e-9):
        raise ValueError(f"alignment {name} is no affine: its last row is {matrix[2].tolist()}, expected 0, 0, 1")
    large, small = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if small <= 1e-9 * max(large, 1e-9):
        raise ValueError(f"alignment {name} cannot be inverted: it maps the image to a line or a point")
    if large / small > _ANISOTROPY:
        raise ValueError(
            f"alignment {name} stretches the image by {large:.4g} one way and {small:.4g} the other; two images of one "
            "section differ by less: check the file"
        )


def _numbers(rows: list[list[str]], path: Path, columns: list[int]) -> np.ndarray:
    try:
        values = np.array([[float(row[c]) for c in columns] for row in rows], dtype=float).reshape(-1, len(columns))
    except (ValueError, IndexError) as error:
        raise ValueError(f"alignment {path.name} has a value that is missing or no number ({error})") from error
    if not np.isfinite(values).all():
        raise ValueError(f"alignment {path.name} has a value that is not finite")
    return values
