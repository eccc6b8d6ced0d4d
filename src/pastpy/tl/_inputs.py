"""What ``embed`` and ``impute_expression`` work on: rows of a table, their pixels and their counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from pastpy import _elements, _keys
from pastpy._names import check_name, check_slots
from pastpy._warn import warn_user

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from pandas import Index
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData
    from xarray import DataArray

    from pastpy.engine import FieldReader, Outlines, Workers
    from pastpy.models import PAST, ReleasedPAST

    Model = PAST | ReleasedPAST

Modality = Literal["auto", "image", "expression", "both"]
MODALITIES = ("auto", "image", "expression", "both")
OnMisaligned = Literal["warn", "raise", "ignore"]

#: Units wider than this are spots or bins that hold many cells, µm.
CELL_DIAMETER_UM = 25.0
#: Coordinates that differ by less are those of the same cell, by its outline or by a point in its middle, µm.
SAME_UM = 0.5
#: A shape that reaches so far from its centre, µm, is no cell, spot or core of a microarray.
LARGE_UM = 2000.0
#: What a field takes while it is encoded and pooled, bytes a pixel; measured with shapes of 16 and 64 megapixels.
FIELD_BYTES = 18


@dataclass(frozen=True)
class Options:
    """Arguments that ``embed`` and ``impute_expression`` share; see :func:`pastpy.tl.embed`.

    ``workers`` are those of ``client``, for all that is done with one object; :func:`with_workers` sets them.
    """

    modality: Modality = "auto"
    mode: str | None = None
    layer: str | None = None
    image_key: str | Mapping[str, str] | None = None
    shapes_key: str | None = None
    table_key: str | None = None
    library_key: str | None = None
    mpp: float | Mapping[str, float] | None = None
    coordinate_system: str | Mapping[str, str] = _keys.COORDINATE_SYSTEM
    on_misaligned: OnMisaligned = "warn"
    device: str = "auto"
    batch_size: int | None = None
    key_added: str = _keys.PAST
    client: Any = None
    resume: str | Path | None = None
    progress: bool = True
    workers: Workers | None = None

    def __post_init__(self) -> None:
        for name, known in (("modality", MODALITIES), ("on_misaligned", get_args(OnMisaligned))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; use one of {list(known)}")
        if self.mode not in (None, "dense", "crop"):
            raise ValueError(f"mode={self.mode!r} is unknown; use 'dense', 'crop', or None for the model's own")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size!r} must be at least 1; leave it out to have it found")
        check_name(self.key_added, "key_added", "stem of slot names")

    def facts(self) -> dict[str, Any]:
        """What of the options decides the result, for provenance."""
        names = ("modality", "layer", "library_key", "key_added")
        return {name: getattr(self, name) for name in names}

    def of_region(self, name: str, shapes_key: str) -> Any:
        """What an option is for some shapes: their entry of a mapping, or the one value for all."""
        value = getattr(self, name)
        if not isinstance(value, Mapping):
            return value
        if shapes_key not in value:
            raise KeyError(f"{name}= has no entry for the shapes {shapes_key!r}; it has {list(value)}")
        return value[shapes_key]


@dataclass
class ImageInput:
    """Pixels and outlines of a table's rows; those of other regions are NaN.

    Attributes
    ----------
    reader
        Reads fields at the model's µm/px.
    shapes
        Outlines in pixels of the fields.
    spatial_um
        float64 (n, 2), µm from the image's top-left corner.
    facts
        Names of the elements, µm/px and unit, for provenance.
    levels
        The image's pyramid, for passes at another µm/px.
    library
        int64 (n,), library of each row, if ``library_key`` was given.
    alone
        bool (n,), rows that annotate these shapes, where the call leaves out others that the table annotates.
    """

    reader: FieldReader
    shapes: Outlines
    spatial_um: np.ndarray
    facts: dict[str, Any]
    levels: Sequence[DataArray]
    library: np.ndarray | None = None
    alone: np.ndarray | None = None

    @property
    def rows(self) -> np.ndarray:
        """Positions of the rows that have a place on the image, or beyond its edge."""
        return np.flatnonzero(np.isfinite(self.spatial_um).all(axis=1))

    def at(self, target_mpp: float) -> ImageInput:
        """The same rows of the same image, read at another µm/px."""
        from pastpy.engine import FieldReader

        mpp = self.facts["mpp"]
        reader = FieldReader(self.levels, mpp=mpp, target_mpp=target_mpp, name=self.facts["image_key"])
        facts = {**self.facts, "target_mpp": target_mpp}
        return replace(self, reader=reader, shapes=replace(self.shapes, scale=mpp / target_mpp), facts=facts)


@dataclass
class ExpressionInput:
    """Counts of a table's rows over the genes of a model.

    Attributes
    ----------
    counts
        Sparse (n, g) counts.
    columns
        int64 (g,), position of each gene in the model's vocabulary, −1 where unknown.
    has_counts
        bool (n,): rows with at least one count of a known gene.
    """

    counts: csr_matrix
    columns: np.ndarray
    has_counts: np.ndarray


@dataclass
class Inputs:
    """A table and what is known of its rows; either modality may be absent.

    Attributes
    ----------
    table
        The table.
    images
        An image input for every region that the table annotates, all in the table's order; none without an image.
    expression
        Counts, if any.
    """

    table: AnnData
    images: list[ImageInput]
    expression: ExpressionInput | None


@contextmanager
def with_workers(options: Options) -> Iterator[Options]:
    """The options with workers of their client, for all that is done with one object; as they are without a client."""
    from pastpy.engine import Workers

    if options.client is None:
        yield options
        return
    with Workers(options.client) as workers:
        yield replace(options, workers=workers)


def load_model(model: str | Path | Model, device: str) -> Model:
    """The model itself, or the one of that name or path, on the device and in evaluation mode.

    Raises
    ------
    TypeError
        If it is something else.
    """
    from pastpy import models
    from pastpy.engine import resolve_device

    loaded = model if not isinstance(model, str | Path) else models.load(model, device=device)
    if not isinstance(loaded, models.PAST | models.ReleasedPAST):
        raise TypeError(
            f"model must be a name, a path or a model of pastpy, got {type(loaded).__name__}; see pastpy.models.load"
        )
    return loaded.to(resolve_device(device)).eval()


def load_past(model: str | Path | Model, device: str) -> PAST:
    """As :func:`load_model`, for what needs a decoder of expression."""
    from pastpy.models import PAST

    loaded = load_model(model, device)
    if not isinstance(loaded, PAST):
        raise TypeError(
            f"{type(loaded).__name__} has no decoder and cannot predict expression; use a model such as 'past-mini'"
        )
    return loaded


def gather(data: SpatialData | AnnData, model: PAST, options: Options) -> Inputs:
    """Resolve elements, check them, and collect what the model needs; nothing is changed. Misfits are warned of."""
    from pastpy.models import misfits

    table, images, name = gather_table(data, options, target_mpp=model.config.target_mpp)
    expression = None
    if options.modality != "image":
        required = not images or options.modality != "auto"
        expression = gather_counts(table, model, options.layer, required=required, name=name)
    genes = None if expression is None else table.var_names
    resolutions = [image.facts["mpp"] for image in images] or [None]
    for misfit in dict.fromkeys(m for mpp in resolutions for m in misfits(model, genes=genes, mpp=mpp)):
        warn_user(f"model {model.config.name!r}: {misfit}")
    return Inputs(table, images, expression)


def gather_table(
    data: SpatialData | AnnData, options: Options, *, target_mpp: float
) -> tuple[AnnData, list[ImageInput], str]:
    """The table, the images of its rows where they are wanted, and how to call the table in messages."""
    from anndata import AnnData

    if isinstance(data, AnnData):
        if options.modality in ("image", "both"):
            raise TypeError(
                f"modality={options.modality!r} needs an image, but an AnnData was given; pass the SpatialData"
            )
        if data.isbacked and data.is_view:
            raise ValueError(
                "the AnnData is a part of one that is backed by a file, and takes no results; pass adata.to_memory()"
            )
        library_of(data, options.library_key, name="the AnnData")
        return data, [], "the AnnData"
    sdata = _elements.require_spatialdata(data)
    table_key = _elements.resolve_table(sdata, options.table_key)
    table, name = sdata.tables[table_key], f"table {table_key!r}"
    check_slots(table, options.key_added)
    library = library_of(table, options.library_key, name=name)
    images = []
    if options.modality != "expression":
        images = gather_images(sdata, table_key, options, target_mpp=target_mpp)
    return table, [replace(image, library=library) for image in images], name


def result_table(table: AnnData, copy: bool) -> AnnData:
    """The table that takes the results: itself, or a copy in memory."""
    if not copy:
        return table
    return table.to_memory() if table.isbacked else table.copy()


def library_of(table: AnnData, library_key: str | None, *, name: str) -> np.ndarray | None:
    """The library of every row as int64 (n,), or ``None`` without a key.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If a row has no value there.
    """
    if library_key is None:
        return None
    if library_key not in table.obs:
        raise KeyError(f"{name} has no obs column {library_key!r} (library_key=); it has {list(table.obs.columns)}")
    codes, _ = table.obs[library_key].factorize()
    if (codes < 0).any():
        raise ValueError(
            f"obs[{library_key!r}] of {name} (library_key=) has no value in {int((codes < 0).sum())} of {len(codes)} "
            "rows; give each row the section, core or region that it belongs to"
        )
    return codes.astype(np.int64)


def gather_images(sdata: SpatialData, table_key: str, options: Options, *, target_mpp: float) -> list[ImageInput]:
    """An image input for every region that a table annotates."""
    regions = _elements.resolve_regions(sdata, options.shapes_key, table_key=table_key)
    if options.image_key is None:
        try:
            options = replace(options, image_key=_elements.resolve_image(sdata))
        except KeyError as error:
            if len(regions) == 1:
                raise
            of_each = ", ".join(f"{region!r}: …" for region in regions)
            raise KeyError(
                f"{error.args[0]}; table {table_key!r} annotates {len(regions)} shapes, so name the image of each, "
                f"image_key={{{of_each}}}, or take one of them alone with shapes_key="
            ) from None
    return [gather_image(sdata, table_key, region, options, target_mpp=target_mpp) for region in regions]


def gather_image(
    sdata: SpatialData, table_key: str, shapes_key: str, options: Options, *, target_mpp: float
) -> ImageInput:
    """Reader and outlines for the rows of a table that annotate some shapes."""
    from pastpy.engine import FieldReader, Outlines

    image_key = _elements.resolve_image(sdata, options.of_region("image_key", shapes_key))
    mpp = _elements.resolve_mpp(sdata, image_key, options.of_region("mpp", shapes_key))
    coordinate_system = options.of_region("coordinate_system", shapes_key)
    elements: dict[str, Any] = {
        "image_key": image_key,
        "shapes_key": shapes_key,
        "table_key": table_key,
        "coordinate_system": coordinate_system,
    }
    units = _elements.unit_geometry(sdata, **elements, mpp=mpp)
    _warn_of_missing(sdata, table_key, shapes_key)
    levels = _elements.image_levels(sdata, image_key)
    reader = FieldReader(levels, mpp=mpp, target_mpp=target_mpp, name=image_key)
    if options.on_misaligned != "ignore":
        from pastpy.pp._alignment import guard

        guard(sdata, **elements, units=units, on_misaligned=options.on_misaligned, workers=options.workers)
    area = units.area_um2
    diameter = 2 * np.sqrt(np.nanmedian(area) / np.pi) if np.isfinite(area).any() else np.nan
    facts = {
        **elements,
        "mpp": mpp,
        "on_misaligned": options.on_misaligned,
        "target_mpp": target_mpp,
        "unit": "spot" if diameter > CELL_DIAMETER_UM else "cell",
        "unit_diameter_um": float(diameter),
    }
    shapes = Outlines(units.geometry, units.radius, units.centroids, mpp / target_mpp)
    _warn_of_large(shapes.extent * target_mpp, sdata.tables[table_key].obs_names, shapes_key, target_mpp)
    alone = None
    if options.shapes_key is not None:
        alone = _elements.rows_alone(sdata, table_key, shapes_key)
    return ImageInput(reader, shapes, units.spatial_um, facts, levels, alone=alone)


def _warn_of_missing(sdata: SpatialData, table_key: str, shapes_key: str) -> None:
    """Warn of rows that annotate some shapes and have none there: their image stays unknown."""
    rows, positions = _elements.table_rows(sdata, table_key, shapes_key)
    missing = rows[positions < 0]
    if len(missing) and len(sdata.shapes[shapes_key]):
        names = sdata.tables[table_key].obs_names[missing[:3]].tolist()
        warn_user(
            f"{len(missing):,} of {len(rows):,} rows of table {table_key!r} have no shape in {shapes_key!r}, whose "
            f"index lacks their id, e.g. {names}; they get nothing from the image"
        )


def _warn_of_large(reach_um: np.ndarray, names: Index, shapes_key: str, target_mpp: float) -> None:
    """Warn of a shape whose pixels may not fit into memory, such as the tissue's outline among those of cells."""
    known = np.nan_to_num(reach_um)
    if not known.size or known.max() <= LARGE_UM:
        return
    gigabytes = FIELD_BYTES * (2 * known.max() / target_mpp) ** 2 / 2**30
    warn_user(
        f"shape of row {names[int(known.argmax())]!r} in {shapes_key!r} reaches {known.max():,.0f} µm from its centre; "
        f"its pixels are held in memory at once, up to {gigabytes:.1f} GB: leave it out if it is no cell"
    )


