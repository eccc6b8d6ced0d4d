"""Tokens are weighted by how much of them lies in a region, at the right place."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import assume, given
from hypothesis import strategies as st

from pastpy.engine import Region, UnitShapes
from pastpy.engine.pool import pool_tokens
from pastpy.engine.raster import Grid, shape_mask

SHAPE, RING, DISC = Region("nucleus", "shape"), Region("ring", "ring", 10.0), Region("context", "disc", 30.0)


def units(*geometries, radius=None) -> UnitShapes:
    geometry = np.array(geometries, dtype=object)
    centre = shapely.centroid(geometry)
    xy = np.column_stack([shapely.get_x(centre), shapely.get_y(centre)])
    return UnitShapes.from_geometry(geometry, np.full(len(geometry), radius or np.nan), xy, 1.0)


def pool(tokens, shapes, regions, *, token_centre=4.0, inside=None):
    side = tokens.shape[-1] * 8
    return pool_tokens(
        tokens,
        shapes,
        regions,
        stride=8,
        token_centre=token_centre,
        target_mpp=0.5,
        inside=inside or (0, 0, side, side),
    )


def coordinates(n: int, token_centre: float = 4.0) -> np.ndarray:
    """A field whose tokens hold their own position: channels x and y."""
    y, x = np.mgrid[:n, :n] * 8 + token_centre
    return np.stack([x, y]).astype(np.float32)


@given(st.floats(150, 250), st.floats(150, 250), st.sampled_from([4.0, 7.5]))
def test_every_region_is_centred_on_its_unit(x, y, token_centre):
    shapes = units(shapely.Point(x, y).buffer(9))
    pooled = pool(coordinates(50, token_centre), shapes, [SHAPE, RING, DISC], token_centre=token_centre)
    np.testing.assert_allclose(pooled[0], [[x, y]] * 3, atol=0.5)


def test_weights_are_shares_of_area():
    tokens = np.zeros((1, 4, 4), np.float32)
    tokens[0, 1, 1] = 1.0
    # a 16×8 box over token (1, 1) and its right neighbour
    assert pool(tokens, units(shapely.box(8, 8, 24, 16)), [SHAPE])[0, 0, 0] == pytest.approx(0.5)


def test_holes_and_parts_count():
    tokens = np.zeros((1, 6, 6), np.float32)
    tokens[0, 2, 2] = 1.0
    ring = shapely.box(0, 0, 40, 40).difference(shapely.box(16, 16, 24, 24))
    parts = shapely.MultiPolygon([shapely.box(0, 0, 8, 8), shapely.box(16, 16, 24, 24)])
    assert pool(tokens, units(ring, parts), [SHAPE])[:, 0, 0].tolist() == [0.0, 0.5]


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=3, max_size=12))
def test_polygon_weights_equal_shapely(points):
    polygon = shapely.convex_hull(shapely.MultiPoint(points))
    if polygon.geom_type != "Polygon" or polygon.area < 200:
        return
    y, x = np.mgrid[1:112:2, 1:112:2]
    # a point on the edge itself may be counted either way
    assume(shapely.distance(polygon.exterior, shapely.points(x, y)).min() > 1e-9)
    pooled = pool(coordinates(14), units(polygon), [SHAPE])[0, 0]
    hit = shapely.contains_xy(polygon, x.ravel(), y.ravel())
    token = np.column_stack([x.ravel()[hit] // 8 * 8 + 4, y.ravel()[hit] // 8 * 8 + 4])
    np.testing.assert_allclose(pooled, token.mean(axis=0), atol=1e-3 * 112)


def test_a_ring_leaves_the_nucleus_out():
    tokens = np.zeros((1, 20, 20), np.float32)
    tokens[0, 9:11, 9:11] = 1.0
    nucleus, ring = pool(tokens, units(shapely.box(72, 72, 88, 88)), [SHAPE, RING])[0, :, 0]
    assert (nucleus, ring) == (1.0, 0.0)


def test_a_spot_is_pooled_over_itself_in_every_region():
    spot = units(shapely.Point(200, 200), radius=100.0)
    pooled = pool(np.random.default_rng(0).random((3, 50, 50), np.float32), spot, [SHAPE, RING, DISC])[0]
    np.testing.assert_array_equal(pooled, np.broadcast_to(pooled[0], pooled.shape))


def test_a_circle_is_a_circle():
    """The mean of x² over a disc of radius r is r²/4."""
    tokens = coordinates(100)[:1] - 400
    pooled = pool(tokens**2, units(shapely.Point(400, 400), radius=200.0), [SHAPE])[0, 0, 0]
    assert pooled == pytest.approx(200**2 / 4, rel=0.01)


def test_only_tokens_of_the_image_are_used():
    tokens = np.ones((1, 10, 10), np.float32)
    tokens[:, :, 5:] = np.nan
    pooled = pool(tokens, units(shapely.box(36, 36, 44, 44)), [SHAPE], inside=(0, 0, 40, 80))
    assert pooled.tolist() == [[[1.0]]]
    outside = pool(tokens, units(shapely.box(60, 36, 70, 44)), [SHAPE], inside=(0, 0, 40, 80))
    assert np.isnan(outside).all()


def test_a_unit_smaller_than_the_grid_takes_the_nearest_token():
    pooled = pool(coordinates(10), units(shapely.box(33.2, 33.2, 33.4, 33.4)), [SHAPE])
    assert pooled.tolist() == [[[36.0, 36.0]]]


@given(st.integers(0, 30))
def test_taking_units_keeps_their_outlines(seed):
    rng = np.random.default_rng(seed)
    boxes = [shapely.Point(*rng.uniform(40, 260, 2)).buffer(rng.uniform(3, 20), quad_segs=2) for _ in range(5)]
    shapes, tokens = units(*boxes), rng.random((2, 40, 40)).astype(np.float32)
    chosen = rng.permutation(5)[:3]
    np.testing.assert_array_equal(
        pool(tokens, shapes.take(chosen, (0.0, 0.0)), [SHAPE, RING]), pool(tokens, shapes, [SHAPE, RING])[chosen]
    )


def test_sizes():
    shapes = units(shapely.box(0, 0, 10, 20), shapely.Point(5, 5))
    shapes = UnitShapes.from_geometry(
        np.array([shapely.box(0, 0, 10, 20), shapely.Point(5, 5)]), np.array([np.nan, 3.0]), shapes.centroids, 2.0
    )
    np.testing.assert_allclose(shapes.extent, [20.0, 6.0])
    np.testing.assert_allclose(shapes.equivalent_radius, [np.sqrt(800 / np.pi), 6.0])


@given(st.integers(0, 200))
def test_points_in_an_outline_are_those_of_shapely(seed):
    """Stars, whose edges cross rows many times, and discs, on windows of other units' size."""
    rng = np.random.default_rng(seed)
    outlines, radius = [], []
    for _ in range(4):
        centre, angle = rng.uniform(-30, 30, 2), np.sort(rng.uniform(0, 2 * np.pi, 17))
        star = np.column_stack([np.cos(angle), np.sin(angle)]) * rng.uniform(2, 25, (17, 1)) + centre
        outlines.append(shapely.Polygon(star) if rng.random() < 0.8 else shapely.Point(centre))
        radius.append(np.nan if outlines[-1].geom_type == "Polygon" else rng.uniform(1, 20))
    geometry, radii = np.array(outlines, dtype=object), np.array(radius)
    centre = shapely.centroid(geometry)
    xy = np.column_stack([shapely.get_x(centre), shapely.get_y(centre)])
    shapes = UnitShapes.from_geometry(geometry, radii, xy, 1.0)
    grid = Grid.around(xy, shapes.extent, spacing=1.7, corner=0.3, multiple=4)
    mask = shape_mask(shapes, grid)
    for i, outline in enumerate(geometry):
        x, y = np.meshgrid(grid.x[i], grid.y[i])
        if np.isfinite(radii[i]):
            expected = (x - outline.x) ** 2 + (y - outline.y) ** 2 <= radii[i] ** 2
        else:
            # even-odd: what is covered twice is outside
            expected = shapely.contains_xy(shapely.make_valid(outline, method="linework"), x, y)
        np.testing.assert_array_equal(mask[i], expected)


