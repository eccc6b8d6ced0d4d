"""What an embedding holds: cell types by a linear probe, and biology against donor or centre by neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["linear_probe", "robustness_index"]


def linear_probe(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, *, c: float = 0.1, seed: int = 0
) -> DataFrame:
    """Read labels off frozen features with a logistic regression, one group left out at a time.

    Parameters
    ----------
    features
        float (n, d); rows with NaN are left out.
    labels
        (n,) cell types.
    groups
        (n,) donor, slide or tile; a group is never in training and test.
    c
        Inverse penalty, after standardising the features with the training rows.
    seed
        Seed of the solver.

    Returns
    -------
    A row a left-out group and the row ``"pooled"`` (all left-out rows together): ``balanced_accuracy``, ``macro_f1``,
    ``auroc`` (one against the rest, macro; NaN where a type is absent), ``accuracy``, ``majority`` (accuracy of always
    naming the commonest training type), ``n``.

    Raises
    ------
    ValueError
        If there are fewer than two groups or labels, or a training side has only one label.

    References
    ----------
    Alain & Bengio, Understanding intermediate layers using linear classifier probes, arXiv:1610.01644.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.tile([0, 1], 20)
    >>> linear_probe(y[:, None] + 0.0, y, np.repeat(["a", "b"], 20)).loc["pooled", "balanced_accuracy"].item()
    1.0
    """
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels, groups = np.asarray(features, dtype=float), np.asarray(labels), np.asarray(groups)
    known = np.isfinite(features).all(axis=1)
    features, labels, groups = features[known], labels[known].astype(str), groups[known].astype(str)
    kinds, names = np.unique(labels), np.unique(groups)
    if len(kinds) < 2 or len(names) < 2:
        raise ValueError(f"a probe needs two labels and two groups, got {kinds.tolist()} and {names.tolist()}")
    chance = np.zeros((len(labels), len(kinds)))
    majority = np.empty(len(labels), dtype=object)
    for name in names:
        test = groups == name
        here, count = np.unique(labels[~test], return_counts=True)
        if len(here) < 2:
            raise ValueError(f"without group {str(name)!r} only the label {str(here[0])!r} is left; use larger groups")
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000, random_state=seed))
        model.fit(features[~test], labels[~test])
        chance[np.ix_(test, np.searchsorted(kinds, here))] = model.predict_proba(features[test])
        majority[test] = here[np.argmax(count)]
    rows = {str(n): _classified(labels[groups == n], chance[groups == n], kinds, majority[groups == n]) for n in names}
    rows["pooled"] = _classified(labels, chance, kinds, majority)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("group")


def robustness_index(
    features: np.ndarray,
    biology: np.ndarray,
    centre: np.ndarray,
    *,
    k: int = 50,
    groups: np.ndarray | None = None,
    n_permutations: int = 200,
    seed: int = 0,
) -> dict[str, float]:
    """Tell whether a unit's neighbours are of its kind from elsewhere, or of another kind from its own donor or centre.

    Among the k nearest neighbours (cosine) of all units, those of the same biology and another centre are counted
    against those of another biology and the same centre; the index is the share of the former.

    Parameters
    ----------
    features
        float (n, d); rows with NaN are left out.
    biology
        (n,) cell type, tissue or diagnosis.
    centre
        (n,) donor, section, scanner or hospital.
    k
        Neighbours of a unit.
    groups
        (n,) units that are never each other's neighbours, such as spots of one slide where centres hold several slides.
    n_permutations
        Shuffles of ``biology`` within each centre, for the null.
    seed
        Seed of these.

    Returns
    -------
    ``index`` (0–1; NaN if neither kind of neighbour occurs), ``null_mean``, ``null_upper`` (95 % quantile of the null),
    ``p_value`` (share of shuffles with at least the observed index, counting it), ``biology_neighbours`` and
    ``centre_neighbours`` (the two counts per unit), ``n``.

    Raises
    ------
    ValueError
        If there are fewer than two kinds of biology or centres, or too few units for ``k``.

    References
    ----------
    de Jong et al., arXiv:2501.18055 (2025), who introduced a robustness index, as the ratio of the two.

    Examples
    --------
    >>> import numpy as np
    >>> kind = np.tile(["tumour", "stroma"], 20)
    >>> x = np.where(kind == "tumour", 1.0, -1.0)[:, None] * [1.0, 0.5]
    >>> robustness_index(x, kind, np.repeat(["a", "b"], 20), k=5, n_permutations=9)["index"]
    1.0
    """
    features = np.asarray(features, dtype=float)
    known = np.isfinite(features).all(axis=1)
    features = features[known]
    kind, place = (np.unique(np.asarray(v)[known], return_inverse=True)[1] for v in (biology, centre))
    if kind.max(initial=0) < 1 or place.max(initial=0) < 1:
        raise ValueError("the robustness index needs at least two kinds of biology and two centres")
    block = np.arange(len(features)) if groups is None else np.unique(np.asarray(groups)[known], return_inverse=True)[1]
    near = _neighbours(features, block, k)
    rng = np.random.default_rng(seed)

    def share(of: np.ndarray) -> tuple[float, float, float]:
        same_kind, same_place = of[near] == of[:, None], place[near] == place[:, None]
        good, bad = float((same_kind & ~same_place).mean() * k), float((~same_kind & same_place).mean() * k)
        return (good / (good + bad) if good + bad else float("nan")), good, bad

    index, good, bad = share(kind)
    null = np.array([share(_shuffled_within(kind, place, rng))[0] for _ in range(n_permutations)])
    return {
        "index": index,
        "null_mean": float(np.nanmean(null)),
        "null_upper": float(np.nanquantile(null, 0.95)),
        "p_value": float((1 + (null >= index).sum()) / (1 + n_permutations)),
        "biology_neighbours": good,
        "centre_neighbours": bad,
        "n": float(len(features)),
    }


def _neighbours(features: np.ndarray, block: np.ndarray, k: int) -> np.ndarray:
    """The k most similar rows of another block, int (n, k)."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    available = len(unit) - np.bincount(block).max()
    if available < k:
        raise ValueError(f"k={k} neighbours are asked for, but a unit has only {available} to choose from")
    out = np.empty((len(unit), k), dtype=np.int64)
    for start in range(0, len(unit), 2048):
        rows = slice(start, start + 2048)
        similar = unit[rows] @ unit.T
        similar[block[rows, None] == block[None]] = -np.inf
        out[rows] = np.argpartition(-similar, k - 1, axis=1)[:, :k]
    return out


def _shuffled_within(kind: np.ndarray, place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # within a centre, so that the null keeps how common each kind is there
    out = kind.copy()
    for p in np.unique(place):
        out[place == p] = rng.permutation(kind[place == p])
    return out


def _classified(labels: np.ndarray, chance: np.ndarray, kinds: np.ndarray, majority: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import f1_score, recall_score

    from pastpy.metrics._columns import auroc

    named = kinds[np.argmax(chance, axis=1)]
    here = np.unique(labels)
    return {
        # over the types that are here: a type without a cell has no recall
        "balanced_accuracy": float(recall_score(labels, named, labels=here, average="macro", zero_division=0)),
        "macro_f1": float(f1_score(labels, named, labels=here, average="macro", zero_division=0)),
        "auroc": float(np.mean([auroc(chance[:, i], labels == kind) for i, kind in enumerate(kinds)])),
        "accuracy": float((named == labels).mean()),
        "majority": float((majority == labels).mean()),
        "n": float(len(labels)),
    }
