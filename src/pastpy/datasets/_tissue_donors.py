"""Donors of a simulated cohort: how each differs, where each lies on the slide, how each fares."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pastpy import _keys
from pastpy._warn import warn_user
from pastpy.datasets._cohort import _survival
from pastpy.datasets._tissue_architecture import (
    GRID_UM,
    Architecture,
    Cells,
    build_architecture,
    hole_depth,
    place_cells,
    signed_distance,
    smooth_field,
)
from pastpy.datasets._tissue_expression import neighbourhood
from pastpy.datasets._tissue_nuclei import Nuclei, make_nuclei
from pastpy.datasets._tissue_parameters import _RANGES, TissueParameters
from pastpy.datasets._tissue_render import Stain, draw_stain

__all__ = ["Donor", "grow_donor", "layout", "outcomes"]

#: Cells a mm² of tissue, for a first guess of the area, and by how much to overshoot: the rim is trimmed off.
_CELLS_PER_MM2 = 4700.0
_OVERSHOOT = 1.12
_ATTEMPTS = 12


@dataclass(frozen=True)
class Donor:
    """One donor's tissue, in µm of the donor's own square.

    ``states`` (n, 4) and ``neighbourhood`` (n, 3) are what the image shows of the cells besides their look.
    """

    parameters: TissueParameters
    architecture: Architecture
    cells: Cells
    states: np.ndarray
    neighbourhood: np.ndarray
    nuclei: Nuclei
    stain: Stain


def grow_donor(n_cells: int, p: TissueParameters, seed: int, donor: int) -> Donor:
    """A donor's tissue with exactly ``n_cells`` cells."""
    from pastpy.datasets._tissue_expression import load_profiles

    rng = np.random.default_rng([seed, donor])
    own = _vary(p, rng)
    stain = draw_stain(
        (p.haematoxylin, p.eosin), p.stain_sd, p.stain_hue_sd, p.blur_um, p.blur_sd, int(p.jpeg_quality),
        p.sensor_noise, rng,
    )  # fmt: skip
    area = _OVERSHOOT * n_cells / _CELLS_PER_MM2
    for attempt in range(_ATTEMPTS):
        placing = np.random.default_rng([seed, donor, attempt])
        architecture = build_architecture(area, own, placing)
        cells = place_cells(architecture, own, placing)
        if n_cells <= len(cells.xy) <= 1.5 * n_cells + 30:
            break
        area *= _OVERSHOOT * n_cells / max(len(cells.xy), n_cells / 4)
    else:
        raise ValueError(f"no tissue of {n_cells} cells could be laid out with these parameters; ask for more cells")
    architecture, cells = _trim(architecture, cells, n_cells)
    m = len(architecture.fields["nest"])
    smooth = [smooth_field(rng, m, p.state_um) for _ in range(4)]
    states = np.sqrt(1 - p.state_smooth) * rng.standard_normal((n_cells, 4))
    states += np.sqrt(p.state_smooth) * np.column_stack(
        [replace(architecture, fields={"state": field}).at("state", cells.xy) for field in smooth]
    )
    vessels = architecture.holes[architecture.holes[:, 5] == 0]
    free = np.minimum(hole_depth(vessels, cells.xy)[0], 1000.0)
    near = neighbourhood(cells.xy, cells.look, free, architecture.at("nest", cells.xy))
    nuclei = make_nuclei(cells, states, load_profiles(), p.nucleus_scale, rng)
    return Donor(own, architecture, cells, states, near, nuclei, stain)


def _vary(p: TissueParameters, rng: np.random.Generator) -> TissueParameters:
    """The architecture of one donor."""
    sd = p.donor_architecture_sd
    z = dict(
        zip(("tumour", "nest", "in_situ", "aggregates", "vessels", "fat", "infiltrate"), rng.standard_normal(7) * sd,
            strict=True)
    )  # fmt: skip

    def shifted(share: float, by: float) -> float:
        return share if share in (0.0, 1.0) else float(1 / (1 + (1 / share - 1) * np.exp(-by)))

    changed = {
        "tumour_fraction": shifted(p.tumour_fraction, z["tumour"]),
        "in_situ_fraction": shifted(p.in_situ_fraction, z["in_situ"]),
        "fat_fraction": shifted(p.fat_fraction, z["fat"]),
        "infiltrate": shifted(p.infiltrate, z["infiltrate"]),
        "nest_um": p.nest_um * np.exp(0.6 * z["nest"]),
        # Immune aggregates differ between tumours more than anything else.
        "aggregate_fraction": shifted(p.aggregate_fraction, 2 * z["aggregates"]),
        "vessels_per_mm2": p.vessels_per_mm2 * np.exp(z["vessels"]),
    }
    clipped: dict[str, Any] = {name: float(np.clip(value, *_RANGES[name])) for name, value in changed.items()}
    return replace(p, **clipped)


def _trim(architecture: Architecture, cells: Cells, n: int) -> tuple[Architecture, Cells]:
    """Take cells off the rim until ``n`` are left, and the tissue with them."""
    height = architecture.at("outline", cells.xy)
    keep = np.sort(np.argsort(-height, kind="stable")[:n])
    outline = architecture.fields["outline"]
    limit = max(float(height[keep].min()), float(outline[architecture.fields["tissue"] > 0].min(initial=np.inf)))
    fields = {**architecture.fields, "tissue": signed_distance(outline > limit) + np.float32(GRID_UM)}
    holes = architecture.holes[replace(architecture, fields=fields).at("tissue", architecture.holes[:, :2]) > 0]
    cells = Cells(cells.xy[keep], cells.look[keep], cells.angle[keep], cells.niche[keep])
    return replace(architecture, fields=fields, holes=holes), cells


def layout(donors: list[Donor], mpp: float) -> tuple[int, np.ndarray]:
    """Side in px of the square that each donor gets, and its origins (n, 2) x, y in px: rows of squares."""
    side = max(donor.architecture.side_um for donor in donors) / mpp
    box = int(-(-side // 8) * 8)
    columns = int(np.ceil(np.sqrt(len(donors))))
    row, column = np.divmod(np.arange(len(donors)), columns)
    return box, np.column_stack([column, row]) * box


def outcomes(share: np.ndarray, p: TissueParameters, seed: int) -> dict[str, np.ndarray]:
    """SIMULATED months and events (n_donors,) whose hazard depends on the share of the niche, standardised."""
    spread = share.std()
    if len(share) > 1 and spread == 0 and p.log_hazard_ratio != 0:
        warn_user(
            f"all {len(share)} donors have the same share of the niche {p.niche!r} ({share[0]:.0%}), so their "
            f"{_keys.SIMULATED} outcomes depend on nothing; choose a niche that occurs, or log_hazard_ratio=0"
        )
    standardised = (share - share.mean()) / spread if spread > 0 else np.zeros(len(share))
    months, event = _survival(standardised * p.log_hazard_ratio, p.censoring, np.random.default_rng([seed, 1 << 20]))
    return {f"{_keys.SIMULATED}_months": months, f"{_keys.SIMULATED}_event": event}
