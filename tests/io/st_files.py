"""A tiny section of Spatial Transcriptomics."""

from __future__ import annotations

import numpy as np
import pandas as pd
from PIL import Image


def make_section(tmp_path):
    """Files of a 40×30 px section with three spots; 5x5 has no counts, 9x9 has no position."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "he.png")
    counts = pd.DataFrame(
        [[3, 0, 1], [0, 2, 0], [9, 9, 9]], index=["10x13", "4x6", "9x9"], columns=["ERBB2", "KRT8", "AL1.1"]
    )
    counts.to_csv(tmp_path / "counts.tsv", sep="\t")
    spots = pd.DataFrame({"x": [4, 10, 5], "y": [6, 13, 5], "pixel_x": [10.5, 30.0, 1.0], "pixel_y": [20.0, 5.25, 1.0]})
    spots.to_csv(tmp_path / "spots.tsv", sep="\t", index=False)
    return pixels, counts, spots
