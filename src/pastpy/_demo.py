"""``pastpy demo``: the whole way on the shipped sample, from an H&E image to a survival model of a simulated cohort."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from spatialdata import SpatialData

    from pastpy.models.past import PAST

__all__ = ["run"]

MARKER = "HER2"
CLUSTER = "cluster"
N_CLUSTERS = 5
#: What a run writes; only these are replaced by ``--overwrite``.
STORE = "demo.zarr"
PICTURES = (
    "1_predicted_ERBB2.png",
    "2_predicted_vs_measured.png",
    "3_virtual_HER2.png",
    "4_neighbourhoods.png",
    "5_survival_SIMULATED.png",
)


def run(out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Run the demo and write ``demo.zarr`` and five pictures into ``out``.

    Parameters
    ----------
    out
        Folder to write; other files in it are left alone.
    overwrite
        Replace the results of an earlier demo.

    Returns
    -------
    The figures of the printed summary, by name.

    Raises
    ------
    FileExistsError
        If results of an earlier demo are there and ``overwrite`` is not set, or ``out`` is a file.
    PermissionError
        If it is read-only.
    """
    import matplotlib as mpl

    from pastpy import datasets, pp, tl
    from pastpy._cli_places import check_place
    from pastpy.io import write_store
    from pastpy.tl._inputs import load_past

    check_place(out, "--out")
    there = [name for name in (STORE, *PICTURES) if (out / name).exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{str(out / there[0])!r} is there from an earlier demo; choose another --out, or --overwrite"
        )
    model = load_past("past-mini", "auto")
    say("1/7 sample: H&E of a HER2-positive breast tumour with Spatial Transcriptomics spots (her2st C3, CC BY 4.0)")
    sdata = datasets.breast_st()
    say("2/7 nuclei")
    pp.segment_nuclei(sdata)
    cells, spots = sdata[_keys.CELLS], sdata[_keys.SPOTS]
    say(f"    {cells.n_obs} nuclei under {spots.n_obs} spots")
    say("3/7 embeddings and predicted expression of every cell")
    tl.embed(sdata, model, modality="image")
    genes = demo_genes(model)
    tl.impute_expression(sdata, model, genes=genes, modality="image")
    say("4/7 predicted against measured spots")
    scores = score_spots(cells, spots, model)
    say("5/7 neighbourhoods of clusters, spatial autocorrelation (squidpy)")
    cluster_cells(cells)
    autocorrelation = neighbourhoods(cells, genes)
    say("6/7 virtual stain and H-scores")
    tl.virtual_stain(sdata, MARKER)
    h_scores = tl.h_score(sdata, MARKER, groupby=CLUSTER)
    say("7/7 survival model of a SIMULATED cohort")
    patients, fitter = survival(cells)
    out.mkdir(parents=True, exist_ok=True)
    for name in there:
        (shutil.rmtree if (out / name).is_dir() else Path.unlink)(out / name)
    with mpl.rc_context({"figure.dpi": 130, "savefig.bbox": "tight"}):
        draw(sdata, scores, patients, out)
    write_store(sdata, out / STORE)
    return summarise(out, sdata, model, scores, autocorrelation, h_scores, fitter)


def say(text: str) -> None:
    """Print a line at once, also where the output is not a terminal."""
    print(text, flush=True)


def demo_genes(model: PAST) -> list[str]:
    """The variable genes on which the model is scored, and the marker's."""
    from pastpy.tl._markers import resolve_markers

    variable = model.card.genes.loc[model.card.genes["variable"], "gene"].astype(str).tolist()
    (marker,) = resolve_markers(MARKER)
    return sorted({*variable, *(g for g in marker.genes if g in model.gene_index)})


