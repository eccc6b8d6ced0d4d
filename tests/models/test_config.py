"""Configurations: sizes, JSON, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pastpy.engine.pool import Region
from pastpy.models import PASTConfig, context_grid


@pytest.mark.parametrize("size", ["mini", "small", "base", "large"])
def test_sizes_survive_json(size, tmp_path):
    config = PASTConfig.of_size(size, name="mine")
    config.to_json(tmp_path / "config.json")
    assert PASTConfig.from_json(tmp_path / "config.json") == config
    assert PASTConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_sizes_grow_and_take_changes():
    sizes = [PASTConfig.of_size(size, name="mine").dim for size in ("mini", "small", "base", "large")]
    assert sizes == sorted(set(sizes))
    assert PASTConfig.of_size("base", name="mine", dim=64, heads=4).dim == 64
    with pytest.raises(ValueError, match="size='giant' is unknown.*mini.*large"):
        PASTConfig.of_size("giant", name="mine")


def test_mini_is_what_was_shipped():
    """Entries that an older file lacks have values that change nothing."""
    config = PASTConfig.of_size("mini", name="mine")
    assert (config.dim, config.embedding_dim, config.heads, config.expression_tokens) == (64, 64, 1, 4)
    assert [r.name for r in config.regions] == ["nucleus", "ring", "context"]
    off = ("expression_layers", "fusion_layers", "neighbours", "technologies", "gene_tokens", "zero_inflation")
    assert not any(getattr(config, name) for name in off)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"backbone_training": "some"}, "backbone_training='some' is unknown; use one of"),
        ({"mode": "both"}, "mode='both' is unknown"),
        ({"joint": "product"}, "joint='product' is unknown"),
        ({"lora_rank": 0}, "lora_rank must be positive"),
        ({"store_backbone": False, "backbone_training": "full"}, "must be stored"),
        (
            {"regions": (Region("away", "disc", 5.0, (9.0, 0.0)),)},
            "at least one of the image that lies at the cell itself",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(entries, message):
    with pytest.raises(ValueError, match=message):
        PASTConfig(name="odd", **entries)


def test_context_grid_tiles_a_square():
    grid = context_grid(5, 12.0)
    assert len(grid) == len({r.offset_um for r in grid}) == len({r.name for r in grid}) == 24
    assert max(r.reach_um for r in grid) == 30.0
    assert not any(r.at_unit for r in grid)
    with pytest.raises(ValueError, match="side must be odd"):
        context_grid(4)
