"""Damaged files through every reader: a clear error that names the file, or an answer; nothing written, no hang.

A small valid input of each kind is made once. A case links its files into a folder of its own, damages one of them,
reads it, and touches the pixels. What has to fail (cut short, a column missing, an impossible affine) must not give an
answer.
"""

from __future__ import annotations

import json
import math
import os
import signal
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.io.cosmx_files import make_run
from tests.io.slide_files import write_aperio, write_ome, write_ome_zarr, write_plain, write_pyramid
from tests.io.st_files import make_section
from tests.io.visium_files import make_visium, make_visium_hd
from tests.io.xenium_files import he_to_dapi, make_bundle, paint, write_matrix

if TYPE_CHECKING:
    from spatialdata import SpatialData

import pastpy as past
from pastpy._elements import image_levels, unit_geometry
from pastpy.io._open import read_any

Damage = Callable[[bytes, np.random.Generator], bytes]
Read = Callable[[Path], object]

DOCUMENTED = (KeyError, ValueError, TypeError, FileNotFoundError)
#: Seconds that one case may take, far above what any takes on a busy machine; a case that is still at work then hangs.
LIMIT = 60


class StillReading(BaseException):
    """Out of time; no reader takes it for damage."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise StillReading(f"after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- damage: bytes in, bytes out; each draws what it needs from its own generator


def cut(share: float) -> Damage:
    return lambda data, rng: data[: int(len(data) * share)]


def flip_bits(n: int, *, head: int | None = None) -> Damage:
    """Flip bits anywhere, or in the first ``head`` bytes, where formats keep their structure."""

    def damage(data: bytes, rng: np.random.Generator) -> bytes:
        out = bytearray(data)
        for at in rng.integers(0, min(len(out), head or len(out)), n):
            out[at] ^= 1 << int(rng.integers(8))
        return bytes(out)

    return damage


def drop_middle(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(data) // 4, 3 * len(data) // 4))
    return data[:at] + data[at + 1 + len(data) // 20 :]


def zero_part(data: bytes, rng: np.random.Generator) -> bytes:
    at, n = int(rng.integers(len(data))), 1 + len(data) // 8
    return data[:at] + bytes(min(n, len(data) - at)) + data[at + n :]


def add_noise(data: bytes, rng: np.random.Generator) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + rng.bytes(17) + data[at:]


def foreign(data: bytes, rng: np.random.Generator) -> bytes:
    return b"<!DOCTYPE html><html><body>404 Not Found</body></html>"


def noise(data: bytes, rng: np.random.Generator) -> bytes:
    return rng.bytes(300)


def text_field(value: str) -> Damage:
    """Put ``value`` into a field at random of a table, header or not."""

    def damage(data: bytes, rng: np.random.Generator) -> bytes:
        lines = data.decode().splitlines()
        separator = "\t" if "\t" in lines[0] else ","
        row = int(rng.integers(len(lines)))
        cells = lines[row].split(separator)
        cells[int(rng.integers(len(cells)))] = value
        lines[row] = separator.join(cells)
        return "\n".join(lines).encode()

    return damage


def drop_field(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.decode().splitlines()
    separator = "\t" if "\t" in lines[0] else ","
    row = int(rng.integers(1, len(lines))) if len(lines) > 1 else 0
    cells = lines[row].split(separator)
    del cells[int(rng.integers(len(cells)))]
    lines[row] = separator.join(cells)
    return "\n".join(lines).encode()


def repeat_line(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.decode().splitlines()
    lines.insert(int(rng.integers(len(lines))), lines[int(rng.integers(len(lines)))])
    return "\n".join(lines).encode()


def header_only(data: bytes, rng: np.random.Generator) -> bytes:
    return data.splitlines()[0]


def semicolons(data: bytes, rng: np.random.Generator) -> bytes:
    return data.replace(b"\t", b";").replace(b",", b";")


def other_header(data: bytes, rng: np.random.Generator) -> bytes:
    first, _, rest = data.partition(b"\n")
    separator = b"\t" if b"\t" in first else b","
    return separator.join(b"q%d" % i for i in range(first.count(separator) + 1)) + b"\n" + rest


def json_node(value: object) -> Damage:
    """Put ``value`` in the place of a node at random."""

    def damage(data: bytes, rng: np.random.Generator) -> bytes:
        content = json.loads(data)
        places: list[tuple[Any, Any]] = []

        def walk(node: Any) -> None:
            for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
                places.append((node, key))
                if isinstance(inner, dict | list):
                    walk(inner)

        walk(content)
        node, key = places[int(rng.integers(len(places)))]
        node[key] = value
        return json.dumps(content).encode()

    return damage


def json_without(data: bytes, rng: np.random.Generator) -> bytes:
    content = json.loads(data)
    keys = list(content)
    content.pop(keys[int(rng.integers(len(keys)))])
    return json.dumps(content).encode()


def replaced(text: str) -> Damage:
    return lambda data, rng: text.encode()


#: Name → damage and how often; cut short, foreign and empty files can give no answer.
CUTS = {f"cut to {share:g}": (cut(share), 1) for share in (0.0, 0.02, 0.3, 0.6, 0.9)}
CUTS["foreign"] = (foreign, 1)
#: Pictures so small that the last tenth of the file is not of the pixels.
CUT_PICTURE = {name: damage for name, damage in CUTS.items() if name != "cut to 0.9"}
BINARY = {
    "one bit": (flip_bits(1), 5),
    "one bit of the head": (flip_bits(1, head=300), 8),
    "bits": (flip_bits(30), 4),
    "bits of the head": (flip_bits(6, head=400), 6),
    "middle missing": (drop_middle, 3),
    "zeros": (zero_part, 4),
    "bytes added": (add_noise, 3),
    "noise": (noise, 1),
}
WRONG_TABLE = {"no rows": (header_only, 1), "semicolons": (semicolons, 1), "other header": (other_header, 1)}
#: A table of counts may have any names of genes.
UNLIKE_COUNTS = {k: WRONG_TABLE[k] for k in ("no rows", "semicolons")}
VALUES: tuple[str, ...] = ("", "NaN", "inf", "-1", "1e308", "0.5", "x", "9" * 30, '"', "é\x00")
TABLE = {f"field {value[:9]!r}": (text_field(value), 2) for value in VALUES}
TABLE |= {"field missing": (drop_field, 3), "line twice": (repeat_line, 2), "bits": (flip_bits(3), 4)}
NODES: tuple[Any, ...] = (None, "x", -1, 0, 1e308, math.nan, [], {}, [[1]], True, "é" * 3)
JSON = {f"node {str(value)[:9]}": (json_node(value), 3) for value in NODES}
JSON |= {"entry missing": (json_without, 2), "bits": (flip_bits(2), 3)}
MATRICES = {
    "singular": "1,1,0\n1,1,0\n0,0,1",
    "zero": "0,0,0\n0,0,0\n0,0,1",
    "NaN": "nan,0,0\n0,1,0\n0,0,1",
    "infinite": "1,0,inf\n0,1,0\n0,0,1",
    "huge": "1e200,0,0\n0,1e200,0\n0,0,1",
    "tiny": "1e-200,0,0\n0,1e-200,0\n0,0,1",
    "sheared": "1,3,0\n0,1,0\n0,0,1",
    "projective": "1,0,0\n0,1,0\n0.01,0,1",
    "two by three": "1,0,0\n0,1,0",
    "four columns": "1,0,0,0\n0,1,0,0\n0,0,1,0",
    "words": "a,b,c\nd,e,f\ng,h,i",
    "keypoints on a line": "he_x,he_y,dapi_x,dapi_y\n0,0,0,0\n1,1,1,1\n2,2,2,2\n3,3,3,3",
    "one keypoint": "he_x,he_y,dapi_x,dapi_y\n0,0,0,0",
    "keypoints NaN": "he_x,he_y,dapi_x,dapi_y\n0,0,nan,0\n1,0,1,0\n0,1,0,1",
}
IMPOSSIBLE = {k: (replaced(MATRICES[k]), 1) for k in ("singular", "zero", "NaN", "infinite", "huge", "tiny")}
AFFINE = {name: (replaced(text), 1) for name, text in MATRICES.items()}


@dataclass
class Kind:
    """A reader and what it reads.

    ``make`` writes a valid input into a folder; ``read`` reads it and looks at the pixels; ``plan`` says which files
    are damaged and how: a pattern, damages that must be refused, and damages that may give an answer.
    """

    name: str
    make: Read
    read: Read
    plan: list[tuple[str, dict, dict]]
    every: int = 1
    cases: list[tuple[str, str, Damage, bool, int]] = field(default_factory=list)


def touch(sdata: SpatialData) -> SpatialData:
    """Read pixels of every image: a damaged tile is reported when it is read."""
    assert sdata.images or sdata.tables
    for key, mpp in sdata.attrs["past"]["mpp"].items():
        assert math.isfinite(mpp) and mpp > 0
        levels = image_levels(sdata, key)
        assert levels[0].sizes["c"] in (1, 3, 4, 5) and min(levels[0].shape) > 0
        for level in (levels[0], levels[-1]):
            for window in (slice(0, 40), slice(-40, None)):
                np.asarray(level[:, window, window].data)
    return sdata


def toy() -> SpatialData:
    from tests.conftest import make_toy

    return make_toy(size=64, n_cells=3)


def into(reader: Callable[[SpatialData, Path], None]) -> Read:
    """A reader that adds to an object: if it refuses, the object is as it was."""

    def read(path: Path) -> object:
        sdata = toy()
        before = {name: id(element) for _, name, element in sdata.gen_elements()}
        try:
            reader(sdata, path)
        except Exception:
            assert {name: id(element) for _, name, element in sdata.gen_elements()} == before
            raise
        return sdata

    return read


def wsi(name: str) -> Read:
    return lambda folder: touch(past.io.read_wsi(folder / name))


def make_geojson(folder: Path) -> None:
    from tests.conftest import make_toy

    sdata = make_toy(size=96, n_cells=4)
    past.io.write_geojson(sdata, folder / "cells.geojson", label="cell_type")


def make_labels(folder: Path, name: str) -> None:
    labels = np.zeros((64, 64), np.uint16)
    labels[5:20, 5:20], labels[30:50, 30:60] = 1, 2
    if name.endswith("npy"):
        np.save(folder / name, labels)
    elif name.endswith("png"):
        Image.fromarray(labels).save(folder / name)
    else:
        tifffile.imwrite(folder / name, labels)


def read_label_file(sdata: SpatialData, folder: Path, name: str) -> None:
    past.io.read_labels(sdata, folder / name, key_added="n", table_key_added="t")


def make_explorer(folder: Path) -> None:
    text = "#Selection name: Tumour\n#Area (µm^2): 200\nX,Y\n10,10\n30,10\n30,20\n10,20\n"
    (folder / "selection.csv").write_text(text, encoding="utf-8")


def make_model(folder: Path) -> None:
    import pandas as pd

    from pastpy.models import PAST, ModelCard, PASTConfig

    genes = pd.DataFrame({"gene": ["A", "B"], "variable": True, "trusted": True})
    genes = genes.assign(validation_r=0.5, q05=0.0, q95=8.0)
    facts = {"licence": "BSD-3-Clause", "commercial_use": True, "depth": 1000.0, "transfer_statement": "none"}
    config = PASTConfig(name="tiny", dim=16, embedding_dim=8)
    PAST(config, ModelCard(genes, facts)).save(folder / "tiny")


def make_xenium(folder: Path, shared: Path) -> None:
    bundle = make_bundle(shared, folder)
    matrix = he_to_dapi(20)
    paint(bundle, matrix)
    write_matrix(bundle / "align.csv", matrix)


def make_aligned_run(folder: Path, shared: Path) -> None:
    run = make_run(shared, folder)
    Image.fromarray(np.full((300, 300, 3), 220, np.uint8)).save(run / "he.png")
    (run / "align.csv").write_text("1,0,171400\n0,1,11341\n0,0,1")


def read_run(folder: Path) -> object:
    run = folder / "run"
    return touch(past.io.read_cosmx(run, pixel_um=0.18, he_image=run / "he.png", he_alignment=run / "align.csv"))


def read_bundle(folder: Path) -> object:
    outs = folder / "outs"
    image, alignment = outs / "he.ome.tif", outs / "align.csv"
    options: dict[str, Any] = {"transcripts": False, "morphology_mip": False}
    return touch(past.io.read_xenium(outs, he_image=image, he_alignment=alignment, **options))


def read_section(folder: Path) -> object:
    paths = (folder / name for name in ("he.png", "counts.tsv", "spots.tsv"))
    return touch(past.io.read_st(*paths, mpp=2.0, spot_diameter_um=12))


def read_model(folder: Path) -> object:
    return past.models.load(folder / "tiny")


def make_store(folder: Path) -> None:
    past.io.write_store(toy(), folder / "store.zarr")


def make_transform(folder: Path) -> None:
    np.savetxt(folder / "transform.csv", np.eye(3), delimiter=",")


def read_transform(which: str) -> Read:
    """The matrix of the file as transformation of the image or the shapes."""
    from spatialdata.transformations import Affine, set_transformation

    def read(folder: Path) -> object:
        sdata = toy()
        matrix = np.loadtxt(folder / "transform.csv", delimiter=",")
        affine = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
        set_transformation(sdata[which], affine, "global")
        try:
            unit_geometry(sdata, "cells", "nuclei", "he", mpp=0.5)
        except ValueError as error:
            # there is no file here: the element takes its place
            raise ValueError(f"transform.csv: {error}" if repr(which) in str(error) else str(error)) from error
        return sdata

    return read


def kinds(shared: Path | None) -> list[Kind]:
    some = past.io
    found = [
        Kind("aperio", lambda f: write_aperio(f / "a.svs"), wsi("a.svs"), [("a.svs", CUTS, BINARY)]),
        Kind("pyramid", lambda f: write_pyramid(f / "p.tif"), wsi("p.tif"), [("p.tif", CUTS, BINARY)]),
        Kind("ome", lambda f: write_ome(f / "o.ome.tif"), wsi("o.ome.tif"), [("o.ome.tif", CUTS, BINARY)]),
        Kind(
            "plain",
            lambda f: write_plain(f / "s.tif", resolution=(20000, 20000), resolutionunit="CENTIMETER"),
            wsi("s.tif"),
            [("s.tif", CUTS, BINARY)],
        ),
        Kind(
            "ome-zarr 2",
            lambda f: write_ome_zarr(f / "z.zarr"),
            wsi("z.zarr"),
            [("z.zarr/.zattrs", CUTS, JSON), ("z.zarr/0/.zarray", CUTS, JSON), ("z.zarr/0/0.0.0", CUTS, BINARY)],
        ),
        Kind(
            "ome-zarr 3",
            lambda f: write_ome_zarr(f / "z.zarr", version="0.5"),
            wsi("z.zarr"),
            [("z.zarr/zarr.json", CUTS, JSON), ("z.zarr/0/zarr.json", CUTS, JSON), ("z.zarr/0/c/0/0/0", CUTS, BINARY)],
        ),
        Kind(
            "geojson",
            make_geojson,
            into(lambda s, f: some.read_geojson(s, f / "cells.geojson", table_key_added="annotated")),
            [("cells.geojson", CUTS, JSON)],
        ),
        *(
            Kind(
                f"labels {name}",
                partial(make_labels, name=name),
                into(partial(read_label_file, name=name)),
                [(name, CUT_PICTURE if name.endswith("png") else CUTS, BINARY)],
            )
            for name in ("labels.tif", "labels.png", "labels.npy")
        ),
        Kind(
            "explorer",
            make_explorer,
            into(lambda s, f: some.read_xenium_explorer(s, f / "selection.csv", like="nuclei", pixel_um=0.2125)),
            [("selection.csv", {k: CUTS[k] for k in ("cut to 0", "foreign")}, TABLE | WRONG_TABLE)],
        ),
        Kind(
            "st",
            make_section,
            read_section,
            [
                ("counts.tsv", UNLIKE_COUNTS, TABLE),
                ("spots.tsv", WRONG_TABLE, TABLE),
                ("he.png", CUTS, BINARY),
            ],
        ),
        Kind(
            "model",
            make_model,
            read_model,
            [
                ("tiny/config.json", CUTS, JSON),
                ("tiny/card.json", CUTS, JSON),
                ("tiny/genes.parquet", CUTS, BINARY),
                ("tiny/model.safetensors", CUTS, BINARY),
            ],
            every=2,
        ),
        Kind(
            "store",
            make_store,
            lambda f: touch(read_any(f / "store.zarr")),
            [
                ("store.zarr/zarr.json", CUTS, JSON),
                ("store.zarr/images/he/zarr.json", CUTS, JSON),
                ("store.zarr/images/he/s0/zarr.json", CUTS, JSON),
                ("store.zarr/shapes/nuclei/shapes.parquet", CUTS, BINARY),
                ("store.zarr/tables/cells/zarr.json", CUTS, JSON),
                ("store.zarr/tables/cells/X/data/zarr.json", CUTS, JSON),
                ("store.zarr/tables/cells/obs/cell_id/c/0", CUTS, BINARY),
            ],
            every=4,
        ),
        *(
            Kind(f"transform of {which}", make_transform, read_transform(which), [("transform.csv", IMPOSSIBLE, {})])
            for which in ("he", "nuclei")
        ),
        Kind(
            "visium",
            make_visium,
            lambda f: touch(some.read_visium(f / "outs", fullres_image_file=f / "slide.tif")),
            [
                ("outs/spatial/scalefactors_json.json", CUTS, JSON),
                ("outs/spatial/tissue_positions.csv", WRONG_TABLE, TABLE),
                ("outs/filtered_feature_bc_matrix.h5", CUTS, BINARY),
                ("outs/spatial/tissue_hires_image.png", CUT_PICTURE, {}),
            ],
            every=3,
        ),
        Kind(
            "visium hd",
            make_visium_hd,
            lambda f: touch(some.read_visium_hd(f / "hd")),
            [
                ("hd/binned_outputs/square_008um/spatial/scalefactors_json.json", CUTS, JSON),
                ("hd/binned_outputs/square_008um/spatial/tissue_positions.parquet", CUTS, BINARY),
                ("hd/segmented_outputs/cell_segmentations.geojson", CUTS, JSON),
                ("hd/feature_slice.h5", CUTS, BINARY),
            ],
            every=5,
        ),
    ]
    if shared is not None:
        found += [
            Kind(
                "cosmx",
                lambda f: make_aligned_run(f, shared),
                read_run,
                [
                    ("run/align.csv", AFFINE, {}),
                    ("run/*metadata_file.csv", WRONG_TABLE, TABLE),
                    ("run/*exprMat_file.csv", WRONG_TABLE, TABLE),
                    ("run/*polygons.csv", WRONG_TABLE, TABLE),
                    ("run/*fov_positions_file.csv", {}, TABLE),
                ],
                every=2,
            ),
            Kind(
                "xenium",
                lambda f: make_xenium(f, shared),
                read_bundle,
                [
                    ("outs/align.csv", AFFINE, {}),
                    ("outs/experiment.xenium", CUTS, JSON),
                    ("outs/cell_feature_matrix.h5", CUTS, BINARY),
                    ("outs/cells.parquet", CUTS, BINARY),
                    ("outs/cell_boundaries.parquet", CUTS, BINARY),
                    ("outs/cells.zarr.zip", CUTS, BINARY),
                    ("outs/morphology_focus.ome.tif", CUTS, {}),
                ],
                every=6,
            ),
        ]
    return [with_cases(kind) for kind in found]


def with_cases(kind: Kind) -> Kind:
    for pattern, fatal, other in kind.plan:
        for damages, must_fail in ((fatal, True), (other, False)):
            for name, (damage, times) in damages.items():
                kind.cases += [(pattern, name, damage, must_fail, i) for i in range(times)]
    kind.cases = kind.cases[:: kind.every]
    return kind


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def linked(template: Path, folder: Path, victim: Path) -> Path:
    """The template with links for files, but for the one that will be damaged."""
    for path in template.rglob("*"):
        place = folder / path.relative_to(template)
        if path.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        elif path != victim:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, place)
    return folder / victim.relative_to(template)


def complaint(kind: Kind, template: Path, folder: Path, case: tuple) -> str | None:
    """What is wrong with how a reader takes a damaged input; ``None`` if nothing."""
    pattern, name, damage, must_fail, i = case
    (victim,) = template.glob(pattern)
    data = victim.read_bytes()
    # a draw may leave the file as it was
    for draw in range(i, i + 50):
        damaged = damage(data, np.random.default_rng(zlib.crc32(f"{kind.name}{pattern}{name}{draw}".encode())))
        if damaged != data:
            break
    folder.mkdir()
    target = linked(template, folder, victim)
    target.write_bytes(damaged)
    before = snapshot(folder)
    try:
        with time_limit(LIMIT), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(folder)
    except DOCUMENTED as error:
        # the damaged file, its folder, or the file that no longer fits it
        named = {target.relative_to(folder).parts[0], *(p.name for p in folder.rglob("*.*"))}
        if not any(part in str(error) for part in named):
            return f"does not name the file: {type(error).__name__}: {error}"
    except StillReading as error:
        return f"hangs: {error}"
    except Exception as error:  # noqa: BLE001
        return f"{type(error).__name__}: {error}"
    else:
        if must_fail:
            return "gave an answer"
    return None if snapshot(folder) == before else "changed the folder"


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("templates")


NAMES = [kind.name for kind in kinds(Path())]


@pytest.mark.parametrize("name", NAMES)
def test_damaged(name, tmp_path, request):
    needs_shared = name in ("cosmx", "xenium")
    shared = request.getfixturevalue("shared_data") if needs_shared else None
    (kind,) = (k for k in kinds(shared) if k.name == name)
    template = tmp_path / "template"
    template.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind.make(template)
        kind.read(template)  # it is right before it is damaged
    complaints = {}
    start = time.perf_counter()
    for n, case in enumerate(kind.cases):
        found = complaint(kind, template, tmp_path / f"case{n}", case)
        if found is not None:
            complaints[f"{case[0]} | {case[1]} #{case[4]}"] = found
    print(f"{name}: {len(kind.cases)} cases, {time.perf_counter() - start:.1f} s")
    assert not complaints, "\n".join(f"{where}: {what}" for where, what in complaints.items())


def test_there_are_enough_cases():
    """Without those that need the development data."""
    assert sum(len(kind.cases) for kind in kinds(None)) >= 500


@pytest.mark.parametrize(
    ("read", "caught"),
    [
        (lambda folder: time.sleep(5), "hangs"),
        (lambda folder: (folder / "half.zarr").write_text("x"), "changed the folder"),
        (lambda folder: 1 / 0, "ZeroDivisionError"),
        (lambda folder: int("x"), "does not name the file"),
        (lambda folder: None, None),
    ],
)
def test_what_would_be_noticed(tmp_path, monkeypatch, read, caught):
    monkeypatch.setattr(f"{__name__}.LIMIT", 1)
    (tmp_path / "template").mkdir()
    (tmp_path / "template" / "a.csv").write_text("a,b\n1,2\n")
    kind = Kind("any", lambda folder: None, read, [])
    found = complaint(kind, tmp_path / "template", tmp_path / "case", ("a.csv", "noise", noise, False, 0))
    assert found is None if caught is None else found.startswith(caught)
    if caught is None:
        again = complaint(kind, tmp_path / "template", tmp_path / "other", ("a.csv", "noise", noise, True, 0))
        assert again == "gave an answer"
