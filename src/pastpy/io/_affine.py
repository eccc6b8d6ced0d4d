"""Alignment of two images of one section: an affine from a file or from pairs of points, checked before it is used."""

from __future__ import annotations

import csv
import io
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pastpy._elements import check_mpp
from pastpy.io._st_files import existing, unzipped

__all__ = ["Alignment", "affine_mpp", "fit_affine", "given_matrix", "read_alignment"]

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
#: A number with a comma, of decimals or thousands.
_COMMA = re.compile(r"[-+]?[\d.]*,[\d,.]*(e[-+]?\d+)?", re.I)
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
        File of values that commas, semicolons, tabs or spaces separate, also gzipped: three rows of three numbers
        (``*_he_imagealignment.csv``), or a header with the columns ``he_x``, ``he_y`` and ``dapi_x``, ``dapi_y``
        (pixels) or ``x_um``, ``y_um``, or those of Xenium Explorer's keypoints (``alignmentX``, ``alignmentY``,
        ``fixedX``, ``fixedY``), and a row a pair of points.
    pixel_um
        µm per pixel of the image that is aligned to.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is neither, or its affine cannot be an alignment.
    """
    rows = _rows(path)
    header = rows[0].cells if rows else []
    for columns, unit in _KEYPOINTS.items():
        if set(columns) <= set(header):
            table = _numbers(rows[1:], path.name, header, [header.index(c) for c in columns])
            target = table[:, 2:] / (pixel_um if unit == "µm" else 1.0)
            return fit_affine(table[:, :2], target, pixel_um=pixel_um, name=path.name)
    if [len(row.cells) for row in rows] != [3, 3, 3]:
        raise ValueError(
            f"alignment {path.name} is neither a 3×3 matrix nor a keypoint file: it begins with {header[:8]}; expected "
            f"three rows of three numbers, or a header with the columns of one of {[list(c) for c in _KEYPOINTS]}"
        )
    matrix = _numbers(rows, path.name, ["1", "2", "3"], [0, 1, 2])
    _check_affine(matrix, path.name)
    return Alignment(matrix)


def given_matrix(matrix: object, argument: str) -> Alignment:
    """An affine that the user gives in place of a file.

    Parameters
    ----------
    matrix
        Numbers (3, 3).
    argument
        What messages call it.

    Raises
    ------
    ValueError
        If it is none, or cannot be an alignment.
    """
    try:
        numbers = np.array(matrix, dtype=float)
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.shape != (3, 3) or not np.isfinite(numbers).all():
        got = " ".join(repr(matrix).split())[:120]
        raise ValueError(f"{argument} must be the path of a file or a 3×3 matrix of finite numbers, got {got}")
    _check_affine(numbers, argument)
    return Alignment(numbers)


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
        If there are fewer than three pairs, the points of either image lie on a line, or the affine stretches the
        image; where that is a single pair's doing, the message names it.
    """
    if len(source) < 3:
        raise ValueError(
            f"alignment {name} has {len(source)} pairs of points; an affine needs three, better six or more"
        )
    if _on_a_line(source) or _on_a_line(target):
        raise ValueError(f"alignment {name}: its points lie on a line, which fixes no affine; spread them out")
    matrix = _least_squares(source, target)
    if len(source) == 3:
        _check_affine(matrix, name)
        return Alignment(matrix, 3)
    off = _distances(matrix, source, target) * pixel_um
    residual = _root_mean_square(off)
    if residual <= _DOUBTFUL_UM:
        _check_affine(matrix, name)
        return Alignment(matrix, len(source), residual)
    odd = _odd_one_out(source, target, pixel_um=pixel_um)
    if odd is None:
        worst = f"the worst is pair {int(off.argmax()) + 1}"
    else:
        worst = f"pair {odd[0] + 1} lies {odd[1]:.0f} µm from where the others put it"
        if _stretch(matrix) > _ANISOTROPY:
            raise ValueError(f"alignment {name}: {worst}; correct or delete this pair")
    _check_affine(matrix, name)
    warnings.warn(
        f"alignment {name} fits its {len(source)} pairs of points to {residual:.1f} µm only; {worst}: check it",
        UserWarning,
        stacklevel=4,
    )
    return Alignment(matrix, len(source), residual)


def affine_mpp(matrix: np.ndarray, *, pixel_um: float, name: str) -> float:
    """µm per source pixel that an affine implies, for µm per target pixel."""
    return check_mpp(
        float(np.sqrt(abs(np.linalg.det(matrix[:2, :2])))) * pixel_um, f"µm/px of the H&E by alignment {name}"
    )


