"""Every stated truth of simulated tissue is borne out by what is simulated, and every parameter by what it changes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import shapely
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from pastpy import _keys
from pastpy._raster import draw_spans, filled_spans
from pastpy.datasets import TissueParameters, simulate_tissue

P = TissueParameters()
MPP = 0.5


@pytest.fixture(scope="module")
def drawn():
    """One donor with its picture, sharp and without noise; not changed by tests."""
    clear = replace(P, blur_um=0.0, blur_sd=0.0, sensor_noise=0.0, jpeg_quality=0)
    return simulate_tissue(n_cells=2500, n_genes=20, seed=11, parameters=clear)


@pytest.fixture(scope="module")
def table():
    """12,000 cells, whose image is never drawn; not changed by tests."""
    return simulate_tissue(n_cells=12_000, n_genes=40, seed=12, lazy=True)[_keys.CELLS_TRUE]


def density(sdata) -> np.ndarray:
    """Optical density of red, green and blue, (3, height, width)."""
    return -np.log10(np.maximum(sdata["he"].values, 1) / 255.0)


def labels_of(geometry: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Position of the shape that a pixel lies in, −1 elsewhere."""
    far = 10**9
    labels = np.full(shape, far)
    draw_spans(labels, *filled_spans(geometry))
    return np.where(labels == far, -1, labels)


def mean_in(layer: np.ndarray, labels: np.ndarray, n: int) -> np.ndarray:
    inside = labels >= 0
    size = np.bincount(labels[inside], minlength=n)
    total = np.bincount(labels[inside], weights=layer[inside], minlength=n)
    return np.divide(total, size, out=np.full(n, np.nan), where=size > 0)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    known = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[known], b[known])[0, 1])


# -- the picture carries the states ----------------------------------------------------------------------------------


def test_cytoplasm_shows_its_state(drawn):
    cells, (red, green, _) = drawn[_keys.CELLS_TRUE], density(drawn)
    nuclei = drawn[_keys.NUCLEI_TRUE].geometry.to_numpy()
    around = shapely.difference(shapely.buffer(nuclei, 5), shapely.union_all(shapely.buffer(nuclei, 1.5)))
    labels = labels_of(around, green.shape)
    tumour = (cells.obs[_keys.LOOK] == "tumour").to_numpy()
    pink = (mean_in(green, labels, len(nuclei)) - mean_in(red, labels, len(nuclei)))[tumour]
    assert correlation(pink, cells.obsm[_keys.TRUE_VISIBLE][tumour, 2]) > 0.35


def test_elongation_is_that_of_the_outline_which_is_drawn(drawn):
    cells, red = drawn[_keys.CELLS_TRUE], density(drawn)[0]
    nuclei = drawn[_keys.NUCLEI_TRUE].geometry.to_numpy()
    tumour = (cells.obs[_keys.LOOK] == "tumour").to_numpy()
    box = shapely.oriented_envelope(nuclei)
    sides, area = shapely.length(box) / 2, shapely.area(box)
    long = (sides + np.sqrt(np.maximum(sides**2 - 4 * area, 0))) / 2
    of_outline = np.log(long / (sides - long))
    state = cells.obsm[_keys.TRUE_VISIBLE][:, 3]
    assert correlation(of_outline[tumour], state[tumour]) > 0.8
    # and the outline is where the picture is dark, at the tips of long nuclei too
    longest = tumour & (of_outline > np.quantile(of_outline[tumour], 0.9))
    inside = mean_in(red, labels_of(nuclei, red.shape), len(nuclei))
    ring = shapely.difference(shapely.buffer(nuclei, 3), shapely.union_all(shapely.buffer(nuclei, 0.5)))
    beyond = mean_in(red, labels_of(ring, red.shape), len(nuclei))
    assert np.nanmean((inside > beyond)[longest]) > 0.95


