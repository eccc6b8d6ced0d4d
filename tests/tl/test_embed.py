"""Embeddings land in their slots, at the right cells, and bad input changes nothing."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import spatialdata
from anndata import AnnData, read_h5ad
from scipy.sparse import csc_matrix, csr_matrix
from spatialdata.transformations import Affine, Scale, Sequence, Translation, set_transformation

import pastpy as past
from pastpy.tl._embed import joint_embedding


def norms(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, axis=1)


def test_slots(toy_sdata, tiny_model):
    sdata = toy_sdata()
    assert past.tl.embed(sdata, tiny_model, progress=False) is None
    table = sdata["cells"]
    for key in ("X_past", "X_past_image", "X_past_expression"):
        assert table.obsm[key].shape == (table.n_obs, 8)
        assert table.obsm[key].dtype == np.float32
        np.testing.assert_allclose(norms(table.obsm[key]), 1, atol=1e-5)
    assert table.obs["past_valid"].all()
    facts = table.uns["past"]["embed"]
    assert (facts["model"], facts["mpp"], facts["target_mpp"], facts["mode"]) == ("tiny", 0.5, 0.5, "dense")
    assert facts["unit"] == "cell"


def test_dense_equals_crop(toy_sdata, tiny_model):
    sdata = toy_sdata(mpp=0.4)
    past.tl.embed(sdata, tiny_model, modality="image", progress=False)
    past.tl.embed(sdata, tiny_model, modality="image", mode="crop", key_added="crop", progress=False)
    table = sdata["cells"]
    np.testing.assert_allclose(table.obsm["X_past_image"], table.obsm["X_crop_image"], atol=1e-4)
    assert np.isnan(table.obsm["X_past_expression"]).all()


def test_rows_without_a_shape_are_told_of(toy_sdata, tiny_model):
    sdata = toy_sdata()
    table = sdata["cells"]
    column = table.uns["spatialdata_attrs"]["instance_key"]
    ids = table.obs[column].to_numpy().copy()
    ids[:2] += 10**6
    table.obs[column] = ids
    with pytest.warns(
        UserWarning, match=rf"2 of {len(ids)} rows of table 'cells' have no shape in 'nuclei', whose index lacks"
    ):
        past.tl.embed(sdata, tiny_model, progress=False)
    assert np.isnan(table.obsm["X_past_image"]).all(axis=1).tolist() == [True] * 2 + [False] * (len(ids) - 2)


def test_points_in_the_middle_of_cells_are_their_coordinates(toy_sdata, tiny_model):
    sdata = toy_sdata()
    past.tl.embed(sdata, tiny_model, progress=False)
    table = sdata["cells"]
    table.obsm["spatial"] += 0.2
    before = table.obsm["spatial"].copy()
    past.tl.embed(sdata, tiny_model, progress=False)
    np.testing.assert_array_equal(table.obsm["spatial"], before)
    assert "spatial_before_past" not in table.obsm


def test_a_unit_that_cannot_be_is_refused(toy_sdata, tiny_model):
    with pytest.raises(ValueError, match="mpp cannot be: 500 µm/px, where tissue images have 0.02 to 50"):
        past.tl.embed(toy_sdata(), tiny_model, mpp=500, progress=False)
    sdata = toy_sdata()
    sdata.attrs["past"]["mpp"]["he"] = 1e6
    with pytest.raises(ValueError, match=r"\['mpp'\]\['he'\] cannot be: 1e\+06 µm/px"):
        past.tl.embed(sdata, tiny_model, progress=False)
    with pytest.warns(UserWarning, match="mpp=0.5 is 5e-07 times what is stored"):
        past.tl.embed(sdata, tiny_model, mpp=0.5, progress=False)
    expected = toy_sdata()
    past.tl.embed(expected, tiny_model, progress=False)
    np.testing.assert_array_equal(sdata["cells"].obsm["X_past"], expected["cells"].obsm["X_past"])


def test_batches_change_nothing(toy_sdata, tiny_model, monkeypatch):
    monkeypatch.setitem(past.engine.run.__kwdefaults__, "core_px", 64)
    sdata = toy_sdata()
    past.tl.embed(sdata, tiny_model, modality="image", progress=False)
    past.tl.embed(sdata, tiny_model, modality="image", batch_size=5, key_added="many", progress=False)
    table = sdata["cells"]
    np.testing.assert_allclose(table.obsm["X_past_image"], table.obsm["X_many_image"], atol=1e-4)


@pytest.mark.parametrize(
    "transformation",
    [
        Scale([2.0, 2.0], axes=("x", "y")),
        Sequence([Scale([0.3, 0.3], axes=("x", "y")), Translation([100.0, -20.0], axes=("x", "y"))]),
        Affine([[0, -1, 300], [1, 0, 5], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y")),
    ],
)
def test_the_unit_of_global_does_not_matter(toy_sdata, tiny_model, transformation):
    plain, moved = toy_sdata(), toy_sdata(transformation=transformation)
    for sdata in (plain, moved):
        past.tl.embed(sdata, tiny_model, modality="image", progress=False)
    for key in ("X_past", "spatial"):
        np.testing.assert_allclose(moved["cells"].obsm[key], plain["cells"].obsm[key], atol=1e-3)


def test_shapes_in_other_coordinates_find_their_pixels(toy_sdata, tiny_model):
    """Cells given in µm with a scale to the image's pixels, as Xenium gives them."""
    plain, scaled = toy_sdata(), toy_sdata()
    scaled["nuclei"].geometry = scaled["nuclei"].geometry.affine_transform([0.5, 0, 0, 0.5, 0, 0])
    set_transformation(scaled["nuclei"], Scale([2.0, 2.0], axes=("x", "y")), "global")
    for sdata in (plain, scaled):
        past.tl.embed(sdata, tiny_model, modality="image", progress=False)
    np.testing.assert_allclose(scaled["cells"].obsm["X_past"], plain["cells"].obsm["X_past"], atol=1e-4)


