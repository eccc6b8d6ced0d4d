"""Where a simulated tissue has nests, stroma, vessels, aggregates, fat and glass, and where its cells lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pastpy.datasets._tissue_parameters import NICHES, TissueParameters

__all__ = ["LOOKS", "Architecture", "Cells", "build_architecture", "place_cells"]

#: µm between points of the grid on which the architecture is laid out.
GRID_UM = 4.0
#: Share of a donor's square that is tissue, before the rim is trimmed to the number of cells.
_TISSUE_SHARE = 0.7
#: Glass around the tissue's square, µm.
_MARGIN_UM = 30.0

#: What a cell looks like. Cell types of one look cannot be told apart by it.
LOOKS = ("tumour", "myoepithelial", "fibroblast", "endothelial", "macrophage", "plasma", "lymphocyte")
_TUMOUR, _MYO, _FIBRO, _ENDO, _MACRO, _PLASMA, _LYMPHO = range(len(LOOKS))
#: Half the least distance between two cells of a look, µm.
_SPACING = np.array([4.6, 4.1, 4.4, 4.0, 4.8, 4.0, 3.0])
#: Cells a mm² that are tried in stroma, nests and aggregates; those too near to another one fall away.
_TRIED = {"stroma": 5500.0, "nest": 24000.0, "aggregate": 40000.0, "fat": 350.0}


@dataclass(frozen=True)
class Architecture:
    """The fields of one donor's tissue on a square grid of :data:`GRID_UM`, and what is cut out of it.

    Attributes
    ----------
    side_um
        Side of the donor's square, µm.
    fields
        name → float32 (m, m): ``tissue`` and ``nest`` (signed distance to the border, µm, positive inside),
        ``aggregate``, ``fat`` (0–1), ``collagen`` (standardised), ``thick`` (relative thickness of the section),
        ``cos2``, ``sin2`` (of twice the direction of fibres), ``in_situ`` (above 0 where nests have a myoepithelium),
        ``outline`` (falls towards the rim of the tissue).
    holes
        float (k, 6): x, y, half axes, angle, kind (0 vessel, 1 fat cell, 2 gland) of what is empty, µm.
    """

    side_um: float
    fields: dict[str, np.ndarray]
    holes: np.ndarray

    def at(self, name: str, xy: np.ndarray) -> np.ndarray:
        """Values of a field at points (n, 2) in µm, bilinear."""
        from scipy.ndimage import map_coordinates

        at = xy[:, ::-1].T / GRID_UM - 0.5
        return map_coordinates(self.fields[name], at, order=1, mode="nearest", prefilter=False)


@dataclass(frozen=True)
class Cells:
    """Cells of one donor: ``xy`` (n, 2) µm, ``look`` int (n,), ``angle`` (n,) radians, ``niche`` int (n,)."""

    xy: np.ndarray
    look: np.ndarray
    angle: np.ndarray
    niche: np.ndarray


def smooth_field(rng: np.random.Generator, m: int, length_um: float) -> np.ndarray:
    """Stationary Gaussian field of unit variance on (m, m) grid points, float32."""
    from scipy.ndimage import gaussian_filter

    # Between points a sixth of its length apart a field this smooth is straight.
    step = max(length_um / GRID_UM / 6, 1.0)
    sigma = length_um / GRID_UM / step
    k = int(np.ceil(m / step)) + 2 * int(np.ceil(3 * sigma)) + 2
    field = gaussian_filter(rng.standard_normal((k, k), dtype=np.float32), sigma, mode="wrap")
    # The standard deviation that the filter leaves of white noise in two dimensions.
    field *= max(2 * np.sqrt(np.pi) * sigma, 1.0)
    if step == 1:
        return field[:m, :m]
    at = (np.arange(m) + 0.5) / step + 1
    low = at.astype(int)
    part = (at - low).astype(np.float32)
    rows = field[low] * (1 - part)[:, None] + field[low + 1] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, low + 1] * part


def signed_distance(mask: np.ndarray, smooth_um: float = GRID_UM) -> np.ndarray:
    """Distance in µm to the border of a mask, positive inside, smoothed; ± the grid's width where there is none."""
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    if mask.all() or not mask.any():
        return np.full(mask.shape, (1 if mask.all() else -1) * GRID_UM * len(mask), dtype=np.float32)
    distance = distance_transform_edt(mask) - distance_transform_edt(~mask)
    distance -= np.sign(distance) * 0.5
    return gaussian_filter(distance * GRID_UM, smooth_um / GRID_UM).astype(np.float32)


