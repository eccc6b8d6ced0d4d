"""Simulated tissue: H&E, cells and counts of which everything is known."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import check_mpp, record_added, set_mpp
from pastpy._provenance import record
from pastpy.datasets._tissue_architecture import LOOKS
from pastpy.datasets._tissue_attainable import bayes_log1p
from pastpy.datasets._tissue_donors import Donor, grow_donor, layout, outcomes
from pastpy.datasets._tissue_expression import (
    ExpressionModel,
    Visible,
    leakage_matrix,
    load_profiles,
    type_probabilities,
)
from pastpy.datasets._tissue_parameters import NICHES, TissueParameters
from pastpy.datasets._tissue_render import Renderer
from pastpy.datasets._tissue_texture import make_textures
from pastpy.datasets._tissue_units import make_bins, make_spots

if TYPE_CHECKING:
    import dask.array as da
    from anndata import AnnData
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["simulate_tissue"]

#: Streams of random numbers besides those of the donors, which are numbered from 0.
_EXPRESSION, _DRAWING = 1 << 21, 1 << 22


def simulate_tissue(
    n_cells: int = 2000,
    n_genes: int = 100,
    n_donors: int = 1,
    seed: int = 0,
    *,
    parameters: TissueParameters | None = None,
    mpp: float = 0.5,
    spots: bool = False,
    bins: bool = False,
    lazy: bool = False,
    chunk_px: int = 512,
) -> SpatialData:
    """Simulate H&E of a carcinoma with its cells and their counts, of which everything is known.

    Tissue of tumour nests, stroma, vessels, immune aggregates and fat on glass; cells whose types lie where they
    belong; real expression profiles (nine types of a breast cancer, real gene names), varied by visible and hidden
    states, neighbourhood and donor; an H&E drawn so that the visible part, and no more, can be seen. The best that any
    predictor can read off the image is given with the data, so that a model is scored as a share of the attainable.

    Parameters
    ----------
    n_cells
        Cells of all donors together, at least 20 a donor; donors get the same number, to within one.
    n_genes
        Genes, at most 280: the first of a fixed order, the most strongly expressed first.
    n_donors
        Donors, each with an architecture, stain, blur and expression shift of its own. They lie side by side on one
        image, as on a tissue microarray; :func:`split_donors` gives one object a donor.
    seed
        Seed of everything.
    parameters
        All other numbers; see :class:`TissueParameters`.
    mpp
        µm per pixel of the image.
    spots, bins
        Add a table of spots, or of square bins, whose counts are the sums of their cells. Units so large that they
        would hold cells of two donors are left out.
    lazy
        Leave the image to be drawn when it is read, chunk by chunk, every time; else it is drawn now.
    chunk_px
        Side of a chunk of the image. Pixels do not depend on it.

    Returns
    -------
    SpatialData
        - ``images["he"]``: uint8 (3, height, width); ``attrs["past"]["mpp"]`` its µm per px.
        - ``shapes["nuclei_true"]``: true outlines of the nuclei, level-0 px.
        - ``tables["cells_true"]``: ``X`` counts (int32 CSR).
          ``layers``, dense float32: ``true_rate`` the expected counts of each cell; ``bayes`` their expectation given
          all that the image shows (type as far as the look tells, visible states, neighbourhood, of the cell and of
          those that leak into it), exact; ``bayes_log1p`` the expectation of log1p(1e4 · counts / sum) given the same,
          by quadrature. In expectation no predictor from the image has a smaller squared error of that target, as far
          as the quadrature is exact: with the defaults it is, far above their ``depth_sd`` it comes out low.
          ``obs``: ``donor``, ``cell_type``, ``look`` (what can be told of the type), ``niche``, ``area_um2``, and
          ``SIMULATED_months``, ``SIMULATED_event`` of the donor.
          ``obsm``: ``spatial`` µm; ``true_visible`` (n, 4) nuclear size, chromatin, cytoplasm and elongation, standard
          normal; ``true_neighbourhood`` (n, 3); ``true_hidden`` (n, 8).
          ``var``: ``image_share`` of the variance of log expression, before depth and leakage; ``bayes_r``, Pearson r
          of ``bayes_log1p`` with the measured log1p over all cells.
          ``uns["past"]["simulate_tissue"]``: parameters, donors, niche shares, shares of variance.
        - with ``spots``: ``shapes["spot_circles"]`` and ``tables["spots"]``; with ``bins``: ``shapes["bin_squares"]``
          and ``tables["bins"]``; each with summed ``X``, ``true_rate`` and ``bayes``.

    Raises
    ------
    ValueError
        If a number is out of range.
    TypeError
        If ``n_donors`` is not a whole number, or ``parameters`` are something else.

    Notes
    -----
    The profiles are summaries of 5,508 Xenium cells (10x Genomics, CC BY 4.0), as are the sizes of nuclei; the rest is
    invented. T cells, B cells and mast cells share one look, so no image tells them apart, and ``bayes`` weighs them by
    what their niche makes likely. The page on the simulator tells what it can and cannot show. The defaults are final:
    set before any model was scored on them, and a later change would stand in the changelog.

    References
    ----------
    Janesick et al., Nat Commun 14:8353 (2023), https://doi.org/10.1038/s41467-023-43458-x: profiles.
    Ruifrok & Johnston, Anal Quant Cytol Histol 23:291–299 (2001); Macenko et al., ISBI 2009,
    https://doi.org/10.1109/ISBI.2009.5193250: directions of the stains.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.simulate_tissue(n_cells=200, n_genes=50)
    >>> sdata.tables["cells_true"].shape
    (200, 50)
    """
    p = parameters or TissueParameters()
    mpp = check_mpp(mpp)
    profiles = load_profiles()
    _check(n_cells, n_genes, n_donors, seed, p, mpp, chunk_px, len(profiles.genes))
    sizes = [n_cells // n_donors + (i < n_cells % n_donors) for i in range(n_donors)]
    donors = [grow_donor(size, p, seed, i) for i, size in enumerate(sizes)]
    box, origins = layout(donors, mpp)
    table = _cells(donors, origins * mpp, n_genes, p, seed)
    digest = hashlib.sha256(repr((n_cells, n_donors, seed, p, mpp)).encode()).hexdigest()[:16]
    image = _image(donors, origins, box, mpp, seed, chunk_px, f"simulated-he-{digest}-{chunk_px}")
    sdata = _assemble(image if lazy else image.compute(), donors, origins, table, mpp)
    call = {"n_cells": int(n_cells), "n_genes": int(n_genes), "n_donors": int(n_donors), "seed": int(seed)}
    _record(sdata, donors, origins, box, p, call)
    cells = sdata.tables[_keys.CELLS_TRUE]
    if spots:
        _add_units(sdata, _keys.SPOT_SHAPES, _keys.SPOTS, make_spots(cells, p.spot_diameter_um, p.spot_pitch_um, mpp))
    if bins:
        _add_units(sdata, _keys.BIN_SHAPES, _keys.BINS, make_bins(cells, p.bin_um, mpp))
    return sdata


def _check(
    n_cells: int, n_genes: int, n_donors: int, seed: int, p: TissueParameters, mpp: float, chunk_px: int, known: int
) -> None:
    if not isinstance(p, TissueParameters):
        raise TypeError(f"parameters must be a TissueParameters, got {type(p).__name__}")
    if isinstance(n_donors, bool) or not isinstance(n_donors, (int, np.integer)):
        raise TypeError(f"n_donors must be a whole number, got {n_donors!r}")
    for name, value, least, most in (
        ("n_donors", n_donors, 1, 10_000), ("n_cells", n_cells, 20 * n_donors, 5_000_000),
        ("n_genes", n_genes, 1, known), ("seed", seed, 0, 2**32 - 1), ("chunk_px", chunk_px, 64, 100_000),
    ):  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
            raise ValueError(f"{name} must be a whole number from {least} to {most}, got {value!r}")
    if not 0.1 <= mpp <= 2:
        raise ValueError(f"mpp must be between 0.1 and 2 µm per pixel, so that nuclei can be drawn, got {mpp:g}")


def _cells(donors: list[Donor], origins_um: np.ndarray, n_genes: int, p: TissueParameters, seed: int) -> AnnData:
    """Table of the cells of all donors, with counts and truth."""
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng([seed, _EXPRESSION])
    profiles = load_profiles().head(n_genes)
    look, niche = (np.concatenate([getattr(d.cells, name) for d in donors]) for name in ("look", "niche"))
    visible = Visible(
        type_probabilities(look, niche, profiles.types),
        np.concatenate([d.states for d in donors]), np.concatenate([d.neighbourhood for d in donors]),
    )  # fmt: skip
    donor = np.repeat(np.arange(len(donors)), [len(d.cells.xy) for d in donors])
    xy = np.concatenate([d.cells.xy + origin for d, origin in zip(donors, origins_um, strict=True)])
    types = (visible.probability.cumsum(1) > rng.random((len(xy), 1))).argmax(1)
    model = ExpressionModel(profiles, visible, p)

    hidden = rng.standard_normal((len(xy), 8))
    depth = model.depth(visible.states, rng.standard_normal(len(xy)))
    leaked = leakage_matrix(xy, p.leakage + p.boundary_error * rng.random(len(xy)), p.leakage_um)
    rate = leaked @ model.rates(visible, types, donor, depth, hidden, rng)
    base = p.mean_counts / rate.sum(1).mean()
    counts = rng.poisson(base * rate).astype(np.int32)
    # How much a cell leaks is independent of all else, so its mean serves.
    leaked = leakage_matrix(xy, np.full(len(xy), p.leakage + p.boundary_error / 2), p.leakage_um)
    bayes = base * (leaked @ model.expected(visible))
    log1p = bayes_log1p(model, visible, leaked, base, _keys.TARGET_SUM)
    measured = np.log1p(_keys.TARGET_SUM * counts / np.maximum(counts.sum(1, keepdims=True), 1))
    table = AnnData(
        X=csr_matrix(counts),
        obs=_obs(donors, donor, types, look, niche, profiles.types, outcomes(_niche_share(donors, p), p, seed)),
        var=_var(profiles.genes, model.share, log1p, measured),
        layers={
            _keys.TRUE_RATE: (base * rate).astype(np.float32),
            _keys.BAYES: bayes.astype(np.float32),
            _keys.BAYES_LOG1P: log1p,
        },
        obsm={
            _keys.SPATIAL: xy, _keys.TRUE_VISIBLE: visible.states, _keys.TRUE_NEIGHBOURHOOD: visible.neighbourhood,
            _keys.TRUE_HIDDEN: hidden,
        },
    )  # fmt: skip
    return table


def _niche_share(donors: list[Donor], p: TissueParameters) -> np.ndarray:
    return np.array([np.mean(d.cells.niche == NICHES.index(p.niche)) for d in donors])


def _obs(
    donors: list[Donor], donor: np.ndarray, types: np.ndarray, look: np.ndarray, niche: np.ndarray,
    type_names: list[str], outcome: dict[str, np.ndarray],
) -> DataFrame:  # fmt: skip
    import pandas as pd

    ids = np.arange(1, len(donor) + 1)
    names = [f"donor_{i:0{len(str(len(donors) - 1))}d}" for i in range(len(donors))]

    def labels(codes: np.ndarray, of: Any) -> pd.Categorical:
        return pd.Categorical.from_codes(codes, categories=pd.Index(list(of)))

    return pd.DataFrame(
        {
            _keys.REGION: pd.Categorical([_keys.NUCLEI_TRUE] * len(ids)),
            _keys.INSTANCE_ID: ids,
            _keys.DONOR: labels(donor, names),
            _keys.CELL_TYPE: labels(types, type_names),
            _keys.LOOK: labels(look, LOOKS),
            _keys.NICHE: labels(niche, NICHES),
            _keys.AREA_UM2: np.concatenate([d.nuclei.area_um2 for d in donors]),
            **{name: values[donor] for name, values in outcome.items()},
        },
        index=ids.astype(str).astype(object),
    )


def _var(genes: np.ndarray, share: np.ndarray, predicted: np.ndarray, measured: np.ndarray) -> DataFrame:
    import pandas as pd

    a, b = predicted - predicted.mean(0), measured - measured.mean(0)
    norm = np.sqrt((a.astype(float) ** 2).sum(0) * (b**2).sum(0))
    r = np.divide((a * b).sum(0), norm, out=np.full(len(genes), np.nan), where=norm > 0)
    return pd.DataFrame({_keys.IMAGE_SHARE: share, _keys.BAYES_R: r}, index=genes.astype(object))


def _image(
    donors: list[Donor], origins: np.ndarray, box: int, mpp: float, seed: int, chunk: int, name: str
) -> da.Array:
    """The slide, (3, height, width) uint8, each chunk drawn when it is asked for."""
    import dask.array as da

    textures = make_textures(mpp)
    renderers = [
        Renderer(d.architecture, d.nuclei, d.cells.look, d.states, d.stain, textures, mpp, [seed, _DRAWING, i])
        for i, d in enumerate(donors)
    ]
    width, height = origins.max(0) + box

    def draw(block_info: Any = None) -> np.ndarray:
        _, (y0, y1), (x0, x1) = block_info[None]["array-location"]
        out = np.full((3, y1 - y0, x1 - x0), 243, dtype=np.uint8)
        for renderer, (left, top) in zip(renderers, origins, strict=True):
            ya, yb, xa, xb = max(y0, top), min(y1, top + box), max(x0, left), min(x1, left + box)
            if ya < yb and xa < xb:
                part = renderer.window(ya - top, yb - top, xa - left, xb - left)
                out[:, ya - y0 : yb - y0, xa - x0 : xb - x0] = part
        return out

    sides = [tuple(min(chunk, int(length) - at) for at in range(0, int(length), chunk)) for length in (height, width)]
    return da.map_blocks(draw, chunks=((3,), *sides), dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8), name=name)


def _assemble(image: Any, donors: list[Donor], origins: np.ndarray, table: AnnData, mpp: float) -> SpatialData:
    import geopandas as gpd
    import shapely
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel

    polygons = [
        shapely.transform(donor.nuclei.polygons(mpp), lambda xy, at=at: xy + at)
        for donor, at in zip(donors, origins, strict=True)
    ]
    shapes = gpd.GeoDataFrame(geometry=np.concatenate(polygons), index=table.obs[_keys.INSTANCE_ID].to_numpy())
    sdata = SpatialData(
        images={_keys.IMAGE: Image2DModel.parse(image, dims=("c", "y", "x"), c_coords=["r", "g", "b"])},
        shapes={_keys.NUCLEI_TRUE: ShapesModel.parse(shapes)},
        tables={
            _keys.CELLS_TRUE: TableModel.parse(
                table, region=_keys.NUCLEI_TRUE, region_key=_keys.REGION, instance_key=_keys.INSTANCE_ID
            )
        },
    )
    set_mpp(sdata, _keys.IMAGE, mpp)
    return sdata


def _record(
    sdata: SpatialData, donors: list[Donor], origins: np.ndarray, box: int, p: TissueParameters, call: dict[str, int]
) -> None:
    table = sdata.tables[_keys.CELLS_TRUE]
    share, r = table.var[_keys.IMAGE_SHARE], table.var[_keys.BAYES_R]
    facts = {
        **call,
        "parameters": asdict(p),
        "image_share_median": float(share.median()),
        "bayes_r_mean": float(r.mean()),
        "measured_share_median": float((r**2).median()),
        "mean_counts": float(table.X.sum() / table.n_obs),
        "box_px": box,
        "donors": {
            name: {
                "origin_px": [int(v) for v in at],
                "niche_share": float(share),
                "tumour_fraction": donor.parameters.tumour_fraction,
                "stain": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(donor.stain).items()},
            }
            for name, donor, at, share in zip(
                table.obs[_keys.DONOR].cat.categories, donors, origins, _niche_share(donors, p), strict=True
            )
        },
    }
    record(table, "simulate_tissue", facts)


def _add_units(sdata: SpatialData, shapes_key: str, table_key: str, units: tuple[Any, AnnData]) -> None:
    sdata.shapes[shapes_key], sdata.tables[table_key] = units
    # So that the table of cells stays the default.
    record_added(sdata, table_key)
