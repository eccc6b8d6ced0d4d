"""Names of the evaluation protocols on the command line; light, so that ``pastpy --help`` stays instant."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["PROTOCOLS", "Protocol"]


class Protocol(NamedTuple):
    """One protocol.

    Attributes
    ----------
    where
        ``module:function`` below ``pastpy.bench``; the function takes the data folder and the JSON file to write, and
        returns plain values.
    text
        What it does.
    needs_data
        Whether it reads a data folder.
    options
        Names of the options that it takes besides.
    """

    where: str
    text: str
    needs_data: bool = True
    options: tuple[str, ...] = ()

    def run(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Call the function."""
        module, name = self.where.split(":")
        function: Callable[..., dict[str, Any]] = getattr(import_module(f"pastpy.bench.{module}"), name)
        return function(*args, **options)


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "nuclei": Protocol("_nuclei:run_nuclei", "detection on NuCLS tiles, leave one tile out"),
        "loso": Protocol(
            "_runs:run_sections",
            "leave one section out (her2st, or a folder of stores): baselines, and with --config a model trained anew "
            "for every section",
            options=("config", "models"),
        ),
        "lodo": Protocol("_runs:run_donors", "leave one donor out (a folder of stores and donors.csv): baselines"),
        "mob": Protocol("_runs:run_mob", "leave one section out on spots of the mouse olfactory bulb: baselines"),
        "hest": Protocol("_runs:run_hest", "frozen encoders by the recipe of the HEST-Benchmark"),
        "deconvolution": Protocol(
            "_runs_embedding:run_deconvolution", "cell-type proportions of held-out spots against a reference"
        ),
        "retrieval": Protocol("_runs_embedding:run_retrieval", "a held-out spot's transcriptome by the one predicted"),
        "probe": Protocol("_runs_embedding:run_probe", "types of NuCLS nuclei by a linear probe of frozen features"),
        "robustness": Protocol("_runs_embedding:run_robustness", "biology against section among neighbours"),
        "intervals": Protocol("_runs_intervals:run_intervals", "coverage of nested conformal intervals on sections"),
        "simulated": Protocol(
            "_simulated:run_simulated",
            "cells of held-out simulated donors: share of the attainable, shuffled control, coverage of intervals",
            needs_data=False,
            options=("n_donors", "cells_a_donor", "n_genes", "seed"),
        ),
    }
)
