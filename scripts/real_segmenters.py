"""The packages behind ``pp.segment_nuclei(method=…)`` themselves, with weights made here: JSON and table in docs.

    pip install -e . instanseg-torch lazyslide stardist tensorflow "cellpose>=4"
    python scripts/real_segmenters.py

Their trained weights are not needed: StarDist is trained for two minutes on simulated tissue, the other networks get
weights by hand with which dark blobs become nuclei. All of it is put where each package looks for what it has fetched,
in a folder of its own. So this tells whether pastpy and a package work together, and whether one block and many find
the same; it tells nothing of how well the published networks find nuclei. Packages that are not installed are left as
they stand in the file. Some ten minutes on two cores; the weights of Cellpose take 1.3 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from result_tables import DOCS, fill, table

import pastpy as past
from pastpy.pp import NucleiParameters

if TYPE_CHECKING:
    import torch
    from spatialdata import SpatialData

RESULTS = DOCS / "_data" / "real_segmenters.json"
#: Side of a block where there are many, by image, and how far apart the centres of one nucleus may be, µm.
BLOCK_UM, SAME_UM = {"simulated": 128, "small": 64, "breast_st": 256}, 1.0
#: StarDist is trained on these, and on none of the images below.
TRAINING_SEEDS, VALIDATION_SEED = range(100, 104), 104
TESTED_SEED = 7
IMAGES = {
    "simulated": "simulated tissue, 0.14 mm²",
    "small": "simulated tissue, 0.01 mm²",
    "breast_st": "`datasets.breast_st`",
}
#: Where the packages look for weights, each in a folder of its own.
PLACES = {
    "KERAS_HOME": "keras",
    "INSTANSEG_BIOIMAGEIO_PATH": "instanseg",
    "HF_HOME": "huggingface",
    "CELLPOSE_LOCAL_MODELS_PATH": "cellpose",
}


@dataclass(frozen=True)
class Package:
    """A package, what it is given, and what it is run on."""

    method: str
    modules: tuple[str, ...]
    distribution: str
    weights: str
    make: Callable[[Path], None]
    mpp: float = 0.5
    images: tuple[str, ...] = ("simulated", "breast_st")
    hidden: str = ""
    parameters: dict[str, float] | None = None


def stardist_weights(folder: Path) -> None:
    """Train a small StarDist2D, and let the package fetch it as if it were the published one."""
    import hashlib
    import shutil

    from csbdeep.models import register_model
    from stardist.models import Config2D, StarDist2D

    name = "2D_versatile_he"
    images, labels = zip(*(_labelled(seed) for seed in (*TRAINING_SEEDS, VALIDATION_SEED)), strict=True)
    config = Config2D(
        n_rays=16,
        grid=(2, 2),
        n_channel_in=3,
        unet_n_depth=2,
        unet_n_filter_base=16,
        net_conv_after_unet=32,
        train_patch_size=(128, 128),
        train_epochs=30,
        train_steps_per_epoch=50,
        train_learning_rate=1e-3,
        train_tensorboard=False,
    )
    model = StarDist2D(config, name=name, basedir=str(folder / "trained"))
    model.train(images[:-1], labels[:-1], validation_data=(images[-1:], labels[-1:]), seed=0)
    model.optimize_thresholds(images[-1:], labels[-1:])
    archive = Path(shutil.make_archive(str(folder / name), "zip", folder / "trained" / name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the name is taken by the published model
        register_model(StarDist2D, name, archive.as_uri(), hashlib.md5(archive.read_bytes()).hexdigest())
    StarDist2D.from_pretrained(name)


def _labelled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Simulated tissue at 0.25 µm/px, between 0 and 1, and its nuclei painted."""
    from skimage.draw import polygon

    sdata = past.datasets.simulate_tissue(300, 20, seed=seed, mpp=0.25)
    rgb = np.asarray(sdata["he"].data).transpose(1, 2, 0)
    labels = np.zeros(rgb.shape[:2], dtype=np.int32)
    for i, nucleus in enumerate(sdata["nuclei_true"].geometry, 1):
        x, y = np.asarray(nucleus.exterior.coords).T
        labels[polygon(y - 0.5, x - 0.5, labels.shape)] = i
    return rgb.astype(np.float32) / 255, labels


def instanseg_weights(folder: Path) -> None:
    """Put a network where InstanSeg looks for the one that it has fetched."""
    path = folder / "instanseg" / "brightfield_nuclei" / "0.1.1" / "instanseg.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    _instanseg_network().save(str(path))


