"""How far spots of her2st must lie off before expression tells: estimates with their errors, section by section.

    python scripts/spot_shifts.py --data ../shared/data

The JSON file goes to docs/_data, and the table into docs/platforms.md.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from result_tables import DOCS, fill, table

from pastpy.bench._runs import HER2ST

SECTIONS, MPP, SPOT_UM = HER2ST
#: Shifts that are put on the spots, µm, each in eight directions.
SHIFTS_UM = (15, 30, 60, 100)
TOLERANCE_UM = 5.0


def measure(data: Path, name: str) -> dict[str, Any]:
    """Estimate of a section as it is, and how many of eight shifts of each length are certain."""
    from pastpy._elements import unit_geometry
    from pastpy.pp._alignment_shift import expression_profiles, spot_shift
    from pastpy.pp._tissue import tissue_overview
    from pastpy.pp._tissue_mask import TissueMaskParameters
    from pastpy.train.data import read_section

    sdata = read_section(data / "her2st", name, mpp=MPP, spot_diameter_um=SPOT_UM)
    overview, _ = tissue_overview(sdata, "he", MPP, TissueMaskParameters())
    points = unit_geometry(sdata, "spots", "spot_circles", "he", mpp=MPP, coordinate_system="global").spatial_um
    profiles = expression_profiles(sdata["spots"].X)
    assert profiles is not None

    def found(off: tuple[float, float]) -> Any:
        return spot_shift(overview, points + off, SPOT_UM / 2, profiles, tolerance_um=TOLERANCE_UM)

    here, angles = found((0.0, 0.0)), np.arange(8) * np.pi / 4
    certain = {
        str(um): sum(bool((one := found((um * np.cos(a), um * np.sin(a)))) and one.certain) for a in angles)
        for um in SHIFTS_UM
    }
    facts = {"spots": len(points), "unmoved_certain": bool(here and here.certain), "certain_of_8": certain}
    if here is not None:
        facts |= {"shift_um": here.shift_um, "error_um": here.error_um, "resolution_um": here.resolution_um}
    return facts


def rows(found: dict[str, Any]) -> str:
    """A row a section."""
    lines = []
    for name, one in found.items():
        shift = " / ".join(f"{v:+.0f}" for v in one["shift_um"]) if "shift_um" in one else "–"
        error, least = (f"{one[k]:.0f}" if k in one else "–" for k in ("error_um", "resolution_um"))
        certain = (f"{one['certain_of_8'][str(um)]} of 8" for um in SHIFTS_UM)
        lines.append((name, one["spots"], shift, error, least, *certain))
    moved = (f"moved by {um} µm, called suspicious" for um in SHIFTS_UM)
    return table(
        ("section", "spots", "shift as it is, right / down, µm", "standard error", "certain from", *moved), lines
    )


def main() -> None:
    """Run, write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    found = {name: measure(arguments.data, name) for name in SECTIONS}
    out = DOCS / "_data" / "spot_shifts.json"
    out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fill(DOCS / "platforms.md", {"spot_shifts": rows})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