def _on_a_line(points: np.ndarray) -> bool:
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(spread[1] <= _COLLINEAR * spread[0])


def _least_squares(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    # Centred, so that the solution does not lose digits to the offset of a slide's far corner.
    centre = source.mean(axis=0)
    solution = np.linalg.lstsq(np.column_stack([source - centre, np.ones(len(source))]), target, rcond=None)[0]
    matrix = np.eye(3)
    matrix[:2, :2] = solution[:2].T
    matrix[:2, 2] = solution[2] - matrix[:2, :2] @ centre
    return matrix


def _distances(matrix: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How far from its target each point is mapped, in pixels of the target."""
    return np.linalg.norm(source @ matrix[:2, :2].T + matrix[:2, 2] - target, axis=1)


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt((values**2).mean()))


def _odd_one_out(source: np.ndarray, target: np.ndarray, *, pixel_um: float) -> tuple[int, float] | None:
    """The pair without which the others fit, and how far in µm it lies from their affine; ``None`` without such."""
    if len(source) < 5:  # the three that are left of four fit without each of them
        return None
    best, fit = None, _DOUBTFUL_UM
    for i in range(len(source)):
        rest = np.arange(len(source)) != i
        if _on_a_line(source[rest]) or _on_a_line(target[rest]):
            continue
        matrix = _least_squares(source[rest], target[rest])
        off = _distances(matrix, source, target) * pixel_um
        residual = _root_mean_square(off[rest])
        if residual <= fit:
            best, fit = (i, float(off[i])), residual
    return best


def _stretch(matrix: np.ndarray) -> float:
    """Ratio of the larger to the smaller of an affine's two scales."""
    large, small = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    return float(large / small) if small > 0 else float("inf")


def _check_affine(matrix: np.ndarray, name: str) -> None:
    if not np.allclose(matrix[2], [0, 0, 1], atol=1e-9):
        raise ValueError(f"alignment {name} is no affine: its last row is {matrix[2].tolist()}, expected 0, 0, 1")
    large, small = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if small <= 1e-9 * max(large, 1e-9):
        raise ValueError(f"alignment {name} cannot be inverted: it maps the image to a line or a point")
    if _stretch(matrix) > _ANISOTROPY:
        raise ValueError(
            f"alignment {name} stretches the image by {large:.4g} one way and {small:.4g} the other; two images of one "
            "section differ by less: check the file"
        )


@dataclass(frozen=True)
class _Row:
    """A row of a file: the number of its line, and its cells."""

    line: int
    cells: list[str]


def _rows(path: Path) -> list[_Row]:
    """Rows of a text file that are not empty, whatever separates their cells; empty cells at their end are left out."""
    raw = existing(path, "alignment").read_bytes()
    try:
        text = unzipped(raw).decode("utf-8-sig")
        first = text.lstrip().partition("\n")[0]
        separator = next((s for s in "\t;, " if s in first.strip()), ",")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        rows = [_Row(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise ValueError(f"alignment {path.name} is not a text file of separated values ({error})") from error
    for row in rows:
        while row.cells and not row.cells[-1]:
            row.cells.pop()
    return [row for row in rows if row.cells]


def _numbers(rows: list[_Row], name: str, header: list[str], columns: list[int]) -> np.ndarray:
    """Numbers of some of the columns, (rows, columns)."""
    for row in rows:
        if len(row.cells) > len(header):
            raise ValueError(f"alignment {name}, row {row.line} has {len(row.cells)} values for {len(header)} columns")
    values = [[_number(row, name, header[column], column) for column in columns] for row in rows]
    return np.array(values, dtype=float).reshape(-1, len(columns))


def _number(row: _Row, name: str, column_name: str, column: int) -> float:
    text = row.cells[column] if column < len(row.cells) else ""
    place = f"alignment {name}, row {row.line}, column {column_name!r}"
    if not text:
        raise ValueError(f"{place}: the value is missing")
    try:
        value = float(text)
    except ValueError as error:
        mend = "; write a decimal point, and no separators of thousands" if _COMMA.fullmatch(text) else ""
        raise ValueError(f"{place}: {text!r} is no number{mend}") from error
    if not np.isfinite(value):
        raise ValueError(f"{place}: {text!r} is not finite")
    return value