def lazyslide_weights(folder: Path) -> None:
    """Put the same network into the cache of the Hugging Face hub."""
    repository, commit = folder / "huggingface" / "hub" / "models--RendeiroLab--LazySlide-models", "0" * 40
    path = repository / "snapshots" / commit / "instanseg" / "instanseg_v0_1_0.pt"
    for each in (path, repository / "refs" / "main"):
        each.parent.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    _instanseg_network().save(str(path))


def _instanseg_network() -> Any:
    """InstanSeg's own TorchScript, with its seeding and merging, around a blur of the darkness in red."""
    import torch
    from instanseg.utils.loss.instanseg_loss import InstanSeg_Torchscript, ProbabilityNet

    classifier = ProbabilityNet(4, 5)
    with torch.no_grad():
        for value in classifier.parameters():
            value.zero_()
        # of a pixel: right, left, below and above of its seed (64 px are 1), and how dark it is
        classifier.fc1.weight[:, :3] = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]])
        classifier.fc2.weight.copy_(torch.eye(5))
        classifier.fc3.weight.copy_(torch.tensor([[-40.0, -40, -40, -40, 20]]))
        classifier.fc3.bias.fill_(-8)
    across = torch.exp(-((torch.arange(-6, 7) / 2.5) ** 2) / 2)
    blur = torch.outer(across, across)[None, None] / across.sum() ** 2

    class Darkness(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pixel_classifier = classifier
            self.register_buffer("blur", blur)
            self.blur: torch.Tensor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            from torch.nn.functional import conv2d, pad

            dark = 1 - x[:, :1]
            seeds = 15 * (conv2d(pad(dark, (6, 6, 6, 6), mode="replicate"), self.blur) - 0.5) + 2
            none = torch.zeros_like(dark)
            return torch.cat([none, none, dark, none, seeds], dim=1)

    return torch.jit.script(InstanSeg_Torchscript(Darkness(), pixel_size=0.5, n_sigma=2))


def cellpose_weights(folder: Path) -> None:
    """Cellpose's own network, whose transformer hands pixels through and whose neck finds where they get darker."""
    import inspect

    from cellpose.models import MODEL_DIR, CellposeModel

    network = _cellpose_network()
    Path(MODEL_DIR).mkdir(parents=True, exist_ok=True)
    network.save_model(Path(MODEL_DIR) / inspect.signature(CellposeModel).parameters["pretrained_model"].default)


def _cellpose_network() -> Any:
    import torch
    from cellpose.vit import CPSAM

    network = CPSAM()
    encoder, neck = network.encoder, network.encoder.neck
    # beside the pixels a large constant, which leaves the normalisation across channels nothing to change
    first, second = 64.0, 1024.0
    shrunk_first, shrunk_second = ((256 / (2 * each**2)) ** 0.5 for each in (first, second))
    with torch.no_grad():
        for value in _silenced(network):
            value.zero_()
        # darkness in red of each of the 64 pixels of a patch, and its negative
        pixels = torch.eye(64).reshape(64, 8, 8)
        encoder.patch_embed.proj.weight[:128, 0] = torch.cat([-pixels, pixels])
        encoder.patch_embed.proj.bias[:130] = torch.tensor([1.0] * 64 + [-1.0] * 64 + [first, -first])
        neck[0].weight[:130, :130, 0, 0] = torch.eye(130)
        steps = _darker_around().reshape(192, 64, 3, 3) / shrunk_first
        neck[2].weight[:192, :64] = steps
        neck[2].weight[192, :64] = -steps.sum(0)
        for channel, sign in ((193, 1), (194, -1)):
            neck[2].weight[channel, 128, 1, 1] = sign * second / (first * shrunk_first)
        network.out.weight[:, :192, 0, 0] = torch.eye(192) / shrunk_second
        network.out.bias[128:] = -4.0
    return network


def _silenced(network: Any) -> Iterator[torch.Tensor]:
    """Weights without which the transformer's blocks add nothing, and all that is written anew."""
    encoder = network.encoder
    yield encoder.pos_embed
    for module in (encoder.patch_embed, encoder.neck, network.out):
        yield from (value for name, value in module.named_parameters() if value.ndim > 1 or name.endswith("bias"))
    for block in encoder.blocks:
        yield from (*block.attn.proj.parameters(), *block.mlp.lin2.parameters())


def _darker_around() -> torch.Tensor:
    """Weights (3, 64, 64, 3, 3) of flow down, flow right and probability, from the pixels of 3 × 3 patches."""
    import torch

    at = torch.arange(8)
    apart = 8 * torch.arange(-1, 2)[None, None] + at[None, :, None] - at[:, None, None]  # (pixel, other, patch)
    near = torch.where(apart.abs() <= 8, torch.exp(-((apart / 10) ** 2) / 2), 0.0)
    near, steeper = near / near.sum((1, 2), keepdim=True), near * apart
    steeper = steeper / (steeper * apart).sum((1, 2), keepdim=True)
    narrow = torch.where(apart.abs() <= 8, torch.exp(-((apart / 3) ** 2) / 2), 0.0)
    narrow = narrow / narrow.sum((1, 2), keepdim=True)
    pairs = ((100 * steeper, near), (near, 100 * steeper), (8 * narrow, narrow))
    return torch.stack([torch.einsum("aby,cdx->acbdyx", down, right).reshape(64, 64, 3, 3) for down, right in pairs])


BY_HAND = "written by hand: dark blobs are nuclei"
PACKAGES = {
    "InstanSeg": Package("instanseg", ("instanseg",), "instanseg-torch", BY_HAND, instanseg_weights),
    "InstanSeg out of LazySlide": Package(
        "instanseg",
        ("lazyslide_models", "instanseg"),
        "lazyslide-models",
        BY_HAND,
        lazyslide_weights,
        hidden="instanseg",
    ),
    "StarDist": Package(
        "stardist",
        ("stardist", "tensorflow"),
        "stardist",
        "a small network, trained here on simulated tissue",
        stardist_weights,
        mpp=0.25,
    ),
    # its network is large, so that one small image is what can be afforded; its halo must leave room for blocks
    "Cellpose": Package(
        "cellpose",
        ("cellpose",),
        "cellpose",
        BY_HAND,
        cellpose_weights,
        mpp=0.25,
        images=("small",),
        parameters={"window_um": 2.0},
    ),
}


def tissue(name: str) -> SpatialData:
    """An image that no network was trained on."""
    if name == "breast_st":
        return past.datasets.breast_st()
    return past.datasets.simulate_tissue({"simulated": 300, "small": 20}[name], 20, seed=TESTED_SEED, mpp=0.5)


def measure(package: Package, name: str) -> dict[str, Any]:
    """Nuclei of an image in one block and in many, and how many of these are the same."""
    from pastpy.metrics._detection import match_points

    sdata, begin = tissue(name), time.perf_counter()
    parameters = NucleiParameters(target_mpp=package.mpp, **(package.parameters or {}))
    centres, outlines = [], []
    for side_um in (1e4, BLOCK_UM[name]):
        past.pp.segment_nuclei(
            sdata,
            method=package.method,
            parameters=parameters,
            block_px=round(side_um / package.mpp),
            progress=False,
            overwrite=True,
        )
        centres.append(sdata["cells"].obsm["spatial"])
        outlines.append({outline.wkb for outline in sdata["nuclei"].geometry})
    return {
        "block_um": BLOCK_UM[name],
        "one_block": len(centres[0]),
        "many_blocks": len(centres[1]),
        "same": len(match_points(*centres, max_distance=SAME_UM)[0]),
        "equal": len(outlines[0] & outlines[1]),
        "seconds": round(time.perf_counter() - begin),
    }


@contextmanager
def without(module: str) -> Iterator[None]:
    """As if an imported module were not installed."""
    there = sys.modules[module]
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules[module] = there


def run(package: Package, folder: Path) -> dict[str, Any]:
    """Make the weights, and run the package on its images."""
    package.make(folder)
    with without(package.hidden) if package.hidden else nullcontext():
        images = {name: measure(package, name) for name in package.images}
    installed = f"{package.distribution} {version(package.distribution)}"
    return {"method": package.method, "package": installed, "weights": package.weights, "images": images}


def rows(found: dict[str, Any]) -> str:
    """A row a package and image."""
    lines = [
        (
            *((f"{name} ({one['package']})", one["weights"]) if image == next(iter(one["images"])) else ("", "")),
            IMAGES[image],
            counts["one_block"],
            f"{counts['many_blocks']} ({counts['block_um']} µm)",
            counts["same"],
            counts["equal"],
        )
        for name, one in found.items()
        for image, counts in one["images"].items()
    ]
    header = ("package", "weights", "image", "nuclei, one block", "nuclei, many blocks (side)", "the same", "equal")
    return table(header, lines)


def main() -> None:
    """Run the packages that are installed, and write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="the others are left")
    arguments = parser.parse_args()
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # read when the packages are imported
        for variable, place in PLACES.items():
            (folder / place).mkdir()
            os.environ[variable] = str(folder / place)
        for each in arguments.only:
            if not all(map(find_spec, PACKAGES[each].modules)):
                print(each, "is not installed", flush=True)
                continue
            found[each] = run(PACKAGES[each], folder)
            print(each, json.dumps(found[each]["images"]), flush=True)
            found = {each: found[each] for each in PACKAGES if each in found}
            RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            fill(DOCS / "segmentation.md", {"real_segmenters": rows})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