def test_a_polygon_is_flattened_alike_beside_one_with_a_hole_or_in_parts():
    plain = [shapely.Point(40.0 * i, 50.0).buffer(4 + i) for i in range(3)]
    holed = shapely.Point(200, 50).buffer(9) - shapely.Point(200, 50).buffer(3)
    parts = shapely.MultiPolygon([shapely.box(250, 40, 254, 44), shapely.box(256, 40, 260, 44)])
    alone, among = units(*plain), units(plain[0], holed, plain[1], parts, plain[2])
    for i, j in enumerate((0, 2, 4)):
        one, other = (shapes.take(np.array([k]), (0.0, 0.0)).edges for shapes, k in ((alone, i), (among, j)))
        np.testing.assert_array_equal(one, other)
    rings = [len(holed.exterior.coords) + len(holed.interiors[0].coords) - 2, 8]
    assert np.diff(among.edge_start)[[1, 3]].tolist() == rings


OUTLINE = Region("outline", "outline")


def outline_of(*geometries, mpp: float = 0.5) -> np.ndarray:
    """Area in µm² and elongation of outlines."""
    shapes = units(*geometries)
    pooled = pool_tokens(
        np.zeros((3, 4, 4), np.float32), shapes, [OUTLINE], stride=8, token_centre=4.0, target_mpp=mpp,
        inside=(0, 0, 32, 32),
    )  # fmt: skip
    assert (pooled[:, 0, 2] == 0).all(), "further channels hold nothing"
    return np.exp(pooled[:, 0, :2])