def score_spots(cells: AnnData, spots: AnnData, model: PAST) -> dict[str, Any]:
    """Pearson r per gene between predicted and measured spots, and the same with the cells' images shuffled."""
    import pandas as pd

    from pastpy import metrics
    from pastpy.bench import to_spots

    key = _keys.Slots().expression
    genes = model.card.genes.loc[model.card.genes["variable"], "gene"].astype(str).tolist()
    total = np.asarray(spots.X.sum(axis=1)).reshape(-1, 1)
    measured = pd.DataFrame(
        np.log1p(spots[:, genes].X.toarray() / total * _keys.TARGET_SUM), index=spots.obs_names, columns=genes
    )
    shuffled = cells.copy()
    # the prediction of a cell comes from its image alone, so another cell's image is another cell's prediction
    order = np.random.default_rng(0).permutation(cells.n_obs)
    shuffled.obsm[key] = cells.obsm[key].iloc[order].set_axis(cells.obs_names, axis=0)
    predicted, control = to_spots(cells, spots).to_df(), to_spots(shuffled, spots).to_df()
    per_gene = metrics.expression(predicted, measured, genes=genes)
    return {
        "predicted": predicted[genes],
        "measured": measured,
        "per_gene": per_gene,
        "mean_r": float(per_gene["pearson"].mean()),
        "mean_r_shuffled": float(metrics.expression(control, measured, genes=genes)["pearson"].mean()),
        "n_spots": int(per_gene["n"].max()),
        "n_genes": len(genes),
    }


def cluster_cells(cells: AnnData) -> None:
    """Group the cells by their embedding; groups are numbered by size."""
    import pandas as pd
    from sklearn.cluster import KMeans

    valid = cells.obs[_keys.Slots().valid].to_numpy()
    found = KMeans(N_CLUSTERS, n_init=4, random_state=0).fit_predict(cells.obsm[_keys.Slots().embedding][valid])
    rank = np.argsort(np.argsort(-np.bincount(found), kind="stable"), kind="stable")
    labels = np.full(cells.n_obs, None, dtype=object)
    labels[valid] = [f"group {rank[i] + 1}" for i in found]
    cells.obs[CLUSTER] = pd.Categorical(labels)


def neighbourhoods(cells: AnnData, genes: list[str]) -> pd.DataFrame:
    """Neighbour graph, neighbourhood enrichment of the clusters, and Moran's I of predicted genes."""
    import logging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import squidpy as sq

        from pastpy import get

        # squidpy tells of every graph it makes, by a logger of spatialdata's that has a level of its own
        logging.disable(logging.INFO)
        try:
            sq.gr.spatial_neighbors_delaunay(cells)
            sq.gr.nhood_enrichment(cells, cluster_key=CLUSTER, seed=0, show_progress_bar=False)
            expression = get.expression(cells)
            sq.gr.spatial_neighbors_delaunay(expression)
            sq.gr.spatial_autocorr(expression, mode="moran", genes=genes, show_progress_bar=False)
        finally:
            logging.disable(logging.NOTSET)
    return expression.uns["moranI"]


def survival(cells: AnnData) -> tuple[pd.DataFrame, Any]:
    """A simulated cohort of the sample's cells, aggregated to patients, in a Cox model."""
    from pastpy import datasets, tl

    cohort = datasets.simulate_cohort(cells, label_key=CLUSTER, n_patients=120, seed=0)
    patients = tl.aggregate_patients(
        cohort, patient_key="patient_id", label_key=CLUSTER, genes=["ERBB2"],
        outcome_columns=[f"{_keys.SIMULATED}_months", f"{_keys.SIMULATED}_event"],
    )  # fmt: skip
    covariates = [c for c in patients.columns if c.startswith("fraction_")][:-1]
    fitter = tl.cox(
        patients, duration_col=f"{_keys.SIMULATED}_months", event_col=f"{_keys.SIMULATED}_event",
        covariates=covariates, penalizer=0.1,
    )  # fmt: skip
    risk = fitter.predict_partial_hazard(patients[covariates])
    patients["risk"] = np.where(risk > risk.median(), "high risk", "low risk")
    return patients, fitter


