"""Immunohistochemistry markers: their genes and where in the cell the chromogen sits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pastpy._names import storable

__all__ = ["MARKERS", "Compartment", "Marker", "resolve_markers"]

Compartment = Literal["nucleus", "cytoplasm", "membrane"]


@dataclass(frozen=True)
class Marker:
    """A marker of a virtual stain.

    Attributes
    ----------
    name
        Name that the results carry.
    genes
        Gene symbols whose expression stands for the marker.
    compartment
        ``"nucleus"``, ``"cytoplasm"`` or ``"membrane"``.
    """

    name: str
    genes: tuple[str, ...]
    compartment: Compartment


def _markers(compartment: Compartment, genes_of: Mapping[str, str]) -> dict[str, Marker]:
    return {name: Marker(name, tuple(genes.split()), compartment) for name, genes in genes_of.items()}


#: Markers of everyday diagnostic panels.
MARKERS: dict[str, Marker] = {
    **_markers(
        "nucleus",
        {
            "ER": "ESR1",
            "PR": "PGR",
            "AR": "AR",
            "Ki-67": "MKI67",
            "p53": "TP53",
            "p63": "TP63",
            "GATA3": "GATA3",
            "FOXP3": "FOXP3",
            "SOX10": "SOX10",
            "PAX8": "PAX8",
            "TTF-1": "NKX2-1",
            "WT1": "WT1",
        },
    ),
    **_markers(
        "membrane",
        {
            "HER2": "ERBB2",
            "EGFR": "EGFR",
            "E-cadherin": "CDH1",
            "EpCAM": "EPCAM",
            "PD-L1": "CD274",
            "PD-1": "PDCD1",
            "CD3": "CD3D CD3E CD3G",
            "CD4": "CD4",
            "CD8": "CD8A CD8B",
            "CD20": "MS4A1",
            "CD31": "PECAM1",
            "CD45": "PTPRC",
            "CD56": "NCAM1",
            "CD138": "SDC1",
        },
    ),
    **_markers(
        "cytoplasm",
        {
            "PanCK": "KRT8 KRT18 KRT19 KRT7",
            "CK5": "KRT5",
            "CK7": "KRT7",
            "CK14": "KRT14",
            "CK20": "KRT20",
            "VIM": "VIM",
            "SMA": "ACTA2",
            "Desmin": "DES",
            "CD68": "CD68",
            "CD163": "CD163",
            "MUC1": "MUC1",
            "S100": "S100A1 S100B",
            "GZMB": "GZMB",
        },
    ),
}

# the spellings under which a marker is looked up: its name, and its gene where that alone stands for it
_LOOKUP = {re.sub(r"[^a-z0-9]", "", key.lower()): marker for key, marker in MARKERS.items()}
_LOOKUP |= {
    "pancytokeratin": MARKERS["PanCK"],
    "vimentin": MARKERS["VIM"],
    "pdl1": MARKERS["PD-L1"],
    "alphasma": MARKERS["SMA"],
}
_BY_GENE = {marker.genes[0]: marker for marker in reversed(MARKERS.values()) if len(marker.genes) == 1}


def resolve_markers(
    markers: str | Sequence[str] | Mapping[str, str | Sequence[str]],
    *,
    compartment: Compartment | Mapping[str, Compartment] | None = None,
) -> list[Marker]:
    """Markers by name, gene symbol or own definition.

    Parameters
    ----------
    markers
        One name or several: of :data:`MARKERS` (case and hyphens do not matter), else taken as a gene symbol; or a
        dict from a name of one's own to a gene or genes.
    compartment
        Where the chromogen sits, for all or by marker name; by default the table's entry for the name or the gene,
        else ``"cytoplasm"``.

    Returns
    -------
    list of Marker
        Under the names as they were given, since these name the result columns.

    Raises
    ------
    ValueError
        If no marker is given, one is given twice, a name cannot be stored, or a compartment is unknown.
    TypeError
        If a marker or gene is not a string.

    Examples
    --------
    >>> resolve_markers("ki67")
    [Marker(name='ki67', genes=('MKI67',), compartment='nucleus')]
    """
    if isinstance(markers, Mapping):
        chosen = [_own(name, genes) for name, genes in markers.items()]
    else:
        names = [markers] if isinstance(markers, str) else list(markers)
        chosen = [_named(name) for name in names]
    if not chosen:
        raise ValueError("no marker given; name one, for example 'HER2'")
    for marker in chosen:
        if not storable(marker.name):
            raise ValueError(
                f"marker name {marker.name!r} cannot name a column and an image; use letters, digits, '_', '-', '.', "
                f"for example {{'{re.sub('[^A-Za-z0-9]+', '_', marker.name).strip('_') or 'marker'}': …genes}}"
            )
    lower = [marker.name.lower() for marker in chosen]
    twice = sorted({name for name in lower if lower.count(name) > 1})
    if twice:
        raise ValueError(f"markers {twice} are given more than once (names that differ only in case cannot be stored)")
    return [_placed(marker, compartment) for marker in chosen]


def _known(name: str) -> Marker | None:
    return _BY_GENE.get(name) or _LOOKUP.get(re.sub(r"[^a-z0-9]", "", name.lower()))


def _named(name: str) -> Marker:
    if not isinstance(name, str):
        raise TypeError(f"a marker is a string, got {type(name).__name__} {name!r}")
    known = _known(name)
    return replace(known, name=name) if known else Marker(name, (name,), "cytoplasm")


def _own(name: str, genes: str | Sequence[str]) -> Marker:
    symbols = (genes,) if isinstance(genes, str) else tuple(genes)
    if not isinstance(name, str) or not symbols or not all(isinstance(gene, str) for gene in symbols):
        raise TypeError(f"marker {name!r} needs a gene symbol or a list of them, got {genes!r}")
    known = _known(name) or _known(symbols[0])
    return Marker(name, symbols, known.compartment if known else "cytoplasm")


def _placed(marker: Marker, compartment: Compartment | Mapping[str, Compartment] | None) -> Marker:
    place = compartment.get(marker.name) if isinstance(compartment, Mapping) else compartment
    if place is None:
        return marker
    if place not in get_args(Compartment):
        raise ValueError(
            f"compartment {place!r} of {marker.name!r} is unknown; use one of {list(get_args(Compartment))}"
        )
    return replace(marker, compartment=place)
