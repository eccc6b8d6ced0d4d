"""A small network on pooled features, and its scores: for the comparisons of features, losses and sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn


def network(n_features: int, n_out: int, *, layers: int, width: int, programs: int, dropout: float) -> nn.Sequential:
    """Hidden layers, then programs, then genes."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Linear(width if i else n_features, width), nn.GELU(), nn.Dropout(dropout)]
    return nn.Sequential(*parts, nn.Linear(width, programs), nn.Linear(programs, n_out))


def train(net: nn.Module, steps: int, decay: float, loss: Callable[[], torch.Tensor]) -> None:
    """AdamW with a one-cycle schedule; ``loss`` draws a batch each time."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    net.eval()


def standardised(pooled: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Features (n, regions, channels) in standard deviations of other cells, float32 (n, features); 0 where missing."""
    moved = (pooled - np.nanmean(like, axis=0)) / (np.nanstd(like, axis=0) + 1e-3)
    return np.nan_to_num(moved).reshape(len(pooled), -1).astype(np.float32)


def correlations(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Pearson r of each column; a constant one earns 0."""
    p, t = predicted - predicted.mean(axis=0), true - true.mean(axis=0)
    return (p * t).sum(axis=0) / np.sqrt((p**2).sum(axis=0) * (t**2).sum(axis=0) + 1e-12)


def measure(path: Path, rows: Mapping[str, Any], score: Callable[[Any], dict[str, Any]]) -> None:
    """Score the rows whose options are not in the file, and write it after each."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, row in rows.items():
        options = json.loads(json.dumps(asdict(row)))
        if found.get(name, {}).get("options") == options:
            continue
        found[name] = {"options": options, **score(row)}
        print(name, {k: v for k, v in found[name].items() if k != "options"}, flush=True)
        ordered = {name: found[name] for name in rows if name in found}
        path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
