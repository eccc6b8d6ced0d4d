"""Segmenters that others publish, by name, and users' own functions: an H&E array in, labels out.

Nothing is fetched: packages and weights must be on this machine, else the message says how to get them. All blocks of a
slide are scaled alike, from pixels of the whole slide, so that what is found does not depend on the blocks.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from pastpy._settings import settings

__all__ = ["SEGMENTERS", "Segment", "Segmenter", "load_segmenter", "user_segmenter"]

#: What every segmenter becomes: uint8 (h, w, 3) and µm/px to integer labels (h, w).
Segment = Callable[[np.ndarray, float], np.ndarray]
#: Pixels of the whole slide, uint8 (n, 3), from which a network's scaling is taken.
Sample = np.ndarray


@dataclass(frozen=True)
class Segmenter:
    """A segmenter by name.

    Attributes
    ----------
    packages
        What is installed with pip.
    mpp
        µm/px that it works at.
    make
        Loads it: a function of the slide's pixels.
    """

    packages: str
    mpp: float
    make: Callable[[Sample], Segment]


def load_segmenter(name: str, sample: Sample) -> Segment:
    """A segmenter by name, ready for the blocks of one slide.

    Raises
    ------
    ModuleNotFoundError
        If its package is not installed; the message has the command.
    FileNotFoundError
        If its weights are not on this machine; the message has the command.
    """
    segmenter = SEGMENTERS[name]
    try:
        return segmenter.make(sample)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"method={name!r} is a package of its own, and importing it failed ({error}); install it: "
            f"pip install {segmenter.packages}"
        ) from error


def user_segmenter(function: Callable[..., Any]) -> Segment:
    """A user's function of the pixels, or of the pixels and µm/px, as one of both; its result is checked."""
    name = name_of(function)
    wants_mpp = _takes_mpp(function)

    def segment(rgb: np.ndarray, mpp: float) -> np.ndarray:
        try:
            labels = function(rgb, mpp) if wants_mpp else function(rgb)
        except Exception as error:
            raise ValueError(
                f"method {name} failed on a block of shape {rgb.shape}: {type(error).__name__}: {error}"
            ) from error
        return checked_labels(labels, rgb.shape[:2], name)

    return segment


def name_of(function: Callable[..., Any]) -> str:
    """Module and name of a callable, or of its class."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def checked_labels(labels: Any, shape: tuple[int, ...], name: str) -> np.ndarray:
    """``labels`` as an array, or a ``ValueError`` that says what the segmenter returned instead."""
    expected = f"method {name} must return integer labels (0 is background) of shape {shape}"
    if isinstance(labels, tuple):
        raise ValueError(
            f"{expected}, but returned {len(labels)} things; return the labels alone, e.g. model.predict(…)[0]"
        )
    labels = np.asarray(labels)
    if labels.shape != tuple(shape):
        raise ValueError(f"{expected}, but returned shape {labels.shape} of {labels.dtype}")
    if not np.issubdtype(labels.dtype, np.integer):
        hint = ", some of them NaN" if labels.dtype.kind == "f" and np.isnan(labels).any() else ""
        raise ValueError(f"{expected}, but returned {labels.dtype}{hint}; convert what it finds to integer labels")
    if labels.min(initial=0) < 0:
        raise ValueError(f"{expected}, but returned negative labels, down to {labels.min()}")
    if labels.max(initial=0) > labels.size:
        # Labels index tables below, so that sparse ones as a hash gives would take all memory.
        found, labels = np.unique(labels, return_inverse=True)
        labels = labels.reshape(shape) + (found[0] != 0)
    return labels.astype(np.int64, copy=False)


def _takes_mpp(function: Callable[..., Any]) -> bool:
    """Whether a second positional argument is µm/px: it is called so, or has no default."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C: it says nothing of its arguments
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(positional) > 1 and (positional[1].name == "mpp" or positional[1].default is inspect.Parameter.empty)


def _percentiles(sample: Sample, low: float, high: float) -> np.ndarray:
    """Lower and upper percentile of each channel, float32 (3, 2), never equal."""
    limits = np.percentile(sample, [low, high], axis=0).astype(np.float32).T
    limits[:, 1] = np.maximum(limits[:, 1], limits[:, 0] + 1)
    return limits


def _missing(what: str, where: object, how: str) -> FileNotFoundError:
    return FileNotFoundError(f"{what} are not in {where}, and nothing is fetched; fetch them once: {how}")


def _device() -> Any:
    from pastpy.engine.device import resolve_device

    return resolve_device(settings.device)