def test_mpp_changes_what_is_seen(toy_sdata, tiny_model):
    sdata = toy_sdata()
    past.tl.embed(sdata, tiny_model, modality="image", progress=False)
    with pytest.warns(UserWarning, match="held other coordinates"):
        past.tl.embed(sdata, tiny_model, modality="image", mpp=0.25, key_added="other", progress=False)
    table = sdata["cells"]
    assert np.abs(table.obsm["X_past_image"] - table.obsm["X_other_image"]).max() > 0.01
    np.testing.assert_allclose(table.obsm["spatial"] * 2, table.obsm["spatial_before_past"])


def test_rows_without_pixels_or_counts(toy_sdata, tiny_model):
    sdata = toy_sdata()
    table = sdata["cells"]
    nuclei = sdata["nuclei"].copy()
    nuclei.loc[1, "geometry"] = nuclei.loc[1, "geometry"].buffer(0).centroid.buffer(3)
    nuclei.geometry = [g if i > 3 else type(g)(np.array(g.exterior.coords) + 9999) for i, g in nuclei.geometry.items()]
    sdata["nuclei"] = nuclei
    counts = table.X.toarray()
    counts[2:6] = 0
    table.X = csr_matrix(counts)
    sdata["cells"].obsm.pop("spatial")
    with pytest.warns(UserWarning, match=r"1 of 40 rows could not be embedded.*table\[table.obs\['past_valid'\]\]"):
        past.tl.embed(sdata, tiny_model, progress=False)
    image, expression, joint = (
        np.isfinite(table.obsm[f"X_past{s}"]).all(axis=1) for s in ("_image", "_expression", "")
    )
    assert np.flatnonzero(~image).tolist() == [0, 1, 2]
    assert np.flatnonzero(~expression).tolist() == [2, 3, 4, 5]
    assert np.flatnonzero(~joint).tolist() == [2] == np.flatnonzero(~table.obs["past_valid"]).tolist()
    np.testing.assert_allclose(table.obsm["X_past"][0], table.obsm["X_past_expression"][0], atol=1e-6)
    np.testing.assert_allclose(table.obsm["X_past"][4], table.obsm["X_past_image"][4], atol=1e-6)


