"""``past.bench.FoldModels``: a model trained anew on the training sections of every fold, scored from its cells."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pastpy import _elements, _keys
from pastpy._aggregate import under_spots
from pastpy.bench._folds import blind
from pastpy.bench._pretrained import predicted_log1p
from pastpy.bench._spots import to_spots

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData
    from pandas import DataFrame
    from spatialdata import SpatialData

    from pastpy.bench._folds import Fold
    from pastpy.models.past import PAST
    from pastpy.models.slide import SlideStatistics
    from pastpy.train.config import TrainConfig

__all__ = ["FoldModels"]

#: Beside a model: what it was trained with.
_RECORD = "fold.json"


@dataclass(frozen=True)
class FoldModels:
    """Method that runs :func:`pastpy.train.fit` on each fold's training sections and sums cell predictions to spots.

    Everything but the sections comes from ``config`` and is the same in all folds. Of the held-out section the model
    sees the image: its nuclei are found, the expression of those under spots is predicted, and
    :func:`pastpy.bench.to_spots` adds them up. Genes that a model does not know are NaN.

    Attributes
    ----------
    config
        Configuration of the training; its ``train_sections`` and ``validation_sections`` are replaced.
    folder
        Folder for the models, one subfolder a fold. A model that is there is used again if it was trained with the same
        configuration on the same sections.
    data
        Folder with the training data, as for :func:`pastpy.train.fit`.

    Examples
    --------
    >>> import pastpy as past
    >>> method = past.bench.FoldModels(past.train.TrainConfig.from_json("past-mini"), "folds", "data")
    >>> past.bench.run_loso(sections, {"past-mini": method}, donors=donors)  # doctest: +SKIP
    """

    config: TrainConfig
    folder: str | Path
    data: str | Path

    def __call__(self, fold: Fold) -> dict[str, DataFrame]:
        """Train on the training sections (or take the model that was), predict the held-out ones."""
        model = self.model(fold)
        return {name: _spots_of_cells(model, sdata, fold) for name, sdata in fold.test.items()}

    def fold_config(self, fold: Fold) -> TrainConfig:
        """The configuration of one fold: all of its training sections are trained on."""
        return replace(self.config, train_sections=tuple(fold.train), validation_sections=())

    def model(self, fold: Fold) -> PAST:
        """The fold's model, trained now if it is not in the folder.

        Raises
        ------
        ValueError
            If the fold's folder holds a model of another configuration, or anything else.
        """
        from pastpy.models import load
        from pastpy.train import fit
        from pastpy.train.members import resumable

        config = self.fold_config(fold)
        out = Path(self.folder) / fold.name
        made_with = json.loads(json.dumps(asdict(config)))
        record = out / _RECORD
        if record.is_file() and json.loads(record.read_text(encoding="utf-8")) == made_with:
            return cast("PAST", load(str(out)))  # what fit writes is one
        # members that a run has finished before it was stopped are no model yet: fit goes on from them
        if not resumable(out):
            raise ValueError(
                f"{str(out)!r} was not trained to its end with this configuration; remove it, or choose another"
            )
        model = fit(config, out, data=self.data)
        record.write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")
        return model


def _spots_of_cells(model: PAST, sdata: SpatialData, fold: Fold) -> DataFrame:
    import pandas as pd

    from pastpy.pp import segment_nuclei

    spots = _elements.table_of(sdata, fold.table_key)
    sdata = blind(sdata)  # a container of its own, to put nuclei in
    segment_nuclei(sdata)
    cells = sdata.tables[_keys.CELLS]
    slide = _slide(model, sdata) if model.config.slide_norm else None
    radius = spots.uns[_keys.PAST]["read_st"]["spot_diameter_um"] / 2
    cells = cells[under_spots(cells.obsm[_keys.SPATIAL], spots.obsm[_keys.SPATIAL], radius)].copy()
    known = [g for g in fold.genes if g in model.gene_index]
    predicted = predicted_log1p(model, _pooled(model, sdata, cells), known, slide)
    cells.obsm[_keys.Slots().expression] = pd.DataFrame(predicted, index=cells.obs_names, columns=known)
    return to_spots(cells, spots).to_df().reindex(columns=fold.genes)


def _slide(model: PAST, sdata: SpatialData) -> SlideStatistics:
    """Statistics as the tools take them: from cells of all the slide, not from those under spots alone."""
    import torch

    from pastpy.engine import sample_units
    from pastpy.engine.sample import PLACE_UM

    image_key = _elements.resolve_image(sdata)
    mpp = _elements.resolve_mpp(sdata, image_key)
    units = _elements.unit_geometry(sdata, _keys.CELLS, _keys.NUCLEI, image_key, mpp=mpp)
    drawn = sample_units(units.centroids * mpp, place=PLACE_UM)
    return model.slide_statistics(torch.from_numpy(_pooled(model, sdata, sdata.tables[_keys.CELLS][drawn].copy())))


def _pooled(model: PAST, sdata: SpatialData, cells: AnnData) -> np.ndarray:
    """Pooled tokens of some of the cells, float32 (n, regions, channels)."""
    from pastpy.train.augment import View
    from pastpy.train.data import pooled_tokens

    sdata.tables[_keys.CELLS] = cells
    return pooled_tokens(sdata, model, _keys.CELLS, View())
