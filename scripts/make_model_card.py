"""Write ``docs/model_card.md`` from the card that ``pastpy pretrain past-mini`` left beside the weights."""

# ruff: noqa: E501 (the page's own lines)
from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "src" / "pastpy" / "models" / "weights" / "past-mini"


def main() -> None:
    """Fill the page's figures in; the prose around them stands here."""
    facts = json.loads((MODEL / "card.json").read_text())
    genes = pd.read_parquet(MODEL / "genes.parquet")
    s = facts["scores"]
    best = genes[genes["trusted"]].nlargest(12, "validation_r")
    rows = "\n".join(f"| {g} | {r:.2f} |" for g, r in zip(best["gene"], best["validation_r"], strict=True))
    text = f"""# Model card: past-mini

**Research use only.** A small PAST, made to show the whole way and to be replaced by a better one.

| | |
|---|---|
| architecture | EfficientNet-Lite0 up to stride 8 (ImageNet weights, frozen), tokens of 4 µm pooled under the nucleus, area and elongation of its outline, tokens in a ring of 10 µm, in discs of 3, 6, 9, 15 and 30 µm radius, and of a second pass at 2 µm/px over discs of 100, 200 and 400 µm radius, relative to the slide; three times, from other starts, a network of two hidden layers over all of them, an expression encoder and a decoder whose 48 programs attend to all tokens, averaged; a linear readout of the same features with a fifth of the say; negative binomial |
| image | H&E, read at 0.5 and 2 µm/px |
| vocabulary | {len(genes):,} gene symbols |
| trained on | {", ".join(facts["train"])}; {facts["n_train_spots"]:,} spots, {facts["n_train_cells"]:,} cells under them |
| validated on | {", ".join(facts["validation"])}: the same tumour; it chose nothing of the run, but the recipe was chosen by scores on such sections |
| licence | {facts["licence"]} |
| command | `{facts["command"]} --data ../shared/data --out past-mini` |

## Scores

From *cells'* predictions averaged over the spots of the validation section ({s["n_spots"]} spots), over the
{int(genes["variable"].sum())} most variable genes, chosen on the training sections. All sections are of **one tumour**, so
these figures flatter: a new patient is the real test, and with counts it has **not been made**. What types of nuclei of another
patient and organ say stands in [evaluation](evaluation.md#another-patient-and-organ).

| | mean Pearson r | best 50 genes |
|---|---|---|
| past-mini | {s["mean_r_variable"]:.3f} | {s["mean_r_best_50"]:.3f} |
| the cells' images shuffled | {s["mean_r_shuffled"]:.3f} | |
| one principal component of the frozen features | {s["mean_r_one_component"]:.3f} | |

Mean negative-binomial deviance of the validation spots, all genes: {s["nb_deviance"]:.4f}, of the gene means
{s["nb_deviance_gene_mean"]:.4f} (lower is better; the same dispersions). Frozen features of the same backbone with PCA(64)
and ridge, three stages, give r = 0.32 on this section (floor given with the data). What the same command gives on sections
that models of their own have never seen, and what these weights give on simulated donors that they have not seen, is in
[evaluation](evaluation.md); what each part of the recipe gives, in [decisions](decisions.md).

## Genes

{int(genes["trusted"].sum()):,} genes reach r ≥ 0.3 on the validation section and are predicted by default (the best 500). They were
*chosen* on that section, so their r there is optimistic, and it says nothing about another tumour. The first of them:

| gene | r on the validation section |
|---|---|
{rows}

Every gene's r is in `past.models.load("past-mini").card.genes`.

## Tissue that it does not know

The card keeps the features of the training cells' surroundings, and how far cells of a section lie from the other sections.
`tl.embed` and `tl.impute_expression` warn where more cells lie far out than in any section left out, and note the share in
`uns["past"]`. It was calibrated on one tumour: a warning says that the tissue looks otherwise, to this backbone; that none comes
does not say that predictions are right.

## Limits

- One HER2-positive breast tumour, one laboratory's stain and scanner, 0.69 µm/px. Of other tissue, types of nuclei in
  one crop of an ovarian carcinoma are all that was looked at ([evaluation](evaluation.md#another-patient-and-organ)): genes of the Xenium
  panel, and others of epithelium and connective tissue, are predicted where they belong; of leucocytes' outside the panel, seven of eleven.
- The sections are neighbours in one block: part of what is scored on a section left out is memory of places in this tumour. Networks on
  the same features fall from 0.39 to 0.26 where that half of the tissue was left out too (half as many spots and a narrower range are
  part of it), and wide surroundings then give nothing ([decisions](decisions.md)).
- Spots of 100 µm supervise on real tissue: how expression is divided among the cells of a spot is inferred, helped by what
  simulated cells show, and has not been checked against real single cells.
- A cell is taken relative to the slide it is on: embed whole slides, then subset. Cells of one kind alone (of one nest, say)
  are taken relative to each other. Where a table holds fewer than some hundred cells, the training slides stand in.
- Outlines count: of nuclei that another tool has drawn, area and elongation are taken relative to the slide. Circles and points have
  none, and predictions do without. Outlines are no part of `X_past`.
- Simulated cells teach genes outside the Xenium panel by what goes together in these spots, and by the types of cells that stereoscope
  finds in them: genes that are together in this tumour are predicted together in every other.
- Genes of the Xenium panel that the spots hardly ever count are learnt from simulated donors alone: they vary as there, at a
  level near nothing, and are not trusted.
- The interval of `uncertainty=True` holds counting noise, overdispersion and what parts of the three networks disagree on, not the error on
  other tissue that all of them share.
- The linear readout has no say where a cell's counts are used too (`modality="both"`), so predictions with and without counts differ by more
  than the counts.
- The joint space is trained on {facts["n_train_spots"]:,} spots: retrieval between modalities is weak
  (see [decisions](decisions.md)).
- No Xenium image was seen: the Xenium cells trained the expression side alone.

## Tried

See [decisions](decisions.md): backbone stage, resolution, layout of the decoder, wide discs, deeper features, losses, statistics of the slide, simulated
donors, genes that these lack, a summary of all regions, styles of donors, kernels and networks, several networks and a linear readout; with what each gave, also where it gave nothing.
"""
    (ROOT / "docs" / "model_card.md").write_text(text)


if __name__ == "__main__":
    main()
