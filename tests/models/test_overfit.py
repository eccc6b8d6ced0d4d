"""A small model can tell 64 real pairs of image and expression apart: what cannot be overfitted cannot be learnt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from torch.nn import functional as F

from pastpy.models import PAST, ModelCard, PASTConfig
from pastpy.models.imagenet import load_imagenet_backbone
from pastpy.train.losses import info_nce

N_PAIRS, N_GENES, CROP_PX = 64, 120, 160


@pytest.fixture(scope="module")
def pairs(shared_data: Path) -> tuple[torch.Tensor, csr_matrix, list[str]]:
    """Pixels (64, 3, 160, 160) in [0, 1] at the section's own µm/px, and counts, of 64 spots of a breast section."""
    from PIL import Image

    folder = shared_data / "her2st"
    counts = pd.read_csv(folder / "counts" / "C3.tsv.gz", sep="\t", index_col=0)
    spots = pd.read_csv(folder / "spots" / "C3_selection.tsv", sep="\t")
    spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    spots = spots.loc[spots.index.intersection(counts.index)].iloc[:N_PAIRS]
    counts = counts.loc[spots.index]
    counts = counts[counts.sum().nlargest(N_GENES).index]
    half = CROP_PX // 2
    with Image.open(folder / "images" / "C3.jpg") as image:
        crops = [
            np.asarray(image.crop((x - half, y - half, x + half, y + half)).convert("RGB"))
            for x, y in spots[["pixel_x", "pixel_y"]].round().astype(int).to_numpy()
        ]
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    return pixels, csr_matrix(counts.to_numpy(dtype=np.float32)), counts.columns.astype(str).tolist()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_sixty_four_real_pairs_are_told_apart(pairs):
    pixels, counts, genes = pairs
    torch.manual_seed(0)
    model = PAST(PASTConfig(name="tiny", dropout=0.0), ModelCard(pd.DataFrame({"gene": genes}), {}))
    load_imagenet_backbone(model.image_encoder, 2)
    columns = np.arange(len(genes))
    with torch.no_grad():
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in model.image_stats)
        pooled = torch.cat([model.pool_crops((part - mean) / std) for part in pixels.split(16)])
        model.feature_mean.copy_(pooled.mean(dim=0))
        model.feature_std.copy_(pooled.std(dim=0) + 1e-3)
    optimizer = torch.optim.Adam(model.trained_parameters(), lr=3e-3)

    def embed() -> tuple[torch.Tensor, torch.Tensor]:
        image = model.project_image(model.image_tokens(pooled))
        return F.normalize(image, dim=1), F.normalize(
            model.project_expression(model.encode_counts(counts, columns)), dim=1
        )

    with torch.no_grad():
        untrained = recall(*embed())
    for _ in range(300):
        loss = info_nce(*embed(), model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.05:
            break
    assert loss < 0.05, "within 300 steps"
    with torch.no_grad():
        assert recall(*embed()) == 1.0
    assert untrained < 0.2


def recall(image: torch.Tensor, expression: torch.Tensor) -> float:
    """Share of the pairs that are each other's nearest, in both directions."""
    nearest = image @ expression.T
    own = torch.arange(len(nearest))
    return float(((nearest.argmax(dim=1) == own) & (nearest.argmax(dim=0) == own)).float().mean())