def counts_of(table: AnnData, layer: str | None, *, required: bool, name: str) -> csr_matrix | None:
    """Raw counts of a table, checked, or ``None`` where it has none.

    Raises
    ------
    KeyError
        If there is no such layer.
    ValueError
        If counts are required and there are none, or values are not counts.
    """
    from scipy.sparse import csr_matrix

    from pastpy.models.checks import check_counts

    if layer is not None and layer not in table.layers:
        raise KeyError(f"{name} has no layer {layer!r}; it has {[k for k in table.layers if k is not None]}")
    matrix = table.X if layer is None else table.layers[layer]
    if table.n_vars == 0 or matrix is None:
        if required:
            raise ValueError(f"{name} has no genes; its expression cannot be embedded. Use modality='image'")
        return None
    # that of an AnnData backed by a file is read in full
    counts = csr_matrix(matrix.to_memory() if hasattr(matrix, "to_memory") else matrix)
    where = f"{name}, {'X' if layer is None else f'layer {layer!r}'}"
    check_counts(counts, where, "pass layer= with the counts, or modality='image'")
    return counts


def gather_counts(
    table: AnnData, model: PAST, layer: str | None, *, required: bool, name: str
) -> ExpressionInput | None:
    """Counts of a table over the model's genes, or ``None`` where it has none."""
    from pastpy.models.tokens import known_depth

    counts = counts_of(table, layer, required=required, name=name)
    if counts is None:
        return None
    columns = model.columns_of(table.var_names)
    if not (columns >= 0).any():
        message = (
            f"none of the {table.n_vars} genes of {name} (first: {list(table.var_names[:3])}) is in the model's "
            f"vocabulary of {len(model.gene_names)} gene symbols (first: {model.gene_names[:3]})"
        )
        if required:
            raise ValueError(
                f"{message}; pastpy.pp.harmonize_genes translates ids and other names, but genes of another species "
                "are unknown to the model"
            )
        warn_user(
            f"{message}; only the image is used. pastpy.pp.harmonize_genes translates ids and other names, upper and "
            "lower case among them"
        )
        return None
    return ExpressionInput(counts, columns, known_depth(counts, columns) > 0)


