"""Write the tables of docs/evaluation.md from the JSON files in docs/_data.

    pastpy bench loso --data ../shared/data --out docs/_data/loso.json   # and so on: the page names each command
    python scripts/make_evaluation.py

Of what a protocol writes, the JSON is kept in the repository, the table of every gene (CSV) and the picture are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from result_tables import DOCS, fill

from pastpy.bench._report import markdown


def methods(result: Mapping[str, Any]) -> str:
    """A row a method: Pearson r per section and over them, and of the best 50 and the spatially variable genes."""
    table = pd.DataFrame(result["scores"]["pearson"]).T.astype(float)
    if len(result["folds"]) > 6 or "cohort" in result:  # many sections: only what is over them
        table = table[["mean", "lower", "upper", "best_50", "spatial", "n_scored"]]
    table["n_scored"] = [f"{n:.0f}" for n in table["n_scored"]]
    # results of before this was told have no such column
    shares = pd.DataFrame(result["scores"]["pearson"]).T.get("share_predicted", pd.Series(dtype=float)).astype(float)
    table = table.drop(columns="share_predicted", errors="ignore")
    if (shares < 1).any():  # what a method leaves out is scored as the training mean
        table["predicted"] = shares.map(lambda share: "" if pd.isna(share) else f"{share:.1%}")
    return markdown(table.rename_axis("method"))


def simulated(result: Mapping[str, Any]) -> str:
    """Methods, their share of the attainable, and the coverage of intervals."""
    table = pd.DataFrame(result["scores"]["pearson"]).T.astype(float)[["mean", "lower", "upper"]]
    table["share of the attainable"] = pd.Series(result["share_of_attainable"], dtype=float)
    table["MSE"] = pd.DataFrame(result["scores"]["mse"]).T["mean"].astype(float)
    found = result["intervals"]
    return (
        f"{markdown(table.drop(index='noise ceiling').rename_axis('method'))}\n\n"
        f"Nested {found['level']:.0%} intervals ({found['method']}): coverage {found['coverage']:.3f} "
        f"(95 % interval over {found['n_held_out']} held-out donors {found['coverage_lower']:.3f}–"
        f"{found['coverage_upper']:.3f}); on average {found['width_ratio']:.0%} as wide as those around the training "
        f"means; "
        f"{found['abstained']:.0%} of genes and donors abstained from."
    )


def intervals(result: Mapping[str, Any]) -> str:
    """Coverage per section, and the count of predictable genes."""
    table = pd.DataFrame({"coverage": result["sections"]}).T
    table["all"] = result["coverage"]
    count = result["predictable_genes"]["count"]
    return (
        f"{markdown(table.rename_axis('section'), digits=3)}\n\n"
        f"95 % interval over sections {result['coverage_lower']:.3f}–{result['coverage_upper']:.3f}; on average "
        f"{result['width_ratio']:.0%} as wide as those around the training means; "
        f"{result['abstained']:.0%} of genes and sections "
        f"abstained from. Card of predictable genes ({result['predictable_genes']['statement']}): "
        f"{count.get('yes', 0)} trusted, {count.get('unsure', 0)} unsure, {count.get('no', 0)} not predictable."
    )


def rows(result: Mapping[str, Any]) -> str:
    """A row a method of plain scores."""
    table = pd.DataFrame(result["methods"]).T.drop(columns="null", errors="ignore").astype(float)
    for column, digits in (("n", 0), ("n_left_out", 0), ("p_value", 3)):
        if column in table:
            table[column] = [f"{v:.{digits}f}" for v in table[column]]
    return markdown(table.rename_axis("features"))


def recalls(result: Mapping[str, Any]) -> str:
    """Recall at every k, a row a method and k."""
    parts = [pd.DataFrame(v).assign(method=m) for m, v in result["methods"].items()]
    table = pd.concat(parts).set_index("method")[["k", "recall", "chance", "p_value", "median_rank"]]
    return markdown(table.assign(k=[f"{k:.0f}" for k in table["k"]], p_value=[f"{p:.3f}" for p in table["p_value"]]))


def proportions(result: Mapping[str, Any]) -> str:
    """Agreement per cell type with features, and over types without."""
    (mean, base), (_, model) = result["methods"].items()
    table = pd.DataFrame(model).T.astype(float)[["pearson", "rmse", "jensen_shannon"]]
    table["rmse of the " + mean] = pd.DataFrame(base).T.astype(float)["rmse"]
    table.loc["all types", "jensen_shannon of the " + mean] = base["all types"]["jensen_shannon"]
    return markdown(table.rename_axis("cell type"), digits=3)


def nuclei(result: Mapping[str, Any]) -> str:
    """Detection of held-out tiles, and of all tiles by the setting that ships."""
    table = pd.DataFrame(
        {"leave one tile out": result["pooled"], "shipped defaults, chosen and scored on all ten": result["in_sample"]}
    ).T
    names = {"f1_3um": "F1 at 3 µm", "f1_6um": "F1 at 6 µm", "pq": "panoptic quality"}
    true = table["tp"].astype(float)
    table["precision"], table["recall"] = true / (true + table["fp"]), true / (true + table["fn"])
    held_out = pd.DataFrame(result["tiles"]).T["f1_3um"].astype(float)
    return (
        markdown(
            table[[*names, "precision", "recall"]].astype(float).rename(columns=names).rename_axis("setting"), digits=3
        )
        + f"\n\nF1 at 3 µm of a tile held out: {held_out.min():.2f} to {held_out.max():.2f}."
    )


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "loso": methods,
    "hest": methods,
    "mob": methods,
    "simulated": simulated,
    "intervals": intervals,
    "probe": rows,
    "robustness": rows,
    "retrieval": recalls,
    "deconvolution": proportions,
}


if __name__ == "__main__":
    fill(DOCS / "evaluation.md", TABLES)
    fill(DOCS / "segmentation.md", {"nuclei": nuclei})