def test_dark_chromatin_is_coarse_too(drawn):
    cells, red = drawn[_keys.CELLS_TRUE], density(drawn)[0]
    nuclei = shapely.buffer(drawn[_keys.NUCLEI_TRUE].geometry.to_numpy(), -1.5)
    labels = labels_of(nuclei, red.shape)
    mean, square = (mean_in(layer, labels, len(nuclei)) for layer in (red, red**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        grain = np.log(np.sqrt(np.maximum(square - mean**2, 0)) / mean)  # relative: mere darkness would not raise it
    tumour = (cells.obs[_keys.LOOK] == "tumour").to_numpy() & np.isfinite(grain)
    assert correlation(grain[tumour], cells.obsm[_keys.TRUE_VISIBLE][tumour, 1]) > 0.2


# -- the truth is what the counts are drawn from ---------------------------------------------------------------------


def test_bayes_has_the_scale_of_the_counts(table):
    counts, bayes = table.X.toarray(), table.layers[_keys.BAYES]
    assert counts.sum() == pytest.approx(bayes.sum(), rel=0.03)


def test_what_is_expected_of_neighbours_is_counted_in():
    """Half of a cell's counts come from wrongly drawn borders; what is left over must not know the neighbours."""
    wide = replace(P, leakage=0.0, boundary_error=0.5, donor_sd=0.0)
    cells = simulate_tissue(n_cells=12_000, n_genes=40, seed=13, lazy=True, parameters=wide)[_keys.CELLS_TRUE]
    bayes = cells.layers[_keys.BAYES].astype(float)
    _, near = cKDTree(cells.obsm[_keys.SPATIAL]).query(cells.obsm[_keys.SPATIAL], k=4)
    left = cells.X.toarray() - bayes
    around = bayes[near[:, 1:]].mean(axis=1) - bayes
    slope = (left * around).sum(axis=0) / (around**2).sum(axis=0)
    assert abs(np.median(slope)) < 0.03


def test_hidden_states_explain_what_the_image_does_not(table):
    rate = np.log(table.layers[_keys.TRUE_RATE])
    left = rate - np.log(table.layers[_keys.BAYES])
    left = left - left.mean(axis=1, keepdims=True)  # depth
    hidden = np.column_stack([table.obsm[_keys.TRUE_HIDDEN], np.ones(table.n_obs)])
    rest = left - hidden @ np.linalg.lstsq(hidden, left, rcond=None)[0]
    assert np.median(1 - rest.var(axis=0) / left.var(axis=0)) > 0.1


def test_donors_have_levels_of_their_own():
    def spread(sd: float) -> float:
        parameters = replace(P, donor_sd=sd)
        cells = simulate_tissue(
            n_cells=4000, n_genes=20, n_donors=8, seed=19, lazy=True, parameters=parameters
        )[_keys.CELLS_TRUE]  # fmt: skip
        left = np.log(cells.layers[_keys.TRUE_RATE] / cells.layers[_keys.BAYES])
        donor = cells.obs[_keys.DONOR].to_numpy().astype(str)
        of_donor = np.stack([left[donor == name].mean(axis=0) for name in np.unique(donor)])
        return float(np.median((of_donor - of_donor.mean(axis=1, keepdims=True)).std(axis=0)))

    assert spread(0.0) < 0.15 and spread(0.6) > spread(0.0) + 0.25


def test_neighbourhood_is_that_of_the_tissue(table):
    where, look = table.obsm[_keys.SPATIAL], table.obs[_keys.LOOK].to_numpy().astype(str)
    _, immune, _ = table.obsm[_keys.TRUE_NEIGHBOURHOOD].T
    is_immune = np.isin(look, ["lymphocyte", "plasma"])
    tree = cKDTree(where)
    near = tree.query_ball_point(where, 40.0)
    n_immune = np.array([is_immune[i].sum() for i in near])
    assert correlation(rankdata(immune), rankdata(n_immune)) > 0.95
    vessel = table.obsm[_keys.TRUE_NEIGHBOURHOOD][:, 0]
    endothelium = cKDTree(where[look == "endothelial"])
    far = endothelium.query(where)[0]
    assert correlation(vessel, far) > 0.4


def test_states_are_smooth_over_the_tissue(table):
    where, states = table.obsm[_keys.SPATIAL], table.obsm[_keys.TRUE_VISIBLE]
    near = cKDTree(where).query(where, k=2)[1][:, 1]
    rough = simulate_tissue(
        n_cells=6000, n_genes=5, seed=12, lazy=True, parameters=replace(P, state_smooth=0.0)
    )[_keys.CELLS_TRUE]  # fmt: skip
    there = rough.obsm[_keys.SPATIAL]
    other = cKDTree(there).query(there, k=2)[1][:, 1]
    for k in range(4):
        assert correlation(states[:, k], states[near, k]) > 0.2
        found = rough.obsm[_keys.TRUE_VISIBLE]
        assert abs(correlation(found[:, k], found[other, k])) < 0.06


# -- parameters do what they say -------------------------------------------------------------------------------------


def cells_with(seed: int = 14, n_donors: int = 1, **changes):
    parameters = replace(P, **changes)
    return simulate_tissue(
        n_cells=4000, n_genes=5, n_donors=n_donors, seed=seed, lazy=True, parameters=parameters
    )[_keys.CELLS_TRUE]  # fmt: skip


def test_nuclei_scale():
    plain, large = cells_with(), cells_with(nucleus_scale=1.5)
    ratio = np.sqrt(large.obs[_keys.AREA_UM2].median() / plain.obs[_keys.AREA_UM2].median())
    assert 1.15 < ratio < 1.55


def test_vessels_and_myoepithelium():
    def share(cells, name: str) -> float:
        return float((cells.obs[_keys.LOOK] == name).mean())

    assert share(cells_with(vessels_per_mm2=90.0), "endothelial") > 1.5 * share(cells_with(), "endothelial")
    assert share(cells_with(in_situ_fraction=0.0), "myoepithelial") == 0
    assert share(cells_with(in_situ_fraction=0.8), "myoepithelial") > 0.02


def test_donors_differ_in_their_architecture():
    def spread(sd: float) -> float:
        cells = cells_with(n_donors=16, donor_architecture_sd=sd)
        return float((cells.obs[_keys.LOOK] == "tumour").groupby(cells.obs[_keys.DONOR], observed=True).mean().std())

    assert spread(0.8) > 1.5 * spread(0.0)


def picture_with(n_donors: int = 1, **changes) -> np.ndarray:
    still = {"stain_sd": 0.0, "stain_hue_sd": 0.0, "blur_sd": 0.0, "sensor_noise": 0.0, "jpeg_quality": 0}
    parameters = replace(P, **(still | changes))
    return density(simulate_tissue(n_cells=40 * n_donors + 160, n_genes=5, n_donors=n_donors, seed=15,
                                   parameters=parameters))  # fmt: skip


def test_blur_and_stains():
    plain = picture_with()
    sharp = np.abs(np.diff(plain[0], axis=0)).mean()
    assert np.abs(np.diff(picture_with(blur_um=1.5)[0], axis=0)).mean() < 0.7 * sharp
    # haematoxylin takes out red, eosin hardly any of it
    blue, pink = picture_with(haematoxylin=1.5), picture_with(eosin=1.5)
    assert blue[0].mean() > 1.2 * plain[0].mean() and pink[0].mean() < 1.1 * plain[0].mean()
    assert pink[1].mean() > 1.15 * plain[1].mean()


def test_stains_vary_between_donors():
    def spread(sd: float) -> float:
        parameters = replace(P, stain_sd=sd, stain_hue_sd=0.0)
        sdata = simulate_tissue(n_cells=160, n_genes=5, n_donors=8, seed=16, parameters=parameters)
        nuclei = sdata[_keys.NUCLEI_TRUE].geometry.to_numpy()
        dark = mean_in(density(sdata)[0], labels_of(nuclei, sdata["he"].shape[1:]), len(nuclei))
        donor = sdata[_keys.CELLS_TRUE].obs[_keys.DONOR].to_numpy().astype(str)
        return float(np.std([np.nanmedian(dark[donor == name]) for name in np.unique(donor)]))

    assert spread(0.4) > 2 * spread(0.0)


def test_quality_is_a_whole_number():
    with pytest.raises(ValueError, match="jpeg_quality must be a whole number"):
        replace(P, jpeg_quality=0.5)


# -- outcomes and units ----------------------------------------------------------------------------------------------


def test_outcomes_are_those_of_the_niche_that_is_named():
    facts = {}
    for niche in ("immune_aggregate", "tumour_core"):
        cells = cells_with(n_donors=40, niche=niche, log_hazard_ratio=-3.0, censoring=0.0, donor_architecture_sd=0.8)
        share = (cells.obs[_keys.NICHE] == niche).groupby(cells.obs[_keys.DONOR], observed=True).mean()
        months = cells.obs.groupby(_keys.DONOR, observed=True)["SIMULATED_months"].first()
        facts[niche] = correlation(share.rank().to_numpy(), months.rank().to_numpy())
    assert min(facts.values()) > 0.5, "fewer hazards where there is more of it, so more months"


def test_units_have_the_outcome_of_their_donor():
    parameters = replace(P, spot_diameter_um=60.0, spot_pitch_um=70.0)
    sdata = simulate_tissue(900, 5, 6, seed=17, lazy=True, spots=True, bins=True, parameters=parameters)
    cells = sdata[_keys.CELLS_TRUE].obs
    months = cells.groupby(_keys.DONOR, observed=True)["SIMULATED_months"].first()
    for units in (sdata[_keys.SPOTS].obs, sdata[_keys.BINS].obs):
        assert units[_keys.DONOR].nunique() == 6
        expected = months.loc[units[_keys.DONOR].astype(str)].to_numpy()
        np.testing.assert_allclose(units["SIMULATED_months"].to_numpy(), expected)


def test_a_bin_lies_where_its_square_does():
    sdata = simulate_tissue(400, 5, seed=18, lazy=True, bins=True)
    centre = shapely.get_coordinates(shapely.centroid(sdata[_keys.BIN_SHAPES].geometry.to_numpy())) * MPP
    np.testing.assert_allclose(centre, sdata[_keys.BINS].obsm[_keys.SPATIAL], atol=1e-6)
    cells = sdata[_keys.CELLS_TRUE]
    for at, counts in zip(sdata[_keys.BINS].obsm[_keys.SPATIAL][:20], sdata[_keys.BINS].X.toarray(), strict=False):
        inside = (np.abs(cells.obsm[_keys.SPATIAL] - at) <= P.bin_um / 2).all(axis=1)
        np.testing.assert_array_equal(cells.X[inside].sum(axis=0).A1, counts)
