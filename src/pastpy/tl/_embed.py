"""``past.tl.embed``: joint embeddings of cells from image, expression or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._provenance import record, recorded
from pastpy._warn import warn_user
from pastpy.tl import _inputs, _released, _run_image, _slides
from pastpy.tl._other_regions import OtherRegions

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from spatialdata import SpatialData

    from pastpy.models import PAST, ReleasedPAST

__all__ = ["embed"]

#: Rows whose tokens are joined at once; bounds memory.
_ROWS = 16384


def embed(
    sdata: SpatialData | AnnData | str | Path | Sequence[Any],
    model: str | Path | PAST | ReleasedPAST = "past-mini",
    *,
    modality: _inputs.Modality = "auto",
    mode: str | None = None,
    layer: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    library_key: str | None = None,
    mpp: float | Mapping[str, float] | None = None,
    coordinate_system: str | Mapping[str, str] = _keys.COORDINATE_SYSTEM,
    on_misaligned: _inputs.OnMisaligned = "warn",
    tokenizer: Mapping[str, Any] | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    key_added: str = _keys.PAST,
    client: Any = None,
    resume: str | Path | None = None,
    progress: bool = True,
    copy: bool = False,
) -> AnnData | list[AnnData | None] | None:
    """Embed every row of a table in the space shared by images and transcriptomes.

    Parameters
    ----------
    sdata
        SpatialData with an H&E image, shapes and a table that annotates them; an AnnData (expression only); the path
        of a SpatialData zarr store, whose table is written back; or a list of these.
    model
        Bundled name, model folder, released checkpoint, or a loaded model.
    modality
        ``"auto"`` uses what a row has; ``"image"``, ``"expression"`` or ``"both"`` insist.
    mode
        ``"dense"`` encodes each field once and pools every cell's tokens from it; ``"crop"`` gives every cell a field
        of its own (the reference, many times slower). ``None`` is the model's own: dense for past-mini, where both
        agree; crop for the released PAST, whose dense use is another quantity and warned of.
    layer
        Layer with raw counts; ``None`` means ``X``. Columns of one gene are summed.
    image_key, shapes_key, table_key
        Names of the elements; see the package's conventions for the defaults. A table that annotates several shapes
        (regions, sections) is worked one after the other, or those of ``shapes_key`` alone, and rows of the others
        then keep what the same model has given them before; where they lie on several images, ``image_key`` is a
        mapping from the shapes to their image.
    library_key
        ``obs`` column with the section, core of a microarray or region of each row, as squidpy's. Models that look at
        neighbouring cells never look from one library into another; rows that annotate different shapes are never
        neighbours anyway.
    mpp
        µm per level-0 pixel of the image, if the reader did not store it or stored it wrongly; or a mapping from the
        shapes.
    coordinate_system
        Coordinate system in which image and shapes meet; or a mapping from the shapes.
    on_misaligned
        What to do where the table's shapes do not lie on the tissue of the image: ``"warn"``, ``"raise"`` or
        ``"ignore"``. Where that cannot be told, as of cells of another section, a warning says so and nothing is
        raised (:func:`pastpy.pp.check_alignment`).
    tokenizer
        For the released PAST: what :func:`pastpy.models.tokenize` needs beside counts and genes (``vocabulary``,
        ``assay``, ``means``, …). Without it expression is left out.
    device
        ``"auto"``, ``"cpu"``, ``"cuda"``, ``"mps"``.
    batch_size
        Tiles of a field, or crops, encoded together; found by itself by default, and halved when memory runs out.
    key_added
        Stem of the result slots.
    client
        ``dask.distributed.Client`` over whose workers the fields of the image are spread.
    resume
        Zarr store to which results of the image are streamed; the same call goes on there after it was killed, to the
        same bits. For a list, a folder of such stores; of several shapes, each has its store beside that name.
    progress
        Show a progress bar, and a report of a list.
    copy
        Return a changed copy of the table and leave the object as it was.

    Returns
    -------
    ``None``, or the changed copy (a list of them for a list, ``None`` for those that failed). Fills

    - ``table.obsm["X_past_image"]``, ``["X_past_expression"]``, ``["X_past"]``: float32 (n, d), L2-normalised, NaN
      where the modality is absent; ``X_past`` is the normalised sum of those that are there, or what the model itself
      makes of both.
    - ``table.obs["past_valid"]``: False where a row has neither.
    - ``table.obsm["spatial"]``: µm from the top-left corner of the row's image.
    - ``table.uns["past"]["embed"]``: what is needed to repeat the call.

    Of a list, an object that fails does not stop the others: a warning at the end names it. If all fail, the first
    one's exception is raised.

    Raises
    ------
    KeyError
        If an element or column cannot be found, or there are several to choose from.
    ValueError
        If µm/px is unknown, counts are not counts, ids stand more than once, a row has no library, the model does not
        fit, ``key_added`` cannot be stored, or ``resume`` holds results of another model, µm/px or image.
    PermissionError
        If the results of a stored object are to be written to a read-only store; nothing is computed then.

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
    options = _inputs.Options(
        modality=modality, mode=mode, layer=layer, image_key=image_key, shapes_key=shapes_key, table_key=table_key,
        library_key=library_key, mpp=mpp, coordinate_system=coordinate_system, on_misaligned=on_misaligned,
        device=device, batch_size=batch_size, key_added=key_added, client=client, progress=progress,
    )  # fmt: skip
    loaded = _inputs.load_model(model, device)
    work = partial(_embed_one, embedding=_embedding_of(loaded, tokenizer), options=options)
    return _slides.apply(sdata, work, copy=copy, resume=resume, progress=progress)


