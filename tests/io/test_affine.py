"""Alignments: the affine that made the points is found again, and what cannot be an alignment is refused."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pastpy.io._affine import affine_mpp, fit_affine, given_matrix, read_alignment

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
        ("1,0,0\n0,1,0\n0,x,1", r"row 3, column '2': 'x' is no number"),
        ("1,5;0;0\n0;1,5;0\n0;0;1", r"row 1, column '1': '1,5' is no number; write a decimal point"),
        ("he_x,he_y,dapi_x,dapi_y\n1,2,3,4\n\n5,6,abc,8", r"row 4, column 'dapi_x': 'abc' is no number$"),
        ("he_x,he_y,dapi_x,dapi_y\n1,2,,4", r"row 2, column 'dapi_x': the value is missing"),
        ("he_x,he_y,dapi_x,dapi_y\n1,100,5,200,3", "row 2 has 5 values for 4 columns"),
        ("1,0,0\n0,1,0\n0,nan,1", "not finite"),
        ("1,0,0\n0,1,0\n0.001,0,1", "no affine"),
        ("1,1,0\n1,1,0\n0,0,1", "cannot be inverted"),
        ("0,0,0\n0,0,0\n0,0,1", "cannot be inverted"),
        ("2,0,0\n0,1,0\n0,0,1", "stretches"),
        ("1,0.5,0\n0,1,0\n0,0,1", "stretches"),
        ("he_x,he_y,dapi_x\n1,2,3", r"neither.*it begins with \['he_x', 'he_y', 'dapi_x'\]"),
        ("he_x,he_y,dapi_x,dapi_y\n1,2,3", r"row 2, column 'dapi_y': the value is missing"),
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


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", ", "])
@pytest.mark.parametrize("packed", [False, True])
def test_files_may_be_separated_otherwise_and_packed(tmp_path, separator, packed):
    matrix = affine(1.5, 20, False, (30, -7.25))
    he = RNG.uniform(0, 5000, (5, 2))
    rows = np.hstack([he, apply(matrix, he)]).tolist()
    texts = {
        "k.csv": [["he_x", "he_y", "dapi_x", "dapi_y"], *rows],
        "m.csv": matrix.tolist(),
    }
    for name, lines in texts.items():
        text = "\n".join(separator.join(map(str, line)) for line in lines).encode()
        (tmp_path / name).write_bytes(gzip.compress(text) if packed else text)
        np.testing.assert_allclose(read_alignment(tmp_path / name, pixel_um=1).matrix, matrix, atol=1e-6)


def test_gzip_that_was_cut_short_is_named(tmp_path):
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"1,0,0\n0,1,0\n0,0,1")[:-12])
    with pytest.raises(ValueError, match=r"m\.csv\.gz"):
        read_alignment(tmp_path / "m.csv.gz", pixel_um=1)


POINTS = np.array([[100, 100], [2400, 150], [2300, 2200], [200, 2100], [1200, 1300], [700, 1800]], dtype=float)


def test_the_one_pair_that_is_off_is_named_before_the_stretch_it_makes():
    matrix = affine(1.7, 30)
    target = apply(matrix, POINTS)
    moved = POINTS.copy()
    moved[3, 0] += 800
    with pytest.raises(ValueError, match=rf"k: pair 4 lies {800 * 1.7 * PIXEL_UM:.0f} µm from where the others put it"):
        fit_affine(moved, target, pixel_um=PIXEL_UM, name="k")


def test_the_one_pair_is_also_named_where_another_has_the_largest_residual():
    """A lone far point pulls the affine to itself, so that its own residual is small."""
    points = np.array([[0, 0], [1000, 0], [0, 1000], [1000, 1000], [500, 400], [4000, 3000]], dtype=float)
    target = points.copy()
    target[5, 0] += 120
    with pytest.warns(UserWarning, match="pair 6 lies 120 µm from where the others put it: check it"):
        fit_affine(points, target, pixel_um=1.0, name="k")


def test_several_pairs_that_are_off_are_the_stretchs():
    target = apply(affine(1.7, 30), POINTS)
    target[[1, 4], 0] += [900, -700]
    with pytest.raises(ValueError, match="stretches the image"):
        fit_affine(POINTS, target, pixel_um=PIXEL_UM, name="k")


def test_a_matrix_is_taken_as_it_is():
    matrix = affine(1.5, 20, True, (3, 4))
    for given_as in (matrix, matrix.tolist()):
        np.testing.assert_array_equal(given_matrix(given_as, "he_alignment=").matrix, matrix)
    wrong = (np.eye(4), matrix[:2], False, 3, "", b"x", [[1, 2, 3], [4, 5], [6]], matrix * np.nan, None)
    for other in wrong:
        with pytest.raises(ValueError, match="he_alignment= must be the path of a file or a 3×3 matrix"):
            given_matrix(other, "he_alignment=")
    with pytest.raises(ValueError, match="he_alignment= stretches"):
        given_matrix(np.diag([2, 1, 1]), "he_alignment=")
