"""``past.bench.hest``: the recipe of the HEST-Benchmark, on any sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pastpy.bench._baselines import FeatureMethod, ridge
from pastpy.bench._features import window_features
from pastpy.bench._loso import LosoResult, run_loso

if TYPE_CHECKING:
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
    genes) and no intercept predicts all genes; Pearson r per gene, averaged over genes, then folds.

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
        time, within a patient).
    genes
        The official genes; by default the most variable ones of each fold's training sections.
    n_genes
        How many.
    elements
        ``image_key``, ``shapes_key``, ``table_key`` and ``mpp`` for the default encoders.

    Raises
    ------
    ValueError
        If a donor stands on both sides without ``within_patient``, or donors are unknown.

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
    n = n_genes if genes is None else len(genes)
    return run_loso(
        sections,
        {name: FeatureMethod(extract, partial(_fit, n_genes=n)) for name, extract in encoders.items()},
        donors=donors,
        hold_out="section" if within_patient else "donor",
        within_patient=within_patient,
        folds=folds,
        table_key=(elements or {}).get("table_key"),
        genes=genes,
        n_genes=n,
        n_spatial=n,
        target_sum=None,
        title="HEST-Benchmark recipe: 112 µm at 0.5 µm/px, log1p of raw counts, PCA(256), ridge without intercept",
    )


def _fit(x: Any, y: Any, group: Any, *, n_genes: int) -> Any:
    components = min(N_COMPONENTS, x.shape[1], len(x) - 1)
    fit = ridge(alpha=100 / (components * n_genes), n_components=components, fit_intercept=False, solver="lsqr")
    return fit(x, y, group)
