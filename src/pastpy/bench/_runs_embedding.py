"""Protocols on proportions, retrieval, cell types and robustness for the command line."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pastpy import _keys
from pastpy.bench._agreement import deconvolution_agreement, retrieval_recall
from pastpy.bench._baselines import FeatureMethod, tuned_ridge
from pastpy.bench._features import Backbone, features_at, window_features
from pastpy.bench._loso import run_loso
from pastpy.bench._probe import linear_probe, robustness_index
from pastpy.bench._report import write_report
from pastpy.bench._runs import SCALES_UM, read_her2st

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["run_deconvolution", "run_probe", "run_retrieval", "run_robustness"]

_BACKBONES: tuple[Backbone, ...] = ("colour", "imagenet")
#: NuCLS: µm/px, and windows around a nucleus, µm.
_NUCLS_MPP, _NUCLEUS_UM = 0.25, (12.0, 32.0)
_KINDS = {1: "type 1", 2: "type 2"}


def run_deconvolution(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Cell-type proportions of her2st spots from frozen features, leave one section out, against stereoscope's.

    The reference is itself a model's estimate. Rows: a ridge on frozen features, and the training mean.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    import pandas as pd

    sections, reference = read_her2st(Path(data)), _deconvolution(Path(data))
    x = {s: window_features(sdata, windows_um=SCALES_UM) for s, sdata in sections.items()}
    rows = []
    for held, sdata in sections.items():
        train = [s for s in sections if s != held]
        spots = {s: sections[s]["spots"].obs_names.intersection(reference[s].index, sort=False) for s in train}
        known = {s: sections[s]["spots"].obs_names.get_indexer(spots[s]) for s in train}
        y = np.concatenate([reference[s].loc[spots[s]].to_numpy() for s in train])
        group = np.concatenate([np.full(len(spots[s]), s) for s in train])
        predict = tuned_ridge()(np.concatenate([x[s][known[s]] for s in train]).astype(float), y, group)
        types, names = reference[held].columns, sdata["spots"].obs_names
        for method, values in (
            ("training mean", np.tile(y.mean(axis=0), (len(names), 1))),
            ("backbone ridge, three scales", np.maximum(predict(x[held].astype(float)), 0.0)),
        ):
            found = deconvolution_agreement(pd.DataFrame(values, index=names, columns=types), reference[held])
            rows.append(found.reset_index().assign(method=method, section=held))
    table = pd.concat(rows, ignore_index=True)
    mean = table.groupby(["method", "cell_type"], sort=False).mean(numeric_only=True)
    result = {
        "title": "proportions of cell types in held-out her2st spots, against stereoscope's estimates",
        "statement": "within patient: leave one section out over C2–C6",
        "methods": {m: mean.loc[m].round(4).to_dict("index") for m in mean.index.unique(0)},
    }
    best = table[table["method"] != "training mean"].groupby("cell_type", sort=False)["pearson"].mean()
    return _finish(result, table, best, "Pearson r over spots", out)


def run_retrieval(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Recall@k on her2st: a held-out spot's predicted expression as the query, its section's measured spots to search.

    Genes are standardised within the section, on either side.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    import pandas as pd

    sections = read_her2st(Path(data))
    scales = partial(window_features, windows_um=SCALES_UM)
    methods = {
        "colour ridge, three scales": FeatureMethod(partial(scales, backbone="colour"), tuned_ridge()),
        "backbone ridge, three scales": FeatureMethod(partial(scales, backbone="imagenet"), tuned_ridge()),
    }
    result = run_loso(sections, methods, donors=dict.fromkeys(sections, "C"), within_patient=True)
    rows = []
    for method, frames in result.predictions.items():
        # section by section: each has genes of its own
        by_section = [
            retrieval_recall(_standardised(frames[s]), _standardised(result.measured[s]), seed=i)
            for i, s in enumerate(frames)
        ]
        over = {"recall": "mean", "chance": "mean", "p_value": "max", "median_rank": "mean", "n": "sum"}
        found = pd.concat(by_section).groupby(level=0).agg(over)
        rows.append(found.reset_index().assign(method=method))
    table = pd.concat(rows, ignore_index=True)
    summary = {
        "title": "recall@k of a held-out spot's transcriptome by its predicted expression, within its section",
        "p_value": "the largest of the sections'",
        "statement": result.facts["statement"],
        "methods": {m: t.drop(columns="method").to_dict("records") for m, t in table.groupby("method", sort=False)},
    }
    last = table[table["method"] == "backbone ridge, three scales"].set_index("k").rename(index=lambda k: f"recall@{k}")
    return _finish(summary, table, last["recall"], "recall, backbone ridge", out, chance=last["chance"])


def run_probe(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Tell two types of nuclei of the NuCLS tiles apart: linear probe of frozen features, leave one tile out.

    Raises
    ------
    FileNotFoundError
        If there are no tiles.
    """
    import pandas as pd

    folder = Path(data) / "nucls" / "train"
    tiles = sorted((folder / "images").glob("*.png"))
    if not tiles:
        raise FileNotFoundError(f"{str(folder)!r} has no images/*.png")
    read = {path.stem: _tile(path, folder / "labels" / f"{path.stem}.npz") for path in tiles}
    kinds = np.concatenate([kind for _, _, kind in read.values()])
    tile = np.concatenate([np.full(len(kind), name) for name, (_, _, kind) in read.items()])
    rows = []
    for backbone in _BACKBONES:
        x = np.concatenate(
            [
                features_at([level], xy, mpp=_NUCLS_MPP, windows_um=_NUCLEUS_UM, backbone=backbone, target_mpp=0.5)
                for level, xy, _ in read.values()
            ]
        )
        rows.append(linear_probe(x, kinds, tile).reset_index().assign(method=backbone))
    table = pd.concat(rows, ignore_index=True)
    pooled = table[table["group"] == "pooled"].set_index("method")
    result = {
        "title": "two types of NuCLS nuclei by a linear probe, leave one tile out",
        "statement": "tiles are apart; whether two of them are of one patient is not known",
        "methods": pooled.drop(columns="group").round(4).to_dict("index"),
    }
    return _finish(result, table, pooled["balanced_accuracy"], "balanced accuracy", out, chance=1 / len(_KINDS))


