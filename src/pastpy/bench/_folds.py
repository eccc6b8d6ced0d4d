"""Folds that cannot leak: donors apart, no section twice, the held-out expression removed before a method sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from pastpy import _elements, _keys
from pastpy._cell_elements import finest
from pastpy._donors import donor_key, donor_name
from pastpy.bench._shared_units import refuse_held_out_units, refuse_shared_units
from pastpy.metrics._gene_sets import log_normalised

if TYPE_CHECKING:
    from anndata import AnnData
    from dask.dataframe import DataFrame as DaskDataFrame
    from geopandas import GeoDataFrame
    from pandas import DataFrame, Series
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

__all__ = [
    "Arrangement", "FitPredict", "Fold", "arrange", "blind", "canonical_donors", "fresh_fold", "make_folds", "own_copy",
]  # fmt: skip

#: What a method may know of a held-out section's ``attrs``: µm/px, and which elements are not the tissue's own.
_SEEN_ATTRS = {_keys.PAST: (_keys.MPP, _keys.OBJECTIVE_POWER, _keys.ADDED), "slide_properties": ("mpp", "shape")}


@dataclass(frozen=True)
class Fold:
    """What a method may use: training sections with their counts, held-out sections without.

    Attributes
    ----------
    name
        Name of the fold: the held-out section or donor.
    train
        Section → SpatialData with counts; tables and shapes are copies, which a method may change. Pixels are shared
        and cannot be written into, but images can be replaced.
    test
        Section → SpatialData whose tables have rows and positions, but no genes, annotations or transcripts; whose
        shapes have outlines alone; and whose images are the H&E.
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


def canonical_donors(
    donors: Mapping[Any, Any] | Series | None, sections: Iterable[Any] | None = None
) -> dict[Any, str]:
    """Donor of every section under one spelling, refused where it is unknown or could be two names of one donor.

    Names that look alike are one donor, under the spelling that comes first: more or less space, characters that are
    not seen, letters of another width or composed otherwise, and 1.0 for 1. ``unknown``, ``NA``, ``n/a``, ``null``,
    ``none``, ``nan`` and ``?`` name nobody.

    Parameters
    ----------
    donors
        Section (or unit) → donor.
    sections
        Those to name, in this order; by default all of ``donors``.

    Raises
    ------
    ValueError
        If a donor is missing or unknown, a section has two, or two names differ by upper and lower case alone.

    Examples
    --------
    >>> canonical_donors({"a": "P1 ", "b": 2.0})
    {'a': 'P1', 'b': '2'}
    """
    given: dict[Any, dict[str, str]] = {}
    for section, donor in () if donors is None else donors.items():
        name = donor_name(donor)
        given.setdefault(section, {}).setdefault(donor_key(name), name)
    wanted = list(given if sections is None else sections)
    unknown = [s for s in wanted if not any(given.get(s, {}).values())]
    if unknown:
        raise ValueError(
            f"the donor of {len(unknown)} sections is unknown, e.g. {unknown[:3]}; pass donors={{section: donor}}, so "
            "that a donor cannot stand on both sides unseen"
        )
    spelled: dict[str, str] = {}
    out = {}
    for section in wanted:
        if len(given[section]) > 1:
            raise ValueError(
                f"section {section!r} is listed with the donors {[*given[section].values()]}; leave one of them"
            )
        ((key, name),) = given[section].items()
        other = out[section] = spelled.setdefault(key, name)
        if other != name and other.casefold() == name.casefold():
            raise ValueError(
                f"donors {other!r} and {name!r} differ by upper and lower case alone, and one donor under two names "
                "could stand on both sides; give each donor one spelling"
            )
    return out


