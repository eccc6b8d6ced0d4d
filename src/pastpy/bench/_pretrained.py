"""``past.bench.PretrainedModel``: a model as it is, scored on units that it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _elements, _keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pandas import DataFrame

    from pastpy.bench._folds import Fold
    from pastpy.models.past import PAST
    from pastpy.models.slide import SlideStatistics

__all__ = ["PretrainedModel", "predicted_log1p"]


@dataclass(frozen=True)
class PretrainedModel:
    """Method that predicts the rows of the scored table from their image with a model that is not trained further.

    It is for the caller to see to it that the model has not seen the held-out tissue. Genes that the model does not
    know are NaN.

    Attributes
    ----------
    model
        The model.
    shuffle_seed
        Give every row the prediction of another row of its section: the control, which must score 0. ``None`` does not.

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

    def __call__(self, fold: Fold) -> dict[str, DataFrame]:
        """Predict the held-out sections."""
        import pandas as pd

        from pastpy.train.augment import View
        from pastpy.train.data import pooled_tokens

        known = [g for g in fold.genes if g in self.model.gene_index]
        found = {}
        for name, sdata in fold.test.items():
            key = _elements.resolve_table(sdata, fold.table_key)
            predicted = predicted_log1p(self.model, pooled_tokens(sdata, self.model, key, View()), known)
            if self.shuffle_seed is not None:
                predicted = np.random.default_rng(self.shuffle_seed).permutation(predicted, axis=0)
            found[name] = pd.DataFrame(predicted, index=sdata.tables[key].obs_names, columns=known).reindex(
                columns=fold.genes
            )
        return found


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
    seen = np.isfinite(pooled).all(axis=(1, 2))
    with torch.inference_mode():
        found = torch.from_numpy(pooled[seen])
        tokens = model.image_tokens(found, slide or model.slide_statistics(found))
        share = model.predict_expression(tokens, genes=torch.from_numpy(model.columns_of(genes)))
    out[seen] = np.log1p(_keys.TARGET_SUM * share.numpy())
    return out
