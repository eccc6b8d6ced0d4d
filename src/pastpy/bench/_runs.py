"""Protocols on expression for the command line: which data, which methods, where the result goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pastpy.bench._baselines import baselines
from pastpy.bench._fold_models import FoldModels
from pastpy.bench._folds import canonical_donors
from pastpy.bench._hest import hest
from pastpy.bench._loso import LosoResult, run_loso

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["read_her2st", "read_mob", "read_stores", "run_donors", "run_hest", "run_mob", "run_sections"]

#: Sections, µm/px and spot diameter of her2st and of the olfactory bulb.
HER2ST = (("C2", "C3", "C4", "C5", "C6"), 0.69, 100.0)
MOB = (("MOB1", "MOB2", "MOB3", "MOB4"), 8.3, 100.0)
#: Windows of the features at several scales, µm.
SCALES_UM = (100.0, 200.0, 400.0)
#: Table of donors beside a folder of stores.
DONORS_CSV = "donors.csv"


def run_sections(
    data: str | Path, out: str | Path | None = None, *, config: str | None = None, models: str | Path | None = None
) -> dict[str, Any]:
    """Leave one section out: her2st where the folder has it, else every ``*.zarr`` store in the folder.

    Parameters
    ----------
    data
        Folder with ``her2st``, or with SpatialData stores and ``donors.csv`` (columns ``section``, ``donor``).
    out
        JSON file to write; a CSV and a PNG go beside it.
    config
        Configuration of a model that is trained anew for every fold and scored from its cells, beside the baselines;
        see :class:`pastpy.bench.FoldModels`. Only on her2st.
    models
        Folder for these models.

    Raises
    ------
    FileNotFoundError
        If there are no sections, or stores without ``donors.csv``.
    ValueError
        If only one of ``config`` and ``models`` is given, or the folder has no ``her2st`` to train on.
    """
    methods = baselines(windows_um=SCALES_UM)
    if (config is None) != (models is None):
        raise ValueError("config and models go together: what to train, and the folder for the models of the folds")
    if config is not None and models is not None:
        from pastpy.train import TrainConfig

        if not (Path(data) / "her2st").is_dir():
            raise ValueError(f"a model can only be trained on her2st, which {str(data)!r} does not hold")
        trained = TrainConfig.from_json(config)
        methods[str(trained.model.get("name", "model"))] = FoldModels(trained, models, data)
    sections, donors = _sections(Path(data))
    within = len(set(donors.values())) < len(sections)
    result = run_loso(sections, methods, donors=donors, within_patient=within, maps=True, title="leave one section out")
    return _finish(result, out)


def run_donors(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Leave one donor out, over the sections of a folder; see :func:`run_sections`.

    Raises
    ------
    FileNotFoundError
        If there are no sections, or stores without ``donors.csv``.
    ValueError
        If all sections are of one donor.
    """
    sections, donors = _sections(Path(data))
    if len(set(donors.values())) < 2:
        raise ValueError(
            f"all {len(sections)} sections are of donor {next(iter(donors.values()))!r}; leaving one donor out needs "
            "two or more. Use the protocol loso, whose result is labelled as within a patient"
        )
    methods = baselines(windows_um=SCALES_UM)
    result = run_loso(sections, methods, donors=donors, hold_out="donor", maps=True, title="leave one donor out")
    return _finish(result, out)


def run_mob(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Leave one section out on the mouse olfactory bulb: 8.3 µm/px, so spots only.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    sections = read_mob(Path(data))
    # a window of 100 µm is 12 px wide: features are taken on the image enlarged twice
    methods = baselines(windows_um=(200.0, 400.0, 800.0), target_mpp=MOB[1] / 2)
    result = run_loso(
        sections, methods, donors=dict.fromkeys(sections, "mouse 1"), within_patient=True, maps=True,
        title="mouse olfactory bulb, leave one section out",
    )  # fmt: skip
    return _finish(result, out)


def run_hest(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """The HEST-Benchmark recipe on the sections of a folder; see :func:`run_sections`.

    Raises
    ------
    FileNotFoundError
        If there are no sections, or stores without ``donors.csv``.
    """
    sections, donors = _sections(Path(data))
    return _finish(hest(sections, donors=donors, within_patient=len(set(donors.values())) < 2), out)


def read_her2st(folder: Path) -> dict[str, SpatialData]:
    """Sections C2–C6 of her2st.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    from pastpy.train.data import read_section

    names, mpp, diameter = HER2ST
    return {s: read_section(folder / "her2st", s, mpp=mpp, spot_diameter_um=diameter) for s in names}


def read_mob(folder: Path) -> dict[str, SpatialData]:
    """The four sections of the olfactory bulb.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    from pastpy.io import read_st

    root, (names, mpp, diameter) = folder / "mob", MOB
    return {
        s: read_st(
            root / f"{s}.jpg", root / f"{s}.tsv", root / f"alignment_table_{s}.tsv", mpp=mpp, spot_diameter_um=diameter
        )
        for s in names
    }


def read_stores(folder: Path) -> tuple[dict[str, SpatialData], dict[str, str]]:
    """Every ``*.zarr`` store of a folder, by its stem, and the donor of each.

    Raises
    ------
    FileNotFoundError
        If there is no store, or no ``donors.csv``.
    ValueError
        If ``donors.csv`` lacks a column or a section.
    """
    import pandas as pd
    import spatialdata

    paths = sorted(folder.glob("*.zarr"))
    if not paths:
        raise FileNotFoundError(f"{str(folder)!r} has neither a folder her2st nor a *.zarr store")
    file = folder / DONORS_CSV
    if not file.is_file():
        raise FileNotFoundError(
            f"{str(file)!r} is missing: a table with the columns section (stem of the store) and donor, without which "
            "a donor could stand on both sides"
        )
    table = pd.read_csv(file, dtype=str)
    if not {"section", "donor"} <= set(table.columns):
        raise ValueError(f"{DONORS_CSV} has the columns {list(table.columns)}; expected section and donor")
    donors = pd.Series(table["donor"].to_numpy(), index=table["section"].str.strip())
    try:
        donor_of = canonical_donors(donors, [p.stem for p in paths])
    except ValueError as error:
        raise ValueError(f"{DONORS_CSV}: {error}") from error
    return {p.stem: spatialdata.read_zarr(p) for p in paths}, donor_of


def _sections(folder: Path) -> tuple[dict[str, SpatialData], dict[str, str]]:
    if not (folder / "her2st").is_dir():
        return read_stores(folder)
    sections = read_her2st(folder)
    return sections, dict.fromkeys(sections, "C")


def _finish(result: LosoResult, out: str | Path | None) -> dict[str, Any]:
    if out is not None:
        result.write(out)
    return {k: v for k, v in result.summary().items() if k != "genes"}
