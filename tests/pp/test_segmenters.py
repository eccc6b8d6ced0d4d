"""Segmenters other than the built-in one: blocks, names, and functions that return something else than labels.

The packages are stood in for by modules with the signatures that InstanSeg 0.1.2, StarDist 0.9.2, Cellpose 4.2.1 and
LazySlide's models 0.1.0 have; scripts/real_segmenters.py runs the packages themselves.
"""

from __future__ import annotations

import importlib.machinery
import sys
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from spatialdata import SpatialData
from spatialdata.models import Image2DModel

from pastpy._elements import set_mpp
from pastpy.pp import NucleiParameters, segment_nuclei
from pastpy.pp._segmenters import SEGMENTERS, user_segmenter

# A halo of 42 px, so that small images have many blocks; discs of 8 px radius are cut by none.
SMALL = NucleiParameters(window_um=2, max_area_um2=60, hole_um2=0, opening_um=0)
PINK, PURPLE = (230, 180, 210), (90, 50, 130)


def slide(centres, radius=8.0, size=400, mpp=0.5):
    y, x = np.mgrid[:size, :size] + 0.5
    pixels = np.full((size, size, 3), PINK, dtype=np.uint8)
    for cx, cy in centres:
        pixels[(x - cx) ** 2 + (y - cy) ** 2 <= radius**2] = PURPLE
    sdata = SpatialData(images={"he": Image2DModel.parse(pixels.transpose(2, 0, 1), dims=("c", "y", "x"))})
    set_mpp(sdata, "he", mpp)
    return sdata


def dark(rgb):
    """Labels of what is not pink, as any user would write it."""
    return ndi.label(rgb[..., 0] < 160)[0]


def found(sdata, **options):
    segment_nuclei(sdata, overwrite=True, progress=False, **{"parameters": SMALL, **options})
    return sdata["cells"].obsm["spatial"] / 0.5, sdata["cells"].obs["area_um2"].to_numpy() / 0.25