def build_architecture(area_mm2: float, p: TissueParameters, rng: np.random.Generator) -> Architecture:
    """Lay out a tissue of the given area.

    Parameters
    ----------
    area_mm2
        Area of the tissue, mm².
    p
        Parameters of this donor.
    rng
        Source of everything random.
    """
    from scipy.ndimage import gaussian_filter

    side = np.sqrt(area_mm2 * 1e6 / _TISSUE_SHARE) + 2 * _MARGIN_UM
    m = int(np.ceil(side / GRID_UM))
    side = m * GRID_UM
    y, x = (np.mgrid[:m, :m] + 0.5) / m * 2 - 1
    border = 1 - (np.abs(x) ** 3 + np.abs(y) ** 3) ** (1 / 3)
    inner = 1 - 2 * _MARGIN_UM / side
    outline = border + 0.10 * smooth_field(rng, m, side / 8) + 0.025 * smooth_field(rng, m, side / 30)
    outline = np.minimum(outline, (border - (1 - inner)) * 4)
    tissue = outline > np.quantile(outline, 1 - _TISSUE_SHARE)
    tissue_distance = signed_distance(tissue)

    # Fat takes one side of the tissue, nests the rest: a slow field keeps some of it free of tumour.
    regional = smooth_field(rng, m, 6 * p.nest_um)
    fat = _top_share(smooth_field(rng, m, 3 * p.nest_um + 60) - 0.8 * regional, p.fat_fraction, tissue)
    score = smooth_field(rng, m, p.nest_um / 2) + 0.8 * regional + 0.15 * smooth_field(rng, m, 8.0)
    nest = _top_share(score, p.tumour_fraction / max(1 - p.fat_fraction, 0.1), tissue & ~fat)
    nest_distance = signed_distance(nest)
    in_situ = smooth_field(rng, m, 3 * p.nest_um)
    cut = np.quantile(in_situ, 1 - p.in_situ_fraction) if p.in_situ_fraction > 0 else np.inf
    # Aggregates like the neighbourhood of nests.
    score = smooth_field(rng, m, p.aggregate_um / 1.5) - np.abs(nest_distance + 60) / 150
    stroma = tissue & ~nest & ~fat
    aggregate = _top_share(score, p.aggregate_fraction * tissue.sum() / max(int(stroma.sum()), 1), stroma)
    aggregate = gaussian_filter(aggregate.astype(np.float32), 1.5) * stroma

    direction = _fibre_direction(nest_distance, rng, m)
    fields = {
        "tissue": tissue_distance, "nest": nest_distance, "aggregate": aggregate, "fat": fat.astype(np.float32),
        "collagen": smooth_field(rng, m, 45.0), "thick": np.exp(0.09 * smooth_field(rng, m, 150.0)),
        "in_situ": in_situ - cut, "cos2": np.cos(2 * direction), "sin2": np.sin(2 * direction), "outline": outline,
    }  # fmt: skip
    fields = {name: np.asarray(value, dtype=np.float32) for name, value in fields.items()}
    holes = np.concatenate(
        [
            _vessels(stroma, aggregate, direction, p, rng),
            _fat_cells(fat & (tissue_distance > 32), rng),
            _glands(nest & (nest_distance > 22), rng),
        ]
    )
    return Architecture(side, fields, holes)


def _top_share(score: np.ndarray, share: float, within: np.ndarray) -> np.ndarray:
    if share <= 0 or not within.any():
        return np.zeros(score.shape, dtype=bool)
    return within & (score > np.quantile(score[within], 1 - min(share, 1.0)))