def _embedding_of(
    model: PAST | ReleasedPAST, tokenizer: Mapping[str, Any] | None
) -> Callable[[SpatialData | AnnData, _inputs.Options], _Embeddings]:
    """How a model embeds an object."""
    from pastpy.models import PAST

    if not isinstance(model, PAST):
        return partial(_embed_released, model, tokenizer)
    if tokenizer is not None:
        raise ValueError("tokenizer= is for the released PAST; this model reads counts by gene symbols")
    return partial(_embed_past, model)


@dataclass
class _Embeddings:
    """What is written: embeddings float32 (n, d) of each modality and of both, NaN where there is none.

    ``rows`` are those that are worked, bool (n,), ``None`` for all.
    """

    table: AnnData
    rows: np.ndarray | None
    spatial_um: np.ndarray | None
    image: np.ndarray
    expression: np.ndarray
    joint: np.ndarray | None
    facts: dict[str, Any]


def _embed_one(
    data: SpatialData | AnnData,
    *,
    copy: bool,
    resume: str | Path | None,
    embedding: Callable[[SpatialData | AnnData, _inputs.Options], _Embeddings],
    options: _inputs.Options,
) -> AnnData:
    with _inputs.with_workers(replace(options, resume=resume)) as options:
        found = embedding(data, options)
    table = _inputs.result_table(found.table, copy)
    joint = found.joint if found.joint is not None else joint_embedding(found.image, found.expression)
    others = OtherRegions(found.rows, found.facts, recorded(table, "embed", options.key_added))
    _write(table, _keys.Slots(options.key_added), others, found.image, found.expression, joint)
    if found.spatial_um is not None:
        _inputs.write_spatial(table, found.spatial_um, found.rows)
    record(table, "embed", {**others.facts(), **options.facts()})
    return table


def _embed_past(model: PAST, data: SpatialData | AnnData, options: _inputs.Options) -> _Embeddings:
    """Embeddings of a model of pastpy's."""
    inputs = _inputs.gather(data, model, options)
    mode = options.mode or model.mode
    dim = model.config.embedding_dim
    image: np.ndarray | None = None
    expression: np.ndarray | None = None
    joint: np.ndarray | None = None
    spatial_um = _inputs.spatial_of(inputs.images)
    if inputs.expression is not None:
        expression = _expression_embedding(model, inputs.expression)
    if model.joint is not None or (inputs.images and model.config.neighbours):
        image, joint = _from_tokens(model, inputs, options, mode)
    elif inputs.images:
        head = _ImageEmbedding(model)
        image = _run_image.over_regions(
            inputs.images, options,
            lambda region, o: _run_image.run_past(region, model, head, o, mode, output="embedding", shape=(dim,)),
        )  # fmt: skip
    # the run adds to what is known of the images
    facts = {**_inputs.model_facts(model), "mode": mode, **_inputs.image_facts(inputs.images)}
    # only now: of a million cells the rows of NaN would fill 256 MB while the image is worked
    image, expression = (
        np.full((inputs.table.n_obs, dim), np.nan, dtype=np.float32) if part is None else part
        for part in (image, expression)
    )
    rows = _inputs.rows_worked(inputs.images)
    return _Embeddings(inputs.table, rows, spatial_um, image, expression, joint, facts)


