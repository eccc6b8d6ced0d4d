"""Make the expression profiles of the simulator in src/pastpy/datasets/data from the Xenium breast cells.

    python scripts/make_tissue_profiles.py      # reads $PASTPY_SHARED_DATA/xenium_breast_cells, else ../shared/data/…

The cell types come without names. Each is named here by its markers (printed, and checked: every type must express the
markers it is named by above all other types). What is kept, per gene of the panel and per type:

- ``log_profile``: natural logarithm of the share of the type's counts;
- ``loadings``: eight factors of how log expression varies *within* types, from the factorial moments of the counts, so
  that counting noise does not enter (shrunk towards 0 where few counts support them; the mixed type is left out);
- ``depth``: median counts of a cell of the type; ``nucleus_px``: quantiles of its nucleus's size, in the source's unit.

No cell of the source is in the file.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

REPO = Path(__file__).resolve().parents[1]
#: ``ct_idx`` → name and the markers that say so.
TYPES = {
    0: ("B_cell", ["MS4A1", "BANK1", "CD19"]),
    1: ("mast_pDC", ["CPA3", "TPSAB1", "LILRA4"]),
    2: ("endothelial", ["VWF", "PECAM1", "CLEC14A"]),
    3: ("fibroblast", ["POSTN", "LUM", "SFRP4"]),
    4: ("macrophage", ["CD68", "CD163", "LYZ"]),
    5: ("tumour", ["ERBB2", "EPCAM", "FOXA1"]),
    6: ("myoepithelial", ["KRT5", "KRT14", "MYH11"]),
    7: ("plasma_cell", ["MZB1", "TNFRSF17", "SLAMF7"]),
    8: ("T_cell", ["CD3E", "TRAC", "CD8A"]),
}
N_FACTORS = 8
#: Pseudo-observations that pull a moment ratio to 1, i.e. a log covariance to 0.
SHRINKAGE = 20.0
#: Added to every share of counts: ambient transcripts, and the logarithm of genes never seen in a type.
FLOOR = 5e-4
QUANTILES = np.linspace(0.025, 0.975, 20)


def within_type_loadings(counts: np.ndarray, types: np.ndarray, profiles: np.ndarray) -> np.ndarray:
    """(genes, factors) loadings of log expression on unit-variance factors within types.

    For a Poisson whose log rate is Gaussian, the factorial moment E[x_i x_j] (E[x(x − 1)] for i = j) is the product of
    the means times exp of the log covariance.
    """
    observed, expected = np.zeros((2, counts.shape[1], counts.shape[1]))
    for k, (name, _) in TYPES.items():
        if name == "mast_pDC":  # two types under one index: their difference is no state
            continue
        x = counts[types == k]
        moment = x.T @ x
        np.fill_diagonal(moment, (x * (x - 1)).sum(0))
        observed += moment
        expected += np.outer(profiles[k], profiles[k]) * (x.sum(1) ** 2).sum()
    covariance = np.log((observed + SHRINKAGE) / (expected + SHRINKAGE))
    values, vectors = np.linalg.eigh(covariance)
    loadings = vectors[:, ::-1][:, :N_FACTORS] * np.sqrt(values[::-1][:N_FACTORS])
    sign = np.sign(loadings[np.abs(loadings).argmax(0), np.arange(N_FACTORS)])
    return loadings * sign


def main() -> None:
    """Write simulated_tissue.npz and .json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.environ.get("PASTPY_SHARED_DATA", REPO.parent / "shared" / "data")
    parser.add_argument("--cells", type=Path, default=Path(shared) / "xenium_breast_cells")
    parser.add_argument("--out", type=Path, default=REPO / "src" / "pastpy" / "datasets" / "data")
    args = parser.parse_args()

    frame = pd.read_csv(args.cells / "expr_mat_breast_demo.csv", index_col=0).set_index("cell_id")
    of_cells = pd.read_csv(args.cells / "cell_types_breast_demo.csv").set_index("c_ids")["ct_idx"]
    of_nuclei = pd.read_csv(args.cells / "nuclei_sizes_breast_demo.csv").set_index("h&e")["orig_size"]
    counts = frame.to_numpy(float)
    types, sizes = (column.reindex(frame.index).to_numpy() for column in (of_cells, of_nuclei))

    shares = np.stack([counts[types == k].sum(0) / counts[types == k].sum() for k in TYPES])
    for k, (name, markers) in TYPES.items():
        best = shares[:, frame.columns.get_indexer(pd.Index(markers))].argmax(0)
        print(f"{k} {name:14s} {np.sum(types == k):5d} cells, markers {', '.join(markers)}")
        if not (best == k).all():
            raise ValueError(f"type {k} is not the one that expresses {markers} most")
    profiles = (shares + FLOOR) / (shares + FLOOR).sum(1, keepdims=True)
    loadings = within_type_loadings(counts, types, shares)
    # Strongly expressed genes first, so that a smaller panel is one that can be seen.
    order = np.argsort(-shares.max(0), kind="stable")
    names = [name for name, _ in TYPES.values()]
    np.savez_compressed(
        args.out / "simulated_tissue.npz",
        genes=frame.columns.to_numpy(dtype=str)[order],
        types=np.array(names),
        log_profile=np.log(profiles)[:, order].astype(np.float32),
        loadings=loadings[order].astype(np.float32),
        depth=np.array([np.median(counts[types == k].sum(1)) for k in TYPES], dtype=np.float32),
        nucleus_px=np.stack([np.quantile(sizes[types == k], QUANTILES) for k in TYPES]).astype(np.float32),
        quantiles=QUANTILES,
    )
    about = {
        "title": "Profiles of 9 cell types over 280 genes, from 5,508 Xenium cells of a breast cancer",
        "attribution": "10x Genomics; Janesick et al., High resolution mapping of the tumor microenvironment using "
        "integrated single-cell, spatial and in situ analysis, Nat Commun 14:8353 (2023)",
        "doi": "10.1038/s41467-023-43458-x",
        "licence": "CC BY 4.0",
        "changes": "summarised per cell type; the types are named by their markers; no cell is included",
    }
    (args.out / "simulated_tissue.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    for path in sorted(args.out.glob("simulated_tissue*")):
        print(f"{path.stat().st_size:>9,d} bytes  {path.name}")
    genes = frame.columns.to_numpy()
    for f in range(N_FACTORS):
        top = np.argsort(-np.abs(loadings[:, f]))[:8]
        print(f"factor {f}: rms {np.sqrt(np.mean(loadings[:, f] ** 2)):.2f} "
              + " ".join(f"{genes[i]} {loadings[i, f]:+.1f}" for i in top))  # fmt: skip


if __name__ == "__main__":
    main()
