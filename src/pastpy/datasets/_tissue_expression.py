"""What simulated cells express: a generative model whose best predictor from the image is known.

A cell ``c`` of type ``t`` and donor ``d`` has, for gene ``g``, the rate

    λ_cg = base · depth_c · D_t · exp(p_tg + L_g · f_c + δ_dg + τ_g ε_cg − ½ H_g)

with ``p`` the real profile of the type, ``D`` its relative depth and ``L`` the real loadings of how expression varies
within types. The factors ``f`` have unit variance and are shared out: the first four between a visible state (nuclear
size, chromatin, cytoplasm, elongation) and a hidden one, the next three between the neighbourhood and a hidden state,
the last is hidden. ``H`` is the variance of all that is hidden. Part of every cell's rate is counted in its neighbours,
and counts are Poisson. All of it but the hidden part can be read off the image, with the type as far as its look tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from pastpy.datasets._tissue_architecture import LOOKS
from pastpy.datasets._tissue_parameters import NICHES, TissueParameters

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ExpressionModel", "Profiles", "Visible", "leakage_matrix", "load_profiles", "neighbourhood"]

#: Share of hidden variance that belongs to a gene alone (bursts), before scaling; natural-log units squared.
_OWN_VARIANCE = 0.35
#: Limits of the median hidden variance that the asked share may lead to.
_HIDDEN_RANGE = (0.05, 2.0)

#: Type within a look, by niche; looks that are not here are types of the same name.
_LYMPHOCYTES = ("T_cell", "B_cell", "mast_pDC")
_LYMPHOCYTE_MIX = {
    "stroma": (0.82, 0.10, 0.08), "tumour_core": (0.93, 0.04, 0.03), "tumour_edge": (0.90, 0.06, 0.04),
    "immune_aggregate": (0.55, 0.43, 0.02), "perivascular": (0.78, 0.12, 0.10), "fat": (0.7, 0.1, 0.2),
}  # fmt: skip


@dataclass(frozen=True)
class Profiles:
    """Real profiles: ``genes``, ``types``, ``log_profile`` (types, genes), ``loadings`` (genes, 8), ``depth`` (types,).

    ``nucleus_um2`` (types, 20) are areas of nuclei at ``quantiles`` (20,).
    """

    genes: np.ndarray
    types: list[str]
    log_profile: np.ndarray
    loadings: np.ndarray
    depth: np.ndarray
    nucleus_um2: np.ndarray
    quantiles: np.ndarray

    def head(self, n_genes: int) -> Profiles:
        """The first genes only; the profiles are not renormalised."""
        return Profiles(
            self.genes[:n_genes], self.types, self.log_profile[:, :n_genes], self.loadings[:n_genes], self.depth,
            self.nucleus_um2, self.quantiles,
        )  # fmt: skip


#: The source gives sizes of nuclei in px of unstated size. A T cell's nucleus, 19 px there, is some 6.5 µm wide.
_NUCLEUS_UM2_PER_PX = 33.0 / 19.0


@cache
def load_profiles() -> Profiles:
    """Profiles shipped in the package, summarised from the Xenium breast cells (10x Genomics, CC BY 4.0)."""
    with (files("pastpy.datasets") / "data" / "simulated_tissue.npz").open("rb") as file:
        with np.load(file, allow_pickle=False) as a:
            return Profiles(
                a["genes"], a["types"].tolist(), a["log_profile"].astype(float), a["loadings"].astype(float),
                a["depth"].astype(float), a["nucleus_px"] * _NUCLEUS_UM2_PER_PX, a["quantiles"],
            )  # fmt: skip


def type_probabilities(look: np.ndarray, niche: np.ndarray, types: list[str]) -> np.ndarray:
    """P(type | look, niche), float (n, types): what the image tells of a cell's type."""
    table = np.zeros((len(LOOKS), len(NICHES), len(types)))
    for i, name in enumerate(LOOKS):
        if name == "lymphocyte":
            for j, where in enumerate(NICHES):
                table[i, j, [types.index(t) for t in _LYMPHOCYTES]] = _LYMPHOCYTE_MIX[where]
        else:
            table[i, :, types.index("plasma_cell" if name == "plasma" else name)] = 1
    return table[look, niche]


