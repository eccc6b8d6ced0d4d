"""Training data: pooled image tokens of the cells in each spot, and the spot's counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _elements, _keys
from pastpy._aggregate import membership

if TYPE_CHECKING:
    from pandas import DataFrame
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

    from pastpy.models.past import PAST
    from pastpy.train.augment import View
    from pastpy.train.config import TrainConfig

__all__ = [
    "MIN_CELLS",
    "Section",
    "SingleCells",
    "cached_arrays",
    "load_section",
    "made_from",
    "pooled_tokens",
    "prepare_section",
    "read_cells",
    "read_proportions",
    "read_section",
]

#: A spot in which fewer nuclei were found says nothing about nuclei.
MIN_CELLS = 3
#: What her2st's proportions call the types of the Xenium breast cells, by index (markers tell which is which, see
#: ``scripts/make_tissue_profiles.py``). Mast cells with plasmacytoid dendritic cells (1) and myoepithelium (6) have no
#: better name there; perivascular cells are no type of these.
_TYPES = (
    "B-cells", "Myeloid", "Endothelial", "CAFs", "Myeloid", "Epithelial", "Epithelial", "Plasma Cells", "T-cells"
)  # fmt: skip


@dataclass
class Section:
    """One section: its cells' pooled tokens in every view, and its spots' counts.

    Attributes
    ----------
    name
        Name of the section.
    pooled
        float32 (views, cells, regions, channels), cells under spots only.
    spot
        int64 (cells,), the spot that holds each cell.
    counts
        Sparse (spots, genes) raw counts.
    genes
        Names of the genes.
    spot_pooled
        float32 (spots, regions, channels): tokens pooled over the spots themselves, original view.
    proportions
        Proportions of cell types, (spots, types), of spots without an estimate NaN; ``None`` where there are none.
    """

    name: str
    pooled: np.ndarray
    spot: np.ndarray
    counts: csr_matrix
    genes: list[str]
    spot_pooled: np.ndarray
    proportions: DataFrame | None = None


@dataclass
class SingleCells:
    """Single cells without an image.

    Attributes
    ----------
    counts
        Sparse (cells, genes) raw counts.
    genes
        Names of the genes.
    types
        object (cells,), types by the names that the sections' proportions have for them, NaN for a cell of unknown
        type; ``None`` where no cell's is known.
    """

    counts: csr_matrix
    genes: list[str]
    types: np.ndarray | None = None


def prepare_section(name: str, folder: Path, config: TrainConfig, model: PAST, views: list[View]) -> Section:
    """A section's training data; kept in the cache directory, so that a run that was killed goes on from there."""
    from scipy.sparse import csr_matrix

    from pastpy.pp import NucleiParameters

    def make() -> dict[str, np.ndarray]:
        section = load_section(name, folder, config, model, views)
        counts = section.counts
        return {
            "pooled": section.pooled, "spot": section.spot, "spot_pooled": section.spot_pooled, "data": counts.data,
            "indices": counts.indices, "indptr": counts.indptr, "genes": np.array(section.genes, dtype=str),
        }  # fmt: skip

    # another folder, other nuclei or other views must not find what these gave
    key = [
        str(folder.resolve()), asdict(NucleiParameters()), config.mpp, config.spot_diameter_um,
        [asdict(v) for v in views], *made_from(model),
    ]  # fmt: skip
    f = cached_arrays(name, key, make)
    genes = f["genes"].tolist()
    counts = csr_matrix((f["data"], f["indices"], f["indptr"]), shape=(len(f["indptr"]) - 1, len(genes)))
    proportions = read_proportions(folder / "her2st", name)
    return Section(name, f["pooled"], f["spot"], counts, genes, f["spot_pooled"], proportions)


def made_from(model: PAST) -> list[Any]:
    """What pooled tokens depend on beside the pixels: the release, and all of the image encoder."""
    config = model.config
    return [
        version("pastpy"), "float32", config.backbone, config.backbone_stage, config.backbone_options,
        config.image_mean, config.image_std, [asdict(p) for p in model.passes],
    ]  # fmt: skip


