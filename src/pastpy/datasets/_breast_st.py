"""The sample shipped in the package: real H&E with real spots."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from pastpy import _keys
from pastpy._elements import past_attrs

if TYPE_CHECKING:
    from spatialdata import SpatialData

__all__ = ["breast_st"]


def breast_st() -> SpatialData:
    """H&E of a HER2-positive breast tumour with Spatial Transcriptomics spots, shipped in the package.

    A window of 2000×2000 px (0.69 µm/px, 1.38 mm) of section C3 of patient C with the spots wholly inside it, from
    connective tissue and fat into tumour. It is the window with the most spots; no model had a say.

    Returns
    -------
    SpatialData
        As :func:`pastpy.io.read_st` gives: ``images["he"]`` (3, 2000, 2000) uint8, ``tables["spots"]`` with raw counts
        (49 spots × 15,821 genes, int32 CSR), ``shapes["spot_circles"]`` (diameter 100 µm) that it annotates.
        ``attrs["past"]["sample"]`` tells the source, licence, patient and section. Every call gives a fresh object.

    Notes
    -----
    Licence of the data: CC BY 4.0; cropped and re-encoded. C3 is the validation section of ``past-mini``, which is
    trained on other sections of the same tumour: agreement here says little about a new patient.

    References
    ----------
    Andersson et al., Nat Commun 12:6012 (2021), https://doi.org/10.1038/s41467-021-26271-2; data:
    https://doi.org/10.5281/zenodo.4751624

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> sdata.tables["spots"].n_obs
    49
    """
    import pandas as pd
    from scipy.sparse import csr_matrix

    from pastpy.io._st import assemble_st
    from pastpy.io._st_files import read_image

    folder = files("pastpy.datasets") / "data"
    about = json.loads((folder / "breast_st.json").read_text(encoding="utf-8"))
    genes = (folder / "breast_st_genes.txt").read_text(encoding="utf-8").split()
    with (folder / "breast_st_spots.tsv").open("rb") as file:
        spots = pd.read_csv(file, sep="\t")
    spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    with (folder / "breast_st_counts.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        counts = csr_matrix(
            (arrays["data"].astype(np.int32), arrays["indices"].astype(np.int32), arrays["indptr"]),
            shape=tuple(arrays["shape"]),
        )
    with (folder / "breast_st.jpg").open("rb") as file:
        pixels = read_image(file, name="breast_st.jpg")
    sdata = assemble_st(pixels, counts, genes, spots, mpp=about["mpp"], spot_diameter_um=about["spot_diameter_um"])
    sdata.attrs[_keys.PAST] = {**past_attrs(sdata), "sample": about["sample"]}
    return sdata