@dataclass(frozen=True)
class Visible:
    """What the image shows of cells: type probabilities (n, types), states (n, 4), neighbourhood (n, 3).

    States are nuclear size, chromatin, cytoplasm and elongation; neighbourhood is the distance to a vessel, the density
    of immune cells and the depth in a nest.
    """

    probability: np.ndarray
    states: np.ndarray
    neighbourhood: np.ndarray


class ExpressionModel:
    """The generative model of the module's docstring with its constants fixed.

    Parameters
    ----------
    profiles
        Profiles over the simulated genes.
    visible
        All cells of the simulation: the hidden variance is scaled so that the median gene's share is the asked one.
    p
        Parameters.
    """

    def __init__(self, profiles: Profiles, visible: Visible, p: TissueParameters) -> None:
        self.profiles, self.p = profiles, p
        s, n = p.state_share, p.neighbourhood_share
        load, mean = profiles.loadings, profiles.log_profile.mean(0)
        hidden = np.concatenate([np.full(4, 1 - s), np.full(3, 1 - n), [1.0]])
        self.relative_depth = profiles.depth / profiles.depth.mean()
        self.log_profile = profiles.log_profile
        self.state_loadings, self.neighbourhood_loadings = np.sqrt(s) * load[:, :4], np.sqrt(n) * load[:, 4:7]
        expected = visible.probability @ self.log_profile
        shown = (expected + self.visible_log(visible)).var(0)
        told = (visible.probability @ self.log_profile**2 - expected**2).mean(0)
        own = load**2 @ hidden + _OWN_VARIANCE
        scale, shrink = _calibrate(p.image_share, shown, told, own, p.donor_sd**2)
        self.log_profile = mean + shrink * (self.log_profile - mean)
        self.state_loadings, self.neighbourhood_loadings = (
            shrink * part for part in (self.state_loadings, self.neighbourhood_loadings)
        )
        self.hidden_loadings = np.sqrt(scale * hidden) * load
        self.own_sd = np.sqrt(scale * _OWN_VARIANCE)
        #: Variance of all that is hidden but the type, (genes,).
        self.hidden_variance = scale * own + p.donor_sd**2
        #: Share of the variance of a gene's log expression that the image carries, (genes,).
        self.share = _share(shrink**2 * shown, shrink**2 * told + self.hidden_variance)

    def visible_log(self, visible: Visible) -> np.ndarray:
        """Effect of visible state and neighbourhood on log expression, (n, genes)."""
        return visible.states @ self.state_loadings.T + visible.neighbourhood @ self.neighbourhood_loadings.T

    def rates(
        self, visible: Visible, types: np.ndarray, donor: np.ndarray, depth: np.ndarray, hidden: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:  # fmt: skip
        """Rates (n, genes) of cells with these types, depths and hidden factors (n, 8), before leakage and ``base``."""
        genes = len(self.profiles.genes)
        shift = self.p.donor_sd * rng.standard_normal((int(donor.max(initial=0)) + 1, genes))
        log_rate = self.log_profile[types] + self.visible_log(visible) + hidden @ self.hidden_loadings.T
        log_rate += shift[donor] + self.own_sd * rng.standard_normal(log_rate.shape) - self.hidden_variance / 2
        return (depth * self.relative_depth[types])[:, None] * np.exp(log_rate)

    def depth(self, states: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """Relative depth (n,) of cells: nuclear size shows a part of it; ``hidden`` is standard normal."""
        sd = self.p.depth_sd
        return np.exp(self.p.depth_by_size * states[:, 0] + sd * hidden - sd**2 / 2)

    def shown_effect(self, visible: Visible) -> np.ndarray:
        """Factor (n, genes) by which visible state and neighbourhood change a cell's expected rates."""
        return np.exp(self.visible_log(visible) + self.p.depth_by_size * visible.states[:, :1])

    def type_rates(self) -> np.ndarray:
        """Expected rates (types, genes) of a cell of each type whose visible states are all 0."""
        return self.relative_depth[:, None] * np.exp(self.log_profile)

    def expected(self, visible: Visible) -> np.ndarray:
        """Expected rates (n, genes) given what the image shows, before leakage and ``base``."""
        return visible.probability @ self.type_rates() * self.shown_effect(visible)

    def variance(self, visible: Visible) -> np.ndarray:
        """Variance (n, genes) of the rates given what the image shows, before leakage and ``base``."""
        square = visible.probability @ self.type_rates() ** 2 * self.shown_effect(visible) ** 2
        return square * np.exp(self.hidden_variance + self.p.depth_sd**2) - self.expected(visible) ** 2


def _share(shown: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    return shown / np.maximum(shown + hidden, 1e-12)


def _calibrate(
    target: float, shown: np.ndarray, told: np.ndarray, own: np.ndarray, fixed: float
) -> tuple[float, float]:
    """Factors on the hidden variance ``own`` and on the effects of what is seen that make the median share ``target``.

    The hidden variance is scaled as far as its limits; if the image would still carry too much, differences between
    types and the effects of states and neighbourhood are shrunk. ``told`` is the variance between types of one look,
    ``fixed`` that between donors.
    """
    from scipy.optimize import brentq

    def by_scale(log_scale: float) -> float:
        return float(np.median(_share(shown, told + np.exp(log_scale) * own + fixed)) - target)

    low, high = np.log(np.array(_HIDDEN_RANGE) / np.median(own))
    if by_scale(low) <= 0:
        return float(np.exp(low)), 1.0
    if by_scale(high) <= 0:
        return float(np.exp(brentq(by_scale, low, high))), 1.0
    hidden = np.exp(high) * own + fixed

    def by_shrinkage(log_shrink: float) -> float:
        square = np.exp(2 * log_shrink)
        return float(np.median(_share(square * shown, square * told + hidden)) - target)

    return float(np.exp(high)), float(np.exp(brentq(by_shrinkage, -10.0, 0.0)))


def neighbourhood(xy: np.ndarray, look: np.ndarray, vessel_um: np.ndarray, nest_um: np.ndarray) -> np.ndarray:
    """Neighbourhood (n, 3) of cells, each about −1 to 1: far from a vessel, among immune cells, deep in a nest."""
    from scipy.spatial import cKDTree

    immune = np.flatnonzero(np.isin(look, [LOOKS.index("lymphocyte"), LOOKS.index("plasma")]))
    count = np.zeros(len(xy))
    if len(immune):
        count = cKDTree(xy[immune]).query_ball_point(xy, 40.0, return_length=True)
    return np.column_stack(
        [np.tanh((vessel_um - 80) / 60), np.tanh((np.asarray(count) - 8) / 8), np.tanh(nest_um / 30)]
    )


def leakage_matrix(xy: np.ndarray, share: np.ndarray, length_um: float) -> csr_array:
    """Sparse (n, n): how much of the transcripts of the cell of a column is counted in that of a row.

    ``share`` (n,) of a cell's transcripts goes to its six nearest cells, by exp(−distance / length); cells with nobody
    within five lengths keep theirs. Columns sum to 1.
    """
    from scipy.sparse import csr_array
    from scipy.spatial import cKDTree

    n = len(xy)
    k = min(7, n)
    distance, near = cKDTree(xy).query(xy, k=k)
    if k == 1:
        return csr_array(np.eye(n))
    distance, near = distance[:, 1:], near[:, 1:]
    weight = np.exp(-distance / length_um) * (distance < 5 * length_um)
    total = weight.sum(1)
    share = np.where(total > 0, share, 0.0)
    weight *= (share / np.where(total > 0, total, 1))[:, None]
    source = np.repeat(np.arange(n), k - 1)
    rows = np.concatenate([near.ravel(), np.arange(n)])
    columns = np.concatenate([source, np.arange(n)])
    return csr_array((np.concatenate([weight.ravel(), 1 - share]), (rows, columns)), shape=(n, n))
