"""Spatial Transcriptomics reader: known answers on a tiny section, one clear error for each kind of bad input."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
import spatialdata
from PIL import Image
from scipy.sparse import issparse
from tests.io.st_files import make_section

import pastpy as past
from pastpy import _elements

MPP = 2.0


@pytest.fixture
def section(tmp_path):
    pixels, counts, spots = make_section(tmp_path)

    def read(**changes):
        paths = {"image": tmp_path / "he.png", "counts": tmp_path / "counts.tsv", "spots": tmp_path / "spots.tsv"}
        return past.io.read_st(**{**paths, "mpp": MPP, "spot_diameter_um": 12, **changes})

    return tmp_path, read, pixels, counts, spots


def test_inner_join_by_key(section):
    _, read, pixels, _, _ = section
    sdata = read()
    table = sdata.tables["spots"]
    assert list(table.obs["spot_id"]) == ["4x6", "10x13"] == list(sdata.shapes["spot_circles"].index)
    assert issparse(table.X) and table.X.format == "csr" and np.issubdtype(table.X.dtype, np.integer)
    np.testing.assert_array_equal(table.X.toarray(), [[0, 2, 0], [3, 0, 1]])
    assert list(table.var_names) == ["ERBB2", "KRT8", "AL1.1"]
    assert list(table.obs["array_col"]) == [4, 10] and list(table.obs["array_row"]) == [6, 13]
    assert list(table.obs["n_counts"]) == [2, 4]
    np.testing.assert_allclose(table.obsm["spatial"], [[21.0, 40.0], [60.0, 10.5]])
    np.testing.assert_allclose(sdata.shapes["spot_circles"]["radius"], 12 / 2 / MPP)
    np.testing.assert_array_equal(sdata.images["he"].transpose("y", "x", "c").values, pixels)


def test_elements_resolve_without_names(section):
    _, read, *_ = section
    sdata = read(image_key="slide")
    table_key = _elements.resolve_table(sdata)
    shapes_key = _elements.resolve_shapes(sdata, table_key=table_key)
    image_key = _elements.resolve_image(sdata)
    assert (table_key, shapes_key, image_key) == ("spots", "spot_circles", "slide")
    where = _elements.unit_geometry(
        sdata, table_key, shapes_key, image_key, mpp=_elements.resolve_mpp(sdata, image_key)
    )
    np.testing.assert_allclose(where.spatial_um, sdata.tables["spots"].obsm["spatial"])
    np.testing.assert_allclose(where.area_um2, np.pi * 6**2)


def test_mpp_survives_the_store(section, tmp_path):
    _, read, *_ = section
    sdata = read()
    sdata.write(tmp_path / "section.zarr")
    back = spatialdata.read_zarr(tmp_path / "section.zarr")
    assert back.attrs["past"]["mpp"] == {"he": MPP}
    assert list(back.shapes["spot_circles"].index) == ["4x6", "10x13"]
    np.testing.assert_array_equal(back.tables["spots"].X.toarray(), sdata.tables["spots"].X.toarray())


def test_selected_column_and_gzip_and_r_header(section):
    folder, read, _, counts, spots = section
    # An unselected row may be anything: it is not a spot.
    spots.assign(selected=[1, 0, 0], pixel_x=[10.5, np.nan, 1.0]).to_csv(folder / "s.tsv", sep="\t", index=False)
    body = counts.to_csv(sep="\t").lstrip("\t")  # R leaves out the corner cell
    with gzip.open(folder / "c.tsv.gz", "wt") as file:
        file.write(body)
    table = read(counts=folder / "c.tsv.gz", spots=folder / "s.tsv").tables["spots"]
    assert list(table.obs_names) == ["4x6"] and list(table.var_names) == list(counts.columns)


@pytest.mark.parametrize(("mode", "suffix"), [("RGBA", "png"), ("L", "tif"), ("RGB", "tif")])
def test_image_kinds(section, mode, suffix):
    folder, read, pixels, *_ = section
    image = Image.fromarray(pixels).convert(mode)
    image.save(folder / f"other.{suffix}")
    read_back = read(image=folder / f"other.{suffix}").images["he"].transpose("y", "x", "c").values
    np.testing.assert_array_equal(read_back, np.asarray(image.convert("RGB")))


def test_images_beyond_pillows_limit_are_read_and_the_limit_is_kept(section, monkeypatch):
    _, read, *_ = section
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        read_with_pillow = section[0] / "he.png"
        Image.open(read_with_pillow)
    assert read().images["he"].shape == (3, 30, 40)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_long_images_get_a_pyramid(section):
    folder, read, *_ = section
    Image.new("RGB", (4100, 64), (200, 150, 180)).save(folder / "long.png")
    sdata = read(image=folder / "long.png")
    levels = _elements.image_levels(sdata, "he")
    assert [level.shape for level in levels] == [(3, 64, 4100), (3, 32, 2050), (3, 16, 1025)]
    np.testing.assert_array_equal(levels[2].values[:, 0, 0], [200, 150, 180])


def bad_counts(counts, value):
    out = counts.astype(object)
    out.iloc[1, 0] = value
    return out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: bad_counts(c, -1), r"spot '4x6', gene 'ERBB2': -1.* not a count"),
        (lambda c: bad_counts(c, 1.5), r"spot '4x6', gene 'ERBB2': 1\.5 is not a count"),
        (lambda c: bad_counts(c, ""), r"spot '4x6', gene 'ERBB2': nan is not a count"),
        (lambda c: bad_counts(c, "many"), "gene 'ERBB2': values must be numbers"),
        (lambda c: c.set_axis(["A", "B", "A"], axis=1), "gene 'A' more than once"),
        (lambda c: c.set_axis(["4x6", "4x6", "9x9"]), "spot '4x6' more than once"),
        (lambda c: c.set_axis(["s1", "s2", "s3"]), "no spot is in both tables"),
    ],
)
def test_bad_counts(section, change, message):
    folder, read, _, counts, _ = section
    change(counts).to_csv(folder / "bad.tsv", sep="\t")
    with pytest.raises(ValueError, match=message):
        read(counts=folder / "bad.tsv")


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\tA\tB\n4x6\t1\n"])
def test_files_that_are_no_counts_table(section, text):
    folder, read, *_ = section
    (folder / "bad.tsv").write_text(text)
    with pytest.raises(ValueError, match=r"counts table bad\.tsv"):
        read(counts=folder / "bad.tsv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.drop(columns="pixel_y"), "no column 'pixel_y'"),
        (lambda s: s.assign(pixel_x=np.nan), "row 2: a coordinate is missing"),
        (lambda s: s.assign(x=s["x"] + 0.5), "whole array coordinates"),
        (lambda s: s.assign(x=4, y=6), "spot '4x6' more than once"),
        (lambda s: s.assign(pixel_x=s["pixel_x"] + 20), r"1 of 2 spots lie outside .* '10x13' at \(50, 5\.25\)"),
        (lambda s: s.assign(selected=0), "no spot is in both tables"),
    ],
)
def test_bad_spots(section, change, message):
    folder, read, _, _, spots = section
    change(spots).to_csv(folder / "bad.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match=message):
        read(spots=folder / "bad.tsv")


@pytest.mark.parametrize("which", ["image", "counts", "spots"])
def test_missing_files_are_named(section, which):
    folder, read, *_ = section
    with pytest.raises(FileNotFoundError, match=r"nowhere\.x"):
        read(**{which: folder / "nowhere.x"})


def test_bad_images(section):
    folder, read, *_ = section
    (folder / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png is no picture"):
        read(image=folder / "text.png")
    Image.fromarray(np.zeros((30, 40), dtype=np.uint16)).save(folder / "deep.png")
    with pytest.raises(ValueError, match="expected 8-bit"):
        read(image=folder / "deep.png")


@pytest.mark.parametrize("value", [0, -1, float("nan"), None])
def test_bad_sizes(section, value):
    _, read, *_ = section
    with pytest.raises(ValueError, match="mpp must be a positive"):
        read(mpp=value)
    with pytest.raises(ValueError, match="spot_diameter_um must be a positive"):
        read(spot_diameter_um=value)


def test_olfactory_bulb_keeps_only_selected_spots(shared_data):
    folder = shared_data / "mob"
    sdata = past.io.read_st(
        folder / "MOB1.jpg", folder / "MOB1.tsv", folder / "alignment_table_MOB1.tsv", mpp=8.3, spot_diameter_um=100
    )
    spots = pd.read_csv(folder / "alignment_table_MOB1.tsv", sep="\t")
    selected = spots[spots["selected"] == 1]
    counts = pd.read_csv(folder / "MOB1.tsv", sep="\t", index_col=0)
    keys = [k for k in selected["x"].astype(str) + "x" + selected["y"].astype(str) if k in counts.index]
    table = sdata.tables["spots"]
    assert list(table.obs_names) == keys and 0 < len(keys) < len(spots)
    np.testing.assert_array_equal(table.X.toarray(), counts.loc[keys].to_numpy())
