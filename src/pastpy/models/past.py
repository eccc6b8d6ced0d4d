"""PAST: a cell's image and its transcriptome, encoded jointly and decoded to expression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from pastpy.models.blocks import Block, length_groups
from pastpy.models.context import ContextPlace
from pastpy.models.crops import pool_crops
from pastpy.models.decoder import GeneDecoder
from pastpy.models.encoders import build_encoder
from pastpy.models.expression import ExpressionEncoder
from pastpy.models.joint import JointHead, normalised_sum
from pastpy.models.neighbours import NeighbourContext
from pastpy.models.passes import image_passes
from pastpy.models.slide import SlideStatistics, slide_statistics
from pastpy.models.subnetworks import SubnetworkDropout
from pastpy.models.summary import RegionSummary
from pastpy.models.tokens import join_tokens, known_depth, pad_rows, split_absent, unknown_as_nan

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from scipy.sparse import csr_matrix

    from pastpy.models.config import PASTConfig
    from pastpy.models.passes import ImagePass

__all__ = ["PAST", "ModelCard"]

#: Cells decoded at once; with a vocabulary of 20,000 genes this stays below 2 GB.
DECODE_ROWS = 512


@dataclass
class ModelCard:
    """What is known of a trained model beyond its weights.

    Attributes
    ----------
    genes
        One row a gene of the vocabulary: ``gene``, ``variable`` (bool: among the most variable genes of the training
        spots, over which scores are averaged), ``trusted`` (bool: reaches a stated validation r), ``validation_r``
        (Pearson r on the validation section), ``q05`` and ``q95`` (quantiles of the predicted expression over the
        training cells); optional ``trained`` (bool: the decoder has seen counts of it; else its prediction is NaN).
    facts
        Plain JSON-like values: data, licence, training command, scores, limits.
    """

    genes: pd.DataFrame
    facts: dict[str, Any]


class PAST(nn.Module):
    """Pathology And Single-cell Transcriptomics: the model behind :func:`pastpy.tl.embed`.

    An image encoder gives tokens, pooled under and around each cell; an expression encoder summarises measured genes;
    both are projected to one space, and a decoder in which gene queries attend to the tokens predicts counts.

    Parameters
    ----------
    config
        Architecture.
    card
        Vocabulary and facts of the model.
    backbone
        Image backbone, where it is not one that the configuration can name; see :func:`pastpy.models.build_encoder`.

    References
    ----------
    Yang et al., PAST, arXiv:2507.06418 (the idea; this architecture is pastpy's own).

    Examples
    --------
    >>> import torch
    >>> import pastpy as past
    >>> model = past.models.load("past-mini")
    >>> model.embed_image(torch.zeros(1, 3, 96, 96)).shape[0]
    1
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor
    image_centre: torch.Tensor
    expression_centre: torch.Tensor
    trained_genes: torch.Tensor

    def __init__(self, config: PASTConfig, card: ModelCard, *, backbone: nn.Module | None = None) -> None:
        super().__init__()
        self.config, self.card = config, card
        #: SHA-256 of the weights file that the model was loaded from
        self.sha256: str | None = None
        self.gene_names: list[str] = card.genes["gene"].astype(str).tolist()
        self.gene_index = {gene: i for i, gene in enumerate(self.gene_names)}
        self.image_encoder = build_encoder(config, backbone)
        regions = [region for each in self.passes for region in each.regions]
        n_genes, n_regions, dim = len(self.gene_names), len(regions), config.dim
        channels = self.image_encoder.channels
        self.register_buffer("feature_mean", torch.zeros(n_regions, channels))
        self.register_buffer("feature_std", torch.ones(n_regions, channels))
        self.region_in = nn.ModuleList([nn.Linear(channels, dim) for _ in regions])
        self.token_norm = nn.LayerNorm(dim)
        self.dropout = SubnetworkDropout(config.dropout, layer=0)
        self.cell_encoder = ExpressionEncoder(
            n_genes, dim, config.expression_tokens, config.heads, config.dropout, layers=config.expression_layers,
            technologies=config.technologies, gene_tokens=config.gene_tokens,
        )  # fmt: skip
        #: Tokens that :meth:`image_tokens` gives a cell: one a region, then the summary's.
        self.n_image_tokens = n_regions + config.summary_tokens
        self.image_projection = nn.Linear(self.n_image_tokens * dim, config.embedding_dim)
        self.cell_projection = nn.Linear(config.expression_tokens * dim, config.embedding_dim)
        self.register_buffer("image_centre", torch.zeros(config.embedding_dim))
        self.register_buffer("expression_centre", torch.zeros(config.embedding_dim))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.decoder = GeneDecoder(n_genes, dim, config.heads, rank=config.rank, zero_inflation=config.zero_inflation)
        self.log_theta = nn.Parameter(torch.zeros(n_genes))
        self.background = nn.Parameter(torch.zeros(n_genes))
        self.log_background_amount = nn.Parameter(torch.zeros(()))
        self.fusion = nn.ModuleList([Block(dim, config.heads, config.dropout) for _ in range(config.fusion_layers)])
        self._add_options(config, [region.offset_um for region in regions], channels)
        trained = card.genes["trained"].astype(bool).tolist() if "trained" in card.genes else [True] * n_genes
        self.register_buffer("trained_genes", torch.tensor(trained, dtype=torch.bool), persistent=False)

    def _add_options(self, config: PASTConfig, offsets: list[tuple[float, float]], channels: int) -> None:
        """Parts that the configuration asks for; without them nothing is drawn, stored or computed."""
        self.summary = None
        if config.summary_tokens:
            self.summary = RegionSummary(
                len(offsets) * channels, config.summary_width, tokens=config.summary_tokens, dim=config.dim,
                dropout=config.dropout,
            )  # fmt: skip
        self.context = ContextPlace(offsets, config.dim) if any(offset != (0.0, 0.0) for offset in offsets) else None
        self.joint = JointHead(config.dim, config.embedding_dim, config.heads) if config.joint == "attention" else None
        self.neighbour_context = (
            NeighbourContext(config.dim, config.heads, config.neighbour_radius_um) if config.neighbours else None
        )
        if config.logit_bias:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))

    def train(self, mode: bool = True) -> PAST:
        """Switch to training; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.config.backbone_training == "frozen":
            self.image_encoder.eval()
        return self

    @property
    def image_stats(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that normalise pixels in [0, 1]."""
        return self.config.image_mean, self.config.image_std

    @property
    def mode(self) -> str:
        """How cells are read by default, ``"dense"`` or ``"crop"``."""
        return self.config.mode

    @property
    def passes(self) -> tuple[ImagePass, ...]:
        """How the image encoder reads an image: the fine pass, and the coarse one where there is one.

        Whoever pools tokens runs :attr:`image_encoder` once for each, at its µm per pixel, pools its regions, and joins
        what comes out along the axis of the regions, in this order: that is what :meth:`image_tokens` takes.
        """
        return image_passes(self.config, self.image_encoder)

    @property
    def image_regions(self) -> list[int]:
        """Positions of the regions, among those of all passes, that are pooled from the image: all but outlines.

        A cell that lies well inside the image has all of these; its outline may be missing.
        """
        regions = [region for each in self.passes for region in each.regions]
        return [i for i, region in enumerate(regions) if region.of_image]

    @property
    def crop_px(self) -> int | None:
        """Side of a crop at ``config.target_mpp`` for all passes, where the backbone wants a certain one."""
        window = self.image_encoder.crop_px
        return None if window is None else window * self.passes[-1].zoom

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.log_theta.device

    def image_tokens(self, pooled: torch.Tensor, slide: SlideStatistics | None = None) -> torch.Tensor:
        """Pooled backbone tokens, float32 (n, regions, channels), as model tokens, (n, n_image_tokens, dim).

        One a region, then those of the summary. A region that is not known (it holds no token of the image, or the cell
        has no outline) is NaN, before and after; the other regions do not depend on it, and the summary takes it as a
        usual one.

        Parameters
        ----------
        pooled
            The tokens.
        slide
            Statistics of the slide that the cells are on, from :meth:`slide_statistics`; those of the training slides
            by default.
        """
        standardised, absent = split_absent((slide or self.usual).standardise(pooled))
        tokens = self.tokens_of(standardised)
        if absent is None:
            return tokens
        if self.summary is not None:
            nowhere = absent.all(dim=1, keepdim=True)
            absent = torch.cat([absent, nowhere.expand(-1, self.config.summary_tokens)], dim=1)
        return tokens.masked_fill(absent[..., None], float("nan"))

    @property
    def usual(self) -> SlideStatistics:
        """Statistics of the training slides."""
        return SlideStatistics(self.feature_mean, self.feature_std, 0)

    def slide_statistics(self, pooled: torch.Tensor) -> SlideStatistics:
        """Statistics for cells of a slide from the pooled tokens of some of them, float32 (n, regions, channels).

        Those of the training slides for a model without ``slide_norm``.
        """
        return slide_statistics(pooled, self.usual) if self.config.slide_norm else self.usual

    def tokens_of(self, standardised: torch.Tensor) -> torch.Tensor:
        """Standardised features of all regions, float32 (n, regions, channels), as tokens, (n, n_image_tokens, dim)."""
        tokens = self.region_tokens(standardised)
        return tokens if self.summary is None else torch.cat([tokens, self.summary(standardised)], dim=1)

    def region_tokens(self, standardised: torch.Tensor) -> torch.Tensor:
        """Standardised features of all regions, float32 (n, regions, channels), as model tokens."""
        x = torch.stack([layer(standardised[:, i]) for i, layer in enumerate(self.region_in)], dim=1)
        if self.context is not None:
            x = x + self.context()
        return self.dropout(self.token_norm(F.gelu(x)))

    def add_neighbours(self, tokens: torch.Tensor, index: torch.Tensor, distance_um: torch.Tensor) -> torch.Tensor:
        """Image tokens of all cells, (n, n_image_tokens, dim), that know those of their neighbours.

        Parameters
        ----------
        tokens
            From :meth:`image_tokens`.
        index, distance_um
            From :func:`pastpy.models.nearest_cells`, (n, k) each.

        Raises
        ------
        ValueError
            If the model was made without neighbours.
        """
        if self.neighbour_context is None:
            raise ValueError(
                f"model {self.config.name!r} has no neighbour context; set neighbours in its configuration"
            )
        return self.neighbour_context(tokens, index, distance_um)

    def project_image(self, tokens: torch.Tensor) -> torch.Tensor:
        """Image tokens (n, n_image_tokens, dim) in the joint space, centred, not yet normalised."""
        return self.image_projection(split_absent(tokens)[0].flatten(1)) - self.image_centre

    def project_expression(self, tokens: torch.Tensor) -> torch.Tensor:
        """Expression tokens (n, t, dim) in the joint space, centred, not yet normalised."""
        summary, _ = split_absent(tokens[:, : self.config.expression_tokens])
        return self.cell_projection(summary.flatten(1)) - self.expression_centre

    def embed_joint(
        self, image_tokens: torch.Tensor | None = None, expression_tokens: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Embedding of cells from both modalities, or from either.

        Parameters
        ----------
        image_tokens, expression_tokens
            float32 (n, t, dim); a modality that a cell lacks is NaN.

        Returns
        -------
        float32 (n, embedding_dim), L2-normalised; NaN where a cell has neither.
        """
        if self.joint is None:
            parts = ((self.project_image, image_tokens), (self.project_expression, expression_tokens))
            sides = [unknown_as_nan(project(tokens), tokens) for project, tokens in parts if tokens is not None]
            return normalised_sum(sides[0], sides[-1])
        tokens, padding = join_tokens(image_tokens, expression_tokens)
        if padding is None:
            return F.normalize(self.joint(self.fuse(tokens)), dim=1)
        nowhere = padding.all(dim=1)
        padding = padding & ~nowhere[:, None]
        found = F.normalize(self.joint(self.fuse(tokens, padding), padding), dim=1)
        return found.masked_fill(nowhere[:, None], float("nan"))

    def fuse(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Tokens (n, t, dim) of both modalities that have seen each other; as they are without fusion layers."""
        for layer in self.fusion:
            tokens = layer(tokens, padding)
        return tokens

    def log_profile(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Log of the predicted share of every gene, (n, genes); each row sums to one over the genes ever trained."""
        logits = self.decoder(self.fuse(tokens, padding), padding)
        if not self.trained_genes.all():
            logits = logits.masked_fill(~self.trained_genes, float("-inf"))
        return logits.log_softmax(dim=1)

    def zero_logits(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor | None:
        """Log odds of zeros that are not counts, (n, genes); ``None`` for a model without zero inflation."""
        if not self.config.zero_inflation:
            return None
        return self.decoder.zero_logits(self.fuse(tokens, padding), padding)

    def expected_share(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Share of every gene in the expected counts, (n, genes), inflated zeros included; each row sums to one."""
        share, zero = self.log_profile(tokens, padding).exp(), self.zero_logits(tokens, padding)
        if zero is None:
            return share
        share = share * torch.sigmoid(-zero)
        return share / share.sum(dim=1, keepdim=True)

    def embed_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed crops centred on a cell.

        Parameters
        ----------
        pixels
            float32 (n, 3, h, w) at ``config.target_mpp``, normalised by :attr:`image_stats`.

        Returns
        -------
        float32 (n, embedding_dim), L2-normalised.
        """
        return F.normalize(self.project_image(self.image_tokens(self.pool_crops(pixels))), dim=1)

    def pool_crops(self, pixels: torch.Tensor) -> torch.Tensor:
        """Backbone tokens pooled around the middle of normalised crops, float32 (n, regions, channels)."""
        return pool_crops(self.image_encoder, pixels.to(self.device), self.passes)

    def encode_counts(
        self, counts: csr_matrix, columns: np.ndarray, technology: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Expression tokens of cells, (n, t, dim); NaN where a cell has no count of a known gene.

        Cells are encoded in groups of similar length, so that little is spent on padding.

        Parameters
        ----------
        counts
            Sparse (n, g) counts.
        columns
            int64 (g,), position of each column's gene in the vocabulary, −1 where unknown.
        technology
            int64 (n,) from ``cell_encoder.technology_index``.
        """
        genes, values = pad_rows(counts, columns)
        lengths = (genes >= 0).sum(dim=1)
        n_tokens = self.config.expression_tokens + (genes.shape[1] if self.config.gene_tokens else 0)
        out = torch.full((len(genes), n_tokens, self.config.dim), float("nan"), device=self.device)
        for rows in length_groups(lengths):
            rows = rows[lengths[rows] > 0]
            if not len(rows):
                continue
            longest = int(lengths[rows].max())
            told = None if technology is None else technology[rows.to(technology.device)].to(self.device)
            part = (genes[rows, :longest].to(self.device), values[rows, :longest].to(self.device), told)
            tokens = self.cell_encoder(*part)
            out[rows.to(self.device), : tokens.shape[1]] = tokens.to(out.dtype)
        return out

    def embed_expression(
        self, counts: Any, genes: Sequence[str], *, technology: str | Sequence[str] | None = None
    ) -> torch.Tensor:
        """Embed measured counts.

        Parameters
        ----------
        counts
            (n, g) array or sparse matrix of counts.
        genes
            Names of the g columns; unknown ones are ignored.
        technology
            Technology or batch of all cells, or of each; one that the model was not trained with counts as untold.

        Returns
        -------
        float32 (n, embedding_dim), L2-normalised; NaN where a cell has no count of a known gene.
        """
        from scipy.sparse import csr_matrix

        counts = csr_matrix(counts)
        told = None
        if technology is not None:
            names = [technology] * counts.shape[0] if isinstance(technology, str) else technology
            told = self.cell_encoder.technology_index(names)
        return self.embed_counts(counts, self.columns_of(genes), told)

    def embed_counts(
        self, counts: csr_matrix, columns: np.ndarray, technology: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As :meth:`embed_expression`, for sparse counts and genes, technologies that were looked up."""
        out = torch.full((counts.shape[0], self.config.embedding_dim), float("nan"), device=self.device)
        known = torch.from_numpy(known_depth(counts, columns) > 0)
        for rows in known.nonzero().ravel().split(DECODE_ROWS):
            told = None if technology is None else technology[rows]
            tokens = self.encode_counts(counts[rows.numpy()], columns, told)
            out[rows.to(out.device)] = F.normalize(self.project_expression(tokens), dim=1)
        return out

    def columns_of(self, genes: Sequence[str]) -> np.ndarray:
        """Position of each gene in the vocabulary, int64 (g,); −1 where the model does not know it."""
        import numpy as np

        return np.array([self.gene_index.get(str(gene), -1) for gene in genes], dtype=np.int64)

    def predict_expression(
        self,
        image_tokens: torch.Tensor | None = None,
        expression_tokens: torch.Tensor | None = None,
        *,
        has_expression: torch.Tensor | None = None,
        genes: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Predicted share of each gene, float32 (n, g), as a part of the whole vocabulary's expression.

        Parameters
        ----------
        image_tokens
            float32 (n, n_image_tokens, dim) from :meth:`image_tokens`.
        expression_tokens
            float32 (n, t, dim) from :meth:`encode_counts`.
        has_expression
            bool (n,): False where a cell's expression tokens are to be ignored.
        genes
            int64 (g,), positions in the vocabulary; all by default.

        Returns
        -------
        NaN for genes that the decoder was never trained on, and for cells without any token.
        """
        tokens, padding = join_tokens(image_tokens, expression_tokens, has_expression)
        nowhere = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        if padding is not None:
            nowhere = padding.all(dim=1)
            padding = padding & ~nowhere[:, None]
        chosen = slice(None) if genes is None else genes
        unknown = ~self.trained_genes[chosen]
        parts = []
        for rows in torch.arange(len(tokens)).split(DECODE_ROWS):
            share = self.expected_share(tokens[rows], None if padding is None else padding[rows])[:, chosen]
            parts.append(share.masked_fill(unknown | nowhere[rows, None], float("nan")))
        return torch.cat(parts)

    def theta(self) -> np.ndarray:
        """Inverse dispersion of every gene, float64 (genes,); NaN for genes never trained."""
        theta = self.log_theta.detach().exp().double().masked_fill(~self.trained_genes, float("nan"))
        return theta.cpu().numpy()

    def trusted_genes(self) -> list[str]:
        """Genes that the model card trusts, best validation score first."""
        trusted = self.card.genes[self.card.genes["trusted"]]
        return trusted.sort_values("validation_r", ascending=False)["gene"].astype(str).tolist()

    def save(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors``, ``genes.parquet`` and ``card.json`` into a folder."""
        from pastpy.models.files import save_model

        save_model(self, Path(folder))

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters to train: all outside the image backbone, and of it what ``backbone_training`` says."""
        how = self.config.backbone_training
        for name, parameter in self.named_parameters():
            if not name.startswith("image_encoder.") or how == "full" or (how == "lora" and ".lora_" in name):
                yield parameter
