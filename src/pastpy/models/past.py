"""PAST: a cell's image and its transcriptome, encoded jointly and decoded to expression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from pastpy.engine.pool import UnitShapes, pool_tokens
from pastpy.models.decoder import GeneDecoder
from pastpy.models.expression import ExpressionEncoder
from pastpy.models.image import ImageEncoder

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from scipy.sparse import csr_matrix

    from pastpy.models.config import PASTConfig

__all__ = ["PAST", "ModelCard"]

#: Radius of the disc that stands for a nucleus where only a crop is known, µm.
NUCLEUS_RADIUS_UM = 4.0
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
        training cells).
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

    References
    ----------
    Yang et al., PAST, arXiv:2507.06418 (the idea; this architecture is pastpy's own).

    Examples
    --------
    >>> import pastpy as past
    >>> model = past.models.load("past-mini")
    >>> model.embed_image(torch.zeros(1, 3, 96, 96)).shape[0]
    1
    """

    feature_mean: torch.Tensor
    feature_std: torch.Tensor
    image_centre: torch.Tensor
    expression_centre: torch.Tensor

    def __init__(self, config: PASTConfig, card: ModelCard) -> None:
        super().__init__()
        self.config, self.card = config, card
        #: SHA-256 of the weights file that the model was loaded from
        self.sha256: str | None = None
        self.gene_names: list[str] = card.genes["gene"].astype(str).tolist()
        self.gene_index = {gene: i for i, gene in enumerate(self.gene_names)}
        n_genes, n_regions, dim = len(self.gene_names), len(config.regions), config.dim
        self.image_encoder = ImageEncoder(config)
        channels = self.image_encoder.channels
        self.register_buffer("feature_mean", torch.zeros(n_regions, channels))
        self.register_buffer("feature_std", torch.ones(n_regions, channels))
        self.region_in = nn.ModuleList([nn.Linear(channels, dim) for _ in config.regions])
        self.token_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(config.dropout)
        self.cell_encoder = ExpressionEncoder(n_genes, dim, config.expression_tokens, config.heads, config.dropout)
        self.image_projection = nn.Linear(n_regions * dim, config.embedding_dim)
        self.cell_projection = nn.Linear(config.expression_tokens * dim, config.embedding_dim)
        self.register_buffer("image_centre", torch.zeros(config.embedding_dim))
        self.register_buffer("expression_centre", torch.zeros(config.embedding_dim))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))
        self.decoder = GeneDecoder(n_genes, dim, config.heads)
        self.log_theta = nn.Parameter(torch.zeros(n_genes))
        self.background = nn.Parameter(torch.zeros(n_genes))
        self.log_background_amount = nn.Parameter(torch.zeros(()))

    @property
    def image_stats(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation that normalise pixels in [0, 1]."""
        return self.config.image_mean, self.config.image_std

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.log_theta.device

    def image_tokens(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled backbone tokens, float32 (n, regions, channels), as model tokens, (n, regions, dim)."""
        x = (pooled - self.feature_mean) / self.feature_std
        x = torch.stack([layer(x[:, i]) for i, layer in enumerate(self.region_in)], dim=1)
        return self.dropout(self.token_norm(F.gelu(x)))

    def project_image(self, tokens: torch.Tensor) -> torch.Tensor:
        """Image tokens (n, regions, dim) in the joint space, centred, not yet normalised."""
        return self.image_projection(tokens.flatten(1)) - self.image_centre

    def project_expression(self, tokens: torch.Tensor) -> torch.Tensor:
        """Expression tokens (n, t, dim) in the joint space, centred, not yet normalised."""
        return self.cell_projection(tokens.flatten(1)) - self.expression_centre

    def log_profile(self, tokens: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        """Log of the predicted share of every gene of the vocabulary, (n, genes); each row sums to one."""
        return self.decoder(tokens, padding).log_softmax(dim=1)

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
        import numpy as np

        encoder, mpp = self.image_encoder, self.config.target_mpp
        height, width = pixels.shape[-2:]
        grids = encoder(pixels.to(self.device)).detach().float().cpu().numpy()
        cell = UnitShapes(
            np.array([[width / 2, height / 2]]), np.array([NUCLEUS_RADIUS_UM / mpp]), np.zeros((0, 4)), np.zeros(2, int)
        )
        pooled = [
            pool_tokens(
                grid, cell, self.config.regions, stride=encoder.stride, token_centre=encoder.token_centre,
                target_mpp=mpp, inside=(0, 0, width, height),
            )[0]
            for grid in grids
        ]  # fmt: skip
        return torch.from_numpy(np.stack(pooled)).to(self.device)

    def encode_counts(self, counts: csr_matrix, columns: np.ndarray) -> torch.Tensor:
        """Expression tokens of cells, (n, t, dim).

        Parameters
        ----------
        counts
            Sparse (n, g) counts; every row has a positive sum over the known genes.
        columns
            int64 (g,), position of each column's gene in the vocabulary, −1 where unknown.
        """
        genes, values = pad_rows(counts, columns)
        return self.cell_encoder(genes.to(self.device), values.to(self.device))

    def embed_expression(self, counts: Any, genes: Sequence[str]) -> torch.Tensor:
        """Embed measured counts.

        Parameters
        ----------
        counts
            (n, g) array or sparse matrix of counts.
        genes
            Names of the g columns; unknown ones are ignored.

        Returns
        -------
        float32 (n, embedding_dim), L2-normalised; NaN where a cell has no count of a known gene.
        """
        from scipy.sparse import csr_matrix

        return self.embed_counts(csr_matrix(counts), self.columns_of(genes))

    def embed_counts(self, counts: csr_matrix, columns: np.ndarray) -> torch.Tensor:
        """As :meth:`embed_expression`, for sparse counts whose genes were looked up with :meth:`columns_of`."""
        out = torch.full((counts.shape[0], self.config.embedding_dim), float("nan"), device=self.device)
        known = torch.from_numpy(known_depth(counts, columns) > 0)
        for rows in known.nonzero().ravel().split(DECODE_ROWS):
            tokens = self.encode_counts(counts[rows.numpy()], columns)
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
            float32 (n, regions, dim) from :meth:`image_tokens`.
        expression_tokens
            float32 (n, t, dim) from :meth:`encode_counts`.
        has_expression
            bool (n,): False where a cell's expression tokens are to be ignored.
        genes
            int64 (g,), positions in the vocabulary; all by default.
        """
        tokens, padding = join_tokens(image_tokens, expression_tokens, has_expression)
        parts = []
        for rows in torch.arange(len(tokens)).split(DECODE_ROWS):
            share = self.log_profile(tokens[rows], None if padding is None else padding[rows]).exp()
            parts.append(share if genes is None else share[:, genes])
        return torch.cat(parts)

    def theta(self) -> np.ndarray:
        """Inverse dispersion of every gene, float64 (genes,)."""
        return self.log_theta.detach().exp().double().cpu().numpy()

    def trusted_genes(self) -> list[str]:
        """Genes that the model card trusts, best validation score first."""
        trusted = self.card.genes[self.card.genes["trusted"]]
        return trusted.sort_values("validation_r", ascending=False)["gene"].astype(str).tolist()

    def save(self, folder: str | Path) -> None:
        """Write ``config.json``, ``model.safetensors``, ``genes.parquet`` and ``card.json`` into a folder."""
        from pastpy.models.files import save_model

        save_model(self, Path(folder))

    def trained_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters outside the image backbone."""
        backbone = {id(p) for p in self.image_encoder.parameters()}
        return (p for p in self.parameters() if id(p) not in backbone)


def join_tokens(
    image_tokens: torch.Tensor | None,
    expression_tokens: torch.Tensor | None,
    has_expression: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Tokens of both modalities side by side, and which of them are padding."""
    if image_tokens is None or expression_tokens is None:
        only = expression_tokens if image_tokens is None else image_tokens
        if only is None:
            raise ValueError("a prediction needs image tokens, expression tokens, or both; got neither")
        return only, None
    tokens = torch.cat([image_tokens, expression_tokens], dim=1)
    if has_expression is None:
        return tokens, None
    padding = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    padding[:, image_tokens.shape[1] :] = ~has_expression[:, None]
    return tokens, padding


def known_depth(counts: csr_matrix, columns: np.ndarray) -> np.ndarray:
    """Counts of each cell over the genes that the model knows, float64 (n,)."""
    import numpy as np

    return np.asarray(counts @ (columns >= 0).astype(float)).ravel()


def pad_rows(counts: csr_matrix, columns: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Non-zero known counts of each row, left-aligned: genes int64 and values float32, (n, k), padded with −1 and 0."""
    import numpy as np

    known = counts[:, np.flatnonzero(columns >= 0)].tocsr()
    known.eliminate_zeros()
    vocabulary = columns[columns >= 0]
    lengths = np.diff(known.indptr)
    at = np.arange(known.nnz) - np.repeat(known.indptr[:-1], lengths)
    rows = np.repeat(np.arange(known.shape[0]), lengths)
    genes = np.full((known.shape[0], int(lengths.max(initial=1))), -1, dtype=np.int64)
    values = np.zeros(genes.shape, dtype=np.float32)
    genes[rows, at], values[rows, at] = vocabulary[known.indices], known.data
    return torch.from_numpy(genes), torch.from_numpy(values)
