"""Folds that cannot leak: donors apart, no section twice, the held-out expression removed before a method sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from pastpy import _elements, _keys
from pastpy.metrics._gene_sets import log_normalised

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["Fold", "FitPredict", "blind", "make_folds", "refuse_shared_units"]

#: A row is taken for a fingerprint of its unit if it has so many different genes.
_FINGERPRINT_GENES = 20
#: Share of a section's fingerprints that another one may have before the two are taken for the same tissue.
_SAME_SHARE = 0.05


@dataclass(frozen=True)
class Fold:
    """What a method may use: training sections with their counts, held-out sections without.

    Attributes
    ----------
    name
        Name of the fold: the held-out section or donor.
    train
        Section → SpatialData with counts.
    test
        Section → SpatialData whose tables have rows and positions, but no genes, annotations or transcripts.
    genes
        Genes to predict, chosen on ``train``.
    donors
        Section → donor, of the training sections.
    table_key
        Table that is scored; ``None`` is the default table of each object.
    layer
        Layer with raw counts; ``None`` means ``X``.
    target_sum
        Depth of the target, log1p of counts per ``target_sum``; ``None`` is log1p of raw counts.

    Examples
    --------
    >>> import pastpy as past
    >>> fold = past.bench.Fold("s", {"s": past.datasets.breast_st()}, {}, ["ERBB2"], {"s": "P1"})
    >>> fold.targets()["s"].columns.tolist()
    ['ERBB2']
    """

    name: str
    train: Mapping[str, SpatialData]
    test: Mapping[str, SpatialData]
    genes: list[str]
    donors: Mapping[str, str]
    table_key: str | None = None
    layer: str | None = None
    target_sum: float | None = _keys.TARGET_SUM

    def tables(self, side: Literal["train", "test"]) -> dict[str, AnnData]:
        """The scored table of every section of one side."""
        return {name: _elements.table_of(s, self.table_key) for name, s in getattr(self, side).items()}

    def targets(self) -> dict[str, DataFrame]:
        """Training section → frame (units × genes) on the scale that is scored; NaN rows of units without counts."""
        return {
            name: log_normalised(table, self.genes, layer=self.layer, target_sum=self.target_sum)
            for name, table in self.tables("train").items()
        }


#: A method: takes a fold, returns for every held-out section a frame (units × genes of the fold) of log1p expression.
FitPredict = Callable[[Fold], Mapping[str, "DataFrame"]]


def make_folds(
    sections: Iterable[str],
    donors: Mapping[str, str] | None,
    *,
    hold_out: Literal["section", "donor"],
    within_patient: bool,
    folds: Sequence[tuple[Sequence[str], Sequence[str]]] | None = None,
) -> dict[str, tuple[list[str], list[str]]]:
    """Training and held-out sections of every fold, refused where a donor stands on both sides.

    Parameters
    ----------
    sections
        Names of all sections.
    donors
        Section → donor.
    hold_out
        Hold out a section, or all sections of a donor, at a time.
    within_patient
        Allow a donor on both sides; the result then says so.
    folds
        Given folds (training sections, held-out sections), used instead of ``hold_out``.

    Raises
    ------
    ValueError
        If donors are unknown, a donor or section stands on both sides, or a fold has an empty side.

    Examples
    --------
    >>> make_folds(["a", "b"], {"a": "P1", "b": "P2"}, hold_out="donor", within_patient=False)
    {'P1': (['b'], ['a']), 'P2': (['a'], ['b'])}
    """
    names = list(sections)
    unknown = [s for s in names if donors is None or donors.get(s) is None]
    if unknown:
        raise ValueError(
            f"the donor of {len(unknown)} sections is unknown, e.g. {unknown[:3]}; pass donors={{section: donor}}, so "
            "that a donor cannot stand on both sides unseen"
        )
    donor_of = {s: str(donors[s]) for s in names} if donors is not None else {}
    if folds is not None:
        out = {f"fold{i}": (list(train), list(test)) for i, (train, test) in enumerate(folds)}
    elif hold_out == "section":
        out = {s: ([o for o in names if o != s], [s]) for s in names}
    elif hold_out == "donor":
        out = {
            d: ([s for s in names if donor_of[s] != d], [s for s in names if donor_of[s] == d])
            for d in dict.fromkeys(donor_of.values())
        }
    else:
        raise ValueError(f"hold_out={hold_out!r} is unknown; use 'section' or 'donor'")
    for name, (train, test) in out.items():
        _check_fold(name, train, test, donor_of, within_patient)
    return out


def _check_fold(
    name: str, train: list[str], test: list[str], donor_of: Mapping[str, str], within_patient: bool
) -> None:
    strange = [s for s in (*train, *test) if s not in donor_of]
    if strange:
        raise ValueError(f"fold {name!r} names sections that are not there: {strange}; the sections are {[*donor_of]}")
    if not train or not test:
        raise ValueError(f"fold {name!r} has {len(train)} training and {len(test)} held-out sections; it needs both")
    if set(train) & set(test):
        raise ValueError(f"fold {name!r} has {sorted(set(train) & set(test))} on both sides")
    shared = sorted({donor_of[s] for s in train} & {donor_of[s] for s in test})
    if shared and not within_patient:
        raise ValueError(
            f"fold {name!r}: donor {shared[0]!r} stands on both sides (training {train}, held out {test}); hold out "
            "whole donors, or pass within_patient=True, which labels every figure as within a patient"
        )


def refuse_shared_units(tables: Mapping[str, AnnData], *, layer: str | None = None) -> None:
    """Raise if two sections hold the same units: a copy, or two cuts of one table, under different names.

    Units are recognised by their counts, where these hold at least 20 different genes.

    Raises
    ------
    ValueError
        If more than a twentieth of one section's units are in another.
    """
    prints = {name: _fingerprints(table, layer) for name, table in tables.items()}
    for a, b in combinations(prints, 2):
        fewer = min(len(prints[a]), len(prints[b]))
        both = len(prints[a] & prints[b])
        if fewer and both > _SAME_SHARE * fewer:
            raise ValueError(
                f"sections {a!r} and {b!r} share {both} units with identical counts: the same tissue would stand on "
                "both sides; leave one of them out"
            )


def _fingerprints(table: AnnData, layer: str | None) -> set[bytes]:
    from hashlib import blake2b

    from scipy.sparse import csr_matrix

    counts = csr_matrix(table.X if layer is None else table.layers[layer], copy=True)
    counts.eliminate_zeros()
    # by name, so that another order of genes does not hide a copy
    order = np.argsort(table.var_names.to_numpy().astype(str), kind="stable")
    counts = counts[:, order].tocsr()
    counts.sort_indices()
    names = table.var_names.to_numpy().astype(str)[order]
    found = set()
    for i in range(counts.shape[0]):
        at = slice(counts.indptr[i], counts.indptr[i + 1])
        if at.stop - at.start >= _FINGERPRINT_GENES:
            key = "\0".join(names[counts.indices[at]]).encode() + counts.data[at].astype(np.float64).tobytes()
            found.add(blake2b(key, digest_size=16).digest())
    return found


def blind(sdata: SpatialData) -> SpatialData:
    """The object without anything measured: tables keep rows, links and positions; transcripts are left out.

    Images, shapes and labels are shared with ``sdata``, not copied.

    Examples
    --------
    >>> import pastpy as past
    >>> blind(past.datasets.breast_st())["spots"].n_vars
    0
    """
    from spatialdata import SpatialData

    return SpatialData(
        images=dict(sdata.images),
        labels=dict(sdata.labels),
        shapes=dict(sdata.shapes),
        tables={name: _blind_table(table) for name, table in sdata.tables.items()},
        attrs=dict(sdata.attrs),
    )


def _blind_table(table: AnnData) -> AnnData:
    from anndata import AnnData
    from spatialdata.models import TableModel

    link = table.uns.get(TableModel.ATTRS_KEY, {})
    columns = [link[k] for k in (TableModel.REGION_KEY_KEY, TableModel.INSTANCE_KEY) if link.get(k) in table.obs]
    out = AnnData(np.zeros((table.n_obs, 0), dtype=np.float32), obs=table.obs[columns].copy())
    if _keys.SPATIAL in table.obsm:
        out.obsm[_keys.SPATIAL] = np.array(table.obsm[_keys.SPATIAL])
    if link:
        out.uns[TableModel.ATTRS_KEY] = dict(link)
    reader = table.uns.get(_keys.PAST, {}).get("read_st")
    if reader is not None:
        out.uns[_keys.PAST] = {"read_st": dict(reader)}
    return out
