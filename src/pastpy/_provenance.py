"""What a call did, stored beside its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pastpy import _keys

if TYPE_CHECKING:
    from anndata import AnnData

_VERSIONS = ("pastpy", "torch", "timm", "scikit-image", "scipy", "spatialdata", "anndata")


def record(table: AnnData, function: str, parameters: Mapping[str, Any]) -> None:
    """Store ``parameters`` and the versions in use as ``table.uns["past"][function]``.

    Values must be plain JSON-like ones (str, numbers, bool, None, lists, dicts), so that zarr can hold them.
    """
    past = dict(table.uns.get(_keys.PAST, {}))
    past[function] = {**parameters, "versions": {name: version(name) for name in _VERSIONS}}
    table.uns[_keys.PAST] = past


def untrusted_genes(imputed: Mapping[str, Any], genes: Sequence[str]) -> list[str]:
    """Which predicted genes the model's card does not trust, by what ``impute_expression`` has stored; of others none.

    Examples
    --------
    >>> untrusted_genes({"scores": {"gene": ["ERBB2", "KRT5"], "trusted": [True, False]}}, ["ERBB2", "KRT5", "TP53"])
    ['KRT5']
    """
    scores = imputed.get("scores") or {}
    if "trusted" not in scores:
        return []
    trusted = dict(zip(scores["gene"], scores["trusted"], strict=True))
    return [gene for gene in genes if not trusted.get(gene, True)]