def write_spatial(table: AnnData, spatial_um: np.ndarray, rows: np.ndarray | None = None) -> None:
    """Store µm from the image's corner in ``obsm["spatial"]``; other coordinates found there are kept beside it.

    With ``rows``, bool (n,), the others keep what is there, unless these rows show that it is no such µm.
    """
    before = table.obsm.get(_keys.SPATIAL)
    if before is not None:
        before = np.asarray(before)
        if before.shape == spatial_um.shape and _same_places(before, spatial_um, rows):
            if rows is not None:
                table.obsm[_keys.SPATIAL] = np.where(rows[:, None], spatial_um, before)
            return
        kept = f"{_keys.SPATIAL}_before_{_keys.PAST}"
        table.obsm[kept] = before
        warn_user(
            f"obsm[{_keys.SPATIAL!r}] held other coordinates than µm from the image's top-left corner; they are now in "
            f"obsm[{kept!r}]"
        )
    table.obsm[_keys.SPATIAL] = spatial_um


def _same_places(before: np.ndarray, spatial_um: np.ndarray, rows: np.ndarray | None) -> bool:
    """Whether coordinates are those that are there; some rows alone may have had none."""
    if rows is not None:
        here = rows & np.isfinite(before).all(axis=1)
        before, spatial_um = before[here], spatial_um[here]
    return np.allclose(before, spatial_um, rtol=0, atol=SAME_UM, equal_nan=True)


