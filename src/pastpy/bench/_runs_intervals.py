"""The protocol on intervals for the command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pastpy.bench._baselines import FeatureMethod, tuned_ridge
from pastpy.bench._card import predictable_genes
from pastpy.bench._features import window_features
from pastpy.bench._intervals import coverage_histogram, nested_intervals
from pastpy.bench._loso import run_loso
from pastpy.bench._report import write_report
from pastpy.bench._runs import SCALES_UM, read_her2st

__all__ = ["run_intervals"]


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
    if out is not None:
        write_report(out, summary, card.reset_index(), partial(coverage_histogram, found))
    return summary
