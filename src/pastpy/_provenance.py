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
    key_added = parameters.get("key_added")
    others = {} if key_added is None else _without(_by_key(past.get(function, {})), key_added)
    past[function] = {**facts, "others": others} if others else facts
    table.uns[_keys.PAST] = past


def recorded(table: AnnData, function: str, key_added: str) -> dict[str, Any]:
    """What a call stored that gave its results this key; empty where there was none."""
    last = table.uns.get(_keys.PAST, {}).get(function, {})
    if last.get("key_added", key_added) == key_added:
        return last
    return _by_key(last).get(key_added, {})


def forget(table: AnnData, function: str, key_added: str) -> None:
    """Drop what a call stored that gave its results this key, where these are gone."""
    past = dict(table.uns.get(_keys.PAST, {}))
    by_key = _by_key(past.get(function, {}))
    if key_added not in by_key:
        return
    del past[function]
    left = _without(by_key, key_added)
    if left:
        _, facts = left.popitem()
        past[function] = {**facts, "others": left} if left else facts
    table.uns[_keys.PAST] = past


def _by_key(last: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """All that is stored for a function, by the key of its results, the last call last; empty if it has no keys."""
    if "key_added" not in last:
        return {}
    return {**last.get("others", {}), last["key_added"]: _without(last, "others")}


def _without(facts: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key != name}


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
