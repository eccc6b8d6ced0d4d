"""Cells' predictions on another patient's tumour of another organ: JSON in docs/_data and its table.

    python scripts/other_patient.py --data ../shared/data

A crop of a high-grade serous ovarian carcinoma (``shared/data/hgsc``, 1,294 nuclei) has no counts, but each nucleus has
a type, which a model gave it: neoplastic, inflammatory or connective. Genes that are known to be expressed in one of
these should be predicted higher in its nuclei (AUROC), and higher where there are more of them (Pearson r over windows
of 100 µm). The labels are no truth, and expression is more than three types; but it is a patient and an organ that
nothing was trained on. Genes of the simulated panel stand apart from those that spots alone were counted for. Beside
models stand ridges on the same features, fitted to the spots of the model's training sections. A minute a model, and
half an hour for the ridges where the features of the sections are not in the cache directory.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import geopandas
import numpy as np
import pandas as pd
from PIL import Image
from result_tables import DOCS, fill, table
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from small_network import standardised
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel

import pastpy as past
from pastpy import _keys
from pastpy.tl._inputs import load_past
from pastpy.train import TrainConfig
from pastpy.train.augment import View, views_of
from pastpy.train.card import log_counts
from pastpy.train.data import pooled_tokens, prepare_section, read_cells
from pastpy.train.loop import on_one_level

if TYPE_CHECKING:
    from pastpy.models import PAST

RESULTS = DOCS / "_data" / "other_patient.json"
CONFIG = TrainConfig.from_json("past-mini")
MPP = 0.5
WINDOW_UM = 100.0
#: A window with fewer nuclei says nothing of their shares.
LEAST_NUCLEI = 8
#: Genes known of epithelium, leucocytes and stroma; written down before a model was changed
#: because of them.
MARKERS = {
    "neoplastic": "EPCAM KRT8 KRT18 KRT19 CDH1 ELF3 CLDN4 CLDN7 TACSTD2 KRT7 SPINT2 KRT23 ESRP1 AGR2 PRLR CD24 MUC1 "
    "CLDN3 ELF5 FXYD3 PERP DSP JUP",
    "inflammatory": "PTPRC CD3E CD74 TRBC2 CD52 CXCR4 LTB IL7R CCL5 CORO1A HLA-DRA CD2 CD3D IGKC IGHG1 HLA-DRB1 TRAC "
    "CD37 LCP1 RAC2 ARHGDIB CYTIP SRGN TYROBP CD48",
    "connective": "COL1A1 COL1A2 COL3A1 DCN LUM SPARC VIM BGN COL6A2 TAGLN PDGFRB POSTN FN1 COL6A1 COL6A3 COL5A1 FBLN1 "
    "CCDC80 MMP2 THY1 AEBP1 CALD1 C1S C1R SFRP2 IGFBP7",
}
RIDGES = {"ridge on spots (α = 2,000)": 2e3, "ridge on spots (α = 200,000)": 2e5}
GROUPS = {"panel": "genes of the simulated panel", "others": "other genes"}


def read_crop(folder: Path) -> SpatialData:
    """The crop with its nuclei and their types, positions in µm in ``obsm``."""
    outlines = geopandas.read_parquet(folder / "hgsc_nest.parquet")
    outlines = outlines.set_geometry(outlines.buffer(0))
    outlines = outlines[(outlines.geom_type == "Polygon") & (outlines.area > 0)]
    outlines.index = outlines.index.astype(str)
    obs = pd.DataFrame({"region": pd.Categorical(["nuclei"] * len(outlines)), "nucleus": outlines.index})
    obs["type"] = outlines["class_name"].to_numpy()
    obs.index = outlines.index
    centre = outlines.centroid
    cells = anndata.AnnData(
        np.zeros((len(obs), 0), dtype=np.float32), obs, obsm={_keys.SPATIAL: np.c_[centre.x, centre.y] * MPP}
    )
    pixels = np.array(Image.open(folder / "hgsc_nest.jpg").convert("RGB")).transpose(2, 0, 1)
    sdata = SpatialData(
        images={"he": Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"])},
        shapes={"nuclei": ShapesModel.parse(outlines[["geometry"]])},
        tables={"cells": TableModel.parse(cells, region="nuclei", region_key="region", instance_key="nucleus")},
    )
    sdata.attrs["past"] = {_keys.MPP: {"he": MPP}}
    return sdata


def known_genes(model: PAST) -> list[str]:
    """Genes to score that a model knows."""
    return [g for genes in MARKERS.values() for g in genes.split() if g in model.gene_index]


def by_model(model: PAST, sdata: SpatialData) -> pd.DataFrame:
    """Predicted log expression of the known genes, (nuclei, genes)."""
    genes = known_genes(model)
    past.tl.impute_expression(sdata, model, genes=genes, progress=False)
    return np.log1p(past.get.expression(sdata).to_df()[genes])


def by_window(values: pd.DataFrame, positions: np.ndarray) -> pd.DataFrame:
    """Means over windows that hold enough nuclei; ``positions`` are x and y in µm."""
    window = pd.DataFrame(positions // WINDOW_UM).groupby([0, 1]).ngroup().to_numpy()
    large = np.bincount(window)[window] >= LEAST_NUCLEI
    return values[large].groupby(window[large]).mean()


def spots_of(name: str, model: PAST, genes: list[str], data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of a section's spots that hold nuclei their mean features, relative to the slide, and log expression."""
    section = prepare_section(name, data, CONFIG, model, views_of(name, CONFIG.views, CONFIG.seed))
    spots = pd.DataFrame(standardised(section.pooled[0], section.pooled[0])).groupby(section.spot).mean()
    return spots.to_numpy(), log_counts(section, genes)[spots.index]


