"""``past.bench.PretrainedModel``: a model as it is, scored on units that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _elements, _keys
from pastpy.bench._folds import own_copy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pandas import DataFrame
    from spatialdata import SpatialData

    from pastpy.bench._folds import Fold
    from pastpy.models.past import PAST
    from pastpy.models.slide import SlideStatistics

__all__ = ["PretrainedModel", "predicted_log1p"]

#: Least slope on the scale that is scored: a gene that training units contradict is flat there, but keeps its order.
_LEAST_SLOPE = 1e-3
#: Units whose tokens are in memory at once.
_UNITS = 4096


@dataclass(frozen=True)
class PretrainedModel:
    """Method that predicts the rows of the scored table from their image with a model that is not trained further.

    It is for the caller to see to it that the model has not seen the held-out tissue. Genes that the model does not
    know are NaN.

    The model predicts shares of its whole vocabulary, the table's counts are shares of the table's genes. Where the
    fold has training sections, each gene is therefore put on the scale that is scored by a slope and an offset, fitted
    by least squares to the training units. The slope is never below 0.001, so no gene changes its order: Pearson and
    Spearman r and AUROC are those of the model as it is; errors and deviance are those after the fit. Without training
    sections predictions stay as the model gives them. Everything is computed in float32.

    Attributes
    ----------
    model
        The model.
    shuffle_seed
        Read every row's image at the place of another row of its section: the control, which must score 0. It would
        show if anything but the image, such as the order or the place of rows, told the expression. It cannot show
        that a model was trained on the held-out tissue, whose knowledge comes through the image. ``None`` does not.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> method = past.bench.PretrainedModel(past.models.load("past-mini"))
    >>> method(past.bench.Fold("s", {}, {"s": sdata}, ["ERBB2"], {}, table_key="spots"))["s"].shape
    (49, 1)
    """

    model: PAST
    shuffle_seed: int | None = None
    #: Predictions of sections that were read before: an inner fold sees the same ones again.
    _read: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, fold: Fold) -> dict[str, DataFrame]:
        """Predict the held-out sections."""
        import pandas as pd

        known = [g for g in fold.genes if g in self.model.gene_index]
        slope, offset = self._scale(fold, known)
        found = {}
        for name, sdata in fold.test.items():
            key = _elements.resolve_table(sdata, fold.table_key)
            values = slope * self._predict(sdata, key, known) + offset
            found[name] = pd.DataFrame(values, index=sdata.tables[key].obs_names, columns=known).reindex(
                columns=fold.genes
            )
        return found

    def _scale(self, fold: Fold, genes: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Slope and offset of each gene, from the training sections."""
        if not fold.train:
            return np.ones(len(genes)), np.zeros(len(genes))
        targets = fold.targets()
        x = np.concatenate(
            [self._predict(s, _elements.resolve_table(s, fold.table_key), genes) for s in fold.train.values()]
        )
        y = np.concatenate([targets[name][genes].to_numpy(dtype=float) for name in fold.train])
        return _least_squares(x, y)

    def _predict(self, sdata: SpatialData, table_key: str, genes: list[str]) -> np.ndarray:
        """Predictions of a section's rows, float64 (n, genes)."""
        from pastpy.train.augment import View
        from pastpy.train.data import pooled_tokens

        if self.shuffle_seed is not None:
            sdata = _shuffled(sdata, table_key, self.shuffle_seed)
        key = _fingerprint(self.model, sdata, table_key, genes)
        if key not in self._read:
            self._read[key] = predicted_log1p(self.model, pooled_tokens(sdata, self.model, table_key, View()), genes)
        return self._read[key].astype(float)


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slope, at least ``_LEAST_SLOPE``, and offset of each column of y on that of x, from rows known in both."""
    slope, offset = np.ones(x.shape[1]), np.zeros(x.shape[1])
    for g in range(x.shape[1]):
        known = np.isfinite(x[:, g]) & np.isfinite(y[:, g])
        if not known.any():
            continue
        a, b = x[known, g], y[known, g]
        spread = a.var()
        fitted = ((a - a.mean()) * (b - b.mean())).mean() / spread if spread > 0 else 0.0
        slope[g] = max(fitted, _LEAST_SLOPE)
        offset[g] = b.mean() - slope[g] * a.mean()
    return slope, offset


def _shuffled(sdata: SpatialData, table_key: str, seed: int) -> SpatialData:
    """The section with each row of a table linked to the shape of another row."""
    from spatialdata.models import TableModel

    out = own_copy(sdata)
    table = out.tables[table_key]
    link = table.uns[TableModel.ATTRS_KEY]
    order = np.random.default_rng(seed).permutation(table.n_obs)
    for column in (link[TableModel.REGION_KEY_KEY], link[TableModel.INSTANCE_KEY]):
        table.obs[column] = table.obs[column].array[order]
    return out


def _fingerprint(model: PAST, sdata: SpatialData, table_key: str, genes: list[str]) -> str:
    """What a prediction depends on: the weights, the pixels, the shape of each row, the genes."""
    import shapely

    from pastpy.engine.fingerprint import array_fingerprint, model_fingerprint, pixels_fingerprint

    image_key = _elements.resolve_image(sdata)
    mpp = _elements.resolve_mpp(sdata, image_key)
    shapes_key = _elements.resolve_shapes(sdata, table_key=table_key)
    units = _elements.unit_geometry(sdata, table_key, shapes_key, image_key, mpp=mpp)
    levels = _elements.image_levels(sdata, image_key)
    outlines = np.frombuffer(b"".join(w or b"-" for w in shapely.to_wkb(units.geometry)), dtype=np.uint8)
    place = array_fingerprint(np.array(mpp), units.radius, units.centroids, outlines)
    sizes = repr([level.shape for level in levels])
    return " ".join([model_fingerprint(model), pixels_fingerprint(levels[0]), sizes, place, *genes])


def predicted_log1p(
    model: PAST, pooled: np.ndarray, genes: Sequence[str], slide: SlideStatistics | None = None
) -> np.ndarray:
    """log1p of the predicted counts per 10,000 of the units of a slide, float32 (n, genes); NaN rows without pixels.

    Parameters
    ----------
    model
        The model.
    pooled
        float32 (n, regions, channels), pooled tokens of units of one slide.
    genes
        Genes that the model knows.
    slide
        Statistics of the slide; those of these units by default.
    """
    import torch

    out = np.full((len(pooled), len(genes)), np.nan, dtype=np.float32)
    seen = np.isfinite(pooled[:, model.image_regions]).all(axis=(1, 2))
    columns = torch.from_numpy(model.columns_of(genes))
    with torch.inference_mode():
        found = torch.from_numpy(pooled[seen])
        slide = slide or model.slide_statistics(found)
        for rows, part in zip(torch.from_numpy(np.flatnonzero(seen)).split(_UNITS), found.split(_UNITS), strict=True):
            share = model.predict_expression(model.image_tokens(part, slide), genes=columns)
            out[rows.numpy()] = np.log1p(_keys.TARGET_SUM * share.numpy())
    return out
