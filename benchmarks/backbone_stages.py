"""How much of her2st's expression the frozen backbone's stages carry, at two resolutions: a ridge per stage.

    python benchmarks/backbone_stages.py --data ../shared/data [--out docs/_data/backbone_stages.json]

Leave one section out over C2–C6; mean Pearson r over the 250 most variable genes of the training spots that are
detected in a tenth of them. The ridge's α is the best of three by that same mean, which flatters all rows alike: the
table compares features, it does not estimate accuracy. About five minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from simulated_slide import report
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from pastpy._elements import image_levels
from pastpy.engine import Field, FieldReader
from pastpy.models.imagenet import load_imagenet_lite0
from pastpy.train.data import read_section

if TYPE_CHECKING:
    from spatialdata import SpatialData

SECTIONS = ("C2", "C3", "C4", "C5", "C6")
MPP, DIAMETER_UM = 0.69, 100.0
STAGES = {2: slice(0, 40), 3: slice(40, 120), 4: slice(120, 232)}


def features(network: Any, sdata: SpatialData, target_mpp: float) -> np.ndarray:
    """Tokens of three stages averaged over the spot and over a disc of twice its diameter, (spots, 2, 232).

    ``network`` is timm's; a plain module has none of its parts.
    """
    reader = FieldReader(image_levels(sdata, "he"), mpp=MPP, target_mpp=target_mpp)
    side = round(256 / target_mpp / 64) * 64
    y, x = (np.mgrid[: side // 8, : side // 8] + 0.5) * 8 * target_mpp - side * target_mpp / 2
    discs = [torch.from_numpy((np.hypot(y, x) < r).astype(np.float32).ravel()) for r in (50, 100)]
    rows = []
    for um in sdata["spots"].obsm["spatial"]:
        corner = np.round(um / target_mpp - side / 2).astype(int)
        pixels = reader.read(Field(int(corner[0]), int(corner[1]), side, side, np.arange(0)))
        token = network.bn1(network.conv_stem((torch.from_numpy(pixels)[None] * 255 - 127) / 128))
        stages = []
        for i, block in enumerate(network.blocks[:5]):
            token = block(token)
            if i in STAGES:
                stages.append(F.interpolate(token, size=(side // 8, side // 8))[0].flatten(1))
        grid = torch.cat(stages)
        rows.append(torch.stack([grid @ (disc / disc.sum()) for disc in discs]).numpy())
    return np.stack(rows)


def mean_r(
    x: dict[str, np.ndarray], counts: dict[str, np.ndarray], totals: dict[str, np.ndarray], alpha: float
) -> float:
    """Mean r over genes and left-out sections."""
    log = {s: np.log1p(counts[s] / totals[s] * 1e4) for s in SECTIONS}
    scores = []
    for test in SECTIONS:
        train = [s for s in SECTIONS if s != test]
        detected = np.concatenate([counts[s] > 0 for s in train]).mean(axis=0) > 0.1
        y = np.concatenate([log[s] for s in train])
        genes = np.flatnonzero(detected)[np.argsort(-y[:, detected].var(axis=0))[:250]]
        model = make_pipeline(StandardScaler(), PCA(min(64, x[test].shape[1]), random_state=0), Ridge(alpha))
        predicted = model.fit(np.concatenate([x[s] for s in train]), y[:, genes]).predict(x[test])
        scores.append(np.nanmean([np.corrcoef(predicted[:, i], log[test][:, g])[0, 1] for i, g in enumerate(genes)]))
    return float(np.mean(scores))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    root = arguments.data / "her2st"
    sections = {n: read_section(root, n, mpp=MPP, spot_diameter_um=DIAMETER_UM) for n in SECTIONS}
    genes = sorted(set.intersection(*(set(s["spots"].var_names) for s in sections.values())))
    counts = {n: s["spots"][:, genes].X.toarray() for n, s in sections.items()}
    totals = {n: np.asarray(s["spots"].X.sum(axis=1)).reshape(-1, 1) for n, s in sections.items()}
    network = load_imagenet_lite0().to(memory_format=torch.channels_last)
    result: list[dict[str, Any]] = []
    for target_mpp in (0.5, 1.0):
        with torch.inference_mode():
            found = {n: features(network, s, target_mpp) for n, s in sections.items()}
        for name, part in {**{str(k): v for k, v in STAGES.items()}, "2, 3, 4": slice(None)}.items():
            spot, with_disc = (
                max(
                    mean_r({n: f[:, :discs, part].reshape(len(f), -1) for n, f in found.items()}, counts, totals, alpha)
                    for alpha in (300, 3000, 20000)
                )
                for discs in (1, 2)
            )
            result.append({"mpp": target_mpp, "stages": name, "spot": spot, "spot and wide disc": with_disc})
            print(result[-1], flush=True)
    report(result, arguments.out)


if __name__ == "__main__":
    main()