class _ImageEmbedding(_run_image.PastHead):
    """Image tokens in the joint space."""

    def outputs(self, tokens: Callable[[], torch.Tensor], units: np.ndarray) -> dict[str, torch.Tensor]:
        """L2-normalised embeddings."""
        from torch.nn import functional as F

        return {"embedding": F.normalize(self.model.project_image(tokens()), dim=1)}


def _from_tokens(
    model: PAST, inputs: _inputs.Inputs, options: _inputs.Options, mode: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Image embeddings, and joint ones of a model that makes them itself, where these need the tokens of all cells."""
    import torch
    from torch.nn import functional as F

    n, dim = inputs.table.n_obs, model.config.embedding_dim
    image = np.full((n, dim), np.nan, dtype=np.float32)
    joint = image.copy() if model.joint is not None else None
    tokens = None
    if inputs.images:
        tokens = _run_image.over_regions(
            inputs.images, options, lambda region, o: _run_image.image_tokens(region, model, o, mode)
        )
    with torch.inference_mode():
        for rows in np.array_split(np.arange(n), -(-n // _ROWS)):
            part = None if tokens is None else tokens[rows[0] : rows[-1] + 1]
            if part is not None:
                seen = ~part.isnan().flatten(1).all(dim=1)
                embedded = F.normalize(model.project_image(part), dim=1)
                image[rows] = embedded.masked_fill(~seen[:, None], float("nan")).cpu().numpy()
            if joint is not None:
                cells = inputs.expression
                measured = None if cells is None else model.encode_counts(cells.counts[rows], cells.columns)
                joint[rows] = model.embed_joint(part, measured).cpu().numpy()
    return image, joint


def _embed_released(
    model: ReleasedPAST, tokenizer: Mapping[str, Any] | None, data: SpatialData | AnnData, options: _inputs.Options
) -> _Embeddings:
    """Embeddings of the released PAST."""
    mode, target_mpp = options.mode or model.mode, model.target_mpp or _released.CROP_MPP
    table, images, name = _inputs.gather_table(data, options, target_mpp=target_mpp)
    image = expression = np.full((table.n_obs, model.embedding_dim), np.nan, dtype=np.float32)
    facts: dict[str, Any] = {**_inputs.model_facts(model), "mode": mode}
    counts = None
    if options.modality != "image":
        required = not images or options.modality != "auto"
        counts = _released.gather_counts(table, options, tokenizer, required=required, name=name)
    if images:
        for each in images:
            _released.check_mpp(each.facts["mpp"], target_mpp, each.facts["image_key"])
        step, shape = _released.released_step(model, mode, target_mpp=target_mpp), (model.embedding_dim,)
        image = _run_image.over_regions(
            images, options,
            lambda region, o: _run_image.run_image(
                region, model, step, o, outputs={"embedding": shape}, identity={"output": "embedding", "mode": mode}
            )["embedding"],
        )  # fmt: skip
        facts |= _inputs.image_facts(images)
    if counts is not None and tokenizer is not None:
        expression, facts["tokens"] = _released.embed_counts(model, counts, table.var_names.tolist(), tokenizer)
    rows, spatial_um = _inputs.rows_worked(images), _inputs.spatial_of(images)
    return _Embeddings(table, rows, spatial_um, image, expression, None, facts)


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
    import torch

    from pastpy.models.joint import normalised_sum

    joint = np.empty(image.shape, dtype=np.float32)
    for start in range(0, len(image), _ROWS):
        rows = slice(start, start + _ROWS)
        joint[rows] = normalised_sum(torch.from_numpy(image[rows]), torch.from_numpy(expression[rows])).numpy()
    return joint


def _write(
    table: AnnData,
    slots: _keys.Slots,
    others: OtherRegions,
    image: np.ndarray,
    expression: np.ndarray,
    joint: np.ndarray,
) -> None:
    # a row is NaN as a whole; a mask of all its values would be 64 MB for a million cells
    valid = np.isfinite(joint.sum(axis=1))
    worked = valid if others.worked is None else valid[others.worked]
    n_worked, n_without = len(worked), int((~worked).sum())
    others.warn_of_lost(table, slots.embedding)
    for slot, found in (
        (slots.embedding_image, image),
        (slots.embedding_expression, expression),
        (slots.embedding, joint),
    ):
        table.obsm[slot] = others.merged(found, table.obsm.get(slot))
    table.obs[slots.valid] = others.merged(valid, table.obs.get(slots.valid), absent=False)
    if n_without:
        warn_user(
            f"{n_without} of {n_worked} rows could not be embedded (no pixels inside the image and no "
            f"counts of known genes); keep the others with table[table.obs[{slots.valid!r}]]"
        )
