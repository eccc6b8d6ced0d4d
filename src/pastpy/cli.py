"""The ``pastpy`` command; every heavy import waits until a command runs."""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pastpy._protocols import PROTOCOLS

if TYPE_CHECKING:
    from anndata import AnnData
    from pandas import Series
    from spatialdata import SpatialData

    from pastpy.models import PAST

__all__ = ["main"]

#: What bad input raises, or a machine short of disk or memory; everything else is a fault of pastpy and keeps its
#: traceback.
_BAD_INPUT = (KeyError, ValueError, TypeError, OSError, MemoryError, ModuleNotFoundError)
#: What a shell expects of a command that Ctrl-C has ended.
_STOPPED = 130
#: What users of the command call what messages call otherwise.
_CALLED = {"pastpy.models.available()": "pastpy models"}
#: How options that take names take several.
_SEVERAL = "separated by commas; the option may be repeated"
#: Stem of what ``stain`` predicts beside an earlier prediction.
_STAIN_KEY = "stain"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns 0, or 2 with one line on standard error for bad input, or if a slide failed, or 130 if it was interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        with _warnings_as_lines(args):
            return args.run(args) or 0
    except KeyboardInterrupt:
        again = "; the same command goes on where it was stopped" if getattr(args, "resume", None) else ""
        print(f"\npastpy {args.command}: stopped{again}", file=sys.stderr)
        return _STOPPED
    except _BAD_INPUT as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"pastpy {args.command}: error: {_as_options(args, message) or type(error).__name__}", file=sys.stderr)
        return 2