def image_facts(images: Sequence[ImageInput]) -> dict[str, Any]:
    """Elements, µm/px and unit, for provenance; of a table of several regions each by the name of its shapes."""
    if len(images) == 1 and images[0].alone is None:
        return images[0].facts
    return {"regions": {image.facts["shapes_key"]: image.facts for image in images}} if images else {}


def rows_worked(images: Sequence[ImageInput]) -> np.ndarray | None:
    """Rows that a call is about, bool (n,); ``None`` where that is all of them."""
    return images[0].alone if images else None


def spatial_of(images: Sequence[ImageInput]) -> np.ndarray | None:
    """float64 (n, 2), µm from the top-left corner of each row's own image; ``None`` without an image."""
    if not images:
        return None
    spatial_um = images[0].spatial_um.copy()
    for image in images[1:]:
        spatial_um[image.rows] = image.spatial_um[image.rows]
    return spatial_um


def model_facts(model: Model) -> Mapping[str, Any]:
    """Name and hash of a model, for provenance."""
    from pastpy.models import PAST

    if isinstance(model, PAST):
        return {"model": model.config.name, "model_sha256": model.sha256 or "unsaved"}
    from pastpy.engine import model_fingerprint

    return {"model": "past-released", "model_blake2b": model_fingerprint(model)}
