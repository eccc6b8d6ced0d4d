"""``past.bench.hest``: the recipe of the HEST-Benchmark, on any sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pastpy import _elements
from pastpy.bench._baselines import FeatureMethod, ridge
from pastpy.bench._features import window_features
from pastpy.bench._loso import CEILING, LosoResult, _score, _truth, run_loso, training_mean

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import DataFrame
    from spatialdata import SpatialData

    from pastpy.bench._baselines import Extract

__all__ = ["PATCH_MPP", "PATCH_UM", "hest"]

#: Side of a patch, and the resolution at which it is 224 px wide.
PATCH_UM, PATCH_MPP = 112.0, 0.5
#: Components kept, and genes scored, as in the benchmark.
N_COMPONENTS, N_GENES = 256, 50


def hest(
    sections: Mapping[str, SpatialData],
    encoders: Mapping[str, Extract] | None = None,
    *,
    donors: Mapping[str, str] | None = None,
    within_patient: bool = False,
    folds: Sequence[tuple[Sequence[str], Sequence[str]]] | None = None,
    genes: Sequence[str] | None = None,
    n_genes: int = N_GENES,
    elements: Mapping[str, Any] | None = None,
) -> LosoResult:
    """Score frozen encoders as the HEST-Benchmark does.

    Patches of 112 µm at 0.5 µm/px (224 px) around each spot; targets are log1p of raw counts; features are standardised
    and reduced to 256 principal components (fewer, where there are fewer), and a ridge with α = 100 / (components ·
    genes) and no intercept predicts all genes; Pearson r per gene, over all spots that a fold holds out, of whichever
    of its sections, averaged over genes, then folds.

    Parameters
    ----------
    sections
        Name → SpatialData with an image and a table of raw counts.
    encoders
        Name → function from a SpatialData to features (n, d) of its rows; by default frozen ImageNet and colour
        features averaged over the patch.
    donors, within_patient
        As in :func:`pastpy.bench.run_loso`.
    folds
        The official folds, (training sections, held-out sections) each; by default a donor at a time (a section at a
        time, within a patient). A section is held out once.
    genes
        The official genes; by default the most variable ones of each fold's training sections.
    n_genes
        How many.
    elements
        ``image_key``, ``shapes_key``, ``table_key`` and ``mpp`` for the default encoders.

    Returns
    -------
    Scores of each fold; a fold that holds out several sections stands under its own name in place of theirs.
    ``facts["components"]``: encoder → fold → principal components that there were.

    Raises
    ------
    ValueError
        If a donor stands on both sides without ``within_patient``, donors are unknown, or two folds hold out the same
        section.

    References
    ----------
    Jaume et al., HEST-1k, NeurIPS 2024, arXiv:2406.16192.

    Examples
    --------
    >>> import pastpy as past
    >>> result = past.bench.hest(sections, donors=donors)  # doctest: +SKIP
    """
    if encoders is None:
        patch = partial(window_features, windows_um=(PATCH_UM,), square=True, target_mpp=PATCH_MPP, **(elements or {}))
        encoders = {
            "ImageNet EfficientNet-Lite0": partial(patch, backbone="imagenet"),
            "colour and texture": partial(patch, backbone="colour"),
        }
    held = [section for _, test in folds or () for section in test]
    twice = sorted({s for s in held if held.count(s) > 1})
    if twice:
        raise ValueError(f"sections {twice[:3]} are held out by several folds; hold out each section once")
    n = n_genes if genes is None else len(genes)
    table_key = (elements or {}).get("table_key")
    components: dict[str, list[int]] = {name: [] for name in encoders}
    result = run_loso(
        sections,
        {
            name: FeatureMethod(extract, partial(_fit, n_genes=n, components=components[name]))
            for name, extract in encoders.items()
        },
        donors=donors,
        hold_out="section" if within_patient else "donor",
        within_patient=within_patient,
        folds=folds,
        table_key=table_key,
        image_key=(elements or {}).get("image_key"),
        genes=genes,
        n_genes=n,
        n_spatial=n,
        target_sum=None,
        title=f"HEST-Benchmark recipe: {PATCH_UM:g} µm at {PATCH_MPP:g} µm/px, log1p of raw counts, up to "
        f"{N_COMPONENTS} principal components, ridge without intercept",
    )
    facts = {
        **result.facts,
        "scored": "all held-out spots of a fold together",
        "components": {name: dict(zip(result.facts["folds"], c, strict=True)) for name, c in components.items()},
    }
    tables = {name: _elements.table_of(sdata, table_key) for name, sdata in sections.items()}
    return replace(result, scores=_pooled(result, tables), facts=facts)


def _fit(x: Any, y: Any, group: Any, *, n_genes: int, components: list[int]) -> Any:
    components.append(min(N_COMPONENTS, x.shape[1], len(x) - 1))
    alpha = 100 / (components[-1] * n_genes)
    return ridge(alpha=alpha, n_components=components[-1], fit_intercept=False, solver="lsqr")(x, y, group)


def _pooled(result: LosoResult, tables: Mapping[str, AnnData]) -> DataFrame:
    """Scores over all held-out spots of a fold, in the place of those of its sections."""
    import pandas as pd

    rows = []
    for fold, sides in result.facts["folds"].items():
        own = result.scores[result.scores["fold"] == fold]
        if len(sides["test"]) > 1:
            donors = own["donor"].unique()
            marks = {"fold": fold, "section": fold, "donor": donors[0] if len(donors) == 1 else fold}
            own = _fold_scores(
                result, fold, {s: tables[s] for s in sides["train"]}, {s: tables[s] for s in sides["test"]}
            )
            own = own.assign(**marks)
        rows.append(own)
    scores = pd.concat(rows, ignore_index=True)[result.scores.columns]
    order = list(result.scores["method"].unique())
    return scores.sort_values("method", key=lambda m: m.map(order.index), kind="stable", ignore_index=True)


def _fold_scores(result: LosoResult, fold: str, train: Mapping[str, AnnData], test: Mapping[str, AnnData]) -> DataFrame:
    import anndata as ad
    import pandas as pd

    genes = result.genes[fold]
    # sections may name their spots alike
    together = ad.concat(test, join="inner", index_unique="/")
    truth = _truth(together, genes, layer=None, target_sum=None, maps=False, seed=0)
    mean = training_mean(train, genes, target_sum=None)
    rows = [pd.DataFrame({"method": CEILING, "gene": genes, "pearson": truth.ceiling})]
    for method, frames in result.predictions.items():
        predicted = pd.concat([frames[s] for s in test]).set_axis(together.obs_names, axis=0)
        rows.append(_score(predicted, truth, mean, None).reset_index().assign(method=method))
    return pd.concat(rows)
