"""What a simulated tissue is made by: every number that may differ between two simulations."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

__all__ = ["NICHES", "TissueParameters"]

#: Names of the niches a cell may lie in, by the code the architecture gives them.
NICHES = ("stroma", "tumour_core", "tumour_edge", "immune_aggregate", "perivascular", "fat")


@dataclass(frozen=True)
class TissueParameters:
    """Parameters of :func:`pastpy.datasets.simulate_tissue`, in µm, µm² and optical density (OD).

    Between donors, densities and lengths of the architecture vary by ``donor_architecture_sd`` (standard deviation of
    the logarithm; of the logit for shares), stain and optics by the spreads given with them.

    Attributes
    ----------
    tumour_fraction
        Share of the tissue's area that is tumour nests.
    nest_um
        Correlation length of the nests: small for cords, large for sheets.
    in_situ_fraction
        Share of nests with a rim of myoepithelium.
    aggregate_fraction, aggregate_um
        Share of the tissue's area that is immune aggregates, and their length. The share varies between donors twice as
        much as the rest does.
    vessels_per_mm2, vessel_um
        Density of vessels, and the median radius of their lumen.
    fat_fraction
        Share of the tissue's area that is fat.
    infiltrate
        Share of lymphocytes among the cells of the stroma.
    donor_architecture_sd
        Spread of the architecture between donors.
    nucleus_scale
        Factor on the areas of all nuclei, 1 for the real distribution.
    state_share
        Share of the variance of the first four factors of expression that nuclear size, chromatin, cytoplasm and
        elongation carry.
    neighbourhood_share
        Share of the variance of the next three factors that distance to a vessel, density of immune cells and depth in
        a nest carry.
    state_smooth, state_um
        Share of the variance of the visible states that is smooth over the tissue, and the length over which.
    image_share
        Share of a gene's log expression variance that the image carries (type as far as it shows, visible state,
        neighbourhood), before depth and leakage, for the median gene. The hidden variance is scaled to reach it, up to
        2 (natural logarithm, squared); below, the effects of what is seen are shrunk as well. The share reached is
        stated with the data.
    donor_sd
        Standard deviation of a donor's own shift of a gene's log expression, which no image shows.
    mean_counts
        Mean counts of a cell over the simulated genes, at most 10,000: beyond, ``layers["bayes_log1p"]`` would no
        longer be the best prediction.
    depth_sd, depth_by_size
        Spread of the log depth of cells, and slope of log depth on the nuclear size state. ``layers["bayes_log1p"]``
        is low where the spread is 1 and more.
    leakage, leakage_um
        Share of a cell's transcripts that are counted in neighbours, and the length over which that declines.
    boundary_error
        Further share that outlines drawn wrongly give to neighbours: uniform between 0 and this, cell by cell.
    haematoxylin, eosin, stain_sd
        Mean strength of the stains (1 is usual), and spread of its logarithm between donors.
    stain_hue_sd
        Spread between donors of the stains' direction in OD space: 0 keeps all on one; 1 is that between laboratories.
    blur_um, blur_sd
        Median standard deviation of the optical blur, and spread of its logarithm between donors.
    jpeg_quality
        Quality of the JPEG compression, 1–100; donors vary by ± 5. 0 for none.
    sensor_noise
        Standard deviation of the noise of a pixel, in grey levels of 255.
    niche, log_hazard_ratio, censoring
        Niche whose share of a donor's cells drives the hazard, natural logarithm of the hazard ratio per standard
        deviation over the cohort, and expected share of donors censored. A cohort in which no donor has more of the
        niche than another gets a warning: its hazard depends on nothing.
    spot_diameter_um, spot_pitch_um, bin_um
        Geometry of spots (hexagonal grid) and square bins.

    Raises
    ------
    ValueError
        If a value is not a finite number, or out of its range; the message names it.

    Examples
    --------
    >>> import pastpy as past
    >>> past.datasets.TissueParameters(mean_counts=80).mean_counts
    80
    """

    tumour_fraction: float = 0.45
    nest_um: float = 55.0
    in_situ_fraction: float = 0.25
    aggregate_fraction: float = 0.06
    aggregate_um: float = 60.0
    vessels_per_mm2: float = 30.0
    vessel_um: float = 9.0
    fat_fraction: float = 0.05
    infiltrate: float = 0.25
    donor_architecture_sd: float = 0.4
    nucleus_scale: float = 1.0
    state_share: float = 0.7
    neighbourhood_share: float = 0.5
    state_smooth: float = 0.4
    state_um: float = 80.0
    image_share: float = 0.35
    donor_sd: float = 0.2
    mean_counts: float = 150.0
    depth_sd: float = 0.45
    depth_by_size: float = 0.2
    leakage: float = 0.08
    leakage_um: float = 8.0
    boundary_error: float = 0.1
    haematoxylin: float = 1.0
    eosin: float = 1.0
    stain_sd: float = 0.15
    stain_hue_sd: float = 1.0
    blur_um: float = 0.35
    blur_sd: float = 0.25
    jpeg_quality: int = 85
    sensor_noise: float = 1.5
    niche: str = "immune_aggregate"
    log_hazard_ratio: float = -1.2
    censoring: float = 0.3
    spot_diameter_um: float = 55.0
    spot_pitch_um: float = 100.0
    bin_um: float = 16.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "niche":
                self._check(field.name)
        if self.niche not in NICHES:
            raise ValueError(f"niche must be one of {list(NICHES)}, got {self.niche!r}")
        if self.spot_pitch_um < self.spot_diameter_um:
            raise ValueError(
                f"spots of {self.spot_diameter_um:g} µm overlap at a pitch of {self.spot_pitch_um:g} µm; raise "
                "spot_pitch_um"
            )

    def _check(self, name: str) -> None:
        value = getattr(self, name)
        low, high = _RANGES.get(name, (0.0, np.inf))
        if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
            raise ValueError(f"{name} must be a number, got {value!r}")
        if not (np.isfinite(value) and low <= value <= high):
            raise ValueError(f"{name} must be between {low:g} and {high:g}, got {value!r}")
        if name in _WHOLE and value != int(value):
            raise ValueError(f"{name} must be a whole number, got {value!r}")


#: What is counted in whole numbers.
_WHOLE = ("jpeg_quality",)
#: Inclusive limits; everything else is at least 0. Beyond these a tissue could not be laid out, or drawn, or the table
#: of ``bayes_log1p`` would end (``mean_counts``).
_RANGES = {
    "tumour_fraction": (0.0, 0.9), "nest_um": (15.0, 500.0), "in_situ_fraction": (0.0, 1.0),
    "aggregate_fraction": (0.0, 0.5), "aggregate_um": (15.0, 400.0), "vessels_per_mm2": (0.0, 100.0),
    "vessel_um": (3.0, 60.0), "fat_fraction": (0.0, 0.6), "infiltrate": (0.0, 0.9), "donor_architecture_sd": (0.0, 1.5),
    "nucleus_scale": (0.4, 2.5), "state_share": (0.0, 1.0), "neighbourhood_share": (0.0, 1.0),
    "state_smooth": (0.0, 1.0), "state_um": (10.0, 1000.0), "image_share": (0.01, 0.95), "donor_sd": (0.0, 1.0),
    "mean_counts": (1.0, 1e4), "depth_sd": (0.0, 1.5), "depth_by_size": (-0.5, 0.5), "leakage": (0.0, 0.5),
    "leakage_um": (1.0, 50.0), "boundary_error": (0.0, 0.5), "haematoxylin": (0.2, 2.5), "eosin": (0.2, 2.5),
    "stain_sd": (0.0, 0.6), "stain_hue_sd": (0.0, 2.0), "blur_um": (0.0, 3.0), "blur_sd": (0.0, 1.0),
    "jpeg_quality": (0, 100), "sensor_noise": (0.0, 20.0), "log_hazard_ratio": (-5.0, 5.0), "censoring": (0.0, 0.95),
    "spot_diameter_um": (5.0, 1000.0), "spot_pitch_um": (5.0, 2000.0), "bin_um": (2.0, 500.0),
}  # fmt: skip