def _instanseg(sample: Sample) -> Segment:
    """InstanSeg's ``brightfield_nuclei``, scaled as it scales whole images: percentiles 0.1 and 99.9."""
    try:
        predict = _instanseg_package()
    except ModuleNotFoundError as error:
        if find_spec("lazyslide_models") is None:
            raise error
        predict = _instanseg_lazyslide()
    limits = _percentiles(sample, 0.1, 99.9)

    def segment(rgb: np.ndarray, mpp: float) -> np.ndarray:
        import torch

        scaled = (rgb - limits[:, 0]) / (limits[:, 1] - limits[:, 0])
        with torch.inference_mode():
            found = predict(torch.from_numpy(scaled.transpose(2, 0, 1)[None].copy()), mpp)
        return np.rint(found.cpu().numpy().reshape(rgb.shape[:2])).astype(np.int64)

    return segment


def _instanseg_package() -> Callable[[Any, float], Any]:
    import instanseg
    import torch

    folder = Path(os.environ.get("INSTANSEG_BIOIMAGEIO_PATH") or Path(instanseg.__file__).parent / "bioimageio_models")
    found = list(folder.glob("brightfield_nuclei/**/instanseg.pt"))
    if not found:
        how = "python -c \"from instanseg import InstanSeg; InstanSeg('brightfield_nuclei')\""
        raise _missing("the weights of method='instanseg'", folder, how)
    # by its name InstanSeg would fetch it, where this version of the package lists another than the one that is here
    network = torch.jit.load(max(found, key=lambda path: path.stat().st_mtime), map_location="cpu")
    model = instanseg.InstanSeg(network, device=str(_device()), verbosity=0)

    def predict(pixels: Any, mpp: float) -> Any:
        with warnings.catch_warnings():
            # it asks for mixed precision on CUDA whatever the device, and without one every block would say so
            warnings.filterwarnings("ignore", message="CUDA is not available", category=UserWarning)
            return model.eval_small_image(pixels, pixel_size=mpp, normalise=False, return_image_tensor=False)

    return predict


def _instanseg_lazyslide() -> Callable[[Any, float], Any]:
    """The same network out of LazySlide, which works at 0.5 µm/px and knows no other."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError
    from lazyslide_models import MODEL_REGISTRY

    online = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True  # LazySlide asks the hub whenever it makes a model; with this, its cache only
    try:
        model = MODEL_REGISTRY["instanseg"]()
    except LocalEntryNotFoundError as error:
        how = "python -c \"from lazyslide_models import MODEL_REGISTRY; MODEL_REGISTRY['instanseg']()\""
        raise _missing("the weights of method='instanseg'", "the local cache of the Hugging Face hub", how) from error
    finally:
        constants.HF_HUB_OFFLINE = online
    return lambda pixels, mpp: model.segment(pixels).instance_map


def _stardist(sample: Sample) -> Segment:
    """``2D_versatile_he`` of StarDist on pixels between 0 and 1, as its authors predict large H&E images."""
    try:
        from stardist.models import StarDist2D
    except RuntimeError as error:  # so it says that TensorFlow, which it does not require, is not there
        raise ImportError(str(error)) from error

    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    folder = home / "models" / "StarDist2D" / "2D_versatile_he"
    found = sorted(folder.glob("**/config.json"))
    if not found:
        how = "python -c \"from stardist.models import StarDist2D; StarDist2D.from_pretrained('2D_versatile_he')\""
        raise _missing("the weights of method='stardist'", folder, how)
    model = StarDist2D(None, name=found[0].parent.name, basedir=str(found[0].parent.parent))

    def segment(rgb: np.ndarray, mpp: float) -> np.ndarray:
        scale = mpp / SEGMENTERS["stardist"].mpp
        labels, _ = model.predict_instances(
            rgb.astype(np.float32) / 255, axes="YXC", scale=None if abs(scale - 1) < 0.1 else (scale, scale, 1)
        )
        return labels

    return segment


def _cellpose(sample: Sample) -> Segment:
    """The default network of Cellpose 4, scaled by percentiles 1 and 99 as it scales images, of the whole slide."""
    from cellpose import models

    default = inspect.signature(models.CellposeModel).parameters["pretrained_model"].default
    if not isinstance(default, str):
        raise ImportError("this is Cellpose before version 4")
    folder = Path(models.MODEL_DIR)
    if not (folder / default).is_file():
        how = 'python -c "from cellpose.models import CellposeModel; CellposeModel()"'
        raise _missing("the weights of method='cellpose'", folder, how)
    device = _device()
    model = models.CellposeModel(gpu=device.type != "cpu", device=device)
    limits = _percentiles(sample, 1, 99)

    def segment(rgb: np.ndarray, mpp: float) -> np.ndarray:
        return model.eval(rgb, channel_axis=2, normalize={"lowhigh": limits.tolist()})[0]

    return segment


SEGMENTERS = {
    "instanseg": Segmenter("instanseg-torch (or 'pastpy[lazyslide]', which has it too)", 0.5, _instanseg),
    "stardist": Segmenter("stardist tensorflow", 0.25, _stardist),
    "cellpose": Segmenter("'cellpose>=4'", 0.25, _cellpose),
}