def _points(mask: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """``n`` points, uniform over the true cells of a grid, µm (n, 2)."""
    cells = np.flatnonzero(mask)
    if not len(cells) or n == 0:
        return np.zeros((0, 2))
    chosen = rng.choice(cells, n)
    row, column = np.divmod(chosen, mask.shape[1])
    return (np.column_stack([column, row]) + rng.random((n, 2))) * GRID_UM


def _thin(xy: np.ndarray, radius: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Positions kept so that no two lie nearer than the sum of their radii: the random order decides who stays."""
    from scipy.spatial import cKDTree

    rank = rng.permutation(len(xy))
    alive, kept = np.ones(len(xy), dtype=bool), np.zeros(len(xy), dtype=bool)
    if len(xy) < 2:
        return np.flatnonzero(alive)
    pairs = cKDTree(xy).query_pairs(2 * radius.max(), output_type="ndarray")
    a, b = pairs.T
    close = np.hypot(*(xy[a] - xy[b]).T) < radius[a] + radius[b]
    a, b = a[close], b[close]
    while True:
        # A point stays if it comes first among its remaining rivals; its rivals go. Same result as one by one.
        first = alive & ~kept
        later = np.where(rank[a] < rank[b], b, a)
        first[later] = False
        if not first.any():
            break
        kept |= first
        alive[a[kept[b]]] = False
        alive[b[kept[a]]] = False
        live = alive[a] & alive[b]
        a, b = a[live], b[live]
    return np.flatnonzero(kept)


def _fibre_direction(nest_distance: np.ndarray, rng: np.random.Generator, m: int) -> np.ndarray:
    """Direction of fibres, radians: around nests where there is one near, else of a slow field."""
    from scipy.ndimage import gaussian_filter

    gy, gx = np.gradient(gaussian_filter(nest_distance, 20.0 / GRID_UM, truncate=3.0))
    near = np.exp(-np.abs(nest_distance) / 40)
    own = 1.3 * smooth_field(rng, m, 120.0) + rng.uniform(0, np.pi)
    # Twice the angle has no sign to disagree about, so directions can be averaged.
    around = 2 * (np.arctan2(gy, gx) + np.pi / 2)
    vx = near * np.cos(around) + 0.35 * np.cos(2 * own)
    vy = near * np.sin(around) + 0.35 * np.sin(2 * own)
    return np.arctan2(gaussian_filter(vy, 3), gaussian_filter(vx, 3)) / 2


def _vessels(
    mask: np.ndarray, aggregate: np.ndarray, direction: np.ndarray, p: TissueParameters, rng: np.random.Generator
) -> np.ndarray:
    expected = p.vessels_per_mm2 * mask.sum() * GRID_UM**2 * 1e-6
    xy = _points(mask & (aggregate < 0.3), int(rng.poisson(expected)), rng)
    a = p.vessel_um * np.exp(0.45 * rng.standard_normal(len(xy)))
    long = np.exp(np.abs(0.5 * rng.standard_normal(len(xy))))
    row, column = np.clip((xy / GRID_UM).astype(int), 0, len(mask) - 1).T[::-1]
    holes = np.column_stack([xy, a * np.sqrt(long), a / np.sqrt(long), direction[row, column], np.zeros(len(xy))])
    return holes[_thin(xy, holes[:, 2] + 8, rng)]


def _fat_cells(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = int(mask.sum() * GRID_UM**2 / 40)
    xy = _points(mask, n, rng)
    radius = 15.0 + 16.0 * rng.random(len(xy)) ** 2
    keep = _thin(xy, 0.93 * radius, rng)
    squeeze = np.exp(0.08 * rng.standard_normal(len(keep)))
    return np.column_stack(
        [xy[keep], radius[keep] * squeeze, radius[keep] / squeeze, rng.uniform(0, np.pi, len(keep)), np.ones(len(keep))]
    )


def _glands(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    n = int(mask.sum() * GRID_UM**2 * 1e-6 * 40)
    xy = _points(mask, n, rng)
    radius = 6.0 * np.exp(0.4 * rng.standard_normal(len(xy)))
    keep = _thin(xy, radius + 15, rng)
    squeeze = np.exp(0.25 * rng.standard_normal(len(keep)))
    return np.column_stack(
        [xy[keep], radius[keep] * squeeze, radius[keep] / squeeze, rng.uniform(0, np.pi, len(keep)),
         np.full(len(keep), 2.0)]
    )  # fmt: skip


def hole_depth(holes: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """µm from points (n, 2) to the nearest hole's rim, negative inside, and which hole; ``inf`` and −1 without any."""
    from scipy.spatial import cKDTree

    depth, which = np.full(len(xy), np.inf), np.full(len(xy), -1)
    if not len(holes):
        return depth, which
    _, near = cKDTree(holes[:, :2]).query(xy, k=min(4, len(holes)))
    for column in np.atleast_2d(near.T if near.ndim > 1 else near[None]):
        h = holes[column]
        dx, dy = (xy - h[:, :2]).T
        c, s = np.cos(h[:, 4]), np.sin(h[:, 4])
        r = np.hypot((c * dx + s * dy) / h[:, 2], (c * dy - s * dx) / h[:, 3])
        d = (r - 1) * np.sqrt(h[:, 2] * h[:, 3])
        nearer = d < depth
        depth[nearer], which[nearer] = d[nearer], column[nearer]
    return depth, which


def place_cells(architecture: Architecture, p: TissueParameters, rng: np.random.Generator) -> Cells:
    """Cells of every compartment, none nearer to another than their looks allow."""
    f = architecture.fields
    tissue = f["tissue"] > 2
    nest = tissue & (f["nest"] > 0)
    fat = tissue & ~nest & (f["fat"] > 0.5)
    aggregate = tissue & ~nest & ~fat & (f["aggregate"] > 0.5)
    stroma = tissue & ~nest & ~fat & ~aggregate
    rest = max(1 - p.infiltrate, 0.0)
    mixtures = {
        "stroma": [0, 0, 0.62 * rest, 0.08 * rest, 0.18 * rest, 0.12 * rest, p.infiltrate],
        "nest": [0.9, 0, 0, 0, 0.04, 0, 0.06],
        "aggregate": [0, 0, 0.03, 0.01, 0.05, 0.07, 0.84],
        "fat": [0, 0, 0.7, 0.1, 0.15, 0, 0.05],
    }
    xy, look = [], []
    for (name, mixture), mask in zip(mixtures.items(), (stroma, nest, aggregate, fat), strict=True):
        n = int(rng.poisson(_TRIED[name] * mask.sum() * GRID_UM**2 * 1e-6))
        points = _points(mask, n, rng)
        xy.append(points)
        look.append(rng.choice(len(LOOKS), len(points), p=np.array(mixture) / np.sum(mixture)))
    lining = _lining(architecture.holes, rng)
    points, looks = np.concatenate([*xy, lining]), np.concatenate([*look, np.full(len(lining), _ENDO)])
    tumour = looks == _TUMOUR
    rim = tumour & (architecture.at("nest", points) < 7) & (architecture.at("in_situ", points) > 0)
    looks[rim & (rng.random(len(points)) < 0.75)] = _MYO

    free, _ = hole_depth(architecture.holes, points)
    ok = (free > np.where(looks == _ENDO, 0.0, 2.5)) & (architecture.at("tissue", points) > 2)
    points, looks = points[ok], looks[ok]
    keep = _thin(points, _SPACING[looks], rng)
    points, looks = points[keep], looks[keep]
    return Cells(points, looks, _angles(architecture, points, looks, rng), _niches(architecture, points))


def _lining(holes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points just outside the lumen of vessels, where endothelium lies."""
    vessels = holes[holes[:, 5] == 0]
    n = np.ceil(2 * np.pi * np.sqrt(vessels[:, 2] * vessels[:, 3]) / 7).astype(int)
    h = np.repeat(vessels, n, axis=0)
    t = rng.uniform(0, 2 * np.pi, len(h))
    x, y = (h[:, 2] + 1.5) * np.cos(t), (h[:, 3] + 1.5) * np.sin(t)
    c, s = np.cos(h[:, 4]), np.sin(h[:, 4])
    return np.column_stack([h[:, 0] + c * x - s * y, h[:, 1] + s * x + c * y])


def _angles(architecture: Architecture, xy: np.ndarray, look: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Direction of a cell's long axis: fibres', a vessel's or a nest's rim, or its own."""
    fibres = np.arctan2(architecture.at("sin2", xy), architecture.at("cos2", xy)) / 2
    fibres = fibres + 0.25 * rng.standard_normal(len(xy))
    own = rng.uniform(0, np.pi, len(xy))
    angle = np.where(np.isin(look, [_FIBRO, _ENDO, _MYO]), fibres, own)
    vessels = architecture.holes[architecture.holes[:, 5] == 0]
    free, which = hole_depth(vessels, xy)
    wall = np.flatnonzero((free < 5) & (look == _ENDO))
    if len(wall):
        dx, dy = (xy[wall] - vessels[which[wall], :2]).T
        angle[wall] = np.arctan2(dy, dx) + np.pi / 2
    return angle


def _niches(architecture: Architecture, xy: np.ndarray) -> np.ndarray:
    """Code of the niche of each point, in the order of ``NICHES``."""
    nest = architecture.at("nest", xy)
    free, _ = hole_depth(architecture.holes[architecture.holes[:, 5] == 0], xy)
    niche = np.full(len(xy), NICHES.index("stroma"))
    niche[free < 20] = NICHES.index("perivascular")
    niche[architecture.at("fat", xy) > 0.5] = NICHES.index("fat")
    niche[architecture.at("aggregate", xy) > 0.5] = NICHES.index("immune_aggregate")
    niche[nest > 0] = NICHES.index("tumour_edge")
    niche[nest > 25] = NICHES.index("tumour_core")
    return niche
