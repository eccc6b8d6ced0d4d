"""What ``pastpy stain`` does beside the stain: predict what is missing, and say what the scores are worth."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pastpy import _keys
from pastpy._elements import expression_frame, past_attrs, table_of

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame
    from spatialdata import SpatialData

    from pastpy.models import PAST

__all__ = ["predict_too", "scores_of"]

#: Options that decide what is predicted: an earlier prediction answers those that are given only if made with them.
_DECISIVE = ("modality", "mode", "image_key", "shapes_key", "mpp", "on_misaligned")
#: What of an earlier prediction stands when its genes are predicted again, unless an option says otherwise.
_KEPT = ("modality", "mode", "layer", "library_key", "target_sum")


def predict_too(
    sdata: SpatialData, model: PAST, genes: Sequence[str], options: Mapping[str, Any], *, resume: Path | None
) -> None:
    """Predict genes with those that a table holds already; nothing where it holds them all, made as is asked for.

    Parameters
    ----------
    sdata
        The object; its table gets the genes.
    model
        Predicts them.
    genes
        Genes that are needed.
    options
        What the command was given for ``impute_expression``; ``None``, ``"auto"`` and ``"warn"`` say nothing.
    resume
        Store of unfinished results.
    """
    from pastpy import tl

    slots = _keys.Slots()
    table = table_of(sdata, options["table_key"])
    before = [str(gene) for gene in expression_frame(table, slots.expression)] if slots.expression in table.obsm else []
    missing = [gene for gene in genes if gene not in before]
    made = table.uns.get(_keys.PAST, {}).get("impute_expression", {}) if before else {}
    given = {name: value for name, value in options.items() if value not in (None, "auto", "warn")}
    as_asked = _is_made_as_asked(made, model, given)
    if as_asked and not missing:
        return
    if before:
        _check_room(before, missing)
        _warn_of_renewal(table, before, missing, as_asked=as_asked)
    kept = {name: made[name] for name in _KEPT if made.get(name) is not None}
    tl.impute_expression(
        sdata, model, genes=[*before, *missing], uncertainty=slots.expression_std in table.obsm, resume=resume,
        **{**kept, **given},
    )  # fmt: skip


def _is_made_as_asked(made: Mapping[str, Any], model: PAST, given: Mapping[str, Any]) -> bool:
    """Whether a recorded prediction is the model's, and with the options that were given."""
    from pastpy.tl._inputs import model_facts

    decisive = {name: value for name, value in given.items() if name in _DECISIVE}
    asked = {**model_facts(model), "key_added": _keys.PAST, **decisive}
    return all(made.get(name) == value for name, value in asked.items())


def _check_room(before: Sequence[str], missing: Sequence[str]) -> None:
    """Refuse more genes than a table holds in terms of this command, which writes no other table."""
    from pastpy.tl._impute_expression import MAX_OBSM_GENES

    if len(before) + len(missing) > MAX_OBSM_GENES:
        raise ValueError(
            f"obsm[{_keys.Slots().expression!r}] holds {len(before)} genes, at most {MAX_OBSM_GENES} fit, and "
            f"{', '.join(missing)} would have to be added; stain the slide itself, or predict fewer genes before: "
            "pastpy impute --genes"
        )


def _warn_of_renewal(table: AnnData, before: Sequence[str], missing: Sequence[str], *, as_asked: bool) -> None:
    """Say that genes are predicted once more, since one call predicts all that a table holds."""
    beside = f" with {', '.join(missing)}" if missing else ""
    why = "" if as_asked else "; another model or other options made them before, so their values change"
    noted = table.uns.get(_keys.PAST, {})
    lost = "; intervals of past.tl.conformal are removed, calibrate them again" if "conformal" in noted else ""
    warnings.warn(
        f"the {len(before)} genes of obsm[{_keys.Slots().expression!r}] are predicted again{beside}{why}{lost}",
        stacklevel=1,
    )


def scores_of(sdata: SpatialData, markers: list[str], *, table_key: str | None) -> str:
    """H-scores of the markers as a table, after what the model's card says of each one's own genes."""
    import pandas as pd

    from pastpy import tl

    facts = table_of(sdata, table_key).uns[_keys.PAST]
    card = pd.DataFrame(facts["impute_expression"]["scores"]).set_index("gene")
    of_marker = {name: card.loc[facts["virtual_stain"]["markers"][name]["genes"]] for name in markers}
    scores = pd.concat([tl.h_score(sdata, name, table_key=table_key) for name in markers])
    scores = scores.set_axis(markers).rename_axis("marker")
    trust = {name: _trust(genes, str(scores.loc[name, "caveats"])) for name, genes in of_marker.items()}
    lines = [
        f"H-scores of {past_attrs(sdata)[_keys.SOURCE]}, {_keys.RESEARCH_USE}",
        f"{facts['impute_expression']['model']} as a whole: {card['statement'].iloc[0]}",
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