@contextmanager
def _warnings_as_lines(args: argparse.Namespace) -> Iterator[None]:
    """Print warnings as errors are printed, without a line of source code that no user of a command knows."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        # others are about code, its own or that of a library
        if issubclass(category, UserWarning):
            print(f"pastpy {args.command}: warning: {_as_options(args, message)}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _as_options(args: argparse.Namespace, message: object) -> str:
    """A message in one line, in which arguments of the functions are called what the command calls them."""
    names = "|".join(name for name in vars(args) if name not in ("run", "command"))
    line = " ".join(str(message).split())
    for function, command in _CALLED.items():
        line = line.replace(function, command)
    option = rf"\b({names})= ?([,.;:)]|$)?"
    return re.sub(option, lambda found: f"--{found[1].replace('_', '-')}{' ' if found[2] is None else found[2]}", line)


def _names(text: str) -> list[str]:
    """Names that commas separate, as one use of an option gives them."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"{text!r} names nothing; separate names by commas, e.g. ERBB2,KRT8")
    return names


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line, as commands do."""

    def error(self, message: str) -> NoReturn:
        """Say it and end with 2."""
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help tells more)\n")


def _parser() -> argparse.ArgumentParser:
    from importlib.metadata import version

    parser = _Parser(prog="pastpy", description="Single-cell histopathology foundation models.")
    parser.add_argument("--version", action="version", version=f"pastpy {version('pastpy')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="run everything on the shipped sample and write pictures and a zarr store")
    demo.add_argument("--out", type=Path, default=Path("past-demo"), help="folder to write (default: past-demo)")
    demo.add_argument("--overwrite", action="store_true", help="replace the results of an earlier demo in that folder")
    demo.set_defaults(run=_demo)

    for name, text, run in (
        ("embed", "embed every cell of slides", _embed),
        ("impute", "predict every cell's expression", _impute),
        ("stain", "lay a virtual immunostain over the H&E", _stain),
    ):
        command = commands.add_parser(
            name,
            help=text,
            description=f"{text}; nuclei are found first where there are none. Of several slides, one that fails does "
            "not stop the rest; a report follows, and the exit code is 2 if any failed.",
        )
        _add_slide_options(command)
        command.set_defaults(run=run)
        if name == "impute":
            command.add_argument(
                "--genes",
                type=_names,
                action="extend",
                help=f"gene symbols, {_SEVERAL} (default: the model's trusted genes)",
            )
            command.add_argument("--uncertainty", action="store_true", help="also store the predictive sd and interval")
            command.add_argument("--table-added", help="write the prediction to a table of this name")
        if name == "stain":
            command.add_argument(
                "--marker",
                type=_names,
                action="extend",
                required=True,
                help=f"markers or gene symbols, {_SEVERAL}, e.g. HER2,Ki-67",
            )

    pretrain = commands.add_parser("pretrain", help="train a model from a configuration")
    pretrain.add_argument("config", help="configuration file, or the name of a bundled one, e.g. past-mini")
    pretrain.add_argument("--out", type=Path, required=True, help="folder for the model")
    pretrain.add_argument("--data", type=Path, help="folder with the training data")
    pretrain.set_defaults(run=_pretrain)

    bench = commands.add_parser(
        "bench",
        help="run an evaluation protocol",
        description="protocols:\n" + "\n".join(f"  {name:14} {p.text}" for name, p in PROTOCOLS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bench.add_argument("protocol", choices=list(PROTOCOLS), metavar="PROTOCOL", help="one of the protocols above")
    bench.add_argument("--data", type=Path, help="folder with the data")
    bench.add_argument("--out", type=Path, help="JSON file for the result; a table and a picture go beside it")
    bench.add_argument("--config", help="loso: configuration of the model to train for every section, e.g. past-mini")
    bench.add_argument("--models", type=Path, help="loso: folder for these models; those that are there are used again")
    bench.add_argument("--n-donors", type=int, help="simulated: donors; every fourth is held out")
    bench.add_argument("--cells-a-donor", type=int, help="simulated: cells of each")
    bench.add_argument("--n-genes", type=int, help="simulated: genes")
    bench.add_argument("--seed", type=int, help="simulated: seed of the cohort")
    bench.set_defaults(run=_bench)

    models = commands.add_parser("models", help="list the models that come with pastpy, or convert the released PAST")
    models.set_defaults(run=_models)
    actions = models.add_subparsers(dest="action", metavar="ACTION")
    convert = actions.add_parser("convert", help="turn a released .pth checkpoint into a folder with safetensors")
    convert.add_argument("checkpoint", type=Path, help="the released checkpoint")
    convert.add_argument("folder", type=Path, help="folder to write")
    convert.set_defaults(run=_convert)
    return parser


def _add_slide_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "slides",
        type=Path,
        nargs="+",
        metavar="SLIDE",
        help="SpatialData zarr store with an H&E image, folder of a Xenium bundle, or a slide file",
    )
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="zarr store to write, which must not exist; for several slides a folder that gets a store for each",
    )
    command.add_argument(
        "--model", default="past-mini", help="bundled name, model folder or released checkpoint (default: past-mini)"
    )
    command.add_argument("--image-key", help="name of the image")
    command.add_argument("--shapes-key", help="name of the shapes")
    command.add_argument("--table-key", help="name of the table")
    command.add_argument("--mpp", type=float, help="µm per level-0 pixel, where the slide does not say")
    command.add_argument("--he-image", type=Path, help="H&E of a Xenium bundle (default: the bundle's own)")
    command.add_argument("--he-alignment", type=Path, help="alignment of this H&E (default: the file of its name)")
    command.add_argument(
        "--modality",
        choices=["auto", "image", "expression", "both"],
        default="auto",
        help="what of a cell is used (default: what it has); expression needs no H&E, unless one is to be stained",
    )
    command.add_argument("--mode", choices=["dense", "crop"], help="how cells are read (default: the model's own)")
    command.add_argument(
        "--on-misaligned",
        choices=["warn", "raise", "ignore"],
        default="warn",
        help="what to do where cells do not lie on the tissue (default: warn)",
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    command.add_argument("--batch-size", type=int, help="tiles or crops encoded together (default: found by itself)")
    command.add_argument(
        "--resume",
        type=Path,
        help="zarr store (for several slides a folder) for unfinished results: the same command goes on there after it "
        "was stopped, and leaves out slides that are done",
    )


def _elements_of(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("image_key", "shapes_key", "table_key", "mpp")}


def _call_options(args: argparse.Namespace) -> dict[str, Any]:
    names = ("modality", "mode", "on_misaligned", "device", "batch_size")
    return {**_elements_of(args), **{name: getattr(args, name) for name in names}}


def _on_slides(args: argparse.Namespace, work: Callable[[SpatialData, Path | None], object]) -> int:
    """Do the work for every slide, each written to its place in one piece; returns the exit code."""
    from pastpy._cli_places import check_folders, check_place, places

    for option in ("out", "resume"):
        if getattr(args, option) is not None:
            check_place(getattr(args, option), f"--{option}")
    if len(args.slides) == 1 and (args.out.suffix == ".zarr" or not args.out.is_dir()):
        table = _on_slide(args, args.slides[0], args.out, args.resume, work)
        print(f"wrote {args.out}: {_what_is_in(table)}")
        return 0
    from pastpy.tl._slides import report, work_through

    if args.he_image is not None or args.he_alignment is not None:
        raise ValueError("--he-image and --he-alignment are of one Xenium bundle; give several one at a time")
    check_folders(args)
    left = places(args)
    done = len(args.slides) - len(left)
    if done:
        print(f"{done} of {len(args.slides)} slides were done before")
    outcomes = work_through(
        {str(slide): (slide, *place) for slide, place in left.items()},
        lambda item: _on_slide(args, *item, work),
    )
    if outcomes:
        print(report(outcomes))
    return 2 if any(outcome.error is not None for outcome in outcomes) else 0


def _on_slide(
    args: argparse.Namespace,
    slide: Path,
    out: Path,
    resume: Path | None,
    work: Callable[[SpatialData, Path | None], object],
) -> AnnData:
    """Open a slide, find nuclei where it has no table, do the work, and write it; returns the table."""
    if out.exists():
        raise FileExistsError(f"--out {str(out)!r} exists; choose another path or remove it")
    from pastpy._elements import table_of
    from pastpy.io import write_store
    from pastpy.io._open import read_any
    from pastpy.tl._slides import set_source

    sdata = read_any(slide, mpp=args.mpp, he_image=args.he_image, he_alignment=args.he_alignment)
    if not sdata.tables and args.table_key is None:
        from pastpy.pp import segment_nuclei

        segment_nuclei(sdata, image_key=args.image_key, mpp=args.mpp)
    set_source(sdata, slide)
    work(sdata, resume)
    write_store(sdata, out)
    return table_of(sdata, args.table_key)


def _what_is_in(table: AnnData) -> str:
    """A table in one line: how many rows, of how many there is an embedding, and what was added to it."""
    from pastpy import _keys

    valid = table.obs.get(_keys.Slots().valid)
    embedded = "" if valid is None or valid.all() else f", {valid.sum():,} of them embedded"
    added = ", ".join(sorted(name for name in table.obsm if name != _keys.SPATIAL))
    return f"{table.n_obs:,} rows{embedded}; obsm: {added}"


def _embed(args: argparse.Namespace) -> int:
    from pastpy import tl
    from pastpy.tl._inputs import load_model

    model = load_model(args.model, args.device)
    return _on_slides(args, lambda sdata, resume: tl.embed(sdata, model, resume=resume, **_call_options(args)))


def _impute(args: argparse.Namespace) -> int:
    from pastpy import tl
    from pastpy._names import check_name
    from pastpy.tl._impute_expression import names_in_model
    from pastpy.tl._inputs import load_past

    if args.table_added is not None:
        # nuclei may have to be found before it is used
        check_name(args.table_added, "table_added")
    model = load_past(args.model, args.device)
    if args.genes and not names_in_model(model, args.genes):
        raise KeyError(f"model {model.config.name!r} knows none of the genes {args.genes}")
    return _on_slides(
        args,
        lambda sdata, resume: tl.impute_expression(
            sdata, model, genes=args.genes, uncertainty=args.uncertainty, table_added=args.table_added, resume=resume,
            **_call_options(args),
        ),
    )  # fmt: skip


def _stain(args: argparse.Namespace) -> int:
    from pastpy.tl._impute_expression import names_in_model
    from pastpy.tl._inputs import load_past
    from pastpy.tl._markers import resolve_markers

    markers = resolve_markers(args.marker)
    model = load_past(args.model, args.device)
    known = {marker.name: list(names_in_model(model, marker.genes)) for marker in markers}
    without = [name for name, genes in known.items() if not genes]
    if without:
        raise KeyError(f"model {model.config.name!r} knows none of the genes of {', '.join(without)}")
    return _on_slides(args, lambda sdata, resume: _stain_slide(sdata, model, known, args, resume))


def _stain_slide(
    sdata: SpatialData, model: PAST, markers: dict[str, list[str]], args: argparse.Namespace, resume: Path | None
) -> None:
    """Predict the markers' genes, stain, and print scores; what was predicted or stained before stays."""
    from pastpy import _keys, tl
    from pastpy._cli_scores import scores_of
    from pastpy._elements import resolve_image, table_of

    # counts alone may give the genes, but there is nothing to stain then
    elements = {**_elements_of(args), "image_key": resolve_image(sdata, args.image_key)}
    table = table_of(sdata, args.table_key)
    key = _STAIN_KEY if _keys.Slots().expression in table.obsm else _keys.PAST
    genes = list(dict.fromkeys(gene for of_marker in markers.values() for gene in of_marker))
    tl.impute_expression(sdata, model, genes=genes, key_added=key, resume=resume, **_call_options(args))
    drawn = table.uns[_keys.PAST].get("virtual_stain", {}).get("markers", {})
    taken = any(entry["image"] == _keys.VIRTUAL_STAIN for name, entry in drawn.items() if name not in markers)
    alone = f"{_keys.VIRTUAL_STAIN}_{next(iter(markers))}"
    tl.virtual_stain(
        sdata, args.marker, expression_key=_keys.Slots(key).expression,
        key_added=alone if taken and len(markers) == 1 else _keys.VIRTUAL_STAIN,
        overwrite=True, **elements,
    )  # fmt: skip
    print(scores_of(sdata, list(markers), table_key=args.table_key, key_added=key))