@st.composite
def discs(draw):
    """Centres on a jittered grid: no two discs of 8 px touch, any may lie on a seam."""
    slots = draw(st.lists(st.integers(0, 15**2 - 1), min_size=1, max_size=60, unique=True))
    shift = draw(st.tuples(st.floats(-3, 3), st.floats(-3, 3)))
    return [(i % 15 * 25 + 22 + shift[0], i // 15 * 25 + 22 + shift[1]) for i in slots]


@settings(max_examples=10)
@given(discs(), st.integers(64, 300))
def test_painted_discs_are_each_found_once_in_blocks_of_any_size(centres, block_px):
    sdata = slide(centres)
    one, area = found(sdata, method=dark, block_px=4096)
    many, many_area = found(sdata, method=dark, block_px=block_px)
    np.testing.assert_array_equal(many, one)
    np.testing.assert_array_equal(many_area, area)
    want = np.array(sorted(centres, key=lambda c: (round(c[1], 3), c[0])))
    assert len(one) == len(want)
    gaps = np.linalg.norm(one[:, None] - want[None], axis=2)
    assert gaps.min(axis=0).max() < 0.5 and gaps.min(axis=1).max() < 0.5
    np.testing.assert_allclose(area, np.pi * 64, rtol=0.06)


@pytest.mark.parametrize("block_px", [64, 97, 150])
def test_built_in_method_finds_the_discs_in_one_block_and_in_many(block_px):
    centres = [(x, y) for x in range(30, 380, 34) for y in range(30, 380, 34)]
    sdata = slide(centres)
    options = {"method": "watershed", "parameters": NucleiParameters(log_sigma_um=2.5)}
    one, _ = found(sdata, block_px=4096, **options)
    many, _ = found(sdata, block_px=block_px, **options)
    assert len(one) == len(centres)
    np.testing.assert_array_equal(many, one)


@settings(max_examples=10)
@given(discs(), st.integers(64, 200), st.integers(0, 99))
def test_blocks_that_disagree_still_give_each_nucleus_once(centres, block_px, seed):
    """Every block moves and grows its labels at random, as networks do that see another context."""
    rng = np.random.default_rng(seed)

    def moody(rgb):
        labels = ndi.shift(dark(rgb), rng.integers(-1, 2, 2), order=0)
        return labels if rng.random() < 0.5 else ndi.grey_dilation(labels, 3)

    many, _ = found(slide(centres), method=moody, block_px=block_px)
    gaps = np.linalg.norm(many[:, None] - np.array(centres)[None], axis=2)
    assert len(many) == len(centres)
    assert gaps.min(axis=0).max() < 2.5


@pytest.mark.parametrize("x", [196.5, 199.5, 200.5, 203.5])
def test_blocks_that_differ_in_what_is_one_nucleus_overlap_nowhere(x):
    """The block right of the seam at 200 px sees in two pieces what the one left of it sees whole."""
    sdata = slide([(x, 50), (x, 120), (100, 100), (300, 160)])

    def splitting(rgb):
        labels = dark(rgb)
        if (rgb[:80, 60:160, 0] < 160).sum() == 0:  # the right block: nothing but the two discs is left of 300 px
            labels[:, 61:] += labels.max() * (labels[:, 61:] > 0)
        return labels

    _, area = found(sdata, method=splitting, block_px=200)
    polygons = sdata["nuclei"].geometry.to_numpy()
    assert shapely.area(shapely.union_all(polygons)) == pytest.approx(4 * np.pi * 64, rel=0.06)
    assert area.sum() == pytest.approx(4 * np.pi * 64, rel=0.06)


def test_a_function_may_ask_for_the_resolution():
    seen = []

    def with_mpp(rgb, mpp):
        seen.append(mpp)
        return dark(rgb)

    class Model:
        def __call__(self, image, batch_size=8):
            assert batch_size == 8
            return dark(image).astype(np.uint16)

    sdata = slide([(50, 50)])
    segment_nuclei(sdata, method=with_mpp)
    assert seen == [0.5]
    segment_nuclei(sdata, method=Model(), overwrite=True)
    assert sdata["cells"].uns["past"]["segment_nuclei"]["method"].endswith("Model")


def test_labels_far_apart_do_not_take_all_memory():
    def hashes(rgb):
        return np.where(dark(rgb) > 0, 2**40 + dark(rgb).astype(np.int64), 0)

    centres, _ = found(slide([(50, 50), (90, 90)]), method=hashes)
    assert len(centres) == 2


def named_wrong(make):
    def wrong_one(rgb):
        return make(dark(rgb))

    return wrong_one


def fail(labels):
    raise RuntimeError("out of luck")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda labels: labels[:3], r"returned shape \(3, 400\)"),
        (lambda labels: labels[None], r"returned shape \(1, 400, 400\)"),
        (lambda labels: labels * 1.0, "returned float64; convert"),
        (lambda labels: np.where(labels > 0, labels, np.nan), "some of them NaN"),
        (lambda labels: labels - 1, "negative labels, down to -1"),
        (lambda labels: labels > 0, "returned bool"),
        (lambda labels: labels.astype(str), "returned <U"),
        (lambda labels: labels.astype(object), "returned object"),
        (lambda labels: None, r"returned shape \(\) of object"),
        (fail, "failed on a block of shape .*RuntimeError: out of luck"),
    ],
)
def test_functions_that_return_no_labels_are_named(make, message):
    sdata = slide([(50, 50)])
    with pytest.raises(ValueError, match=rf"named_wrong\.<locals>\.wrong_one.*{message}"):
        segment_nuclei(sdata, method=named_wrong(make))
    assert list(sdata.shapes) == list(sdata.tables) == []


def test_labels_with_details_are_told_apart_from_labels():
    with pytest.raises(ValueError, match="returned 2 things; return the labels alone"):
        found(slide([(50, 50)], size=120), method=lambda rgb: (dark(rgb), {"score": 1}))


def test_a_function_of_the_wrong_number_of_arguments_is_named():
    with pytest.raises(ValueError, match="<lambda> failed.*TypeError"):
        user_segmenter(lambda: None)(np.zeros((4, 4, 3), np.uint8), 0.5)