@given(
    st.floats(2, 40), st.floats(1, 8), st.floats(0, 180), st.floats(-1e5, 1e5), st.floats(-1e5, 1e5),
    st.sampled_from([0.25, 0.5, 2.0]), st.booleans(),
)  # fmt: skip
def test_outlines_tell_area_and_elongation(width, ratio, angle, x, y, mpp, reverse):
    box = shapely.affinity.rotate(shapely.box(x, y, x + width * ratio, y + width), angle)
    box = shapely.reverse(box) if reverse else box
    area = np.clip(width**2 * ratio * mpp**2, 1, 1e4)
    np.testing.assert_allclose(outline_of(box, mpp=mpp), [[area, ratio]], rtol=1e-4)


def test_outlines_of_ellipses_and_of_polygons_with_holes_and_parts():
    ellipse = shapely.affinity.scale(shapely.Point(50, 50).buffer(8, quad_segs=64), 2.0, 1.0)
    hole = shapely.Polygon(shapely.box(0, 0, 40, 40).exterior, [shapely.box(10, 10, 30, 30).exterior])
    same_way = shapely.Polygon(hole.exterior, [hole.interiors[0].reverse()])
    parts = shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10)])
    found = outline_of(ellipse, hole, same_way, parts, mpp=1.0)
    np.testing.assert_allclose(found[0], [np.pi * 128, 2.0], rtol=2e-3)
    np.testing.assert_allclose(found[1:3], [[1200, 1.0]] * 2, rtol=1e-5)
    # two squares of side 10 whose middles are 20 apart: variances 100 / 12 + 100 and 100 / 12
    np.testing.assert_allclose(found[3], [200, np.sqrt((100 / 12 + 100) / (100 / 12))], rtol=1e-5)


def test_circles_and_polygons_without_area_have_no_outline():
    tokens = np.ones((2, 8, 8), np.float32)
    circle = units(shapely.Point(20, 20), radius=5.0)
    flat = units(shapely.Polygon([(10, 10), (20, 10), (15, 10)]))
    crossing = units(shapely.Polygon([(10, 10), (20, 20), (20, 10), (10, 20)]))
    for shapes in (circle, flat, crossing):
        pooled = pool(tokens, shapes, [SHAPE, OUTLINE])
        assert np.isfinite(pooled[0, 0]).all() and np.isnan(pooled[0, 1]).all()


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), min_size=3, max_size=7))
def test_outlines_that_nobody_would_draw_are_missing_or_within_bounds(points):
    polygon = shapely.Polygon(points)
    centre = np.array(points).mean(axis=0)[None]
    shapes = UnitShapes.from_geometry(np.array([polygon], dtype=object), np.array([np.nan]), centre, 1.0)
    log_area, log_elongation = pool(np.ones((2, 8, 8), np.float32), shapes, [OUTLINE])[0, 0]
    if not np.isnan(log_area):
        assert 0 <= log_area <= np.log(1e4) + 1e-6 and 0 <= log_elongation <= np.log(20) + 1e-6


def test_a_sliver_and_parts_far_apart_are_bounded():
    sliver = shapely.box(0, 0, 30, 0.001)
    apart = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(1e6, 0, 1e6 + 1, 1)])
    np.testing.assert_allclose(outline_of(sliver, apart, mpp=1.0), [[1, 20], [2, 20]], rtol=1e-5)


def test_an_outline_needs_two_channels():
    with pytest.raises(ValueError, match="two channels"):
        pool(np.ones((1, 8, 8), np.float32), units(shapely.box(8, 8, 24, 16)), [OUTLINE])
