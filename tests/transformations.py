"""Transformations of SpatialData and, by hand, their matrices: what property tests of geometry draw from."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from spatialdata.transformations import Affine, Identity, MapAxis, Scale, Sequence, Translation

FACTOR = st.floats(0.05, 20)


def matrix(linear, shift=(0.0, 0.0)) -> np.ndarray:
    return np.vstack([np.column_stack([np.asarray(linear, dtype=float), shift]), [0, 0, 1]])


def affine(m: np.ndarray) -> Affine:
    return Affine(m, input_axes=("x", "y"), output_axes=("x", "y"))


@st.composite
def single(draw, reach: float):
    """One SpatialData transformation and its (3, 3) matrix on (x, y), written by hand; shifts up to ``reach``."""
    number = st.floats(-reach, reach)
    kind = draw(
        st.sampled_from(["identity", "scale", "translation", "rotation", "flip", "swap", "affine", "yx", "cyx"])
    )
    if kind == "identity":
        return Identity(), np.eye(3)
    if kind in ("scale", "cyx"):
        x, y = draw(FACTOR), draw(FACTOR)
        axes = Scale([x, y], axes=("x", "y")) if kind == "scale" else Scale([1, y, x], axes=("c", "y", "x"))
        return axes, matrix(np.diag([x, y]))
    if kind == "translation":
        shift = [draw(number), draw(number)]
        return Translation(shift, axes=("x", "y")), matrix(np.eye(2), shift)
    if kind == "rotation":
        angle = draw(st.floats(-np.pi, np.pi))
        m = matrix([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return affine(m), m
    if kind == "flip":
        return Scale([-1, 1], axes=("x", "y")), matrix(np.diag([-1, 1]))
    if kind == "swap":
        return MapAxis({"x": "y", "y": "x"}), matrix([[0, 1], [1, 0]])
    # shear in x, then in y: any values give determinant 1
    a, b, shift = draw(st.floats(-2, 2)), draw(st.floats(-2, 2)), [draw(number), draw(number)]
    m = matrix([[1, a], [b, 1 + a * b]], shift)
    if kind == "affine":
        return affine(m), m
    order = [1, 0, 2]  # the same map, written for (y, x)
    return Affine(m[np.ix_(order, order)], input_axes=("y", "x"), output_axes=("y", "x")), m


@st.composite
def chains(draw, reach: float = 50.0):
    """A transformation of one to three steps and its matrix; the first step acts first."""
    steps = draw(st.lists(single(reach), min_size=1, max_size=3))
    product = np.eye(3)
    for _, m in steps:
        product = m @ product
    return (steps[0][0] if len(steps) == 1 else Sequence([t for t, _ in steps])), product
