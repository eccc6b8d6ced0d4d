"""What a model does not fit: genes, µm per pixel, stain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pastpy.models.past import PAST

__all__ = ["misfits"]

#: An image this much coarser than the model's µm/px lacks detail that the model was trained on.
COARSER = 1.5
#: A smaller share of the genes that could be known is worth a word.
KNOWN_SHARE = 0.5
#: Fewer measured genes say next to nothing of the others.
_FEW_GENES = 100


def misfits(
    model: PAST, *, genes: Sequence[str] | None = None, mpp: float | None = None, stain: str | None = None
) -> list[str]:
    """Name what in a dataset a model was not made for.

    Parameters
    ----------
    model
        The model.
    genes
        Names of the measured genes.
    mpp
        µm per level-0 pixel of the image.
    stain
        Stain of the image, e.g. ``"H&E"``.

    Returns
    -------
    A sentence for each misfit; empty where all fits.

    Examples
    --------
    >>> import pastpy as past
    >>> model = past.models.load("past-mini")
    >>> past.models.misfits(model, genes=["ERBB2", "KRT8"], mpp=0.5, stain="H&E")
    []
    >>> past.models.misfits(model, mpp=2.0)
    ['the image has 2 µm/px, and the model reads 0.5: three quarters and more of the detail it knows is missing']
    """
    found = [] if genes is None else _gene_misfits(model, [str(g) for g in genes])
    target = model.config.target_mpp
    low, high = model.card.facts.get("mpp_range", (0.0, COARSER * target))
    if mpp is not None and mpp > COARSER * target:
        lost = "three quarters and more" if mpp >= 2 * target else "part"
        found.append(
            f"the image has {mpp:g} µm/px, and the model reads {target:g}: {lost} of the detail it knows is missing"
        )
    elif mpp is not None and not low <= mpp <= high:
        found.append(f"the image has {mpp:g} µm/px; the model was trained on images of {low:g} to {high:g}")
    trained = str(model.card.facts.get("stain", "H&E"))
    if stain is not None and _plain(stain) != _plain(trained):
        found.append(f"the image is stained with {stain}; the model was trained on {trained}")
    return found


def _gene_misfits(model: PAST, genes: list[str]) -> list[str]:
    unknown = [g for g in genes if g not in model.gene_index]
    # of a whole transcriptome most genes are in no small vocabulary, and need not be
    expected = min(len(genes), len(model.gene_names))
    if len(genes) - len(unknown) >= KNOWN_SHARE * expected:
        return []
    hint = ""
    if sum(g.upper().startswith("ENS") for g in unknown) > len(unknown) / 2:
        hint = (
            "; they look like Ensembl ids, and the model knows gene symbols: pastpy.pp.harmonize_genes translates them"
        )
    elif sum(g.upper() in model.gene_index for g in unknown) > len(unknown) / 2:
        hint = "; they look like mouse symbols, and the model knows human ones"
    else:
        hint = "; pastpy.pp.harmonize_genes finds those that it knows by another name"
    few = len(genes) - len(unknown)
    if few < _FEW_GENES:
        hint += f"; measured counts of {few} genes say little: modality='image' leaves them aside"
    return [
        f"{len(unknown)} of {len(genes)} genes are not among the {len(model.gene_names)} that the model knows, e.g. "
        f"{unknown[:3]}{hint}"
    ]


def _plain(stain: str) -> str:
    plain = "".join(c for c in stain.lower() if c.isalnum())
    return "he" if plain in ("hande", "hematoxylinandeosin", "haematoxylinandeosin") else plain
