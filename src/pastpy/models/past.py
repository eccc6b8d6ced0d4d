"""PAST: a cell's image and its transcriptome, encoded jointly and decoded to expression."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from pastpy.models.blocks import length_groups
from pastpy.models.checks import check_counts, check_pixels
from pastpy.models.crops import pool_crops
from pastpy.models.encoders import build_encoder
from pastpy.models.joint import JointHead, normalised_sum
from pastpy.models.linear import LinearReadout
from pastpy.models.member import Member
from pastpy.models.neighbours import NeighbourContext
from pastpy.models.passes import image_passes
from pastpy.models.slide import SlideStatistics, slide_statistics
from pastpy.models.subnetworks import computing_members
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
    both are projected to one space, and a decoder in which gene queries attend to the tokens predicts counts. All that
    lies behind the image encoder can be there several times, as ``members``: log rates of genes are then their mean,
    and the joint space is made from the tokens of all. Where a cell has no counts, a linear readout of its image can
    have a share in these rates.

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

    if TYPE_CHECKING:
        # a module list, of whose items a type checker knows nothing
        members: list[Member]
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
        offsets = [region.offset_um for region in regions]
        members = [Member(config, n_genes, offsets, channels) for _ in range(config.members)]
        self.members = cast("list[Member]", nn.ModuleList(members))
        self.linear = LinearReadout(n_regions * channels, n_genes, programs=dim) if config.linear_share else None
        #: Tokens that each member makes of a cell's image: one a region, then the summary's.
        self.member_tokens = n_regions + config.summary_tokens
        # each member's part begins the same, as it would in a model of this member alone
        self.image_projection = _widened(nn.Linear(self.member_tokens * dim, config.embedding_dim), config.members)
        self.cell_projection = _widened(nn.Linear(config.expression_tokens * dim, config.embedding_dim), config.members)
        self.register_buffer("image_centre", torch.zeros(config.embedding_dim))
        self.register_buffer("expression_centre", torch.zeros(config.embedding_dim))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.log_theta = nn.Parameter(torch.zeros(n_genes))
        self.background = nn.Parameter(torch.zeros(n_genes))
        self.log_background_amount = nn.Parameter(torch.zeros(()))
        self.joint = JointHead(dim, config.embedding_dim, config.heads) if config.joint == "attention" else None
        self.neighbour_context = (
            NeighbourContext(dim, config.heads, config.neighbour_radius_um) if config.neighbours else None
        )
        if config.logit_bias:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
        trained = card.genes["trained"].astype(bool).tolist() if "trained" in card.genes else [True] * n_genes
        self.register_buffer("trained_genes", torch.tensor(trained, dtype=torch.bool), persistent=False)

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
    def n_image_tokens(self) -> int:
        """Tokens that :meth:`image_tokens` gives a cell: those of each member, then the linear readout's programs."""
        return len(self.members) * self.member_tokens + (self.linear is not None)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.log_theta.device

    def image_tokens(self, pooled: torch.Tensor, slide: SlideStatistics | None = None) -> torch.Tensor:
        """Pooled backbone tokens, float32 (n, regions, channels), as model tokens, (n, n_image_tokens, dim).

        Of each member one a region, then those of the summary; programs of the linear readout, where there is one,
        stand in the place of a last token. A region that is not known (it holds no token of the image, or the cell has
        no outline) is NaN, before and after; the other regions do not depend on it, and the summary and the linear
        readout take it as a usual one.

        Parameters
        ----------
        pooled
            The tokens.
        slide
            Statistics of the slide that the cells are on, from :meth:`slide_statistics`; those of the training slides
            by default.
        """
        standardised, absent = split_absent((slide or self.usual).standardise(pooled))
        nowhere = None if absent is None else absent.all(dim=1, keepdim=True)
        if absent is not None and nowhere is not None:
            absent = torch.cat([absent, nowhere.expand(-1, self.config.summary_tokens)], dim=1)
        shape = (len(pooled), self.member_tokens, self.config.dim)
        computing = computing_members(len(self.members))
        out = [
            _hidden(member.image_tokens(standardised), absent) if i in computing else pooled.new_full(shape, math.nan)
            for i, member in enumerate(self.members)
        ]
        if self.linear is not None:
            out.append(_hidden(self.linear(standardised)[:, None], nowhere))
        return out[0] if len(out) == 1 else torch.cat(out, dim=1)

    def split_programs(self, image_tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What :meth:`image_tokens` gives as tokens of the members, (n, t, dim), and programs, (n, dim), if any.

        Raises
        ------
        ValueError
            If these are not tokens of all members.
        """
        if image_tokens.shape[1] != self.n_image_tokens:
            raise ValueError(
                f"model {self.config.name!r} has {self.n_image_tokens} image tokens a cell, got "
                f"{image_tokens.shape[1]}; make them with image_tokens(pooled)"
            )
        if self.linear is None:
            return image_tokens, None
        return image_tokens[:, :-1], image_tokens[:, -1]

    @property
    def usual(self) -> SlideStatistics:
        """Statistics of the training slides."""
        return SlideStatistics(self.feature_mean, self.feature_std, 0)

    def slide_statistics(self, pooled: torch.Tensor) -> SlideStatistics:
        """Statistics for cells of a slide from the pooled tokens of some of them, float32 (n, regions, channels).

        Those of the training slides for a model without ``slide_norm``.
        """
        return slide_statistics(pooled, self.usual) if self.config.slide_norm else self.usual

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
        of_members, _ = split_absent(self.split_programs(tokens)[0])
        return self.image_projection(of_members.flatten(1)) - self.image_centre

    def project_expression(self, tokens: torch.Tensor) -> torch.Tensor:
        """Expression tokens (n, t, dim) in the joint space, centred, not yet normalised."""
        summary, _ = split_absent(tokens[:, : len(self.members) * self.config.expression_tokens])
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
            return F.normalize(self.joint(self.members[0].fuse(tokens)), dim=1)
        nowhere = padding.all(dim=1)
        padding = padding & ~nowhere[:, None]
        found = F.normalize(self.joint(self.members[0].fuse(tokens, padding), padding), dim=1)
        return found.masked_fill(nowhere[:, None], float("nan"))

    def log_profile(
        self, tokens: torch.Tensor, padding: torch.Tensor | None = None, programs: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Log of the predicted share of every gene, (n, genes); each row sums to one over the genes ever trained.

        Parameters
        ----------
        tokens
            float32 (n, t, dim), as many of each member, from ``pastpy.models.tokens.join_tokens``.
        padding
            bool (n, t), True where a token is not there.
        programs
            Programs of the linear readout, float32 (n, dim); NaN where it is to have no share.
        """
        logits = self._mean_of_members(Member.log_rates, tokens, padding)
        if self.linear is not None and programs is not None:
            share = self.config.linear_share * ~programs[:, :1].isnan()
            logits = logits + share * (self.linear.log_rates(programs.nan_to_num()) - logits)
        if not self.trained_genes.all():
            logits = logits.masked_fill(~self.trained_genes, float("-inf"))
        return logits.log_softmax(dim=1)

    def zero_logits(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor | None:
        """Log odds of zeros that are not counts, (n, genes); ``None`` for a model without zero inflation."""
        if not self.config.zero_inflation:
            return None
        return self._mean_of_members(Member.zero_logits, tokens, padding)

    def _mean_of_members(
        self, read: Callable[..., torch.Tensor], tokens: torch.Tensor, padding: torch.Tensor | None
    ) -> torch.Tensor:
        """Mean over members of what each reads of its own tokens, (n, genes); inside a subnetwork, what one reads."""
        own = tokens.unflatten(1, (len(self.members), -1)).unbind(dim=1)
        absent = None if padding is None else padding.unflatten(1, (len(self.members), -1)).unbind(dim=1)
        computing = computing_members(len(self.members))
        found = [read(self.members[i], own[i], None if absent is None else absent[i]) for i in computing]
        total = found[0]
        for each in found[1:]:
            total = total + each
        return total / len(found)

    def expected_share(
        self, tokens: torch.Tensor, padding: torch.Tensor | None = None, programs: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Share of every gene in the expected counts, (n, genes), inflated zeros included; each row sums to one."""
        share, zero = self.log_profile(tokens, padding, programs).exp(), self.zero_logits(tokens, padding)
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

        Raises
        ------
        ValueError
            If the pixels are no floats, or have another shape.
        """
        check_pixels(pixels)
        return F.normalize(self.project_image(self.image_tokens(self.pool_crops(pixels))), dim=1)

    def pool_crops(self, pixels: torch.Tensor) -> torch.Tensor:
        """Backbone tokens pooled around the middle of normalised crops, float32 (n, regions, channels)."""
        return pool_crops(self.image_encoder, pixels.to(self.device), self.passes)

    def encode_counts(
        self, counts: csr_matrix, columns: np.ndarray, technology: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Expression tokens of cells, (n, t, dim), as many of each member; NaN where a cell has no known gene's count.

        Cells are encoded in groups of similar length, so that little is spent on padding.

        Parameters
        ----------
        counts
            Sparse (n, g) counts.
        columns
            int64 (g,), position of each column's gene in the vocabulary, −1 where unknown.
        technology
            int64 (n,) from :meth:`technology_index`.
        """
        genes, values = pad_rows(counts, columns)
        lengths = (genes >= 0).sum(dim=1)
        n_tokens = self.config.expression_tokens + (genes.shape[1] if self.config.gene_tokens else 0)
        shape = (len(genes), len(self.members), n_tokens, self.config.dim)
        out = torch.full(shape, math.nan, device=self.device)
        for rows in length_groups(lengths):
            rows = rows[lengths[rows] > 0]
            if not len(rows):
                continue
            longest = int(lengths[rows].max())
            told = None if technology is None else technology[rows.to(technology.device)].to(self.device)
            part = (genes[rows, :longest].to(self.device), values[rows, :longest].to(self.device), told)
            for i in computing_members(len(self.members)):
                tokens = self.members[i].cell_encoder(*part)
                out[rows.to(self.device), i, : tokens.shape[1]] = tokens.to(out.dtype)
        return out.flatten(1, 2)

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

        Raises
        ------
        ValueError
            If values are not counts, or there are not as many genes as columns.
        """
        from scipy.sparse import csr_matrix

        counts = csr_matrix(counts)
        check_counts(counts, "counts", "pass them before normalisation or a logarithm")
        if len(genes) != counts.shape[1]:
            raise ValueError(f"counts have {counts.shape[1]} columns and genes {len(genes)} names; name each column")
        told = None
        if technology is not None:
            names = [technology] * counts.shape[0] if isinstance(technology, str) else technology
            told = self.technology_index(names)
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

    def technology_index(self, names: Sequence[str]) -> torch.Tensor:
        """Positions of technologies, int64 (n,); 0 for those that the model was not trained with."""
        return self.members[0].cell_encoder.technology_index(names)

    def alone(self, i: int) -> PAST:
        """A model of one member, without linear readout, to train it: the member itself, and copies of all else."""
        # what the copy is told of already, it takes as it is
        alone = copy.deepcopy(self, {id(self.members): self.members[i : i + 1], id(self.linear): None})
        n = len(self.members)
        for name in ("image_projection", "cell_projection"):
            whole = getattr(self, name)
            part = nn.Linear(whole.in_features // n, whole.out_features)
            part.load_state_dict({"weight": whole.weight.detach().chunk(n, dim=1)[i], "bias": whole.bias.detach()})
            setattr(alone, name, part)
        return alone

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
        programs = None
        if image_tokens is not None:
            image_tokens, programs = self.split_programs(image_tokens)
        if programs is not None and expression_tokens is not None:
            counted = ~expression_tokens.isnan().flatten(1).all(dim=1)
            counted = counted if has_expression is None else counted & has_expression
            programs = programs.masked_fill(counted[:, None], float("nan"))
        tokens, padding = join_tokens(image_tokens, expression_tokens, has_expression, members=len(self.members))
        nowhere = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        if padding is not None:
            nowhere = padding.all(dim=1)
            padding = padding & ~nowhere[:, None]
        chosen = slice(None) if genes is None else genes
        unknown = ~self.trained_genes[chosen]
        parts = []
        for rows in torch.arange(len(tokens)).split(DECODE_ROWS):
            hidden, of_image = (None if each is None else each[rows] for each in (padding, programs))
            share = self.expected_share(tokens[rows], hidden, of_image)[:, chosen]
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


def _hidden(tokens: torch.Tensor, absent: torch.Tensor | None) -> torch.Tensor:
    """Tokens (n, t, dim), NaN where they are absent, bool (n, t)."""
    return tokens if absent is None else tokens.masked_fill(absent[..., None], math.nan)


def _widened(layer: nn.Linear, n: int) -> nn.Linear:
    """A layer that takes n times as many features, with the same weights for each part."""
    if n == 1:
        return layer
    wide = nn.utils.skip_init(nn.Linear, layer.in_features * n, layer.out_features)
    wide.load_state_dict({"weight": layer.weight.detach().repeat(1, n), "bias": layer.bias.detach()})
    return wide
