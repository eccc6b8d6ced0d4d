"""What ``embed`` and ``impute_expression`` work on: rows of a table, their pixels and their counts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pastpy import _elements, _keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

    from pastpy.engine import FieldReader, UnitShapes
    from pastpy.models.past import PAST

Modality = Literal["auto", "image", "expression", "both"]
MODALITIES = ("auto", "image", "expression", "both")

#: Units wider than this are spots or bins that hold many cells, µm.
CELL_DIAMETER_UM = 25.0


@dataclass
class ImageInput:
    """Pixels and outlines of a table's rows.

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
    """

    reader: FieldReader
    shapes: UnitShapes
    spatial_um: np.ndarray
    facts: dict[str, Any]


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
    """A table and what is known of its rows; either modality may be absent."""

    table: AnnData
    image: ImageInput | None
    expression: ExpressionInput | None


def load_model(model: str | Path | PAST, device: str) -> PAST:
    """The model itself, or the one of that name or folder, on the device and in evaluation mode."""
    from pastpy import models
    from pastpy.engine import resolve_device
    from pastpy.models.past import PAST

    loaded = model if not isinstance(model, str | Path) else models.load(model, device=device)
    if not isinstance(loaded, PAST):
        raise TypeError(
            f"{type(loaded).__name__} cannot be used here yet: embed its crops and tokens with model.embed_image and "
            "model.embed_tokens, or pass a pastpy model such as 'past-mini'"
        )
    return loaded.to(resolve_device(device)).eval()


def gather(
    data: SpatialData | AnnData,
    model: PAST,
    *,
    modality: Modality,
    layer: str | None,
    image_key: str | None,
    shapes_key: str | None,
    table_key: str | None,
    mpp: float | None,
    coordinate_system: str,
) -> Inputs:
    """Resolve elements, check them, and collect what the model needs; nothing is changed."""
    from anndata import AnnData

    if modality not in MODALITIES:
        raise ValueError(f"modality={modality!r} is unknown; use one of {list(MODALITIES)}")
    if isinstance(data, AnnData):
        if modality in ("image", "both"):
            raise TypeError(f"modality={modality!r} needs an image, but an AnnData was given; pass the SpatialData")
        return Inputs(data, None, gather_counts(data, model, layer, required=True, name="the AnnData"))
    sdata = _elements.require_spatialdata(data)
    table_key = _elements.resolve_table(sdata, table_key)
    table = sdata.tables[table_key]
    image = expression = None
    if modality != "expression":
        image_key = _elements.resolve_image(sdata, image_key)
        shapes_key = _elements.resolve_shapes(sdata, shapes_key, table_key=table_key)
        image = gather_image(sdata, model, image_key, shapes_key, table_key, mpp, coordinate_system)
    if modality != "image":
        expression = gather_counts(table, model, layer, required=modality != "auto", name=f"table {table_key!r}")
    return Inputs(table, image, expression)


def gather_image(
    sdata: SpatialData,
    model: PAST,
    image_key: str,
    shapes_key: str,
    table_key: str,
    mpp: float | None,
    coordinate_system: str,
) -> ImageInput:
    """Reader and outlines for the rows of a table."""
    from pastpy.engine import FieldReader, UnitShapes

    mpp = _elements.resolve_mpp(sdata, image_key, mpp)
    target_mpp = model.config.target_mpp
    units = _elements.unit_geometry(
        sdata, table_key, shapes_key, image_key, mpp=mpp, coordinate_system=coordinate_system
    )
    reader = FieldReader(_elements.image_levels(sdata, image_key), mpp=mpp, target_mpp=target_mpp, name=image_key)
    shapes = UnitShapes.from_geometry(units.geometry, units.radius, units.centroids, mpp / target_mpp)
    area = units.area_um2
    diameter = 2 * np.sqrt(np.nanmedian(area) / np.pi) if np.isfinite(area).any() else np.nan
    facts = {
        "image_key": image_key,
        "shapes_key": shapes_key,
        "table_key": table_key,
        "coordinate_system": coordinate_system,
        "mpp": mpp,
        "target_mpp": target_mpp,
        "unit": "spot" if diameter > CELL_DIAMETER_UM else "cell",
        "unit_diameter_um": float(diameter),
    }
    return ImageInput(reader, shapes, units.spatial_um, facts)


def gather_counts(
    table: AnnData, model: PAST, layer: str | None, *, required: bool, name: str
) -> ExpressionInput | None:
    """Counts of a table over the model's genes, or ``None`` where it has none."""
    from scipy.sparse import csr_matrix

    if layer is not None and layer not in table.layers:
        raise KeyError(f"{name} has no layer {layer!r}; it has {[k for k in table.layers if k is not None]}")
    matrix = table.X if layer is None else table.layers[layer]
    if table.n_vars == 0 or matrix is None:
        if required:
            raise ValueError(f"{name} has no genes; its expression cannot be embedded. Use modality='image'")
        return None
    counts = csr_matrix(matrix)
    check_counts(counts, f"{name}, {'X' if layer is None else f'layer {layer!r}'}")
    from pastpy.models.past import known_depth

    columns = model.columns_of(table.var_names)
    if not (columns >= 0).any():
        message = (
            f"none of the {table.n_vars} genes of {name} (first: {list(table.var_names[:3])}) is in the model's "
            f"vocabulary of {len(model.gene_names)} gene symbols (first: {model.gene_names[:3]})"
        )
        if required:
            raise ValueError(f"{message}; rename table.var_names to gene symbols")
        warnings.warn(f"{message}; only the image is used", UserWarning, stacklevel=4)
        return None
    return ExpressionInput(counts, columns, known_depth(counts, columns) > 0)


