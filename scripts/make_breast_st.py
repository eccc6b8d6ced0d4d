"""Make the sample in src/pastpy/datasets/data from her2st section C3.

    python scripts/make_breast_st.py            # reads $PASTPY_SHARED_DATA/her2st, else ../shared/data/her2st

The crop is chosen by geometry alone: of all 2000×2000 px windows whose origin lies on the 16 px block grid of the
source JPEG, the one with the most spots (with counts) wholly inside; ties go to the smallest y, then the smallest x. On
that grid, with the source's own quantisation tables, encoding again changes the pixels very little; the script prints
by how much.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from pastpy.train.data import read_section

SECTION, MPP, SPOT_DIAMETER_UM = "C3", 0.69, 100.0
SIDE, BLOCK = 2000, 16
REPO = Path(__file__).resolve().parents[1]


def choose_window(xy: np.ndarray, radius: float, width: int, height: int) -> tuple[int, int, np.ndarray]:
    """Origin (x, y) of the window and the spots inside it, by the rule above."""
    inside = []
    for axis, length in ((0, width), (1, height)):
        starts = np.arange(0, length - SIDE + 1, BLOCK)[:, None]
        inside.append((xy[:, axis] - radius >= starts) & (xy[:, axis] + radius <= starts + SIDE))
    in_x, in_y = inside
    n_spots = in_y.astype(int) @ in_x.T.astype(int)
    row, column = np.unravel_index(np.argmax(n_spots), n_spots.shape)  # the first maximum: smallest y, then x
    return int(column) * BLOCK, int(row) * BLOCK, np.flatnonzero(in_y[row] & in_x[column])


def write_image(source: Path, out: Path, x: int, y: int) -> None:
    """Cut the window out of the source JPEG and encode it with the source's quantisation tables."""
    with Image.open(source) as image:
        if not isinstance(image, JpegImageFile):
            raise TypeError(f"{source} is {image.format}, not JPEG")
        tables = image.quantization
        crop = image.convert("RGB").crop((x, y, x + SIDE, y + SIDE))
    crop.save(out, "JPEG", qtables=tables, subsampling="4:2:0", optimize=True)
    with Image.open(out) as written:
        error = np.asarray(written, dtype=float) - np.asarray(crop, dtype=float)
    print(f"{out.name}: {10 * np.log10(255**2 / np.mean(error**2)):.1f} dB PSNR against the source's pixels")


def main() -> None:
    """Write the files of the sample."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = os.environ.get("PASTPY_SHARED_DATA", REPO.parent / "shared" / "data")
    parser.add_argument("--her2st", type=Path, default=Path(shared) / "her2st")
    parser.add_argument("--out", type=Path, default=REPO / "src" / "pastpy" / "datasets" / "data")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    Image.MAX_IMAGE_PIXELS = None  # the section has 92 million pixels
    source = args.her2st / "images" / f"{SECTION}.jpg"
    section = read_section(args.her2st, SECTION, mpp=MPP, spot_diameter_um=SPOT_DIAMETER_UM)
    table = section.tables["spots"]
    circles = section.shapes["spot_circles"]
    with Image.open(source) as image:
        width, height = image.size
    xy = np.column_stack([circles.geometry.x, circles.geometry.y])
    x, y, keep = choose_window(xy, float(circles["radius"].iloc[0]), width, height)
    print(f"window at x {x}, y {y}: {len(keep)} of {table.n_obs} spots")

    write_image(source, args.out / "breast_st.jpg", x, y)
    counts = table.X[keep]
    np.savez_compressed(
        args.out / "breast_st_counts.npz",
        data=counts.data.astype(np.uint16),
        indices=counts.indices.astype(np.uint16),
        indptr=counts.indptr.astype(np.int32),
        shape=np.array(counts.shape),
    )
    (args.out / "breast_st_genes.txt").write_text("\n".join(table.var_names) + "\n", encoding="utf-8")
    spots = pd.DataFrame(
        {
            "x": table.obs["array_col"].to_numpy()[keep],
            "y": table.obs["array_row"].to_numpy()[keep],
            "pixel_x": xy[keep, 0] - x,
            "pixel_y": xy[keep, 1] - y,
        }
    )
    spots.round(3).to_csv(args.out / "breast_st_spots.tsv", sep="\t", index=False)
    sample = {
        "mpp": MPP,
        "spot_diameter_um": SPOT_DIAMETER_UM,
        "sample": {
            "title": "HER2-positive breast tumour, H&E with Spatial Transcriptomics",
            "attribution": "Andersson et al., Spatial deconvolution of HER2-positive breast cancer delineates "
            "tumor-associated cell type interactions, Nat Commun 12:6012 (2021)",
            "doi": "10.1038/s41467-021-26271-2",
            "source": "https://doi.org/10.5281/zenodo.4751624",
            "licence": "CC BY 4.0",
            "changes": "cropped to a window, re-encoded as JPEG",
            "patient": "C",
            "section": SECTION,
            "role": "validation section",
            "window_px": [x, y, SIDE, SIDE],
        },
    }
    (args.out / "breast_st.json").write_text(json.dumps(sample, indent=2) + "\n", encoding="utf-8")
    for path in sorted(args.out.glob("breast_st*")):
        print(f"{path.stat().st_size:>9,d} bytes  {path.name}")


if __name__ == "__main__":
    main()