def test_joint_embedding_by_hand():
    image = np.array([[1.0, 0.0], [np.nan, np.nan], [np.nan, np.nan]])
    expression = np.array([[0.0, 1.0], [0.6, 0.8], [np.nan, np.nan]])
    expected = [[0.5**0.5, 0.5**0.5], [0.6, 0.8], [np.nan, np.nan]]
    np.testing.assert_allclose(joint_embedding(image, expression), expected, atol=1e-6)


def test_expression_of_an_anndata(toy_sdata, tiny_model):
    sdata = toy_sdata()
    table = sdata["cells"].copy()
    past.tl.embed(sdata, tiny_model, progress=False)
    past.tl.embed(table, tiny_model, progress=False)
    np.testing.assert_allclose(table.obsm["X_past"], sdata["cells"].obsm["X_past_expression"], atol=1e-6)
    with pytest.raises(TypeError, match="pass the SpatialData"):
        past.tl.embed(table, tiny_model, modality="image")


@pytest.mark.parametrize("stored", [csr_matrix, csc_matrix, csr_matrix.toarray], ids=["csr", "csc", "dense"])
def test_counts_may_be_backed_by_a_file(toy_sdata, tiny_model, tmp_path, stored):
    table = toy_sdata()["cells"]
    expected = past.tl.embed(table, tiny_model, copy=True).obsm["X_past"]
    table.X = stored(table.X)
    table.write_h5ad(tmp_path / "a.h5ad")
    backed = read_h5ad(tmp_path / "a.h5ad", backed="r")
    copied = past.tl.embed(backed, tiny_model, copy=True)
    past.tl.embed(backed, tiny_model)
    for found in (copied, backed):
        np.testing.assert_array_equal(found.obsm["X_past"], expected)
    with pytest.raises(ValueError, match=r"part of one that is backed by a file.*to_memory\(\)"):
        past.tl.embed(backed[:5], tiny_model)
    with pytest.raises(ValueError, match=r"a\.h5ad' is a table without an image.*anndata\.read_h5ad"):
        past.tl.embed(tmp_path / "a.h5ad", tiny_model)


def test_copy_leaves_the_object_alone(toy_sdata, tiny_model):
    sdata = toy_sdata()
    copied = past.tl.embed(sdata, tiny_model, copy=True, progress=False)
    assert "X_past" in copied.obsm
    assert not {"X_past", "X_past_image"} & set(sdata["cells"].obsm)
    assert "past" not in sdata["cells"].uns