def run_robustness(data: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Robustness index of frozen features on her2st: the commonest cell type of a spot against its section.

    The sections are of one block, stained together: a case in which an encoder should find it easy. For the null each
    section's map of types is moved as a whole, since spots that are neighbours are alike; spots without an estimate of
    their cell types are left out.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    """
    import pandas as pd

    sections, reference = read_her2st(Path(data)), _deconvolution(Path(data))
    names = np.concatenate([np.full(s["spots"].n_obs, name) for name, s in sections.items()])
    kind = np.concatenate([_commonest(reference[n].reindex(s["spots"].obs_names)) for n, s in sections.items()])
    where = np.concatenate([s["spots"].obsm[_keys.SPATIAL] for s in sections.values()])
    rows = {}
    for backbone in _BACKBONES:
        found = [window_features(s, windows_um=SCALES_UM, backbone=backbone) for s in sections.values()]
        x = np.concatenate(found).astype(float)
        rows[backbone] = robustness_index((x - x.mean(axis=0)) / x.std(axis=0), kind, names, k=20, coordinates=where)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method").reset_index()
    result = {
        "title": "robustness index on her2st: commonest cell type of a spot (stereoscope) against its section",
        "statement": "one patient: sections stand for centres",
        "methods": rows,
    }
    by_method = table.set_index("method")
    return _finish(result, table, by_method["index"], "robustness index", out, chance=by_method["null_mean"])


def _deconvolution(folder: Path) -> dict[str, pd.DataFrame]:
    import pandas as pd

    root = folder / "her2st" / "deconvolution"
    files = {p.stem: p for p in sorted(root.glob("*.tsv"))}
    if not files:
        raise FileNotFoundError(f"{str(root)!r} has no *.tsv with cell-type proportions")
    return {name: pd.read_csv(path, sep="\t", index_col=0) for name, path in files.items()}


def _commonest(proportions: pd.DataFrame) -> np.ndarray:
    """The type with the highest proportion of every spot; ``None`` where there are none."""
    known = proportions.notna().all(axis=1).to_numpy()
    out = np.full(len(proportions), None, dtype=object)
    out[known] = proportions[known].idxmax(axis=1)
    return out


def _standardised(frame: pd.DataFrame) -> np.ndarray:
    values = frame.to_numpy(dtype=float)
    spread = values.std(axis=0)
    return (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def _tile(image: Path, labels: Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """A tile as a (c, y, x) array, and the centre (x, y in px) and type of every nucleus that has one."""
    from PIL import Image
    from xarray import DataArray

    with np.load(labels, allow_pickle=False) as arrays:
        nucleus, kind = arrays["inst_map"], arrays["type_map"]
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    y, x = np.nonzero(nucleus)
    ids, at = np.unique(nucleus[y, x], return_inverse=True)
    size = np.bincount(at)
    centre = np.column_stack([np.bincount(at, weights=v + 0.5) / size for v in (x, y)])
    # the commonest type over a nucleus's pixels
    votes = np.stack([np.bincount(at, weights=kind[y, x] == k, minlength=len(ids)) for k in _KINDS])
    named = np.array(list(_KINDS.values()))[votes.argmax(axis=0)]
    typed = votes.max(axis=0) > 0
    return DataArray(pixels.transpose(2, 0, 1), dims=("c", "y", "x")), centre[typed], named[typed]


def _finish(
    summary: dict[str, Any],
    table: pd.DataFrame,
    values: pd.Series,
    label: str,
    out: str | Path | None,
    *,
    chance: pd.Series | float | None = None,
) -> dict[str, Any]:
    def draw(ax: Axes) -> None:
        y = np.arange(len(values))
        ax.barh(y, values.to_numpy(dtype=float), color="#0072B2", height=0.6)
        if chance is not None:
            marks = np.broadcast_to(np.asarray(chance, dtype=float), y.shape)
            ax.plot(marks, y, "|", color="black", markersize=24, markeredgewidth=2, label="chance")
            ax.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0))
        ax.set_yticks(y, [str(i) for i in values.index])
        ax.invert_yaxis()
        ax.set_xlabel(label)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)

    if out is not None:
        write_report(out, summary, table, draw)
    return summary