def check_counts(counts: csr_matrix, what: str) -> None:
    """Raise ``ValueError`` unless every value is a non-negative integer."""
    values = counts.data
    bad = ~np.isfinite(values) | (values < 0) | (values != np.round(values))
    if bad.any():
        raise ValueError(
            f"{what} must hold raw counts (non-negative integers), but {int(bad.sum())} values are not, e.g. "
            f"{values[bad][0]:g}; pass layer= with the counts, or modality='image'"
        )


def write_spatial(table: AnnData, spatial_um: np.ndarray) -> None:
    """Store µm from the image's corner in ``obsm["spatial"]``; other coordinates found there are kept beside it."""
    before = table.obsm.get(_keys.SPATIAL)
    if before is not None:
        before = np.asarray(before)
        if before.shape == spatial_um.shape and np.allclose(before, spatial_um, atol=1e-3, equal_nan=True):
            return
        kept = f"{_keys.SPATIAL}_before_{_keys.PAST}"
        table.obsm[kept] = before
        warnings.warn(
            f"obsm[{_keys.SPATIAL!r}] held other coordinates than µm from the image's top-left corner; they are now in "
            f"obsm[{kept!r}]",
            UserWarning,
            stacklevel=3,
        )
    table.obsm[_keys.SPATIAL] = spatial_um


def run_image(
    inputs: ImageInput,
    model: PAST,
    head: Any,
    *,
    n: int,
    mode: str | None,
    batch_size: int | None,
    progress: bool,
) -> Any:
    """Run the engine over an image input; returns the sink with the head's outputs."""
    from pastpy.engine import MemorySink, run

    sink = MemorySink(n)
    run(
        inputs.reader,
        inputs.shapes,
        model.image_encoder,
        model.config.regions,
        head,
        sink,
        target_mpp=model.config.target_mpp,
        device=model.device,
        batch_size=batch_size or 1,
        one_each=check_mode(mode) == "crop",
        progress=progress,
    )
    return sink


def check_mode(mode: str | None) -> str:
    """``"dense"`` (fields shared by many cells) by default, or ``"crop"`` (one field a cell)."""
    if mode not in (None, "dense", "crop"):
        raise ValueError(f"mode={mode!r} is unknown; use 'dense', 'crop', or None for the model's own")
    return mode or "dense"


def model_facts(model: PAST) -> dict[str, Any]:
    """Name and hash of a model, for provenance."""
    return {"model": model.config.name, "model_sha256": model.sha256 or "unsaved"}


def apply(data: Any, work: Callable[..., AnnData], *, copy: bool) -> AnnData | list[AnnData] | None:
    """Apply ``work`` to an object, to a stored one whose table is then written back, or to every object of a list.

    Parameters
    ----------
    data
        SpatialData, AnnData, path of a SpatialData zarr store, or a list of these.
    work
        Function of one object and ``copy`` that returns the table with the results.
    copy
        Return the tables instead of changing the objects.
    """
    if isinstance(data, list | tuple):
        tables = [_apply_one(item, work, copy=copy) for item in data]
        return tables if copy else None
    table = _apply_one(data, work, copy=copy)
    return table if copy else None


def _apply_one(item: Any, work: Callable[..., AnnData], *, copy: bool) -> AnnData:
    if not isinstance(item, str | Path):
        return work(item, copy=copy)
    import spatialdata

    from pastpy.io import write_table

    if not Path(item).exists():
        raise FileNotFoundError(f"no SpatialData store at {str(item)!r}")
    sdata = spatialdata.read_zarr(item)
    table = work(sdata, copy=copy)
    if not copy:
        write_table(sdata, next(name for name, known in sdata.tables.items() if known is table))
    return table
