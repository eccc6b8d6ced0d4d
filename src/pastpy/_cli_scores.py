"""What ``pastpy stain`` says of its scores: what they are worth stands beside them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pastpy import _keys
from pastpy._elements import past_attrs, table_of
from pastpy._provenance import recorded

if TYPE_CHECKING:
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["scores_of"]


def scores_of(sdata: SpatialData, markers: list[str], *, table_key: str | None, key_added: str) -> str:
    """H-scores of the markers as a table, after what the model's card says of each one's own genes.

    Parameters
    ----------
    sdata
        A stained slide.
    markers
        Names of the markers.
    table_key
        Name of the table.
    key_added
        Stem of the predicted expression that they were drawn from.
    """
    import pandas as pd

    from pastpy import tl

    table = table_of(sdata, table_key)
    imputed, stained = recorded(table, "impute_expression", key_added), table.uns[_keys.PAST]["virtual_stain"]
    card = pd.DataFrame(imputed["scores"]).set_index("gene")
    of_marker = {name: card.loc[stained["markers"][name]["genes"]] for name in markers}
    scores = pd.concat([tl.h_score(sdata, name, table_key=table_key) for name in markers])
    scores = scores.set_axis(markers).rename_axis("marker")
    trust = {name: _trust(genes, str(scores.loc[name, "caveats"])) for name, genes in of_marker.items()}
    lines = [
        f"H-scores of {past_attrs(sdata)[_keys.SOURCE]}, {_keys.RESEARCH_USE}",
        f"{imputed['model']} as a whole: {card['statement'].iloc[0]}",
        *(f"{name}, {_keys.RESEARCH_USE}: {said}" for name, said in trust.items()),
    ]
    shown = scores.drop(columns=["use", "transfer_score", "transfer_statement", "caveats"]).round(1)
    shown["transfer_score"] = scores["transfer_score"].map("{:.2f}".format)
    shown["trusted_genes"] = [f"{genes['trusted'].sum()} of {len(genes)}" for genes in of_marker.values()]
    return "\n".join([*lines, shown.to_string()])


def _trust(genes: DataFrame, caveats: str) -> str:
    """The r that the card states for each gene of a marker, whether it trusts them all, and what else to heed."""
    stated = genes["validation_r"].items()
    each = ", ".join(f"{gene} {'not measured' if math.isnan(r) else f'r {r:.2f}'}" for gene, r in stated)
    trusted = "trusted by the model's card" if genes["trusted"].all() else ""
    return "; ".join(part for part in (each, trusted, caveats) if part)
