"""Slides: the right pixels, at the right µm/px, from every format that can be written here, and from a real SVS."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from tests.io.slide_files import (
    PIXELS,
    halved,
    resolution,
    write_aperio,
    write_ome,
    write_ome_zarr,
    write_plain,
    write_pyramid,
)

import pastpy as past
from pastpy._elements import image_levels, resolve_mpp
from pastpy.io import _slide, _slide_openslide
from pastpy.io._open import read_any
from pastpy.io._resolution import choose_mpp


def levels_of(sdata, image_key="he"):
    return [level.values.transpose(1, 2, 0) for level in image_levels(sdata, image_key)]


def check(path, pixels=PIXELS, *, mpp=0.25, n_levels=1, **options):
    sdata = past.io.read_wsi(path, **options)
    assert sdata.attrs["past"]["mpp"] == {"he": pytest.approx(mpp, rel=1e-6)}
    levels = levels_of(sdata)
    assert len(levels) == n_levels
    np.testing.assert_array_equal(levels[0], pixels)
    for coarse in levels[1:]:
        pixels = halved(pixels)
        np.testing.assert_array_equal(coarse, pixels)
    return sdata


def test_real_svs(shared_data):
    import openslide

    path = shared_data / "svs" / "cmu-1-small-region.svs"
    sdata = past.io.read_wsi(path)
    assert sdata.attrs["past"] == {"mpp": {"he": 0.499}, "objective_power": {"he": 20.0}}
    with openslide.OpenSlide(path) as slide:
        whole = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    np.testing.assert_array_equal(levels_of(sdata)[0], whole)
    assert whole.shape == (2967, 2220, 3)


def test_real_svs_through_a_store(shared_data, tmp_path):
    path = shared_data / "svs" / "cmu-1-small-region.svs"
    sdata = past.io.read_wsi(path, image_key="slide")
    past.io.write_store(sdata, tmp_path / "slide.zarr")
    back = read_any(tmp_path / "slide.zarr")
    assert back.attrs["past"]["mpp"] == {"slide": 0.499}
    np.testing.assert_array_equal(levels_of(back, "slide")[0], levels_of(sdata, "slide")[0])


def test_only_what_is_used_is_read(shared_data, monkeypatch):
    read, windows = _slide_openslide.OpenSlideLevel.read, []
    monkeypatch.setattr(
        _slide_openslide.OpenSlideLevel, "read", lambda self, slide, w: (windows.append(w), read(self, slide, w))[1]
    )
    sdata = past.io.read_wsi(shared_data / "svs" / "cmu-1-small-region.svs")
    assert not windows
    field = np.asarray(image_levels(sdata, "he")[0][:, 100:164, 930:994].data)
    assert field.shape == (3, 64, 64)
    assert sum((w[1].stop - w[1].start) * (w[2].stop - w[2].start) for w in windows) == 64 * 64


@pytest.mark.parametrize("n", [1, 2])
def test_aperio_layout(tmp_path, n):
    sdata = check(write_aperio(tmp_path / "a.svs", n=n), n_levels=n)
    assert sdata.attrs["past"]["objective_power"] == {"he": 40.0}


@pytest.mark.parametrize("n", [1, 3])
def test_pyramidal_tiff(tmp_path, n):
    check(write_pyramid(tmp_path / "a.tif", n=n), n_levels=n)


@pytest.mark.parametrize("options", [{}, {"rowsperstrip": 7}, {"tile": (16, 48)}, {"planarconfig": "separate"}])
@pytest.mark.parametrize("big", [False, True])
def test_plain_tiff(tmp_path, options, big):
    pixels = PIXELS.transpose(2, 0, 1) if "planarconfig" in options else PIXELS
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=big) as file:
        file.write(pixels, photometric="rgb", **options, **resolution(0.25))
    check(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["lzw", "deflate", "packbits", "zstd"])
def test_compressed_tiff(tmp_path, compression):
    check(write_plain(tmp_path / "a.tif", compression=compression, **resolution(0.25)))


def test_imagej_unit(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    check(tmp_path / "a.tif")


@pytest.mark.parametrize(("unit", "size"), [("µm", 0.25), ("nm", 250.0), ("mm", 0.00025)])
def test_ome_tiff(tmp_path, unit, size):
    sdata = check(write_ome(tmp_path / "a.ome.tif", mpp=size, unit=unit), n_levels=2)
    assert "objective_power" not in sdata.attrs["past"]


def test_ome_tiff_channels_first_and_power(tmp_path):
    path = write_ome(tmp_path / "a.ome.tif", PIXELS.transpose(2, 0, 1).copy(), axes="CYX", magnification=20)
    assert check(path, n_levels=2).attrs["past"]["objective_power"] == {"he": 20.0}


@pytest.mark.parametrize(("version", "axes"), [("0.4", "cyx"), ("0.4", "tczyx"), ("0.5", "cyx"), ("0.5", "yxc")])
def test_ome_zarr(tmp_path, version, axes):
    path = write_ome_zarr(tmp_path / "a.ome.zarr", version=version, axes=axes)
    check(path, n_levels=2)
    np.testing.assert_array_equal(levels_of(read_any(path))[0], PIXELS)


def test_ome_zarr_in_nanometres(tmp_path):
    check(write_ome_zarr(tmp_path / "a.zarr", mpp=250.0, unit="nanometer"), n_levels=2)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(
    ("labels", "is_refused"),
    [
        (["DAPI", "CD3", "CD8"], True),
        (["Red", "Green", "Blue"], False),
        (["0", "1", "2"], False),
        (["DAPI", None, "CD8"], False),
        (["Channel:slide1:0", "Channel:slide1:1", "Channel:slide1:2"], False),
        (["1: R", "2: G", "3: B"], False),
        (["unknown"] * 3, False),
        (["CD3", "CD8"], False),
    ],
)
def test_ome_zarr_of_markers_is_no_brightfield(tmp_path, version, labels, is_refused):
    path = write_ome_zarr(tmp_path / "a.zarr", version=version)
    attributes = zarr.open_group(path).attrs
    omero = {"channels": [{"label": label} for label in labels]}
    attributes.update({"omero": omero} if version == "0.4" else {"ome": {**attributes["ome"], "omero": omero}})
    if is_refused:
        with pytest.raises(ValueError, match=r"a\.zarr has the channels DAPI, CD3, CD8.*as fluorescence"):
            past.io.read_wsi(path)
    else:
        check(path, n_levels=2)


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_pictures(tmp_path, suffix):
    Image.fromarray(PIXELS).save(tmp_path / f"a{suffix}")
    sdata = past.io.read_wsi(tmp_path / f"a{suffix}", mpp=0.5)
    np.testing.assert_array_equal(levels_of(sdata)[0], PIXELS)


def test_jpeg(tmp_path):
    smooth = np.full((64, 64, 3), (180, 90, 160), dtype=np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    read = levels_of(past.io.read_wsi(tmp_path / "a.jpg", mpp=0.5))[0]
    assert np.abs(read.astype(int) - smooth).max() <= 3


def test_large_picture_gets_a_pyramid(tmp_path):
    pixels = np.repeat(np.arange(5001, dtype=np.uint16) % 251, 9).reshape(5001, 9).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    levels = levels_of(past.io.read_wsi(tmp_path / "a.png", mpp=0.5))
    assert [level.shape for level in levels] == [(5001, 9, 3), (2501, 5, 3)]
    np.testing.assert_array_equal(levels[1][7, 2], np.round((pixels[14, 0] + pixels[15, 0]) / 2))


def test_grey_rgba_and_16_bit(tmp_path):
    grey = PIXELS[..., 0]
    tifffile.imwrite(tmp_path / "grey.tif", grey, **resolution(0.25))
    check(tmp_path / "grey.tif", np.repeat(grey[..., None], 3, axis=2))
    deep = PIXELS.astype(np.uint16) * 257
    check(write_plain(tmp_path / "deep.tif", deep, **resolution(0.25)), deep)
    alpha = np.full((90, 130, 1), 255, dtype=np.uint8)
    alpha[:10] = 0
    rgba = np.concatenate([PIXELS * (alpha > 0), alpha], axis=2)
    write_plain(tmp_path / "rgba.tif", rgba, extrasamples=["unassalpha"], **resolution(0.25))
    check(tmp_path / "rgba.tif", np.where(alpha > 0, PIXELS, 255))


def test_transparent_parts_of_a_picture_are_white(tmp_path):
    alpha = np.full((90, 130, 1), 255, dtype=np.uint8)
    alpha[:10] = 0
    Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)).save(tmp_path / "a.png")
    read = levels_of(past.io.read_wsi(tmp_path / "a.png", mpp=0.5))[0]
    np.testing.assert_array_equal(read, np.where(alpha > 0, PIXELS, 255))
    palette = Image.fromarray(np.repeat(np.array([[0], [1]], np.uint8), 4, axis=1), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "p.png", transparency=0)
    read = levels_of(past.io.read_wsi(tmp_path / "p.png", mpp=0.5))[0]
    np.testing.assert_array_equal(read[:, 0], [[255, 255, 255], [40, 50, 60]])


def test_half_transparent_is_mixed_with_white():
    rgba = np.array([[[100]], [[0]], [[255]], [[51]]], dtype=np.uint8)
    np.testing.assert_array_equal(_slide.opaque(rgba).ravel(), [224, 204, 255])
    rgba[:3] = [[[20]], [[0]], [[255]]]  # the last is more than its opacity allows
    np.testing.assert_array_equal(_slide.opaque(rgba, premultiplied=True).ravel(), [224, 204, 255])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.random.default_rng(0).random((20, 30, 3)).astype(np.float32), "float32"),
        (np.zeros((5, 20, 30), np.uint8), "channels|axes"),
        (np.zeros((4, 20, 30), np.uint16), "channels|axes"),
    ],
)
def test_other_than_brightfield_is_refused(tmp_path, pixels, message):
    axes = "YXS" if pixels.shape[-1] == 3 else "CYX"
    photometric = "rgb" if axes == "YXS" else "minisblack"
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric=photometric, metadata={"axes": axes})
    with pytest.raises(ValueError, match=rf"a\.ome\.tif.*({message})"):
        past.io.read_wsi(tmp_path / "a.ome.tif", mpp=0.5)


def test_unknown_mpp_must_be_given(tmp_path):
    for path in (
        write_plain(tmp_path / "a.tif"),
        write_ome(tmp_path / "a.ome.tif", mpp=None),
        write_aperio(tmp_path / "a.svs", mpp=None),
        write_ome_zarr(tmp_path / "a.zarr", unit=None),
    ):
        with pytest.raises(ValueError, match=rf"{path.name}.*(pass mpp=)"):
            past.io.read_wsi(path)
        assert past.io.read_wsi(path, mpp=0.5).attrs["past"]["mpp"] == {"he": 0.5}


@pytest.mark.parametrize("size", ["0,25", "0", "-0.25", "NaN", ""])
def test_a_size_that_is_none_counts_as_not_stated(tmp_path, size):
    path = write_ome(tmp_path / "a.ome.tif", mpp=0.25, magnification="abc")
    tifffile.tiffcomment(path, tifffile.tiffcomment(path).replace('X="0.25"', f'X="{size}"').encode())
    with pytest.raises(ValueError, match=r"a\.ome\.tif does not state its µm/px; pass mpp="):
        past.io.read_wsi(path)
    assert past.io.read_wsi(path, mpp=0.5).attrs["past"] == {"mpp": {"he": 0.5}}


def test_a_scale_of_nothing_counts_as_not_stated(tmp_path):
    for path in (write_ome_zarr(tmp_path / "a.zarr", mpp=0.0), write_aperio(tmp_path / "a.svs", mpp=0)):
        with pytest.raises(ValueError, match=rf"{path.name} does not state its µm/px"):
            past.io.read_wsi(path)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_folder_of_a_series_tells_where_its_image_is(tmp_path, version):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    layout = {"bioformats2raw.layout": 3}
    group.attrs.update(layout if version == "0.4" else {"ome": {"version": version, **layout}})
    write_ome_zarr(tmp_path / "a.zarr" / "0", version=version)
    for read in (past.io.read_wsi, read_any):
        with pytest.raises(
            ValueError, match=r"a\.zarr is the root of a bioformats2raw store.*pass its first, .*a\.zarr.0'"
        ):
            read(tmp_path / "a.zarr")
    check(tmp_path / "a.zarr" / "0", n_levels=2)


def test_anisotropic_and_absurd_mpp_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.tif states pixels that are not square, 0\.25 × 0\.5"):
        past.io.read_wsi(write_plain(tmp_path / "a.tif", **resolution(0.25, 0.5)))
    write_plain(tmp_path / "dpi.tif", resolution=(72, 72), resolutionunit="INCH")
    with pytest.raises(ValueError, match=r"dpi\.tif.*352\.778 µm/px"):
        past.io.read_wsi(tmp_path / "dpi.tif")
    with pytest.raises(ValueError, match=r"nm\.ome\.tif.*250 µm/px"):
        past.io.read_wsi(write_ome(tmp_path / "nm.ome.tif", mpp=250.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a print resolution is no µm/px to disagree with
        assert past.io.read_wsi(tmp_path / "dpi.tif", mpp=0.5).attrs["past"]["mpp"] == {"he": 0.5}


@pytest.mark.parametrize("mpp", [0, -1, np.nan, np.inf, "half", 250.0, 1e-4, True, np.True_])
def test_impossible_given_mpp(tmp_path, mpp):
    with pytest.raises(ValueError, match=r"mpp=.*a\.tif"):
        past.io.read_wsi(write_plain(tmp_path / "a.tif"), mpp=mpp)


def test_given_mpp_that_disagrees_is_used_and_warned(tmp_path):
    path = write_plain(tmp_path / "a.tif", **resolution(0.25))
    with pytest.warns(UserWarning, match=r"a\.tif states 0\.25 µm/px, mpp=0\.5 was given"):
        sdata = past.io.read_wsi(path, mpp=0.5)
    assert sdata.attrs["past"]["mpp"] == {"he": 0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        past.io.read_wsi(path, mpp=0.2525)


@given(st.floats(0.03, 40), st.floats(0.9, 1.1))
def test_choice_of_mpp(mpp, ratio):
    stored = (mpp, mpp * ratio)
    if abs(1 / ratio - 1) > 0.01:
        with pytest.raises(ValueError, match="not square"):
            choose_mpp(None, stored, "x")
    else:
        assert choose_mpp(None, stored, "x") == pytest.approx(mpp, rel=0.01)
    assert choose_mpp(mpp, None, "x") == mpp


def test_missing_empty_and_foreign_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.svs"):
        past.io.read_wsi(tmp_path / "nowhere.svs")
    (tmp_path / "empty.svs").touch()
    with pytest.raises(ValueError, match=r"empty\.svs is empty"):
        past.io.read_wsi(tmp_path / "empty.svs")
    (tmp_path / "text.svs").write_text("not a slide")
    with pytest.raises(ValueError, match=r"text\.svs"):
        past.io.read_wsi(tmp_path / "text.svs", mpp=1)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder .*DICOM"):
        past.io.read_wsi(tmp_path / "folder")
    zarr.open_group(tmp_path / "plain.zarr", mode="w").attrs["a"] = 1
    with pytest.raises(ValueError, match=r"plain\.zarr"):
        past.io.read_wsi(tmp_path / "plain.zarr")


@pytest.mark.parametrize("write", [write_plain, write_pyramid, write_ome, write_aperio])
@pytest.mark.parametrize("share", [0.002, 0.01, 0.1, 0.5, 0.95])
def test_truncated_files_are_refused_or_read_right(tmp_path, write, share):
    path = write(tmp_path / "a.tif")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"a\.tif"):
        levels_of(past.io.read_wsi(path, mpp=0.25))


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_truncated_pictures_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PIXELS).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"a\.(png|jpg)"):
        past.io.read_wsi(path, mpp=0.25)


def test_truncated_real_svs(shared_data, tmp_path):
    whole = (shared_data / "svs" / "cmu-1-small-region.svs").read_bytes()
    for share in (0.001, 0.2, 0.7, 0.98):
        path = tmp_path / "cut.svs"
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match=r"cut\.svs"):
            levels_of(past.io.read_wsi(path, mpp=0.499))


def test_damaged_tile_is_reported_when_read(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", n=1)
    with tifffile.TiffFile(path) as file:
        offset = file.pages[0].dataoffsets[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + 40] = b"\xff" * 40
    path.write_bytes(content)
    sdata = past.io.read_wsi(path)
    with pytest.raises(ValueError, match=r"a\.tif.*damaged"):
        levels_of(sdata)


def test_levels_travel_to_other_processes(tmp_path):
    for path in (write_pyramid(tmp_path / "a.tif"), write_aperio(tmp_path / "a.svs")):
        data = image_levels(past.io.read_wsi(path), "he")[0].data
        np.asarray(data[:, :2, :2])  # the file is open by now
        np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(data))), PIXELS.transpose(2, 0, 1))


def test_any_index_reads_the_right_pixels(tmp_path):
    data = image_levels(past.io.read_wsi(write_aperio(tmp_path / "a.svs")), "he")[0].data
    whole = PIXELS.transpose(2, 0, 1)
    for key in (np.s_[0], np.s_[:, 5], np.s_[:, ::7, 3::5], np.s_[:, ::-1], np.s_[:, [5, 2, 80]], np.s_[:, 3:3]):
        np.testing.assert_array_equal(np.asarray(data[key]), whole[key])


def test_wsidata_object_serves_as_spatialdata(shared_data):
    wsidata = pytest.importorskip("wsidata")
    path = shared_data / "svs" / "cmu-1-small-region.svs"
    wsi = wsidata.open_wsi(path, store=None, attach_images=True, attach_thumbnail=True, thumbnail_size=200)
    np.testing.assert_array_equal(levels_of(wsi, "wsi")[0], levels_of(past.io.read_wsi(path))[0])
    assert resolve_mpp(wsi, "wsi") == 0.499
    with pytest.raises(ValueError, match="µm/px of image 'wsi_thumbnail' is unknown"):
        resolve_mpp(wsi, "wsi_thumbnail")
    crop = levels_of(wsi, "wsi")[0][1200:1500, 800:1200].transpose(2, 0, 1)
    plain = SpatialData(images={"he": Image2DModel.parse(crop, dims=("c", "y", "x"))})
    small = wsidata.open_wsi(path, store=None)
    small.images["he"] = Image2DModel.parse(crop, dims=("c", "y", "x"))
    for each in (small, plain):
        past.pp.segment_nuclei(each, image_key="he", mpp=0.499)
    assert isinstance(small, wsidata.WSIData)
    assert small.tables["cells"].n_obs == plain.tables["cells"].n_obs > 0


def test_read_any(tmp_path, breast):
    np.testing.assert_array_equal(levels_of(read_any(write_aperio(tmp_path / "a.svs")))[0], PIXELS)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_any(tmp_path / "nowhere")
    past.io.write_store(breast, tmp_path / "store.zarr")
    assert list(read_any(tmp_path / "store.zarr", mpp=3.0).images) == list(breast.images)
    assert read_any(tmp_path / "store.zarr", mpp=3.0).attrs["past"]["mpp"] == breast.attrs["past"]["mpp"]
    del breast.attrs["past"]
    past.io.write_store(breast, tmp_path / "unknown.zarr")
    assert read_any(tmp_path / "unknown.zarr", mpp=3.0).attrs["past"]["mpp"] == {"he": 3.0}
    (tmp_path / "unknown.zarr" / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"unknown\.zarr"):
        read_any(tmp_path / "unknown.zarr")