def cached_arrays(name: str, key: list[Any], make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays from the cache directory, or made now and put there in one piece.

    Parameters
    ----------
    name
        Begin of the file's name.
    key
        Plain values that the arrays depend on; others find another file.
    make
        Makes the arrays.
    """
    import hashlib
    import json

    from pastpy._settings import settings

    digest = hashlib.sha256(json.dumps([name, *key]).encode()).hexdigest()[:16]
    path = settings.cache_dir / "train" / f"{name}-{digest}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        # several runs may make the same arrays at once
        unfinished = path.with_suffix(f".{os.getpid()}.unfinished.npz")
        np.savez(unfinished, allow_pickle=False, **make())
        unfinished.rename(path)
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def load_section(name: str, folder: Path, config: TrainConfig, model: PAST, views: list[View]) -> Section:
    """Read a section, find its nuclei and pool the tokens of those under spots, in every view.

    Raises
    ------
    FileNotFoundError
        If a file of the section is missing.
    """
    from pastpy.pp import segment_nuclei

    sdata = read_section(folder / "her2st", name, mpp=config.mpp, spot_diameter_um=config.spot_diameter_um)
    segment_nuclei(sdata)
    cells, spots = sdata.tables[_keys.CELLS], sdata.tables[_keys.SPOTS]
    inside = membership(cells.obsm[_keys.SPATIAL], spots.obsm[_keys.SPATIAL], config.spot_diameter_um / 2).tocoo()
    sdata.tables[_keys.CELLS] = cells[inside.col].copy()
    pooled = np.stack([pooled_tokens(sdata, model, _keys.CELLS, view) for view in views])
    seen = np.isfinite(pooled[:, :, model.image_regions]).all(axis=(0, 2, 3))
    return Section(
        name=name,
        pooled=pooled[:, seen],
        spot=inside.row.astype(np.int64)[seen],
        counts=spots.X.tocsr(),
        genes=spots.var_names.astype(str).tolist(),
        spot_pooled=pooled_tokens(sdata, model, _keys.SPOTS, views[0]),
    )


def read_section(root: Path, name: str, *, mpp: float, spot_diameter_um: float) -> SpatialData:
    """A section of a folder laid out as her2st is: ``images``, ``counts`` and ``spots``, by the section's name.

    Raises
    ------
    FileNotFoundError
        If a file of the section is missing.
    """
    from pastpy.io import read_st

    return read_st(
        root / "images" / f"{name}.jpg", root / "counts" / f"{name}.tsv.gz", root / "spots" / f"{name}_selection.tsv",
        mpp=mpp, spot_diameter_um=spot_diameter_um,
    )  # fmt: skip


def pooled_tokens(sdata: SpatialData, model: PAST, table_key: str, view: View, *, one_each: bool = False) -> np.ndarray:
    """Pooled tokens of a table's rows in a view, of all passes, float32 (n, regions, channels).

    Computed in float32, whatever ``past.settings.precision`` says: models and scores must not depend on the machine.
    With ``one_each`` every row is encoded in a rectangle of its own: the slow reference.
    """
    from pastpy._settings import settings
    from pastpy.engine import FieldReader, MemorySink, Region, UnitShapes, run
    from pastpy.train.augment import ViewEncoder

    image_key = _elements.resolve_image(sdata)
    mpp = _elements.resolve_mpp(sdata, image_key)
    shapes_key = _elements.resolve_shapes(sdata, table_key=table_key)
    units = _elements.unit_geometry(sdata, table_key, shapes_key, image_key, mpp=mpp)
    parts = []
    for each in model.passes:
        # a zoomed view is read as if its pixels had the model's µm/px: what is seen is larger or smaller, regions too.
        # Outlines keep their µm, which differ from that by one factor for the whole view.
        target_mpp = each.target_mpp * view.zoom
        regions = [
            Region(r.name, r.kind, r.radius_um * view.zoom, (r.offset_um[0] * view.zoom, r.offset_um[1] * view.zoom))
            for r in each.regions
        ]
        sink = MemorySink(len(units.radius))
        with settings.context(precision="float32"):
            run(
                FieldReader(_elements.image_levels(sdata, image_key), mpp=mpp, target_mpp=target_mpp, name=image_key),
                UnitShapes.from_geometry(units.geometry, units.radius, units.centroids, mpp / target_mpp),
                ViewEncoder(model.image_encoder, view),
                regions,
                lambda pooled, _: {"pooled": pooled},
                sink,
                target_mpp=target_mpp,
                device=model.device,
                one_each=one_each,
            )
        parts.append(sink["pooled"])
    return np.concatenate(parts, axis=1)


def read_proportions(root: Path, name: str) -> DataFrame | None:
    """Proportions of cell types in a section's spots, in :func:`read_section`'s order, from ``deconvolution``.

    NaN for spots that are not in the file; ``None`` where there is no file, or it knows none of the spots.
    """
    import pandas as pd

    from pastpy.io._st_files import read_counts, read_spots

    path = root / "deconvolution" / f"{name}.tsv"
    if not path.is_file():
        return None
    counted = read_counts(root / "counts" / f"{name}.tsv.gz")[1]
    spots = read_spots(root / "spots" / f"{name}_selection.tsv").index
    found = pd.read_csv(path, sep="\t", index_col=0).reindex(spots[spots.isin(counted)])
    return None if found.isna().any(axis=1).all() else found


def read_cells(folder: Path) -> SingleCells:
    """The Xenium breast cells; with types where the file that has them is there."""
    import pandas as pd
    from scipy.sparse import csr_matrix

    path = folder / "xenium_breast_cells" / "expr_mat_breast_demo.csv"
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; set single_cells=false to train without it")
    frame = pd.read_csv(path, index_col=0).set_index("cell_id")
    types, types_path = None, path.with_name("cell_types_breast_demo.csv")
    if types_path.is_file():
        number = pd.read_csv(types_path).set_index("c_ids")["ct_idx"].reindex(frame.index)
        types = number.map(dict(enumerate(_TYPES))).to_numpy(dtype=object)
    return SingleCells(csr_matrix(frame.to_numpy(dtype=np.float32)), frame.columns.astype(str).tolist(), types)
