"""Virtual immunohistochemistry from predicted expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _elements, _keys
from pastpy._names import check_name, check_new
from pastpy._provenance import record
from pastpy._warn import warn_user
from pastpy.tl._markers import Compartment, resolve_markers
from pastpy.tl._stain_image import StainPainter, stain_element
from pastpy.tl._stain_intensity import OD_MAX, THRESHOLDS, MarkerStain, check_thresholds, classify, marker_stain

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame
    from spatialdata import SpatialData

__all__ = ["virtual_stain"]

_SLOTS = _keys.Slots()


def virtual_stain(
    sdata: SpatialData,
    markers: str | Sequence[str] | Mapping[str, str | Sequence[str]],
    *,
    style: str = "ihc",
    expression_key: str = "past_expression",
    reference: DataFrame | None = None,
    thresholds: Sequence[float] = THRESHOLDS,
    compartment: Compartment | Mapping[str, Compartment] | None = None,
    expand_um: float = 5.0,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    mpp: float | None = None,
    coordinate_system: str = _keys.COORDINATE_SYSTEM,
    key_added: str = _keys.VIRTUAL_STAIN,
    overwrite: bool = False,
) -> None:
    """Paint what an immunohistochemistry of a marker might look like. Research use only.

    The haematoxylin of the H&E is kept and the eosin dropped [1]_; brown chromogen (DAB) is laid over each cell by its
    predicted expression. The picture is made lazily: each block is computed when it is looked at or written, from
    its H&E block and the cells that touch it.

    Parameters
    ----------
    sdata
        Object with the H&E, the cells and their predicted expression.
    markers
        A marker or several: names such as ``"HER2"``, ``"Ki-67"`` or ``"CD3"``, gene symbols, or a dict from a name of
        your own to its gene or genes. One marker is drawn into the image ``key_added``, each of several into
        ``f"{key_added}_{marker}"``: a picture has one chromogen.
    style
        ``"ihc"``.
    expression_key
        ``obsm`` DataFrame of predicted expression (log1p scale).
    reference
        Expression (log1p scale) that stands for no stain and for the strongest: DataFrame indexed by gene with the
        columns ``"low"`` and ``"high"``. By default the 5 % and 95 % quantiles of the model's own predictions over
        its training cells, which its card holds; so slides are comparable. Never taken from the slide itself.
    thresholds
        Optical densities from which a cell is 1+, 2+ and 3+.
    compartment
        ``"nucleus"``, ``"cytoplasm"`` or ``"membrane"``, for all markers or by name; by default that of the marker,
        ``"cytoplasm"`` for a gene without an entry.
    expand_um
        How far a cell reaches beyond its nucleus, µm. The shapes are taken as nuclei.
    image_key, shapes_key, table_key
        Names of the elements; by default the only H&E, the shapes that the table annotates, and ``cells``. Of a table
        that annotates several shapes, one is stained at a time; rows of the others keep what they have.
    mpp
        µm per level-0 pixel; by default what the reader stored.
    coordinate_system
        Coordinate system in which image and shapes meet.
    key_added
        Name of the image (or its stem).
    overwrite
        Replace an image or column of an earlier call.

    Returns
    -------
    None
        Adds, for each marker: the multiscale image (uint8, channels r, g, b, all transformations of the H&E);
        ``table.obs["past_stain_intensity_<marker>"]``, float32, optical density of the chromogen where the marker
        sits, between 0 and 0.8; ``table.obs["past_stain_class_<marker>"]``, float32, 0, 1, 2 or 3. Both are NaN where
        the expression is unknown; such a cell is drawn without chromogen. ``table.uns["past"]["virtual_stain"]``
        holds the settings, the reference, the known transfer score and the caveats of each marker.

    Raises
    ------
    KeyError
        If an element or the predicted expression is missing, or no gene of a marker can be used.
    ValueError
        If no reference is known, a name is taken, or a setting is out of range.

    Warns
    -----
    UserWarning
        If the model's card does not trust a gene of a marker, or the tissue is unlike that which the model was trained
        on: any range of predictions gives a picture with contrast.

    Notes
    -----
    Optical density is linear in the log expression between the two reference values, clipped to [0, 0.8], and the
    mean over a marker's usable genes. It is a drawing of a prediction: mRNA is not protein, and no antibody
    was measured. Thresholds divide the scale into quarters; they are not those of a clinical guideline.

    References
    ----------
    .. [1] Ruifrok AC, Johnston DA. Quantification of histochemical staining by color deconvolution.
       Anal Quant Cytol Histol 23:291–299 (2001).

    Examples
    --------
    The spots of the shipped sample, which are fewer than its nuclei (for those, run ``past.pp.segment_nuclei`` first):

    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.tl.impute_expression(sdata, genes=["ERBB2"], modality="image", progress=False)
    >>> past.tl.virtual_stain(sdata, "HER2")
    >>> int(past.tl.h_score(sdata, "HER2").loc["all", "n_cells"])
    49
    """
    from spatialdata.transformations import get_transformation

    if style != "ihc":
        raise ValueError(f"style={style!r} is unknown; the styles are ['ihc']")
    if not expand_um > 0:
        raise ValueError(f"expand_um must be positive µm, got {expand_um!r}")
    check_name(key_added, "key_added")
    cuts = check_thresholds(thresholds)
    chosen = resolve_markers(markers, compartment=compartment)
    sdata = _elements.require_spatialdata(sdata)
    image_key = _elements.resolve_image(sdata, image_key)
    table_key = _elements.resolve_table(sdata, table_key)
    shapes_key = _elements.resolve_shapes(sdata, shapes_key, table_key=table_key)
    mpp = _elements.resolve_mpp(sdata, image_key, mpp)
    table = sdata.tables[table_key]
    names = {m.name: key_added if len(chosen) == 1 else f"{key_added}_{m.name}" for m in chosen}
    stains = [marker_stain(table, marker, expression_key=expression_key, reference=reference) for marker in chosen]
    alone = _elements.rows_alone(sdata, table_key, shapes_key)
    _check_names(sdata, table, names, alone, overwrite=overwrite)
    units = _elements.unit_geometry(
        sdata, table_key, shapes_key, image_key, mpp=mpp, coordinate_system=coordinate_system
    )
    level0 = _rgb_level0(sdata, image_key)
    transformations = get_transformation(sdata.images[image_key], get_all=True)
    elements = {
        names[stain.marker.name]: stain_element(
            level0, _painter(units, stain, expand_um=expand_um, name=image_key), dict(transformations)
        )
        for stain in stains
    }

    for name, element in elements.items():
        if name in sdata.images:
            del sdata.images[name]
        sdata.images[name] = element
        _elements.record_added(sdata, name)
        _elements.set_mpp(sdata, name, mpp)
    for stain in stains:
        if stain.caveats:
            warn_user(f"virtual stain {stain.marker.name!r}: {'; '.join(stain.caveats)}")
        column, density = _SLOTS.stain_intensity(stain.marker.name), stain.density
        if alone is not None:
            density = np.where(alone, density, table.obs[column] if column in table.obs else np.float32(np.nan))
        table.obs[column] = density
        table.obs[_SLOTS.stain_class(stain.marker.name)] = classify(density, cuts)
    settings = {
        "style": style,
        "use": _keys.RESEARCH_USE,
        "image_key": image_key,
        "shapes_key": shapes_key,
        "table_key": table_key,
        "coordinate_system": coordinate_system,
        "mpp": mpp,
        "expression_key": expression_key,
        "thresholds": cuts,
        "od_max": OD_MAX,
        "expand_um": float(expand_um),
    }
    _record(table, stains, names, settings)


def _check_names(
    sdata: SpatialData, table: AnnData, names: Mapping[str, str], alone: np.ndarray | None, *, overwrite: bool
) -> None:
    """Refuse names that are taken, before anything is written; case is ignored, as zarr stores require.

    A column that holds nothing for the rows that are stained ``alone`` is free.
    """
    columns = {column.lower(): column for column in table.obs.columns}
    written = set(_elements.past_attrs(sdata).get(_keys.ADDED, []))
    for marker, image in names.items():
        check_new(sdata, image, "key_added", replaces=written & set(sdata.images), overwrite=overwrite)
        for column in (_SLOTS.stain_intensity(marker), _SLOTS.stain_class(marker)):
            there = columns.get(column.lower())
            free = there == column and alone is not None and table.obs[column][alone].isna().all()
            if there is not None and not free and not (overwrite and there == column):
                raise ValueError(
                    f"the table already has obs[{there!r}]; pass overwrite=True with the same spelling, or name the "
                    "marker differently with a dict {'name': genes}"
                )


def _rgb_level0(sdata: SpatialData, image_key: str) -> Any:
    from pastpy.engine.read import rgb_channels

    return rgb_channels(_elements.image_levels(sdata, image_key)[0], image_key)


def _painter(units: _elements.UnitGeometry, stain: MarkerStain, *, expand_um: float, name: str) -> StainPainter:
    """A painter for the rows that have a shape; circles become discs."""
    import shapely

    placed = np.isfinite(units.centroids[:, 0])
    geometry, radius = units.geometry[placed].copy(), units.radius[placed]
    circles = np.isfinite(radius)
    geometry[circles] = shapely.buffer(geometry[circles], radius[circles])
    return StainPainter(
        geometry,
        stain.density[placed],
        compartment=stain.marker.compartment,
        mpp=units.mpp,
        expand_um=expand_um,
        name=name,
    )


def _record(table: AnnData, stains: Sequence[MarkerStain], names: Mapping[str, str], settings: dict[str, Any]) -> None:
    """Provenance: the settings of this call and one entry a marker; earlier entries stay, without a replaced image."""
    earlier = table.uns.get(_keys.PAST, {}).get("virtual_stain", {}).get("markers", {})
    entries = {
        name: {**entry, "image": None if entry["image"] in names.values() else entry["image"]}
        for name, entry in earlier.items()
    }
    for stain in stains:
        entries[stain.marker.name] = {
            **stain.provenance(),
            "image": names[stain.marker.name],
            "thresholds": settings["thresholds"],
        }
    record(table, "virtual_stain", {**settings, "markers": entries})
