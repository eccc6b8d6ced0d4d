"""``past.tl.embed``: joint embeddings of cells from image, expression or both."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._provenance import record
from pastpy.tl import _inputs

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from spatialdata import SpatialData

    from pastpy.models.past import PAST

__all__ = ["embed"]


def embed(
    sdata: SpatialData | AnnData | str | Path | Sequence[Any],
    model: str | Path | PAST = "past-mini",
    *,
    modality: _inputs.Modality = "auto",
    mode: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    mpp: float | None = None,
    coordinate_system: str = _keys.COORDINATE_SYSTEM,
    device: str = "auto",
    batch_size: int | None = None,
    key_added: str = _keys.PAST,
    progress: bool = True,
    copy: bool = False,
) -> AnnData | list[AnnData] | None:
    """Embed every row of a table in the space shared by images and transcriptomes.

    Parameters
    ----------
    sdata
        SpatialData with an H&E image, shapes and a table that annotates them; an AnnData (expression only); the path
        of a SpatialData zarr store, whose table is written back; or a list of these.
    model
        Bundled name, model folder, or a loaded model.
    modality
        ``"auto"`` uses what a row has; ``"image"``, ``"expression"`` or ``"both"`` insist.
    mode
        ``"dense"`` encodes each field once and pools every cell's tokens from it; ``"crop"`` gives every cell a field
        of its own (the reference, many times slower, same result). ``None`` is the model's own.
    layer
        Layer with raw counts; ``None`` means ``X``.
    image_key, shapes_key, table_key
        Names of the elements; see the package's conventions for the defaults.
    mpp
        µm per level-0 pixel of the image, if the reader did not store it or stored it wrongly.
    coordinate_system
        Coordinate system in which image and shapes meet.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``.
    batch_size
        Fields encoded together.
    key_added
        Stem of the result slots.
    progress
        Show a progress bar.
    copy
        Return a changed copy of the table and leave the object as it was.

    Returns
    -------
    ``None``, or the changed copy (a list of them for a list). Fills

    - ``table.obsm["X_past_image"]``, ``["X_past_expression"]``, ``["X_past"]``: float32 (n, d), L2-normalised, NaN
      where the modality is absent; ``X_past`` is the normalised sum of those that are there.
    - ``table.obs["past_valid"]``: False where a row has neither.
    - ``table.obsm["spatial"]``: µm from the image's top-left corner.
    - ``table.uns["past"]["embed"]``: what is needed to repeat the call.

    Raises
    ------
    KeyError
        If an element cannot be found, or there are several to choose from.
    ValueError
        If µm/px is unknown, counts are not counts, or the model does not fit.

    References
    ----------
    Yang et al., PAST, arXiv:2507.06418.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.tl.embed(sdata, modality="image", progress=False)
    >>> sdata["spots"].obsm["X_past"].shape[0] == sdata["spots"].n_obs
    True
    """
    loaded = _inputs.load_model(model, device)
    work = partial(
        _embed_one, model=loaded, modality=modality, mode=mode, layer=layer, image_key=image_key,
        shapes_key=shapes_key, table_key=table_key, mpp=mpp, coordinate_system=coordinate_system,
        batch_size=batch_size, key_added=key_added, progress=progress,
    )  # fmt: skip
    return _inputs.apply(sdata, work, copy=copy)


def _embed_one(
    data: SpatialData | AnnData,
    *,
    copy: bool,
    model: PAST,
    modality: _inputs.Modality,
    mode: str | None,
    layer: str | None,
    image_key: str | None,
    shapes_key: str | None,
    table_key: str | None,
    mpp: float | None,
    coordinate_system: str,
    batch_size: int | None,
    key_added: str,
    progress: bool,
) -> AnnData:
    mode = _inputs.check_mode(mode)
    inputs = _inputs.gather(
        data, model, modality=modality, layer=layer, image_key=image_key, shapes_key=shapes_key, table_key=table_key,
        mpp=mpp, coordinate_system=coordinate_system,
    )  # fmt: skip
    n, dim = inputs.table.n_obs, model.config.embedding_dim
    image = expression = np.full((n, dim), np.nan, dtype=np.float32)
    facts = {**_inputs.model_facts(model), "mode": mode, "modality": modality, "layer": layer}
    if inputs.image is not None:
        sink = _inputs.run_image(
            inputs.image, model, partial(_image_head, model), n=n, mode=mode, batch_size=batch_size, progress=progress
        )
        image = sink["embedding"] if "embedding" in sink else image
        facts |= inputs.image.facts
    if inputs.expression is not None:
        expression = _expression_embedding(model, inputs.expression)
    table = inputs.table.copy() if copy else inputs.table
    _write(table, _keys.Slots(key_added), image, expression)
    if inputs.image is not None:
        _inputs.write_spatial(table, inputs.image.spatial_um)
    record(table, "embed", {**facts, "key_added": key_added})
    return table


def _image_head(model: PAST, pooled: torch.Tensor, units: np.ndarray) -> dict[str, torch.Tensor]:
    from torch.nn import functional as F

    return {"embedding": F.normalize(model.project_image(model.image_tokens(pooled)), dim=1)}


def _expression_embedding(model: PAST, inputs: _inputs.ExpressionInput) -> np.ndarray:
    import torch

    with torch.inference_mode():
        return model.embed_counts(inputs.counts, inputs.columns).cpu().numpy()


def joint_embedding(image: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """L2-normalised sum of two embeddings, float32 (n, d); the one that is there where the other is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> joint_embedding(np.array([[1.0, 0.0]]), np.array([[np.nan, np.nan]])).tolist()
    [[1.0, 0.0]]
    """
    absent = np.isnan(image).all(axis=1) & np.isnan(expression).all(axis=1)
    total = np.nan_to_num(image) + np.nan_to_num(expression)
    joint = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)
    joint[absent] = np.nan
    return joint.astype(np.float32)


def _write(table: AnnData, slots: _keys.Slots, image: np.ndarray, expression: np.ndarray) -> None:
    joint = joint_embedding(image, expression)
    valid = np.isfinite(joint).all(axis=1)
    table.obsm[slots.embedding_image] = image
    table.obsm[slots.embedding_expression] = expression
    table.obsm[slots.embedding] = joint
    table.obs[slots.valid] = valid
    if not valid.all():
        warnings.warn(
            f"{int((~valid).sum())} of {len(valid)} rows could not be embedded (no pixels inside the image and no "
            f"counts of known genes); keep the others with table[table.obs[{slots.valid!r}]]",
            UserWarning,
            stacklevel=4,
        )
