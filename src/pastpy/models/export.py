"""The way from a crop to its embedding as an ONNX file, for use without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from pastpy.models.crops import crop_weights, pass_pixels

if TYPE_CHECKING:
    from pastpy.models.past import PAST

__all__ = ["ImagePath", "export_onnx"]

#: Largest difference between the file's embeddings and the model's.
TOLERANCE = 1e-3


class ImagePath(nn.Module):
    """``embed_image`` of a model for crops of one size, as a graph of tensor operations alone.

    Parameters
    ----------
    model
        The model.
    crop_px
        Side of the crops, px; they must hold all regions.

    Raises
    ------
    ValueError
        If a region lies outside the crops.
    """

    def __init__(self, model: PAST, crop_px: int) -> None:
        super().__init__()
        self.model = model
        known = torch.zeros(model.member_tokens, 1, device=model.device)
        known[model.image_regions] = 1.0
        known[sum(len(each.regions) for each in model.passes) :] = 1.0
        #: 0 for the tokens of outlines, which a crop does not show, and 1 for others.
        self.register_buffer("known", known)
        nothing = torch.zeros(1, 3, crop_px, crop_px, device=model.device)
        for each in model.passes:
            with torch.no_grad():
                grid = model.image_encoder(pass_pixels(model.image_encoder, nothing, each)).shape[-2:]
            weights = crop_weights(model.image_encoder, (crop_px, crop_px), grid, each)
            from_image = torch.tensor([region.of_image for region in each.regions])
            if not weights[from_image].isfinite().all():
                widest, mpp = max(region.reach_um for region in each.regions), model.config.target_mpp
                raise ValueError(
                    f"a crop of {crop_px} px ({crop_px * mpp:g} µm) does not hold every region; they reach "
                    f"{widest:g} µm from the cell, so use crop_px={-(-2 * widest // mpp):g} or more"
                )
            self.register_buffer(f"weights_{each.name}", weights.nan_to_num().to(model.device))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed normalised pixels, float32 (n, 3, crop_px, crop_px), as (n, embedding_dim), L2-normalised."""
        model = self.model
        pooled = []
        for each in model.passes:
            grid = model.image_encoder(pass_pixels(model.image_encoder, pixels, each)).flatten(2).transpose(1, 2)
            pooled.append(self.get_buffer(f"weights_{each.name}") @ grid)
        standardised = model.usual.standardise(torch.cat(pooled, dim=1))
        known = self.get_buffer("known")
        standardised = standardised * known[: standardised.shape[1]]
        tokens = torch.cat([member.image_tokens(standardised) * known for member in model.members], dim=1)
        return F.normalize(model.image_projection(tokens.flatten(1)) - model.image_centre, dim=1)


def export_onnx(model: PAST, path: str | Path, *, crop_px: int = 160) -> Path:
    """Write ``model.embed_image`` for crops of one size to an ONNX file, and check the file against the model.

    Parameters
    ----------
    model
        The model; it is put into evaluation mode.
    path
        File to write.
    crop_px
        Side of the crops at the model's µm/px, px.

    Returns
    -------
    The file. Its input ``pixels`` is float32 (n, 3, crop_px, crop_px), normalised by ``model.image_stats``; its output
    ``embedding`` is float32 (n, embedding_dim), L2-normalised.

    Raises
    ------
    ModuleNotFoundError
        If the extra ``onnx`` is not installed.
    ValueError
        If a region lies outside the crops.
    RuntimeError
        If the file's embeddings differ from the model's by more than 10⁻³; the file is removed then.

    Examples
    --------
    >>> import pastpy as past
    >>> past.models.export_onnx(past.models.load("past-mini"), "past-mini.onnx")  # doctest: +SKIP
    PosixPath('past-mini.onnx')
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch's exporter is written in
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"export needs {error.name}: pip install 'pastpy[onnx]'") from error
    path = Path(path)
    graph = ImagePath(model.eval(), crop_px).eval()
    pixels = torch.randn(2, 3, crop_px, crop_px, generator=torch.Generator().manual_seed(0)).to(model.device)
    torch.onnx.export(
        graph, (pixels,), path, dynamo=True, external_data=False, verbose=False, input_names=["pixels"],
        output_names=["embedding"], dynamic_shapes={"pixels": {0: torch.export.Dim("n")}},
    )  # fmt: skip
    with torch.inference_mode():
        expected = model.embed_image(pixels).cpu().numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"pixels": pixels.cpu().numpy()})
    apart = float(abs(found - expected).max())
    if not apart <= TOLERANCE:
        path.unlink()
        raise RuntimeError(f"the exported graph is {apart:.2g} away from the model, more than {TOLERANCE:g}")
    return path