def draw(sdata: SpatialData, scores: dict[str, Any], patients: pd.DataFrame, out: Path) -> None:
    """The five pictures."""
    import matplotlib.pyplot as plt

    from pastpy import pl

    gene = "ERBB2"
    window = (400.0, 300.0, 900.0, 700.0)
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.4), layout="compressed")
    pl.cells(sdata, CLUSTER, ax=axes[0], show=False)
    axes[0].set_title("cells grouped by their embedding")
    pl.cells(sdata, gene, ax=axes[1], show=False)
    axes[1].set_title(f"{gene} predicted from the H&E image")
    _save(figure, out / PICTURES[0])
    ax = pl.expression_vs_measured(scores["predicted"], scores["measured"], show=False)
    ax.set_title(
        f"same patient, validation section: mean r = {scores['mean_r']:.2f}\n({scores['n_genes']} genes, "
        f"{scores['n_spots']} spots; with the cells' images shuffled {scores['mean_r_shuffled']:.2f})"
    )
    _save(ax.figure, out / PICTURES[1])
    _save(pl.virtual_stain(sdata, crop=window, show=False), out / PICTURES[2])
    _save(enrichment_heatmap(sdata[_keys.CELLS]).figure, out / PICTURES[3])
    ax = pl.kaplan_meier(
        patients, duration_col=f"{_keys.SIMULATED}_months", event_col=f"{_keys.SIMULATED}_event", groups="risk",
        show=False,
    )  # fmt: skip
    ax.set_title(f"{ax.get_title()}\nrisk by a Cox model fitted to these same patients")
    _save(ax.figure, out / PICTURES[4])


def enrichment_heatmap(cells: AnnData) -> Axes:
    """How much more often clusters are neighbours than by chance."""
    import matplotlib.pyplot as plt

    z = cells.uns[f"{CLUSTER}_nhood_enrichment"]["zscore"]
    names = list(cells.obs[CLUSTER].cat.categories)
    figure, ax = plt.subplots(figsize=(5.6, 4.6), layout="constrained")
    limit = float(np.abs(z).max())
    image = ax.imshow(z, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names)
    for (i, j), value in np.ndenumerate(z):
        ax.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if abs(value) > limit / 2 else "black")
    figure.colorbar(image, ax=ax, label="neighbours more often than by chance (z-score)")
    ax.set_title("which groups of cells are neighbours (squidpy)")
    return ax


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.savefig(path)
    plt.close(figure)


def summarise(
    out: Path,
    sdata: SpatialData,
    model: PAST,
    scores: dict[str, Any],
    autocorrelation: pd.DataFrame,
    h_scores: pd.DataFrame,
    fitter: Any,
) -> dict[str, Any]:
    """Print what was found."""
    cells = sdata[_keys.CELLS]
    top = autocorrelation["I"].nlargest(3)
    n_predicted = cells.obsm[_keys.Slots().expression].shape[1]
    figures = {
        "cells": cells.n_obs,
        **{k: scores[k] for k in ("n_spots", "n_genes", "mean_r", "mean_r_shuffled")},
        "concordance_SIMULATED": float(fitter.concordance_index_),
    }
    say(
        f"""
Result
  cells                {figures["cells"]} (embedding X_past, {n_predicted} predicted genes)
  predicted vs measured, same patient, validation section
                       mean r = {figures["mean_r"]:.3f} over {figures["n_genes"]} genes, {figures["n_spots"]} spots
  the same with the cells' images shuffled
                       mean r = {figures["mean_r_shuffled"]:.3f}
  most spatial genes   {", ".join(f"{g} (Moran's I {v:.2f})" for g, v in top.items())}
  H-score of {MARKER}      {", ".join(f"{g} {v:.0f}" for g, v in h_scores["h_score"].items())} — {_keys.RESEARCH_USE};
                       {model.card.facts["transfer_statement"]}
  {_keys.SIMULATED} cohort     Cox concordance {figures["concordance_SIMULATED"]:.2f}; patients, outcomes: simulated

wrote {out / STORE} and {", ".join(PICTURES)}"""
    )
    return figures
