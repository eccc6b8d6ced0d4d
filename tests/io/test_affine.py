"""Alignments: the affine that made the points is found again, and what cannot be an alignment is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastpy.io._affine import affine_mpp, fit_affine, read_alignment

PIXEL_UM = 0.2125
RNG = np.random.default_rng(0)


def affine(scale=1.6, degrees=0.0, flip=False, shift=(0.0, 0.0)):
    angle = np.deg2rad(degrees)
    matrix = np.eye(3)
    matrix[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if flip:
        matrix[:2, :2] @= np.diag([-1.0, 1.0])
    matrix[:2, 2] = shift
    return matrix


def apply(matrix, points):
    return points @ matrix[:2, :2].T + matrix[:2, 2]


affines = st.builds(
    affine,
    scale=st.floats(0.3, 5),
    degrees=st.floats(0, 360),
    flip=st.booleans(),
    shift=st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
)


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@given(affines, st.integers(3, 12))
def test_the_affine_of_the_points_is_found(matrix, n):
    points = np.random.default_rng(n).uniform(0, 40000, (n, 2))
    found = fit_affine(points, apply(matrix, points), pixel_um=PIXEL_UM, name="x")
    np.testing.assert_allclose(apply(found.matrix, points), apply(matrix, points), atol=1e-4)
    assert found.n_points == n
    assert np.isnan(found.residual_um) if n == 3 else found.residual_um < 1e-4


@given(affines)
def test_mpp_is_the_scale(matrix):
    scale = np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    assert affine_mpp(matrix, pixel_um=PIXEL_UM, name="x") == pytest.approx(scale * PIXEL_UM)


def test_residual_is_in_micrometres():
    points = np.array([[0, 0], [1000, 0], [0, 1000], [1000, 1000]], dtype=float)
    # The saddle (+, −, −, +) is what no affine can follow: every point stays 20 px away in x.
    target = points + np.array([[20.0, 0], [-20, 0], [-20, 0], [20, 0]])
    with pytest.warns(UserWarning, match="to 10.0 µm only"):
        found = fit_affine(points, target, pixel_um=0.5001, name="x")
    assert found.residual_um == pytest.approx(20 * 0.5001)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_points(n):
    with pytest.raises(ValueError, match=rf"x has {n} pairs of points"):
        fit_affine(np.zeros((n, 2)), np.zeros((n, 2)), pixel_um=1, name="x")


@pytest.mark.parametrize("which", ["source", "target", "one place"])
def test_collinear_points(which):
    line = np.column_stack([np.arange(6), 2 * np.arange(6) + 5.0]) * 100
    line += RNG.normal(0, 0.1, line.shape)
    plane = RNG.uniform(0, 1000, (6, 2))
    source, target = {"source": (line, plane), "target": (plane, line), "one place": (plane * 0 + 7, plane)}[which]
    with pytest.raises(ValueError, match="lie on a line"):
        fit_affine(source, target, pixel_um=1, name="x")


def test_matrix_file(tmp_path):
    matrix = affine(1.71, 181, True, (30000, 12000.5))
    np.savetxt(tmp_path / "a.csv", matrix, delimiter=",")
    found = read_alignment(tmp_path / "a.csv", pixel_um=PIXEL_UM)
    np.testing.assert_allclose(found.matrix, matrix)
    assert found.n_points == 0 and np.isnan(found.residual_um)


@pytest.mark.parametrize(
    ("header", "factor"),
    [
        ("he_x,he_y,dapi_x,dapi_y", 1.0),
        ("he_x,he_y,x_um,y_um", PIXEL_UM),
        ("note,alignmentX,alignmentY,fixedX,fixedY", 1.0),
        ("\ufeffhe_x,he_y,dapi_x,dapi_y", 1.0),
    ],
)
def test_keypoint_file(tmp_path, header, factor):
    matrix = affine(1.3, 30, False, (100, -50))
    he = RNG.uniform(0, 5000, (5, 2))
    other = apply(matrix, he) * factor
    note = "n," if header.startswith("note") else ""
    rows = [f"{note}{a},{b},{c},{d}" for (a, b), (c, d) in zip(he, other, strict=True)]
    found = read_alignment(write(tmp_path / "k.csv", "\n".join([header, *rows])), pixel_um=PIXEL_UM)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-6)
    assert found.n_points == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "neither a 3×3 matrix nor a keypoint file"),
        ("1,0\n0,1", "neither"),
        ("1,0,0\n0,1,0\n0,x,1", "no number"),
        ("1,0,0\n0,1,0\n0,nan,1", "not finite"),
        ("1,0,0\n0,1,0\n0.001,0,1", "no affine"),
        ("1,1,0\n1,1,0\n0,0,1", "cannot be inverted"),
        ("0,0,0\n0,0,0\n0,0,1", "cannot be inverted"),
        ("2,0,0\n0,1,0\n0,0,1", "stretches"),
        ("1,0.5,0\n0,1,0\n0,0,1", "stretches"),
        ("he_x,he_y,dapi_x\n1,2,3", "neither"),
        ("he_x,he_y,dapi_x,dapi_y\n1,2,3", "missing or no number"),
        ("he_x,he_y,dapi_x,dapi_y\n1,2,3,4\n5,6,7,8", "2 pairs"),
    ],
)
def test_bad_files(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"bad\.csv.*{message}"):
        read_alignment(write(tmp_path / "bad.csv", text), pixel_um=1)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_alignment(tmp_path / "nowhere.csv", pixel_um=1)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81" * 9)
    with pytest.raises(ValueError, match=r"b\.csv"):
        read_alignment(tmp_path / "b.csv", pixel_um=1)
