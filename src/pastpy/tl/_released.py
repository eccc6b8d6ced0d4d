"""The released PAST in ``tl.embed``: crops at a stated µm/px, tokens of measured genes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy._warn import warn_user
from pastpy.tl._run_image import NormalisedCrops

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from pastpy.engine import Step
    from pastpy.models import ReleasedPAST
    from pastpy.tl._inputs import Options

__all__ = ["CROP_MPP", "check_mpp", "embed_counts", "gather_counts", "released_step"]

#: µm/px of the crops, 224 px: 56 µm. The release read them at the scanner's own 0.2125–0.274 µm/px.
CROP_MPP = 0.25
#: Dense use pools the patches within this distance of a cell's centre, µm.
_DENSE_RADIUS_UM = 5.0
#: An image this much coarser than the crops lacks detail that the network was trained on.
_COARSER = 1.5
#: Cells whose tokens are encoded at once.
_ROWS = 64

_TOKENIZER = ("vocabulary", "assay", "means", "species", "modality")


def _as_embedding(features: torch.Tensor, units: np.ndarray) -> dict[str, torch.Tensor]:
    return {"embedding": features}


@dataclass
class _ProjectedPatches:
    """Patches pooled at a cell, projected as if they were the feature of its crop."""

    model: ReleasedPAST

    def __call__(self, pooled: torch.Tensor, units: np.ndarray) -> dict[str, torch.Tensor]:
        """L2-normalised embeddings of pooled patches, (n, 1, channels)."""
        from torch.nn import functional as F

        return {"embedding": F.normalize(self.model.image_projection(pooled[:, 0]), dim=1)}

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)


def released_step(model: ReleasedPAST, mode: str, *, target_mpp: float) -> Step:
    """A crop a cell, or, on request and with a warning, patches of windows that cells share."""
    from pastpy.engine import CropStep, Region, TokenStep

    if mode == "crop":
        return CropStep(NormalisedCrops(model, model.embed_image), _as_embedding)
    from pastpy.models.adapters import PatchTokens, WindowEncoder

    warn_user(
        "mode='dense' pools the patches around each cell; the released model was trained on the class token of a crop "
        "a cell, so these are not its embeddings. Leave mode=None for those"
    )
    mean, std = model.image_stats
    tokens = PatchTokens(model.image_encoder.model, model.crop_px)
    channels = model.config.image_dim
    encoder = WindowEncoder(
        tokens, window_px=model.crop_px, stride=tokens.stride, channels=channels, mean=mean, std=std
    ).to(model.device)
    region = Region("cell", "disc", _DENSE_RADIUS_UM)
    return TokenStep(encoder, (region,), _ProjectedPatches(model), target_mpp)


def check_mpp(mpp: float, target_mpp: float, image_key: str) -> None:
    """Warn of an image that is much coarser than the crops."""
    if mpp > _COARSER * target_mpp:
        warn_user(
            f"image {image_key!r} has {mpp:g} µm/px and is enlarged to the {target_mpp:g} at which the released model "
            "reads: detail that it was trained on is missing"
        )


def gather_counts(
    table: AnnData, options: Options, tokenizer: Mapping[str, Any] | None, *, required: bool, name: str
) -> csr_matrix | None:
    """Counts that can be turned into tokens, or ``None``.

    Raises
    ------
    ValueError
        If counts are required and cannot be, or ``tokenizer`` has unknown entries.
    """
    from pastpy.tl._inputs import counts_of

    unknown = sorted(set(tokenizer or {}) - set(_TOKENIZER))
    if unknown:
        raise ValueError(f"tokenizer has the entries {unknown}; those of pastpy.models.tokenize are {list(_TOKENIZER)}")
    if tokenizer is not None:
        return counts_of(table, options.layer, required=required, name=name)
    message = (
        "the released model reads expression as tokens of its own vocabulary; pass "
        "tokenizer={'vocabulary': …, 'assay': …, 'means': …}, see pastpy.models.tokenize"
    )
    if required:
        raise ValueError(f"{message}, or modality='image'")
    if table.n_vars:
        warn_user(f"only the image is used: {message}")
    return None


def embed_counts(
    model: ReleasedPAST, counts: csr_matrix, genes: list[str], tokenizer: Mapping[str, Any]
) -> tuple[np.ndarray, str]:
    """Embeddings of measured cells, float32 (n, 256), NaN for cells without a known gene; and what the tokens cover."""
    import torch

    from pastpy.models import tokenize

    tokens = tokenize(counts, genes, **tokenizer)
    with torch.inference_mode():
        parts = [
            model.embed_tokens(ids, mask).float().cpu().numpy()
            for ids, mask in zip(tokens.token_ids.split(_ROWS), tokens.padding_mask.split(_ROWS), strict=True)
        ]
    out = np.concatenate(parts)
    out[tokens.coverage.empty_cells] = np.nan
    return out, str(tokens.coverage)