def make_folds(
    sections: Iterable[str],
    donors: Mapping[str, Any] | Series | None,
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
        If donors are unknown (see :func:`canonical_donors`), a donor or section stands on both sides, or a fold has an
        empty side.

    Examples
    --------
    >>> make_folds(["a", "b"], {"a": "P1", "b": "P2"}, hold_out="donor", within_patient=False)
    {'P1': (['b'], ['a']), 'P2': (['a'], ['b'])}
    """
    names = list(sections)
    donor_of = canonical_donors(donors, names)
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


def own_copy(sdata: SpatialData) -> SpatialData:
    """The object with elements and attributes of its own; pixels are shared, but cannot be written into."""
    from spatialdata import SpatialData

    return SpatialData(
        images={name: _own_raster(image) for name, image in sdata.images.items()},
        labels={name: _own_raster(labels) for name, labels in sdata.labels.items()},
        points={name: _own_points(points) for name, points in sdata.points.items()},
        shapes={name: shapes.copy() for name, shapes in sdata.shapes.items()},
        tables={name: table.copy() for name, table in sdata.tables.items()},
        attrs=deepcopy(dict(sdata.attrs)),
    )


def _own_raster(element: DataArray | DataTree) -> DataArray | DataTree:
    """An image or labels whose pixels, attributes and transformations can be replaced without anybody noticing."""
    from xarray import DataArray, DataTree

    if isinstance(element, DataArray):
        return _own_level(element)
    levels = {}
    for name, child in element.children.items():
        shared = child.to_dataset()
        levels[name] = shared.assign({key: _own_level(level) for key, level in shared.data_vars.items()})
        levels[name].attrs = deepcopy(shared.attrs)
    out = DataTree.from_dict(levels)
    out.attrs = deepcopy(element.attrs)
    return out


def _own_level(level: DataArray) -> DataArray:
    import dask.array as da

    # a Dask array may hand out the very memory that it was made of
    pixels = da.asarray(level.data)
    out = level.copy(deep=False, data=pixels.map_blocks(_read_only, dtype=pixels.dtype, meta=pixels._meta))
    out.attrs = deepcopy(level.attrs)
    return out


def _read_only(pixels: np.ndarray) -> np.ndarray:
    view = pixels.view()
    view.flags.writeable = False
    return view


def _own_points(points: DaskDataFrame) -> DaskDataFrame:
    out = points.copy()
    # SpatialData keeps attributes of Dask frames behind an accessor, which must not be assigned to
    out.attrs.update(deepcopy(points.attrs.copy()))
    return out


class Arrangement(NamedTuple):
    """What a protocol over folds begins with.

    Attributes
    ----------
    donors
        Section → donor.
    folds
        Fold → training and held-out sections.
    sections
        Section → copy that nobody else holds.
    tables
        Section → table that is scored, of the copy.
    """

    donors: dict[str, str]
    folds: dict[str, tuple[list[str], list[str]]]
    sections: dict[str, SpatialData]
    tables: dict[str, AnnData]


def arrange(
    sections: Mapping[str, SpatialData],
    donors: Mapping[str, Any] | Series | None,
    *,
    hold_out: Literal["section", "donor"],
    within_patient: bool,
    folds: Sequence[tuple[Sequence[str], Sequence[str]]] | None,
    table_key: str | None,
    layer: str | None,
) -> Arrangement:
    """Folds over copies of the sections; arguments as in :func:`make_folds` and :class:`Fold`.

    Raises
    ------
    ValueError
        As :func:`make_folds`, if two sections hold the same units, a training object holds units that are held out, or
        units or genes of a section have no names of their own.
    """
    donor_of = canonical_donors(donors, sections)
    names = make_folds(sections, donor_of, hold_out=hold_out, within_patient=within_patient, folds=folds)
    own = {name: own_copy(sdata) for name, sdata in sections.items()}
    tables = {name: _elements.table_of(sdata, table_key) for name, sdata in own.items()}
    for name, table in tables.items():
        _check_names(name, table)
    refuse_shared_units(tables, layer=layer)
    arranged = Arrangement(donor_of, names, own, tables)
    refuse_held_out_units(arranged, layer)
    return arranged


def _check_names(section: str, table: AnnData) -> None:
    for axis in ("obs", "var"):
        names = getattr(table, f"{axis}_names")
        if not names.is_unique:
            twice = names[names.duplicated()].unique()[:3].tolist()
            raise ValueError(
                f"section {section!r}: {axis}_names of its table are not unique, e.g. {twice}; call "
                f"table.{axis}_names_make_unique()"
            )


def fresh_fold(
    name: str,
    sections: Mapping[str, SpatialData],
    train: Sequence[str],
    test: Sequence[str],
    *,
    genes: Sequence[str],
    donors: Mapping[str, str],
    table_key: str | None = None,
    layer: str | None = None,
    target_sum: float | None = _keys.TARGET_SUM,
    image_key: str | None = None,
) -> Fold:
    """A fold of objects that nobody else holds: whatever a method does to them, truth and rivals stay as they are.

    Parameters
    ----------
    name, genes, table_key, layer, target_sum
        As in :class:`Fold`.
    sections, donors
        Of all sections.
    train, test
        Names of the training and held-out sections.
    image_key
        As in :func:`blind`.
    """
    return Fold(
        name=name,
        train={s: own_copy(sections[s]) for s in train},
        test={s: blind(sections[s], image_key=image_key) for s in test},
        genes=list(genes),
        donors={s: donors[s] for s in train},
        table_key=table_key,
        layer=layer,
        target_sum=target_sum,
    )


def blind(sdata: SpatialData, *, image_key: str | None = None) -> SpatialData:
    """The object without anything measured: what is kept is named here, all else is left out.

    Kept are the H&E; labels that a table annotates; outlines and radii of shapes; rows, links and positions of tables;
    µm/px. Pixels are shared with ``sdata``, but cannot be written into.

    Parameters
    ----------
    sdata
        The object.
    image_key
        The H&E; by default every image of three or four channels that are not genes and that pastpy did not write,
        since a virtual stain shows expression.

    Examples
    --------
    >>> import pastpy as past
    >>> blind(past.datasets.breast_st())["spots"].n_vars
    0
    """
    from spatialdata import SpatialData

    if image_key is None:
        images = [name for name in sdata.images if _looks_like_he(sdata, name)]
    else:
        images = [_elements.resolve_image(sdata, image_key)]
    annotated = {region for table in sdata.tables.values() for region in _elements.regions_of(table)}
    return SpatialData(
        images={name: _own_raster(sdata.images[name]) for name in images},
        labels={name: _own_raster(labels) for name, labels in sdata.labels.items() if name in annotated},
        shapes={name: _outlines(shapes) for name, shapes in sdata.shapes.items()},
        tables={name: _blind_table(table) for name, table in sdata.tables.items()},
        attrs={
            name: {key: deepcopy(value) for key, value in sdata.attrs[name].items() if key in keys}
            for name, keys in _SEEN_ATTRS.items()
            if isinstance(sdata.attrs.get(name), Mapping)
        },
    )


def _looks_like_he(sdata: SpatialData, name: str) -> bool:
    level = finest(sdata.images[name])
    named = [str(c) for c in level.coords["c"].values] if "c" in level.coords else []
    # SpatialData numbers channels without names, and AnnData genes without
    shown = [c for c in named if not c.isdigit()]
    genes = any(table.var_names.isin(shown).any() for table in sdata.tables.values())
    return level.sizes["c"] in (3, 4) and not genes and name not in _elements.past_attrs(sdata).get(_keys.ADDED, [])


def _outlines(shapes: GeoDataFrame) -> GeoDataFrame:
    from spatialdata.models import ShapesModel

    kept = shapes[[c for c in (ShapesModel.GEOMETRY_KEY, ShapesModel.RADIUS_KEY) if c in shapes]].copy()
    kept.attrs = {ShapesModel.TRANSFORM_KEY: deepcopy(shapes.attrs[ShapesModel.TRANSFORM_KEY])}
    return kept


def _blind_table(table: AnnData) -> AnnData:
    from anndata import AnnData
    from spatialdata.models import TableModel

    keys = (TableModel.REGION_KEY, TableModel.REGION_KEY_KEY, TableModel.INSTANCE_KEY)
    link = {k: deepcopy(v) for k, v in table.uns.get(TableModel.ATTRS_KEY, {}).items() if k in keys}
    columns = [link[k] for k in keys[1:] if link.get(k) in table.obs]
    out = AnnData(np.zeros((table.n_obs, 0), dtype=np.float32), obs=table.obs[columns].copy())
    if _keys.SPATIAL in table.obsm:
        out.obsm[_keys.SPATIAL] = np.array(table.obsm[_keys.SPATIAL])[:, :2]
    if link:
        out.uns[TableModel.ATTRS_KEY] = link
    reader = table.uns.get(_keys.PAST, {}).get("read_st")
    if reader is not None:
        out.uns[_keys.PAST] = {"read_st": {k: reader[k] for k in ("mpp", "spot_diameter_um") if k in reader}}
    return out