def stand_in(monkeypatch, name, **content):
    module = ModuleType(name)
    module.__dict__.update(content)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.fixture
def absent(monkeypatch):
    for name in ("instanseg", "stardist", "stardist.models", "cellpose", "lazyslide_models"):
        monkeypatch.setitem(sys.modules, name, None)
    original = importlib.util.find_spec
    hidden = {"lazyslide_models"}
    monkeypatch.setattr(
        "pastpy.pp._segmenters.find_spec",
        lambda name: None if name in hidden and sys.modules.get(name) is None else original(name),
    )


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("instanseg", r"pip install instanseg-torch \(or 'pastpy\[lazyslide\]'"),
        ("stardist", "pip install stardist tensorflow"),
        ("cellpose", r"pip install 'cellpose>=4'"),
    ],
)
@pytest.mark.usefixtures("absent")
def test_what_is_not_installed_is_named_with_the_command(name, command):
    sdata = slide([(50, 50)])
    with pytest.raises(ModuleNotFoundError, match=rf"method='{name}'.*{command}"):
        segment_nuclei(sdata, method=name)
    assert list(sdata.shapes) == list(sdata.tables) == []


def seen_dark(scaled):
    return torch.from_numpy(ndi.label(np.asarray(scaled)[0, 0] < 0.5)[0])[None, None].float()


@pytest.fixture
def instanseg(monkeypatch, tmp_path):
    calls = []

    class InstanSeg:
        def __init__(
            self, model_type="brightfield_nuclei", device=None, image_reader="auto", verbosity=1, channels_last=True
        ):
            # a name it would look up in its own list of versions, and fetch
            assert isinstance(model_type, torch.nn.Module)
            assert (device, verbosity) == ("cpu", 0)

        def eval_small_image(
            self,
            image,
            pixel_size=None,
            normalise=True,
            return_image_tensor=True,
            target="all_outputs",
            rescale_output=True,
        ):
            assert image.dtype == torch.float32 and image.shape[:2] == (1, 3)
            calls.append((pixel_size, normalise, float(image.min()), float(image.max())))
            warnings.warn("CUDA is not available or torch_xla is imported. Disabling autocast.", stacklevel=2)
            out = seen_dark(image)
            return (out, image) if return_image_tensor else out

    stand_in(monkeypatch, "instanseg", InstanSeg=InstanSeg, __file__=str(tmp_path / "__init__.py"))
    monkeypatch.setenv("INSTANSEG_BIOIMAGEIO_PATH", str(tmp_path))
    monkeypatch.setattr("pastpy._settings.settings.device", "cpu")
    return SimpleNamespace(calls=calls, weights=tmp_path / "brightfield_nuclei" / "0.0.9" / "instanseg.pt")


CENTRES = [(60, 60), (199, 120), (200, 201), (330, 64)]


def check(name, mpp=0.5):
    one, _ = found(slide(CENTRES), method=name, parameters=None, block_px=4096)
    many, _ = found(slide(CENTRES), method=name, parameters=None, block_px=200)
    assert len(one) == len(CENTRES)
    np.testing.assert_array_equal(one, many)


def test_instanseg_adapter(instanseg):
    with pytest.raises(FileNotFoundError, match="weights of method='instanseg'.*nothing is fetched.*python -c"):
        segment_nuclei(slide(CENTRES), method="instanseg")
    instanseg.weights.parent.mkdir(parents=True)
    torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.zeros(1)), instanseg.weights)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="CUDA is not available")
        check("instanseg")
    assert len(instanseg.calls) == 5
    assert {call[:2] for call in instanseg.calls} == {(0.5, False)}
    # every block on the scale of the slide, from its darkest to its lightest colour
    assert instanseg.calls[0][2:] == (0.0, 1.0)


