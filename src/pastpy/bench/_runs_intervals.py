"""Protocols on intervals for the command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy.bench._baselines import FeatureMethod, gene_mean, tuned_ridge
from pastpy.bench._card import predictable_genes
from pastpy.bench._features import window_features
from pastpy.bench._intervals import IntervalResult, nested_intervals
from pastpy.bench._loso import run_loso
from pastpy.bench._report import write_report
from pastpy.bench._runs import SCALES_UM, read_her2st

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["run_intervals", "run_intervals_simulated"]

#: The simulated cohort of the donor protocol; frozen.
N_DONORS, CELLS_A_DONOR, N_GENES, SEED = 24, 200, 100, 20260


def run_intervals(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Nested intervals for her2st spots, leave one section out; within the patient, and labelled so.

    Also gives the card of predictable genes of the same method.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    sections = read_her2st(Path(data))
    donors = dict.fromkeys(sections, "C")
    method = FeatureMethod(partial(window_features, windows_um=SCALES_UM), tuned_ridge())
    name = "backbone ridge, three scales"
    found = nested_intervals(sections, method, donors=donors, hold_out="section", within_patient=True)
    scored = run_loso(sections, {name: method}, donors=donors, within_patient=True)
    card = predictable_genes(scored, name, intervals=found)
    summary = {
        "title": "coverage of nested 90 % intervals on her2st spots, leave one section out",
        "statement": scored.facts["statement"],
        "method": name,
        **found.facts,
        "sections": found.sections,
        "predictable_genes": {
            "statement": card.attrs["statement"],
            "count": card["trust"].value_counts().to_dict(),
            "trusted": card.index[card["trust"] == "yes"].tolist(),
        },
    }
    return _finish(summary, found, card.reset_index(), out)


def run_intervals_simulated(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Nested intervals for cells of simulated donors, by donor: 24 donors of 200 cells, six left out at a time.

    Parameters
    ----------
    data
        Not read; the tissue is simulated.
    out
        JSON file to write; a CSV and a PNG go beside it.
    """
    from pastpy.datasets import simulate_tissue, split_donors

    cohort = simulate_tissue(CELLS_A_DONOR * N_DONORS, N_GENES, N_DONORS, SEED)
    sections = split_donors(cohort)
    names = np.array(list(sections))
    parts = [names[i::4].tolist() for i in range(4)]
    folds = [([s for s in sections if s not in part], part) for part in parts]
    features = partial(window_features, windows_um=(12.0, 32.0), target_mpp=0.5, table_key=_keys.CELLS_TRUE)
    methods = {"backbone ridge": FeatureMethod(features, tuned_ridge()), "gene mean": gene_mean}
    found = {
        name: nested_intervals(
            sections, method, donors=dict(zip(sections, sections, strict=True)), folds=folds, n_genes=N_GENES,
            table_key=_keys.CELLS_TRUE,
        )
        for name, method in methods.items()
    }  # fmt: skip
    main = found["backbone ridge"]
    summary = {
        "title": "coverage of nested 90 % intervals on cells of held-out simulated donors",
        "statement": "held-out donors: no donor is in training, calibration and test",
        "cohort": {"n_donors": N_DONORS, "cells_a_donor": CELLS_A_DONOR, "n_genes": N_GENES, "seed": SEED},
        "methods": {name: dict(result.facts) for name, result in found.items()},
        "donors": main.sections,
    }
    return _finish(summary, main, main.genes, out)


def _finish(
    summary: dict[str, Any], found: IntervalResult, table: pd.DataFrame, out: str | Path | None
) -> dict[str, Any]:
    def draw(ax: Axes) -> None:
        ax.hist(found.genes["coverage"].dropna(), bins=np.linspace(0.5, 1, 41), color="#0072B2")
        ax.axvline(found.facts["level"], color="black")
        ax.set_xlabel(f"coverage of a gene in a held-out section (nominal {found.facts['level']:.0%})")
        ax.set_ylabel("genes × sections")

    if out is not None:
        write_report(out, summary, table, draw)
    return summary