def by_ridges(model: PAST, sdata: SpatialData, data: Path) -> dict[str, pd.DataFrame]:
    """The same by ridges on a model's features, relative to their slide, of the spots of its training sections."""
    genes = known_genes(model)
    means, log_expression = zip(*(spots_of(name, model, genes, data) for name in CONFIG.train_sections), strict=True)
    x, y = np.concatenate(means), np.concatenate(on_one_level(list(log_expression)))
    pooled = pooled_tokens(sdata, model, "cells", View())
    of_nuclei, names = standardised(pooled, pooled), sdata.tables["cells"].obs_names
    return {
        name: pd.DataFrame(Ridge(alpha).fit(x, y).predict(of_nuclei), index=names, columns=genes)
        for name, alpha in RIDGES.items()
    }


def scores(predicted: pd.DataFrame, cells: anndata.AnnData, panel: set[str]) -> dict[str, Any]:
    """Type → genes of the panel and others → how many, mean AUROC and mean r over windows, AUROC of each."""
    found: dict[str, Any] = {}
    for kind, genes in MARKERS.items():
        of_kind = (cells.obs["type"] == kind).to_numpy()
        windows = by_window(predicted.assign(share=of_kind), cells.obsm[_keys.SPATIAL])
        r = windows.corrwith(windows["share"])
        auroc = pd.Series({g: roc_auc_score(of_kind, predicted[g]) for g in genes.split() if g in predicted})
        found[kind] = {
            group: {
                "genes": len(some),
                "auroc": round(float(some.mean()), 4),
                "windows": round(float(r[some.index].mean()), 4),
                "auroc_of_each": some.round(2).to_dict(),
            }
            for group, some in (
                ("panel", auroc[auroc.index.isin(panel)]),
                ("others", auroc[~auroc.index.isin(panel)]),
            )
        }
    return found


def rows(results: dict[str, Any]) -> str:
    """A row for each model and group of genes."""
    lines = [
        (name, label, *(f"{found[kind][group][score]:.2f}" for kind in MARKERS for score in ("auroc", "windows")))
        for name, found in results.items()
        for group, label in GROUPS.items()
    ]
    return table(("model", "genes", *(f"{kind}, {s}" for kind in MARKERS for s in ("AUROC", "r"))), lines)


def main() -> None:
    """Score the shipped model, or others; write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--models", nargs="+", metavar="NAME=FOLDER", default=["past-mini=past-mini"])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    panel = set(read_cells(arguments.data).genes)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    sdata = read_crop(arguments.data / "hgsc")
    cells = sdata.tables["cells"]
    for entry in arguments.models:
        name, folder = entry.split("=", 1)
        results[name] = scores(by_model(load_past(folder, "cpu"), sdata), cells, panel)
    shipped = load_past(CONFIG.model["name"], "cpu")
    results |= {n: scores(found, cells, panel) for n, found in by_ridges(shipped, sdata, arguments.data).items()}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    fill(DOCS / "evaluation.md", {"other_patient": rows})


if __name__ == "__main__":
    main()