def test_image_only_tables_have_no_genes(toy_sdata, tiny_model):
    sdata = toy_sdata(n_genes=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        past.tl.embed(sdata, tiny_model, progress=False)
    np.testing.assert_allclose(sdata["cells"].obsm["X_past"], sdata["cells"].obsm["X_past_image"], atol=1e-6)
    with pytest.raises(ValueError, match="has no genes.*modality='image'"):
        past.tl.embed(sdata, tiny_model, modality="expression")


def test_counts_must_be_counts(toy_sdata, tiny_model):
    sdata = toy_sdata()
    table = sdata["cells"]
    table.layers["raw"] = table.X.copy()
    for value in (0.5, -1.0, np.nan):
        spoilt = table.layers["raw"].astype(float)
        spoilt[0, 0] = value
        table.X = spoilt
        with pytest.raises(ValueError, match="table 'cells', X must hold raw counts"):
            past.tl.embed(sdata, tiny_model, progress=False)
    assert not any(key.startswith("X_past") for key in table.obsm)
    past.tl.embed(sdata, tiny_model, layer="raw", progress=False)
    with pytest.raises(KeyError, match="no layer 'rwa'"):
        past.tl.embed(sdata, tiny_model, layer="rwa")


def test_foreign_genes_leave_the_image(toy_sdata, tiny_model):
    sdata = toy_sdata()
    sdata["cells"].var_names = [f"ENSG{i}" for i in range(12)]
    with pytest.warns(UserWarning, match="none of the 12 genes.*only the image is used"):
        past.tl.embed(sdata, tiny_model, progress=False)
    with pytest.raises(ValueError, match="pastpy.pp.harmonize_genes translates ids"):
        past.tl.embed(sdata, tiny_model, modality="both")


def test_spots_are_pooled_over_themselves(breast, tiny_model):
    past.tl.embed(breast, tiny_model, modality="image", progress=False)
    table = breast["spots"]
    assert table.uns["past"]["embed"]["unit"] == "spot"
    assert table.uns["past"]["embed"]["unit_diameter_um"] == pytest.approx(100)
    assert np.isfinite(table.obsm["X_past"]).all()


def test_results_survive_zarr_and_stores_are_updated(toy_sdata, tiny_model, tmp_path):
    sdata = toy_sdata()
    sdata.write(tmp_path / "a.zarr")
    past.tl.embed(sdata, tiny_model, progress=False)
    backed = spatialdata.read_zarr(tmp_path / "a.zarr")
    past.tl.embed(backed, tiny_model, progress=False)
    np.testing.assert_allclose(backed["cells"].obsm["X_past"], sdata["cells"].obsm["X_past"], atol=1e-6)
    past.tl.embed([tmp_path / "a.zarr", toy_sdata()], tiny_model, progress=False)
    stored = spatialdata.read_zarr(tmp_path / "a.zarr")["cells"]
    np.testing.assert_allclose(stored.obsm["X_past"], sdata["cells"].obsm["X_past"], atol=1e-6)
    assert stored.uns["past"]["embed"]["model"] == "tiny"


def test_bad_input_is_named_and_changes_nothing(toy_sdata, tiny_model):
    sdata = toy_sdata()
    cases = [
        (KeyError, "no image named 'ihc'.*'he'", {"image_key": "ihc"}),
        (KeyError, "no table named 'cell'.*'cells'", {"table_key": "cell"}),
        (KeyError, "nucleus.*'nuclei'", {"shapes_key": "nucleus"}),
        (ValueError, "mpp must be a positive number", {"mpp": -1}),
        (ValueError, "modality='picture' is unknown", {"modality": "picture"}),
        (ValueError, "mode='sparse' is unknown", {"mode": "sparse"}),
        (ValueError, "key_added='a/b' is no stem of slot names", {"key_added": "a/b"}),
        (ValueError, "not in coordinate system 'aligned'", {"coordinate_system": "aligned"}),
    ]
    for kind, message, arguments in cases:
        with pytest.raises(kind, match=message):
            past.tl.embed(sdata, tiny_model, progress=False, **arguments)
    with pytest.raises(ValueError, match="no model 'past-maxi'"):
        past.tl.embed(sdata, "past-maxi")
    with pytest.raises(FileNotFoundError, match="nowhere.zarr"):
        past.tl.embed("nowhere.zarr", tiny_model)
    with pytest.raises(TypeError, match="expected a SpatialData"):
        past.tl.embed(3, tiny_model)
    unknown = toy_sdata(mpp=None)
    with pytest.raises(ValueError, match="µm/px of image 'he' is unknown; pass mpp="):
        past.tl.embed(unknown, tiny_model)
    for touched in (sdata, unknown):
        assert list(touched["cells"].obsm) == ["spatial"]
        assert "past" not in touched["cells"].uns


def test_two_images_need_a_key(toy_sdata, tiny_model):
    sdata = toy_sdata()
    sdata["dapi"] = sdata["he"].copy()
    with pytest.raises(KeyError, match=r"2 images, \['dapi', 'he'\]|2 images, \['he', 'dapi'\]"):
        past.tl.embed(sdata, tiny_model)
    past.tl.embed(sdata, tiny_model, image_key="he", progress=False)


def test_a_table_that_annotates_nothing_is_refused(toy_sdata, tiny_model):
    sdata = toy_sdata()
    del sdata.tables["cells"]
    sdata["cells"] = AnnData(np.ones((3, 2), dtype=np.float32))
    with pytest.raises(KeyError, match="table 'cells' annotates no element"):
        past.tl.embed(sdata, tiny_model)