def _demo(args: argparse.Namespace) -> None:
    from pastpy._demo import run

    run(args.out, overwrite=args.overwrite)


def _pretrain(args: argparse.Namespace) -> None:
    from pastpy.train import Ranks, fit
    from pastpy.train.members import resumable

    if not resumable(args.out):
        raise FileExistsError(f"--out {str(args.out)!r} exists; choose another folder or remove it")
    with Ranks.of_torchrun() as ranks:
        model = fit(args.config, args.out, data=args.data, ranks=ranks)
    if ranks.first:
        print(json.dumps(model.card.facts["scores"], indent=2))
        print(f"wrote {args.out}")


def _bench(args: argparse.Namespace) -> None:
    from pastpy.bench._report import in_short, without_nan

    protocol = PROTOCOLS[args.protocol]
    if protocol.needs_data and args.data is None:
        raise ValueError(f"the protocol {args.protocol} needs --data, the folder with the data")
    known = sorted({name for p in PROTOCOLS.values() for name in p.options})
    options = {name: getattr(args, name) for name in known if getattr(args, name) is not None}
    strange = [f"--{name.replace('_', '-')}" for name in options if name not in protocol.options]
    if strange:
        raise ValueError(f"the protocol {args.protocol} has no option {', '.join(strange)}")
    if args.out is not None and not args.out.parent.is_dir():
        raise FileNotFoundError(f"no folder {str(args.out.parent)!r} to write {args.out.name!r} in; create it")
    result = protocol.run(args.data, args.out, **options)
    if args.out is None:
        print(json.dumps(without_nan(result), indent=2, ensure_ascii=False))
        return
    print(in_short(result))
    print(f"wrote {args.out}, and beside it a table (.csv) and a picture (.png)")


def _models(args: argparse.Namespace) -> None:
    from pastpy import models

    print("\n".join(_described(model) for _, model in models.available().iterrows()))


def _described(model: Series[Any]) -> str:
    """A model in four lines, which a terminal can hold."""
    known = model.dropna().to_dict()
    size = f", {known['size_mb']} MB" if "size_mb" in known else ""
    terms = {name: {True: "yes", False: "no"}[known[name]] for name in ("commercial_use", "gated") if name in known}
    return (
        f"{known['name']}\n"
        f"  {known['kind']}, {known['location']}, {known['backbone']}{size}; "
        f"commercial use: {terms.get('commercial_use', 'unknown')}, gated: {terms.get('gated', 'unknown')}\n"
        f"  licence: {known['licence']}\n"
        f"  {known['url'] if 'url' in known else 'sha256 ' + known['sha256']}"
    )


def _convert(args: argparse.Namespace) -> None:
    from pastpy.models import convert_released

    print(f"wrote {convert_released(args.checkpoint, args.folder)}")
