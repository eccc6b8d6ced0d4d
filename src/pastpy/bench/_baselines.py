"""Methods that belong in every table: means, ridges on frozen features, one component, a small network, a control."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy.bench._features import window_features
from pastpy.metrics._columns import column_scores

if TYPE_CHECKING:
    from pandas import DataFrame
    from sklearn.pipeline import Pipeline
    from spatialdata import SpatialData

    from pastpy.bench._folds import FitPredict, Fold

__all__ = ["ALPHAS", "FeatureMethod", "baselines", "gene_mean", "ridge", "tuned_ridge"]

#: Ridge penalties to choose from inside the training sections.
ALPHAS = (100.0, 1e3, 5e3, 2e4, 1e5, 5e5)

#: Features of the rows of the scored table, float (n, d).
Extract = Callable[["SpatialData"], np.ndarray]
#: Fits on features, targets and training groups; returns a predictor of features.
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], Callable[[np.ndarray], np.ndarray]]


@dataclass(frozen=True)
class FeatureMethod:
    """A method made of features and a regression.

    Attributes
    ----------
    extract
        Features of the rows of an object's table, float (n, d); it sees held-out sections without their expression.
    fit
        Takes features (n, d), targets (n, genes) and groups (n,) of the training units (donor if there are several,
        else section) and returns a function from features to predictions.

    Examples
    --------
    >>> import pastpy as past
    >>> method = past.bench.FeatureMethod(lambda sdata: sdata["spots"].obsm["spatial"], past.bench.ridge(alpha=1.0))
    """

    extract: Extract
    fit: Fit

    def __call__(self, fold: Fold) -> dict[str, DataFrame]:
        """Fit on the training sections, predict the held-out ones."""
        import pandas as pd

        targets = fold.targets()
        x = {s: self.extract(sdata) for s, sdata in fold.train.items()}
        by_donor = len(set(fold.donors.values())) > 1
        group = np.concatenate([np.full(len(x[s]), fold.donors[s] if by_donor else s) for s in fold.train])
        features = np.concatenate([x[s] for s in fold.train]).astype(float)
        y = np.concatenate([targets[s].to_numpy() for s in fold.train])
        known = np.isfinite(features).all(axis=1) & np.isfinite(y).all(axis=1)
        predict = self.fit(features[known], y[known], group[known])
        out = {}
        for section, table in fold.tables("test").items():
            rows = np.asarray(self.extract(fold.test[section]), dtype=float)
            values = np.full((len(rows), len(fold.genes)), np.nan)
            seen = np.isfinite(rows).all(axis=1)
            values[seen] = predict(rows[seen])
            out[section] = pd.DataFrame(values, index=table.obs_names, columns=fold.genes)
        return out


def ridge(*, alpha: float, n_components: int | None = 256, fit_intercept: bool = True, solver: str = "auto") -> Fit:
    """Standardised features, their principal components, ridge.

    Parameters
    ----------
    alpha
        Penalty.
    n_components
        Components to keep, at most as many as there are; ``None`` keeps the features as they are.
    fit_intercept
        Whether the targets are centred.
    solver
        Of :class:`sklearn.linear_model.Ridge`.

    Returns
    -------
    Function of features (n, d), targets (n, genes) and groups (n,) that returns a function from features to
    predictions.

    Examples
    --------
    >>> import pastpy as past
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> predict = past.bench.ridge(alpha=1.0)(x, x[:, :1], np.zeros(50))
    >>> predict(x).shape
    (50, 1)
    """
    return partial(_fit_ridge, alpha=alpha, n_components=n_components, fit_intercept=fit_intercept, solver=solver)


def tuned_ridge(*, alphas: Sequence[float] = ALPHAS, n_components: int = 256) -> Fit:
    """Ridge whose penalty is chosen inside the training data, leaving one training group out at a time.

    The penalty with the highest Pearson r, averaged over genes and groups, is taken; with one group, the largest.

    Parameters
    ----------
    alphas
        Penalties to choose from.
    n_components
        Principal components to keep, at most as many as there are.

    Returns
    -------
    Function like that of :func:`pastpy.bench.ridge`.

    Examples
    --------
    >>> import pastpy as past
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(60, 3))
    >>> predict = past.bench.tuned_ridge()(x, x[:, :1], np.repeat(["a", "b", "c"], 20))
    >>> bool(np.corrcoef(predict(x)[:, 0], x[:, 0])[0, 1] > 0.99)
    True
    """
    return partial(_fit_tuned, alphas=tuple(alphas), n_components=n_components)


def gene_mean(fold: Fold) -> dict[str, DataFrame]:
    """Mean of the training units for every held-out unit: constant, so it has an error but no correlation.

    Examples
    --------
    >>> import pastpy as past
    >>> sample = past.datasets.breast_st()
    >>> fold = past.bench.Fold("s", {"s": sample}, {"t": sample}, ["ERBB2"], {"s": "P1"})
    >>> past.bench.gene_mean(fold)["t"]["ERBB2"].nunique()
    1
    """
    import pandas as pd

    mean = np.nanmean(np.concatenate([t.to_numpy() for t in fold.targets().values()]), axis=0)
    return {
        s: pd.DataFrame(np.tile(mean, (t.n_obs, 1)), index=t.obs_names, columns=fold.genes)
        for s, t in fold.tables("test").items()
    }


def baselines(
    *,
    windows_um: Sequence[float] = (100.0,),
    target_mpp: float = 1.0,
    n_domains: int = 8,
    alphas: Sequence[float] = ALPHAS,
    elements: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, FitPredict]:
    """Methods to compare with, name → method for :func:`pastpy.bench.run_loso`.

    Parameters
    ----------
    windows_um
        Windows of the frozen features, µm, smallest first; see :func:`pastpy.bench.window_features`. All methods take
        the first; two more ridges take all, if there are several.
    target_mpp
        µm/px at which they are taken.
    n_domains
        Clusters of the frozen features for the domain mean.
    alphas
        Ridge penalties to choose from inside the training sections.
    elements
        ``image_key``, ``shapes_key``, ``table_key`` and ``mpp`` for the features, where the defaults do not do.
    seed
        Of clusters, network and control.

    Returns
    -------
    ``"gene mean"``; ``"domain mean"``: mean of the training units in the same cluster of frozen features;
    ``"colour ridge"``: optical density and edges; ``"backbone ridge"``: ImageNet features; ``"one component"``: their
    first principal component alone; ``"MLP"``: a network of one hidden layer on 64 components; ``"shuffled"``: the
    backbone ridge with its held-out units permuted, which must score 0. With several windows also ``"backbone ridge,
    all windows"`` and ``"one component, all windows"``.

    Examples
    --------
    >>> import pastpy as past
    >>> list(past.bench.baselines())[:2]
    ['gene mean', 'domain mean']
    """
    common = {"target_mpp": target_mpp, **(elements or {})}
    windows = list(windows_um)
    colour = partial(window_features, windows_um=windows[:1], backbone="colour", **common)
    every = partial(window_features, windows_um=windows, backbone="imagenet", **common)
    frozen = partial(_first_window, every, len(windows))
    tuned, one = tuned_ridge(alphas=alphas), ridge(alpha=1.0, n_components=1)
    methods: dict[str, FitPredict] = {
        "gene mean": gene_mean,
        "domain mean": FeatureMethod(frozen, partial(_fit_domains, n_domains=n_domains, seed=seed)),
        "colour ridge": FeatureMethod(colour, tuned),
        "backbone ridge": FeatureMethod(frozen, tuned),
        "one component": FeatureMethod(frozen, one),
        "MLP": FeatureMethod(frozen, partial(_fit_mlp, seed=seed)),
        "shuffled": partial(_shuffled, FeatureMethod(frozen, tuned), seed),
    }
    if len(windows) > 1:
        methods |= {
            "backbone ridge, all windows": FeatureMethod(every, tuned),
            "one component, all windows": FeatureMethod(every, one),
        }
    return methods


def _first_window(extract: Extract, n_windows: int, sdata: SpatialData) -> np.ndarray:
    # one run of the encoder serves all windows
    found = extract(sdata)
    return found[:, : found.shape[1] // n_windows]


def _pipeline(n_features: int, n_rows: int, n_components: int | None) -> Pipeline:
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if n_components is None:
        return make_pipeline(StandardScaler())
    return make_pipeline(StandardScaler(), PCA(min(n_components, n_features, n_rows - 1), random_state=0))


def _fit_ridge(
    x: np.ndarray,
    y: np.ndarray,
    group: np.ndarray,
    *,
    alpha: float,
    n_components: int | None,
    fit_intercept: bool,
    solver: str,
) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.linear_model import Ridge

    reduce = _pipeline(x.shape[1], len(x), n_components)
    head = Ridge(alpha, fit_intercept=fit_intercept, solver=solver, max_iter=1000, random_state=0)
    head.fit(reduce.fit_transform(x), y)
    return lambda rows: head.predict(reduce.transform(rows)).reshape(len(rows), -1)


def _fit_tuned(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, *, alphas: tuple[float, ...], n_components: int
) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.linear_model import Ridge

    labels = np.unique(group)
    score = np.zeros(len(alphas))
    for left_out in labels if len(labels) > 1 else ():
        inner, outer = group != left_out, group == left_out
        reduce = _pipeline(x.shape[1], int(inner.sum()), n_components)
        z, z_out = reduce.fit_transform(x[inner]), reduce.transform(x[outer])
        for i, alpha in enumerate(alphas):
            predicted = Ridge(alpha).fit(z, y[inner]).predict(z_out).reshape(len(z_out), -1)
            r = column_scores(predicted, y[outer])["pearson"]
            score[i] += np.nanmean(r) if np.isfinite(r).any() else 0.0
    best = alphas[int(np.argmax(score))] if len(labels) > 1 else max(alphas)
    return _fit_ridge(x, y, group, alpha=best, n_components=n_components, fit_intercept=True, solver="auto")


def _fit_domains(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, *, n_domains: int, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.cluster import KMeans

    reduce = _pipeline(x.shape[1], len(x), 32)
    clusters = KMeans(min(n_domains, len(x)), n_init=10, random_state=seed).fit(reduce.fit_transform(x))
    mean = np.stack([y[clusters.labels_ == k].mean(axis=0) for k in range(clusters.n_clusters)])
    return lambda rows: mean[clusters.predict(reduce.transform(rows))]


def _fit_mlp(x: np.ndarray, y: np.ndarray, group: np.ndarray, *, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.neural_network import MLPRegressor

    reduce = _pipeline(x.shape[1], len(x), 64)
    z = reduce.fit_transform(x)
    scale, centre = z.std(axis=0) + 1e-9, y.mean(axis=0)
    network = MLPRegressor(
        hidden_layer_sizes=(64,), alpha=1.0, learning_rate_init=1e-3, early_stopping=True, validation_fraction=0.2,
        n_iter_no_change=10, max_iter=300, random_state=seed,
    ).fit(z / scale, y - centre)  # fmt: skip
    return lambda rows: network.predict(reduce.transform(rows) / scale).reshape(len(rows), -1) + centre


def _shuffled(method: FeatureMethod, seed: int, fold: Fold) -> dict[str, DataFrame]:
    import pandas as pd

    rng = np.random.default_rng(seed)
    return {
        s: pd.DataFrame(rng.permutation(f.to_numpy(), axis=0), index=f.index, columns=f.columns)
        for s, f in method(fold).items()
    }
