"""What squidpy and lifelines make of the results."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import squidpy as sq
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import pastpy as past


@pytest.fixture(scope="module")
def sample():
    """The shipped sample with real nuclei, embeddings and predictions of the bundled model."""
    sdata = past.datasets.breast_st()
    past.pp.segment_nuclei(sdata)
    past.tl.embed(sdata, modality="image", progress=False)
    past.tl.impute_expression(sdata, genes=["ERBB2", "COL1A1", "KRT8", "IGKC"], modality="image", progress=False)
    cells = sdata["cells"]
    groups = KMeans(4, n_init=2, random_state=0).fit_predict(cells.obsm["X_past"])
    cells.obs["group"] = pd.Categorical([f"g{i}" for i in groups])
    return sdata


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_neighbourhoods(sample):
    cells = sample["cells"].copy()
    sq.gr.spatial_neighbors(cells, coord_type="generic", n_neighs=6)
    # coordinates are µm: nuclei of a tumour are several, not hundreds of µm apart
    assert 3 < np.median(cells.obsp["spatial_distances"].data) < 30
    sq.gr.nhood_enrichment(cells, cluster_key="group", seed=0, n_perms=50, show_progress_bar=False)
    z = cells.uns["group_nhood_enrichment"]["zscore"]
    assert z.shape == (4, 4)
    # tissue is not a mixture: cells that look alike lie together
    assert (np.diag(z) > 2).all()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_predicted_genes_have_spatial_structure(sample):
    expression = past.get.expression(sample)
    sq.gr.spatial_neighbors(expression, coord_type="generic", n_neighs=6)
    shuffled = expression.copy()
    shuffled.X = expression.X[np.random.default_rng(0).permutation(expression.n_obs)]
    for data in (expression, shuffled):
        sq.gr.spatial_autocorr(data, mode="moran", n_perms=None, show_progress_bar=False)
    assert expression.uns["moranI"]["I"].min() > 0.1
    assert shuffled.uns["moranI"]["I"].abs().max() < 0.05


def test_patients_into_cox(sample):
    cohort = past.datasets.simulate_cohort(sample["cells"], label_key="group", n_patients=150, seed=1)
    truth = cohort.uns["past"]["simulate_cohort"]
    time, event = "SIMULATED_months", "SIMULATED_event"
    patients = past.tl.aggregate_patients(
        cohort, patient_key="patient_id", label_key="group", genes=["ERBB2"], outcome_columns=[time, event]
    )
    assert len(patients) == 150 and "expression_ERBB2" in patients
    niche = f"fraction_{truth['niche']}"
    fitter = past.tl.cox(patients, duration_col=time, event_col=event, covariates=[niche])
    assert type(fitter).__module__.startswith("lifelines")
    assert fitter.params_[niche] > 0 and fitter.summary.loc[niche, "p"] < 0.01
    assert "SIMULATED" in str(fitter.duration_col)


def test_x_past_does_not_tell_which_modality_was_there():
    """Half of the spots lose their counts: from ``X_past`` alone one must not see which."""
    spots = past.datasets.breast_st()
    table = spots["spots"]
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(4):
        missing = rng.permutation(table.n_obs) < table.n_obs // 2
        half = past.datasets.breast_st()
        counts = half["spots"].X.tolil()
        counts[np.flatnonzero(missing)] = 0
        half["spots"].X = counts.tocsr()
        past.tl.embed(half, progress=False)
        x = half["spots"].obsm["X_past"]
        scores.append(cross_val_score(LogisticRegression(), x, missing, cv=5, scoring="roc_auc").mean())
    assert np.mean(scores) < 0.65
