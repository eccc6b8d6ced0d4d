"""``past.tl.impute_expression``: predicted expression of every cell, with predictive uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy._elements import record_added, require_spatialdata
from pastpy._names import check_name, check_new
from pastpy._provenance import forget, record, recorded
from pastpy._warn import warn_user
from pastpy.tl import _inputs, _run_image, _slides
from pastpy.tl._other_regions import OtherRegions

if TYPE_CHECKING:
    import torch
    from anndata import AnnData
    from spatialdata import SpatialData

    from pastpy.models import PAST

__all__ = ["impute_expression", "names_in_model"]

#: Genes that an ``obsm`` frame may hold; more go to a table of their own.
MAX_OBSM_GENES = 500
#: Two-sided level of the predictive interval.
INTERVAL = 0.9
#: Subnetworks whose predictions say how far the model itself is unsure.
SUBNETWORKS = 9
#: Rows whose tokens are decoded at once.
_ROWS = 4096
#: Predictions whose spread is computed at once, in float64.
_SPREAD_VALUES = 2**19


def impute_expression(
    sdata: SpatialData | AnnData | str | Path | Sequence[Any],
    model: str | Path | PAST = "past-mini",
    *,
    genes: Sequence[str] | None = None,
    uncertainty: bool = False,
    target_sum: float = _keys.TARGET_SUM,
    table_added: str | None = None,
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
    device: str = "auto",
    batch_size: int | None = None,
    key_added: str = _keys.PAST,
    client: Any = None,
    resume: str | Path | None = None,
    progress: bool = True,
    copy: bool = False,
) -> AnnData | list[AnnData | None] | None:
    """Predict the expression of every row of a table from its image, its measured genes, or both.

    Parameters
    ----------
    sdata
        SpatialData with an H&E image, shapes and a table that annotates them; an AnnData (expression only); the path of
        a SpatialData zarr store, whose table is written back; or a list of these.
    model
        Bundled name, model folder, or a loaded model.
    genes
        Gene symbols; ``None`` takes those that the model card trusts, at most 500. A name that is not the model's is
        looked up as in :func:`pastpy.pp.gene_report` (current and retired symbols, aliases, Ensembl ids), with a
        warning; the column keeps it as it was asked for. A gene that the model has never seen gives NaN.
    uncertainty
        Also store the predictive standard deviation and a central 90 % interval, for one unit of the depth in
        ``uns["past"]["impute_expression"]["depth"]``. They hold the counting noise and overdispersion of the training
        spots, and how far nine subnetworks of the model (of its members in turn, with fixed dropout masks) disagree;
        not the error that all of them share on other tissue, nor how far a linear readout is from them.
    target_sum
        Depth to which the prediction is scaled.
    table_added
        Write the prediction as ``X`` of a new table of this name instead of ``obsm``; needed above 500 genes.
    modality
        ``"auto"`` uses what a row has; use ``"image"`` to predict measured genes from the image alone.
    mode, layer, image_key, shapes_key, table_key, library_key, mpp, coordinate_system, on_misaligned
        As in :func:`pastpy.tl.embed`.
    device, batch_size, key_added, client, resume, progress, copy
        As in :func:`pastpy.tl.embed`.

    Returns
    -------
    ``None``, or the changed copy of the table (a list of them for a list, ``None`` for those that failed). Fills

    - ``table.obsm["past_expression"]``: frame (n, genes), float32, log1p(target_sum · μ_g / Σμ), the sum over the
      model's whole vocabulary; NaN rows where there is nothing to predict from.
    - ``table.obsm["past_expression_std"]``, ``["past_expression_lower"]``, ``["past_expression_upper"]`` with
      ``uncertainty=True``; those of an earlier prediction, also of :func:`pastpy.tl.conformal`, are removed.
    - ``table.obsm["spatial"]``: µm from the top-left corner of the row's image.
    - ``table.uns["past"]["impute_expression"]``: model, parameters, per-gene validation scores.

    Raises
    ------
    KeyError
        If an element or column cannot be found, or there are several to choose from.
    ValueError
        If µm/px is unknown, counts are not counts, ids stand more than once, a row has no library, names of genes or
        results cannot be stored or are taken, or there are too many genes for ``obsm``.
    PermissionError
        If the results of a stored object are to be written to a read-only store; nothing is computed then.

    References
    ----------
    Yang et al., PAST, arXiv:2507.06418; negative binomial decoder after Lopez et al., Nat Methods 15:1053 (2018),
    doi:10.1038/s41592-018-0229-2.

    Examples
    --------
    >>> import pastpy as past
    >>> sdata = past.datasets.breast_st()
    >>> past.tl.impute_expression(sdata, genes=["ERBB2", "KRT8"], modality="image", progress=False)
    >>> sdata["spots"].obsm["past_expression"].columns.tolist()
    ['ERBB2', 'KRT8']
    """
    options = _inputs.Options(
        modality=modality, mode=mode, layer=layer, image_key=image_key, shapes_key=shapes_key, table_key=table_key,
        library_key=library_key, mpp=mpp, coordinate_system=coordinate_system, on_misaligned=on_misaligned,
        device=device, batch_size=batch_size, key_added=key_added, client=client, progress=progress,
    )  # fmt: skip
    loaded = _inputs.load_past(model, device)
    chosen = _choose_genes(loaded, genes, table_added)
    if uncertainty and loaded.config.zero_inflation:
        raise ValueError(
            f"uncertainty=True knows no inflated zeros, and {loaded.config.name!r} has them; use uncertainty=False and "
            "past.tl.conformal"
        )
    # a NumPy scalar of another precision would make values of that precision
    target_sum = _positive(target_sum)
    if table_added is not None:
        check_name(table_added, "table_added")
    if table_added is not None and copy:
        raise ValueError("copy=True returns a table and table_added= adds one to the object; use one of them")
    work = partial(
        _impute_one, model=loaded, genes=chosen, uncertainty=uncertainty, target_sum=target_sum,
        table_added=table_added, options=options,
    )  # fmt: skip
    return _slides.apply(sdata, work, copy=copy, resume=resume, progress=progress)


def _choose_genes(model: PAST, genes: Sequence[str] | None, table_added: str | None) -> dict[str, str]:
    """Genes as they were asked for, and what the model calls each; one that it does not know keeps its name."""
    if genes is None:
        trusted = model.trusted_genes()
        if not trusted:
            raise ValueError(
                f"the card of {model.config.name!r} trusts no gene, so there is no default: name them with genes= "
                "(all are in model.gene_names)"
            )
        return {gene: gene for gene in trusted[:MAX_OBSM_GENES]}
    if isinstance(genes, str):
        raise ValueError(f"genes must be a list of gene symbols, got the string {genes!r}; use genes=[{genes!r}]")
    names = list(genes)
    strange = [g for g in names if not isinstance(g, str)]
    if strange:
        raise ValueError(f"genes must be a list of gene symbols, and holds {strange[:5]}; name each gene with a string")
    if not names:
        raise ValueError("genes is empty; name at least one gene, or pass None for the model's trusted genes")
    twice = sorted({g for g in names if names.count(g) > 1}) if len(set(names)) < len(names) else []
    unfit = [g for g in names if not g or "/" in g or g in (".", "..", "_index")]
    if twice or unfit:
        raise ValueError(
            f"gene names must be storable as zarr columns: {(twice + unfit)[:5]} are "
            f"{'given twice' if twice else 'empty, reserved or contain a slash'}; rename or drop them"
        )
    if len(names) > MAX_OBSM_GENES and table_added is None:
        raise ValueError(
            f"{len(names)} genes do not fit into obsm (at most {MAX_OBSM_GENES}); pass table_added='name' to write a "
            "table of their own"
        )
    known = names_in_model(model, names)
    called = {asked: own for asked, own in known.items() if asked != own}
    if called:
        some = ", ".join(f"{asked} as {own}" for asked, own in list(called.items())[:5])
        warn_user(f"{len(called)} of {len(names)} genes go by another name in {model.config.name!r}: {some}")
    unknown = [g for g in names if g not in known]
    if unknown:
        warn_user(
            f"{len(unknown)} of {len(names)} genes are not in the vocabulary of {model.config.name!r} and come out as "
            f"NaN, e.g. {unknown[:5]}"
        )
    by_card = set(model.trusted_genes())
    doubtful = [name for name, own in known.items() if own not in by_card]
    if doubtful:
        warn_user(
            f"the card of {model.config.name!r} does not trust its prediction of {len(doubtful)} of {len(names)} "
            f"genes, e.g. {doubtful[:5]}: r on held-out tissue is low, or was not measured (model.card.genes)"
        )
    return {name: known.get(name, name) for name in names}


def _positive(target_sum: float) -> float:
    try:
        value = float(target_sum)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"target_sum must be a positive number, got {target_sum!r}")
    return value


def names_in_model(model: PAST, names: Sequence[str]) -> dict[str, str]:
    """What a model calls each gene, for those that it knows, in the order of the names."""
    from pastpy.pp import gene_report
    from pastpy.pp._gene_vocabulary import guess_species

    if all(name in model.gene_index for name in names):
        return {name: name for name in names}
    try:
        species = guess_species(model.gene_names, "past")
    except ValueError:  # a model whose genes are no real ones
        return {name: name for name in names if name in model.gene_index}
    report = gene_report(names, species=species, model=model)
    return report.loc[report["in_model"], "gene"].to_dict()


def _impute_one(
    data: SpatialData | AnnData,
    *,
    copy: bool,
    resume: str | Path | None,
    model: PAST,
    genes: dict[str, str],
    uncertainty: bool,
    target_sum: float,
    table_added: str | None,
    options: _inputs.Options,
) -> AnnData:
    mode = options.mode or model.mode
    names, columns = list(genes), model.columns_of(list(genes.values()))
    if table_added is not None:
        check_new(require_spatialdata(data), table_added, "table_added")
    with _inputs.with_workers(replace(options, resume=resume)) as options:
        inputs = _inputs.gather(data, model, options)
        found = _predict(inputs, model, columns, options, mode, SUBNETWORKS if uncertainty else 0)
    table = _inputs.result_table(inputs.table, copy)
    facts = {
        **_inputs.model_facts(model), "mode": mode, "target_sum": target_sum, **options.facts(),
        **_inputs.image_facts(inputs.images), **_card_facts(model, genes),
    }  # fmt: skip
    if uncertainty:
        depth = float(model.card.facts["depth"])
        theta = np.where(columns >= 0, model.theta()[np.maximum(columns, 0)], np.nan)
        spread = _spread_in_parts(found, theta, depth=depth, target_sum=target_sum)
        facts |= {"depth": depth, "interval": INTERVAL, "subnetworks": SUBNETWORKS}
    else:
        spread = {}
    # in place: of all cells and genes this is the largest array there is
    expression = np.ascontiguousarray(found[:, 0])
    del found
    expression *= target_sum
    frames = {"": np.log1p(expression, out=expression), **spread}
    rows = _inputs.rows_worked(inputs.images)
    target = table
    if table_added is not None:
        others = OtherRegions(rows, facts, {})
        for values in frames.values():
            others.merged(values, None)
        target = _new_table(data, table, table_added, names, frames)
    else:
        slots = _keys.Slots(options.key_added)
        there = list(getattr(table.obsm.get(slots.expression), "columns", []))
        before = recorded(table, "impute_expression", options.key_added) if there == names else {}
        others = OtherRegions(rows, facts, before)
        _fill(table, slots, others, names, frames)
    spatial_um = _inputs.spatial_of(inputs.images)
    if spatial_um is not None:
        _inputs.write_spatial(target, spatial_um, rows)
    record(target, "impute_expression", others.facts())
    return target


def _fill(
    table: AnnData, slots: _keys.Slots, others: OtherRegions, names: list[str], frames: dict[str, np.ndarray]
) -> None:
    """Store predictions; rows that the call leaves out keep theirs where these are of the same genes."""
    import pandas as pd

    earlier = {suffix: table.obsm.get(f"{slots.expression}{suffix}") for suffix in frames}
    others.warn_of_lost(table, slots.expression)
    _drop_intervals(table, slots)
    for suffix, values in frames.items():
        values = others.merged(values, earlier[suffix])
        table.obsm[f"{slots.expression}{suffix}"] = pd.DataFrame(values, index=table.obs_names, columns=names)


def _drop_intervals(table: AnnData, slots: _keys.Slots) -> None:
    """Intervals of a prediction that is replaced say nothing of the new one."""
    for key in (slots.expression_std, slots.expression_lower, slots.expression_upper):
        table.obsm.pop(key, None)
    table.obs.drop(columns=slots.abstained, inplace=True, errors="ignore")
    forget(table, "conformal", slots.key_added)


def _predict(
    inputs: _inputs.Inputs,
    model: PAST,
    columns: np.ndarray,
    options: _inputs.Options,
    mode: str,
    subnetworks: int,
) -> np.ndarray:
    """Predicted share of each gene and, with subnetworks, the spread of its logarithm, float32 (n, 1 or 2, g).

    NaN where nothing is known of a row or a gene.
    """
    import torch

    n = inputs.table.n_obs
    known = np.flatnonzero(columns >= 0)
    head = _Shares(model, inputs.expression, columns[known], subnetworks)
    shape = (n, head.kinds, len(columns))
    if not len(known):
        return np.full(shape, np.nan, dtype=np.float32)
    left = np.ones(n, dtype=bool)
    if inputs.images:
        rows = _run_image.over_regions(
            inputs.images, options, lambda region, o: _from_image(region, model, head, o, mode)
        )
        left = np.asarray(np.isnan(rows).all(axis=(1, 2)))
        if len(known) == len(columns):
            found = rows
        else:
            found = np.full(shape, np.nan, dtype=np.float32)
            found[:, :, known] = rows
    else:
        found = np.full(shape, np.nan, dtype=np.float32)
    if inputs.expression is not None:
        alone = np.flatnonzero(left & inputs.expression.has_counts)
        with torch.inference_mode():
            for part in np.array_split(alone, max(1, -(-len(alone) // 512))):
                if len(part):
                    found[np.ix_(part, np.arange(head.kinds), known)] = head.predicted(None, part).cpu().numpy()
    return found


def _from_image(
    inputs: _inputs.ImageInput, model: PAST, head: _Shares, options: _inputs.Options, mode: str
) -> np.ndarray:
    """Shares, and their spread, of rows with pixels, float32 (n, 1 or 2, g)."""
    import torch

    shape = (head.kinds, len(head.columns))
    if not model.config.neighbours:
        return _run_image.run_past(
            inputs, model, head, options, mode, output="share", shape=shape, identity=head.identity()
        )
    tokens = _run_image.image_tokens(inputs, model, options, mode)
    share = np.full((len(tokens), *shape), np.nan, dtype=np.float32)
    rows = torch.nonzero(~tokens.isnan().flatten(1).all(dim=1)).ravel()
    with torch.inference_mode():
        for part in rows.split(_ROWS):
            at = part.cpu().numpy()
            share[at] = head.predicted(partial(tokens.__getitem__, part), at).cpu().numpy()
    return share


@dataclass
class _Shares(_run_image.PastHead):
    """Predicted shares of some genes, from image tokens and, where measured, from counts.

    Attributes
    ----------
    expression
        Measured counts of all rows, if any.
    columns
        int64 (g,), positions of the genes in the model's vocabulary.
    subnetworks
        Subnetworks that say how far the model is unsure.
    """

    expression: _inputs.ExpressionInput | None
    columns: np.ndarray
    subnetworks: int = 0

    @property
    def kinds(self) -> int:
        """Values a gene: its share, and with subnetworks the spread of its logarithm."""
        return 2 if self.subnetworks else 1

    def outputs(self, tokens: Callable[[], torch.Tensor], units: np.ndarray) -> dict[str, torch.Tensor]:
        """Shares and their spread, (n, 1 or 2, g)."""
        return {"share": self.predicted(tokens, units)}

    def predicted(self, tokens: Callable[[], torch.Tensor] | None, units: np.ndarray) -> torch.Tensor:
        """Shares and, with subnetworks, the standard deviation of their logarithms over these, (n, 1 or 2, g).

        Parameters
        ----------
        tokens
            Makes image tokens, (n, n_image_tokens, dim), with the subnetwork that is current; ``None`` without image.
        units
            int64 (n,), rows of the table.
        """
        import torch

        from pastpy.models.subnetworks import subnetwork

        share = self._share(tokens, units)
        if not self.subnetworks:
            return share[:, None]
        logs = []
        for number in range(self.subnetworks):
            with subnetwork(number):
                logs.append(self._share(tokens, units).log())
        return torch.stack([share, torch.stack(logs).std(dim=0)], dim=1)

    def _share(self, tokens: Callable[[], torch.Tensor] | None, units: np.ndarray) -> torch.Tensor:
        """Shares, (n, g)."""
        import torch

        genes, cells = torch.from_numpy(self.columns).to(self.model.device), self.expression
        image = None if tokens is None else tokens()
        if cells is None or not cells.has_counts[units].any():
            return self.model.predict_expression(image, genes=genes)
        return self.model.predict_expression(
            image, self.model.encode_counts(cells.counts[units], cells.columns), genes=genes
        )

    def identity(self) -> dict[str, Any]:
        """Hashes of the genes and counts, and what is computed beside the shares."""
        from pastpy.engine import array_fingerprint

        cells = self.expression
        counts = "none"
        if cells is not None:
            c = cells.counts
            counts = array_fingerprint(c.data, c.indices, c.indptr, cells.columns)
        return {"genes": array_fingerprint(self.columns), "counts": counts, "subnetworks": self.subnetworks}


def _spread_in_parts(found: np.ndarray, theta: np.ndarray, *, depth: float, target_sum: float) -> dict[str, np.ndarray]:
    """:func:`predictive_spread` of shares and the spread of their logarithms, (n, 2, g), some genes at a time."""
    n, _, n_genes = found.shape
    out = {suffix: np.empty((n, n_genes), dtype=np.float32) for suffix in ("_std", "_lower", "_upper")}
    for genes in np.array_split(np.arange(n_genes), max(1, n * n_genes // _SPREAD_VALUES)):
        part = predictive_spread(
            found[:, 0, genes], theta[genes], depth=depth, target_sum=target_sum, log_spread=found[:, 1, genes]
        )
        for suffix, values in part.items():
            out[suffix][:, genes] = values
    return out


def predictive_spread(
    share: np.ndarray,
    theta: np.ndarray,
    *,
    depth: float,
    target_sum: float,
    log_spread: np.ndarray | float = 0.0,
) -> dict[str, np.ndarray]:
    """Spread of log1p(target_sum · count / depth) for negative-binomial counts of mean ``depth · share``.

    What the model is unsure of comes on top: variances add, and the interval widens around the prediction as the
    standard deviation does. An end on the wrong side of the prediction is moved to it: that of a rare gene, a mean,
    lies above nearly all of the counts, which are 0.

    Parameters
    ----------
    share
        (n, g) predicted shares.
    theta
        (g,) inverse dispersion.
    depth
        Counts of one unit.
    target_sum
        Depth to which counts are scaled.
    log_spread
        (n, g) standard deviation of the logarithm of the share itself.

    Returns
    -------
    ``"_std"``, ``"_lower"`` and ``"_upper"``, float32 (n, g): standard deviation and central interval.
    """
    from scipy.stats import nbinom

    mu = depth * share.astype(np.float64)
    p = theta / (theta + mu)
    tail = (1 - INTERVAL) / 2
    scale = target_sum / depth
    counting = _spread_by_gene(mu, theta, scale)
    # of log1p(target_sum · share), by its slope over the logarithm of the share
    own = log_spread * target_sum * share / (1 + target_sum * share)
    std = np.hypot(counting, own).astype(np.float32)
    middle = np.log1p(target_sum * share)
    wider = np.divide(std, counting, out=np.ones_like(std), where=counting > 0)
    below, above = (np.log1p(scale * nbinom.ppf(q, theta, p)) - middle for q in (tail, 1 - tail))
    return {
        "_std": std,
        "_lower": np.maximum(middle + np.minimum(below, 0) * wider, 0).astype(np.float32),
        "_upper": (middle + np.maximum(above, 0) * wider).astype(np.float32),
    }


def _spread_by_gene(
    mu: np.ndarray, theta: np.ndarray, scale: float, *, step: float = 0.125, n_slices: int = 64
) -> np.ndarray:
    """Standard deviation of log1p(scale · count), float32 (n, g), read off a curve over the mean for every gene.

    The curve is smooth, so a few means suffice. Their logarithms are multiples of ``step``, so that a cell's spread
    does not depend on the others; at each, quantiles at the midpoints of equal slices of probability have the spread of
    the distribution.
    """
    from scipy.stats import nbinom

    out = np.full(mu.shape, np.nan, dtype=np.float32)
    middles = (np.arange(n_slices) + 0.5)[:, None] / n_slices
    for gene in np.flatnonzero(np.isfinite(theta) & np.isfinite(mu).any(axis=0)):
        log_mu = np.log(np.maximum(mu[:, gene], 1e-12))
        grid = step * np.arange(np.floor(np.nanmin(log_mu) / step), np.ceil(np.nanmax(log_mu) / step) + 1)
        draws = nbinom.ppf(middles, theta[gene], theta[gene] / (theta[gene] + np.exp(grid)))
        out[:, gene] = np.interp(log_mu, grid, np.log1p(scale * draws).std(axis=0))
    out[~np.isfinite(mu)] = np.nan
    return out


def _card_facts(model: PAST, genes: dict[str, str]) -> dict[str, Any]:
    """Per-gene reference and validation score for the tools that build on the prediction."""
    names, own = list(genes), list(genes.values())
    card = model.card.genes.set_index("gene").reindex(own)
    return {
        "genes": len(genes),
        "reference": {"gene": names, **{q: card[q].astype(float).tolist() for q in ("q05", "q95")}},
        "scores": {
            "gene": names,
            "gene_of_model": own,
            "validation_r": card["validation_r"].astype(float).tolist(),
            "trusted": card["trusted"].eq(True).tolist(),
            "statement": model.card.facts["transfer_statement"],
        },
    }


def _new_table(
    data: SpatialData, table: AnnData, name: str, genes: list[str], frames: dict[str, np.ndarray]
) -> AnnData:
    import pandas as pd
    from anndata import AnnData
    from spatialdata.models import TableModel

    attrs = table.uns.get(TableModel.ATTRS_KEY, {})  # none of a table that annotates no shapes
    keys = (TableModel.REGION_KEY, TableModel.REGION_KEY_KEY, TableModel.INSTANCE_KEY)
    link = {key: attrs[key] for key in keys if key in attrs}
    columns = [link[key] for key in keys[1:] if link.get(key)]
    new = AnnData(
        frames[""], obs=table.obs[columns].copy(), var=pd.DataFrame(index=genes),
        layers={suffix[1:]: values for suffix, values in frames.items() if suffix},
    )  # fmt: skip
    data.tables[name] = TableModel.parse(new, **link)
    record_added(data, name)
    return data.tables[name]
