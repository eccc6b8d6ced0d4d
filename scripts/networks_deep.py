"""What deeper features of wide surroundings give small networks: JSON in docs/_data and its table.

    python scripts/networks_deep.py --data ../shared/data

Beside the features of past-mini: those of the backbone's sixth stage (192 channels, a token every 32 px) at 4 µm/px,
pooled over discs around each cell. Scored with a section left out, and with the other half of it
(``networks_halves.py``). Features take five minutes and are kept in the cache directory; a row takes six on one core.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import networks_halves
import networks_sections
import numpy as np
import torch
from networks_sections import CONFIG, SCORES, data_folder, prepared
from PIL import Image
from result_tables import DOCS, fill, table
from scipy.ndimage import map_coordinates
from scipy.signal import fftconvolve
from small_network import measure, standardised

from pastpy import _keys
from pastpy._aggregate import membership
from pastpy.models.image import cut_and_folded
from pastpy.models.imagenet import load_imagenet_lite0
from pastpy.pp import segment_nuclei
from pastpy.train.augment import View, restain, views_of
from pastpy.train.data import Section, cached_arrays, read_section

RESULTS = DOCS / "_data" / "networks_deep.json"
STAGE, MPP, STRIDE = 5, 4.0, 32
RADII_UM = (200.0, 400.0, 800.0, 1600.0)
MEAN, STD = 127 / 255, 128 / 255


@dataclass(frozen=True)
class Row:
    """Discs of the deeper features, µm, and what the network is."""

    discs_um: tuple[float, ...] = ()
    programs: int = 48
    width: int = 256


ROWS: dict[str, Row] = {
    "none": Row(),
    "200 and 400 µm": Row(RADII_UM[:2]),
    "200 to 1,600 µm": Row(RADII_UM),
}


def discs(tokens: np.ndarray, spacing_um: float, um: np.ndarray, radius_um: float) -> np.ndarray:
    """Mean tokens (channels, rows, columns) of discs around places, float32 (n, channels)."""
    reach = int(np.ceil(radius_um / spacing_um))
    away = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) * spacing_um
    # a token at the edge counts in part
    disc = np.clip((radius_um - away) / spacing_um + 0.5, 0, 1)
    share = fftconvolve(np.ones(tokens.shape[1:]), disc, mode="same")
    at = um[:, ::-1].T / spacing_um - 0.5
    means = [
        map_coordinates(fftconvolve(channel, disc, mode="same") / share, at, order=1, mode="nearest")
        for channel in tokens
    ]
    return np.stack(means, axis=1).astype(np.float32)


def tokens_of(image: Image.Image, network: torch.nn.Module, view: View) -> tuple[np.ndarray, float]:
    """Tokens of a whole section in a view, (channels, rows, columns), and their spacing, µm."""
    factor = CONFIG.mpp / (MPP * view.zoom)
    width, height = (int(side * factor) // STRIDE * STRIDE for side in image.size)
    seen = image.resize((width, height), Image.Resampling.BOX, box=(0, 0, width / factor, height / factor))
    x = restain(torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None].float() / 255, view)
    flips = [axis for axis, on in ((-1, view.flip_x), (-2, view.flip_y)) if on]
    x = torch.flip(x, flips)
    with torch.inference_mode():
        found = network(((x.mT if view.transpose else x) - MEAN) / STD)
    return torch.flip(found.mT if view.transpose else found, flips)[0].numpy(), STRIDE * MPP * view.zoom


def deep_features(name: str, data: Path, network: torch.nn.Module) -> np.ndarray:
    """Deeper features of the cells under a section's spots, float32 (views, cells, discs, channels)."""
    views = views_of(name, CONFIG.views, CONFIG.seed)

    def make() -> dict[str, np.ndarray]:
        sdata = read_section(data / "her2st", name, mpp=CONFIG.mpp, spot_diameter_um=CONFIG.spot_diameter_um)
        segment_nuclei(sdata)
        cells, spots = sdata.tables[_keys.CELLS], sdata.tables[_keys.SPOTS]
        inside = membership(cells.obsm[_keys.SPATIAL], spots.obsm[_keys.SPATIAL], CONFIG.spot_diameter_um / 2).tocoo()
        um = np.asarray(cells.obsm[_keys.SPATIAL])[inside.col]
        Image.MAX_IMAGE_PIXELS = None
        image = Image.open(data / "her2st" / "images" / f"{name}.jpg").convert("RGB")
        found = []
        for view in views:
            tokens, spacing = tokens_of(image, network, view)
            found.append(np.stack([discs(tokens, spacing, um, r * view.zoom) for r in RADII_UM], axis=1))
        return {"deep": np.stack(found)}

    key = [str(data.resolve()), STAGE, MPP, list(RADII_UM), [asdict(view) for view in views]]
    return cached_arrays(f"deep-{name}", key, make)["deep"]


class WithDeep(networks_sections.Fold):
    """A fold whose cells have the deeper features too."""

    def __init__(self, deep: dict[str, np.ndarray], discs_um: tuple[float, ...], *arguments: Any) -> None:
        super().__init__(*arguments)
        kept = [RADII_UM.index(radius) for radius in discs_um]
        for name, views in self.features.items():
            for i, features in enumerate(views):
                more = deep[name][i][:, kept]
                views[i] = np.hstack([features, standardised(more, more)])


def score(
    row: Row, sections: dict[str, Section], deep: dict[str, np.ndarray], regions: list[str], data: Path
) -> dict[str, Any]:
    """Scores of either kind of fold."""
    fold = partial(WithDeep, deep, row.discs_um)
    plain = networks_sections.Row(programs=row.programs, width=row.width)
    return {
        "section": networks_sections.score(plain, sections, regions, data, fold),
        "half": networks_halves.score(plain, sections, regions, data, fold),
    }


def rows(found: dict[str, Any]) -> str:
    """A row for each choice of discs."""

    def line(one: dict[str, Any]) -> tuple[str, ...]:
        return tuple(f"{np.mean(list(one[kind][n].values())):.3f}" for kind in ("section", "half") for n in SCORES)

    of = [f"{what}, {kind}" for kind in ("section", "other half") for what in ("mean r", "best 50", "other views")]
    return table(("discs of deeper features", *of), [(name, *line(one)) for name, one in found.items()])


def main() -> None:
    """Measure what is missing, and write the table."""
    data = data_folder(__doc__)
    network = cut_and_folded(load_imagenet_lite0(), STAGE)
    sections, regions = prepared(data)
    deep = {name: deep_features(name, data, network) for name in sections}
    for name, section in sections.items():
        if deep[name].shape[1] != section.pooled.shape[1]:
            raise ValueError(f"section {name}: cells at the rim were left out of training, and here they are not")
    measure(RESULTS, ROWS, lambda row: score(row, sections, deep, regions, data))
    fill(DOCS / "decisions.md", {"networks_deep": rows})


if __name__ == "__main__":
    main()