@pytest.mark.usefixtures("absent")
def test_instanseg_out_of_lazyslide(monkeypatch):
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    there = []

    class Instanseg:
        def __init__(self, model_file=None):
            assert constants.HF_HUB_OFFLINE
            if not there:
                raise LocalEntryNotFoundError("not cached")

        def segment(self, image):
            return SimpleNamespace(instance_map=seen_dark(image).long().squeeze(1))

    stand_in(monkeypatch, "lazyslide_models", MODEL_REGISTRY={"instanseg": Instanseg})
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(FileNotFoundError, match="local cache of the Hugging Face hub.*lazyslide_models"):
        segment_nuclei(slide(CENTRES), method="instanseg")
    there.append(True)
    check("instanseg")
    assert before == constants.HF_HUB_OFFLINE


@pytest.mark.parametrize("layout", ["2D_versatile_he", "2D_versatile_he/2D_versatile_he_extracted"])
def test_stardist_adapter(monkeypatch, tmp_path, layout):
    seen = []

    class StarDist2D:
        def __init__(self, config, name=None, basedir="."):
            assert config is None
            seen.append(f"{basedir}/{name}")

        def predict_instances(self, img, axes=None, normalizer=None, sparse=True, scale=None, n_tiles=None):
            assert img.dtype == np.float32 and 0 <= img.min() and img.max() <= 1 and axes == "YXC"
            seen.append(scale)
            return ndi.label(img[..., 0] < 0.6)[0].astype(np.int32), {"coord": []}

    stand_in(monkeypatch, "stardist")
    stand_in(monkeypatch, "stardist.models", StarDist2D=StarDist2D)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="weights of method='stardist'.*from_pretrained"):
        segment_nuclei(slide(CENTRES), method="stardist")
    folder = tmp_path / "models" / "StarDist2D" / layout
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    check("stardist")
    assert seen[0] == str(folder)
    assert [s for s in seen if not isinstance(s, str)] == [None] * (len(seen) - 2)  # the blocks are at 0.25 µm/px
    seen.clear()
    segment_nuclei(slide(CENTRES), method="stardist", parameters=NucleiParameters())
    assert seen[1] == (2.0, 2.0, 1)


def test_stardist_without_tensorflow(monkeypatch):
    class Models(ModuleType):
        def __getattr__(self, name):
            raise RuntimeError("Please install TensorFlow")

    stand_in(monkeypatch, "stardist")
    monkeypatch.setitem(sys.modules, "stardist.models", Models("stardist.models"))
    with pytest.raises(ModuleNotFoundError, match="Please install TensorFlow.*pip install stardist tensorflow"):
        segment_nuclei(slide(CENTRES), method="stardist")


def test_cellpose_adapter(monkeypatch, tmp_path):
    seen = []

    class CellposeModel:
        def __init__(self, gpu=False, pretrained_model="cpsam_v2", model_type=None, device=None):
            assert not gpu and device.type == "cpu"

        def eval(self, x, batch_size=8, channels=None, channel_axis=None, normalize=True, diameter=None):
            assert x.dtype == np.uint8 and channel_axis == 2 and channels is None
            seen.append(normalize["lowhigh"])
            return ndi.label(x[..., 0] < 160)[0].astype(np.uint16), [], np.zeros(256)

    models = stand_in(monkeypatch, "cellpose.models", CellposeModel=CellposeModel, MODEL_DIR=tmp_path)
    stand_in(monkeypatch, "cellpose", models=models)
    monkeypatch.setattr("pastpy._settings.settings.device", "cpu")
    with pytest.raises(FileNotFoundError, match="weights of method='cellpose'.*CellposeModel"):
        segment_nuclei(slide(CENTRES), method="cellpose")
    (tmp_path / "cpsam_v2").touch()
    check("cellpose")
    assert np.shape(seen) == (len(seen), 3, 2) and all(s == seen[0] for s in seen)
    old = type("CellposeModel", (), {"__init__": lambda self, gpu=False, pretrained_model=False: None})
    monkeypatch.setattr(models, "CellposeModel", old)
    with pytest.raises(ModuleNotFoundError, match=r"before version 4.*pip install 'cellpose>=4'"):
        segment_nuclei(slide(CENTRES), method="cellpose")


def test_every_name_is_tested_here():
    assert set(SEGMENTERS) == {"instanseg", "stardist", "cellpose"}
