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

    Values must be plain JSON-like ones (str, numbers, bool, None, lists, dicts), so that zarr can hold them. Where they
    name a ``key_added``, what was stored for results under other keys stays as ``"others"``, by key.
    """
    past = dict(table.uns.get(_keys.PAST, {}))
    facts = {**parameters, "versions": {name: version(name) for name in _VERSIONS}}
    others = _others(past.get(function, {}), parameters.get("key_added"))
    past[function] = {**facts, "others": others} if others else facts
    table.uns[_keys.PAST] = past


def recorded(table: AnnData, function: str, key_added: str) -> dict[str, Any]:
    """What a call stored that gave its results this key; empty where there was none."""
    last = table.uns.get(_keys.PAST, {}).get(function, {})
    if last.get("key_added", key_added) == key_added:
        return last
    return last.get("others", {}).get(key_added, {})


def forget(table: AnnData, function: str, key_added: str) -> None:
    """Drop what a call stored that gave its results this key, where these are gone."""
    past = dict(table.uns.get(_keys.PAST, {}))
    last = past.pop(function, {})
    by_key = {**last.get("others", {}), last.get("key_added"): {k: v for k, v in last.items() if k != "others"}}
    left = {key: facts for key, facts in by_key.items() if key != key_added and facts}
    if left:
        _, facts = left.popitem()
        past[function] = {**facts, "others": left} if left else facts
    table.uns[_keys.PAST] = past


def _others(last: Mapping[str, Any], key_added: str | None) -> dict[str, Any]:
    """Of what is stored for a function, by key, what is of other keys."""
    if key_added is None or "key_added" not in last:
        return {}
    by_key = {**last.get("others", {}), last["key_added"]: {k: v for k, v in last.items() if k != "others"}}
    return {key: facts for key, facts in by_key.items() if key != key_added}


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
