"""PAST as its authors released it: a ViT-L on crops, a transformer on ranked genes, optionally a neighbour graph.

Written from facts (parameter names, shapes and what they compute), not from the released code. The two oddities that
the weights were trained with, and that the rest of pastpy does not share, are the functions :func:`mean_with_padding`
and :func:`token_ids_as_features`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from pastpy.models.tokenizer import LENGTH, PAD, PREFIX_LENGTH

__all__ = ["ReleasedConfig", "ReleasedPAST", "mean_with_padding", "token_ids_as_features"]

#: Entry of ``config.json`` that tells a converted release from pastpy's own models.
ARCHITECTURE = "past-released"


@dataclass(frozen=True)
class ReleasedConfig:
    """Sizes of the released network; the defaults are those of the authors' checkpoint.

    Attributes
    ----------
    graph
        Whether the neighbour-graph branch is there.
    image_dim, image_depth, image_heads
        Width, blocks and attention heads of the image encoder.
    n_tokens
        Rows of the token embedding.
    cell_dim, cell_depth, cell_heads, cell_feedforward
        Width, layers, attention heads and feed-forward width of the cell encoder.
    graph_dim, graph_heads
        Width between the two graph layers, and attention heads of the fusion.
    embedding_dim
        Length of the embeddings.

    Examples
    --------
    >>> from pastpy.models.released import ReleasedConfig
    >>> ReleasedConfig(graph=False).embedding_dim
    256
    """

    graph: bool = True
    image_dim: int = 1024
    image_depth: int = 24
    image_heads: int = 16
    n_tokens: int = 20_345
    cell_dim: int = 512
    cell_depth: int = 12
    cell_heads: int = 16
    cell_feedforward: int = 1024
    graph_dim: int = 256
    graph_heads: int = 4
    embedding_dim: int = 256

    def to_json(self, path: Path) -> None:
        """Write the configuration to a JSON file."""
        path.write_text(json.dumps({"architecture": ARCHITECTURE, **asdict(self)}, indent=2) + "\n")

    @classmethod
    def from_json(cls, path: Path) -> ReleasedConfig:
        """Read a configuration; anything but one that :meth:`to_json` wrote raises ``ValueError`` naming the file."""
        try:
            raw = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(raw, dict) or raw.pop("architecture", None) != ARCHITECTURE:
            raise ValueError(f"{path} has no 'architecture': {ARCHITECTURE!r}, so it is not a converted PAST release")
        expected = asdict(cls())
        wrong = sorted(k for k in {*raw, *expected} if type(raw.get(k)) is not type(expected.get(k)))
        if wrong:
            raise ValueError(f"{path}: the entries {wrong} are missing, unknown or of the wrong type; convert it again")
        return cls(**raw)


def mean_with_padding(outputs: torch.Tensor) -> torch.Tensor:
    """Quirk: the cell feature is the mean of all positions after the prefix, padding included.

    Positions that hold padding are not attended to, yet their own outputs enter the mean, so a cell's feature depends
    on how many genes it lacks.

    Parameters
    ----------
    outputs
        float32 (n, length, d), outputs of the cell encoder's last layer.

    Returns
    -------
    float32 (n, d).
    """
    return outputs[:, PREFIX_LENGTH:].mean(dim=1)


def token_ids_as_features(token_ids: torch.Tensor) -> torch.Tensor:
    """Quirk: in the neighbour graph a cell's features are its token ids as plain numbers, (n, length) float32."""
    return token_ids.to(torch.float32)


class _ImageEncoder(nn.Module):
    """timm's ViT-L/16: normalised pixels (n, 3, h, w) to pooled features (n, image_dim)."""

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__()
        import timm

        self.model = timm.create_model(
            "vit_large_patch16_224", pretrained=False, img_size=224, patch_size=16, init_values=1e-5, num_classes=0,
            dynamic_img_size=True, embed_dim=config.image_dim, depth=config.image_depth, num_heads=config.image_heads,
        )  # fmt: skip

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixels)


class _CellEncoder(nn.Module):
    """Transformer on token ids: int64 (n, 300) and the padding mask to features (n, cell_dim)."""

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config.n_tokens, config.cell_dim, padding_idx=PAD)
        self.positional_embedding = nn.Embedding(LENGTH, config.cell_dim)
        layer = nn.TransformerEncoderLayer(
            config.cell_dim, config.cell_heads, config.cell_feedforward, dropout=0.0, batch_first=True
        )
        # Nested tensors would turn the outputs at padding into zeros, but only where no gradient is recorded.
        self.encoder = nn.TransformerEncoder(layer, config.cell_depth, enable_nested_tensor=False)

    def forward(self, token_ids: torch.Tensor, padding_mask: torch.Tensor) -> torch.Tensor:
        check_tokens(token_ids, padding_mask, self.embeddings.num_embeddings)
        token_ids, padding_mask = (t.to(self.embeddings.weight.device) for t in (token_ids, padding_mask))
        x = self.embeddings(token_ids) + self.positional_embedding.weight
        return mean_with_padding(self.encoder(x, src_key_padding_mask=padding_mask))


class _Projection(nn.Module):
    """Residual projection into the joint space, not yet normalised."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.projection = nn.Linear(n_in, n_out)
        self.fc = nn.Linear(n_out, n_out)
        self.dropout = nn.Dropout(0.1)
        self.layer_norm = nn.LayerNorm(n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        projected = self.projection(x)
        return self.layer_norm(projected + self.dropout(self.fc(F.gelu(projected))))


class _GraphAttention(nn.Module):
    """Graph attention with one head on fully connected graphs with self-loops.

    On such a graph the neighbours of a node are all nodes, so the attention is a dense softmax over them.

    References
    ----------
    Veličković et al., Graph Attention Networks, ICLR 2018, arXiv:1710.10903.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.lin = nn.Linear(n_in, n_out, bias=False)
        self.att_src = nn.Parameter(torch.zeros(1, 1, n_out))
        self.att_dst = nn.Parameter(torch.zeros(1, 1, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))

    def forward(self, nodes: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
        """Nodes (n, k, n_in), and bool (n, k) where there is none, to (n, k, n_out)."""
        x = self.lin(nodes)
        sent, received = (x * self.att_src).sum(dim=-1), (x * self.att_dst).sum(dim=-1)
        scores = F.leaky_relu(received[:, :, None] + sent[:, None, :], 0.2)
        return scores.masked_fill(absent[:, None, :], float("-inf")).softmax(dim=-1) @ x + self.bias


class _GraphEncoder(nn.Module):
    """Two graph-attention layers; the feature of each graph's last node, (n, cell_dim)."""

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__()
        widths = (LENGTH, config.graph_dim, config.cell_dim)
        self.convs = nn.ModuleList([_GraphAttention(a, b) for a, b in zip(widths, widths[1:], strict=False)])
        self.norms = nn.ModuleList([nn.LayerNorm(width) for width in widths[1:]])
        self.dropout = nn.Dropout(0.1)
        # In every released state dict of this variant, but no output depends on it.
        self.distance_transform = nn.Sequential(nn.Linear(1, 1))

    def forward(self, graphs: Sequence[torch.Tensor]) -> torch.Tensor:
        sizes = torch.tensor([len(graph) for graph in graphs], device=graphs[0].device)
        nodes = nn.utils.rnn.pad_sequence(list(graphs), batch_first=True)
        absent = torch.arange(nodes.shape[1], device=nodes.device) >= sizes[:, None]
        hidden = self.dropout(F.relu(self.norms[0](self.convs[0](nodes, absent))))
        out = self.norms[1](self.convs[1](hidden, absent))
        return out[torch.arange(len(out), device=out.device), sizes - 1]


class ReleasedPAST(nn.Module):
    """PAST with the architecture of the authors' checkpoint ``checkpoint-context300.pth``.

    Make one with :func:`pastpy.models.released_import.load_released`; a new one has random weights.

    Parameters
    ----------
    config
        Sizes, and whether the neighbour-graph branch is there.

    Attributes
    ----------
    image_stats
        Mean and standard deviation (ImageNet) that normalise RGB pixels in [0, 1].
    crop_px
        Side of a crop, px, centred on the cell.
    target_mpp
        ``None``: the release read its crops at the scanner's own resolution, 0.2125–0.274 µm/px.
    mode
        ``"crop"``: one crop a cell.

    References
    ----------
    Yang et al., PAST, arXiv:2507.06418; tokens: Tejada-Lapuerta et al., Nicheformer,
    doi:10.1038/s41592-025-02814-z.

    Examples
    --------
    >>> import pastpy as past
    >>> import torch
    >>> from pastpy.models.released import ReleasedConfig
    >>> tiny = ReleasedConfig(graph=False, image_dim=16, image_depth=1, image_heads=2, cell_dim=16, cell_depth=1)
    >>> past.models.ReleasedPAST(tiny).eval().embed_image(torch.zeros(2, 3, 224, 224)).shape
    torch.Size([2, 256])
    """

    image_stats: tuple[tuple[float, ...], tuple[float, ...]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    crop_px: int = 224
    target_mpp: float | None = None
    mode: str = "crop"

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = _ImageEncoder(config)
        self.cell_encoder = _CellEncoder(config)
        self.image_projection = _Projection(config.image_dim, config.embedding_dim)
        self.cell_projection = _Projection(config.cell_dim, config.embedding_dim)
        self.temperature = nn.Parameter(torch.tensor(0.07))
        if config.graph:
            self.graph_encoder = _GraphEncoder(config)
            self.fusion_layer = nn.MultiheadAttention(config.cell_dim, config.graph_heads, batch_first=True)
            self.fusion_norm = nn.LayerNorm(config.cell_dim)
            self.attn_bias = nn.Parameter(torch.tensor([[0.0, -1.0]]))

    @property
    def embedding_dim(self) -> int:
        """Length of the embeddings."""
        return self.config.embedding_dim

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.temperature.device

    def embed_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed crops centred on a cell.

        Parameters
        ----------
        pixels
            float32 (n, 3, 224, 224), RGB normalised by :attr:`image_stats`.

        Returns
        -------
        float32 (n, 256), L2-normalised.

        Raises
        ------
        ValueError
            If the pixels have another shape.
        """
        side = self.crop_px
        if pixels.ndim != 4 or pixels.shape[1:] != (3, side, side):
            raise ValueError(f"pixels must be (n, 3, {side}, {side}), got {tuple(pixels.shape)}")
        return F.normalize(self.image_projection(self.image_encoder(pixels.to(self.device))), dim=1)

    def embed_tokens(
        self,
        token_ids: torch.Tensor,
        padding_mask: torch.Tensor,
        neighbour_tokens: Sequence[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Embed cells given as tokens, from :func:`pastpy.models.tokenizer.tokenize`.

        Parameters
        ----------
        token_ids
            int64 (n, 300).
        padding_mask
            bool (n, 300), True at padding.
        neighbour_tokens
            For each cell the token ids of its neighbours and, last, of itself, (k + 1, 300); only for the graph
            variant. Without it the graph branch is not used.

        Returns
        -------
        float32 (n, 256), L2-normalised.

        Raises
        ------
        ValueError
            If the tokens do not fit the model, a graph does not end in its cell, or the model has no graph branch.
        """
        if neighbour_tokens is not None:
            self._check_graphs(token_ids, neighbour_tokens)
        features = self.cell_encoder(token_ids, padding_mask)
        if neighbour_tokens is not None and len(features):
            features = self.fuse_neighbours(features, neighbour_tokens)
        return F.normalize(self.cell_projection(features), dim=1)

    def fuse_neighbours(self, features: torch.Tensor, neighbour_tokens: Sequence[torch.Tensor]) -> torch.Tensor:
        """Cell features (n, 512) joined with those of their neighbour graphs, one of (k + 1, 300) a cell, (n, 512)."""
        graphs = self.graph_encoder([token_ids_as_features(tokens).to(self.device) for tokens in neighbour_tokens])
        both = torch.stack([features, graphs], dim=1)
        attended, _ = self.fusion_layer(features[:, None], both, both, attn_mask=self.attn_bias, need_weights=False)
        return self.fusion_norm(features + attended[:, 0])

    def logits(self, cell_embedding: torch.Tensor, image_embedding: torch.Tensor) -> torch.Tensor:
        """Similarity of cells (n, 256) to images (m, 256) over the temperature, (n, m)."""
        return cell_embedding @ image_embedding.T / self.temperature.clamp(0.01, 1.0)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` into a folder."""
        from pastpy.models.released_import import write_release

        write_release(self.config, self.state_dict(), Path(folder))

    def _check_graphs(self, token_ids: torch.Tensor, graphs: Sequence[torch.Tensor]) -> None:
        if not self.config.graph:
            raise ValueError("neighbour_tokens was given, but this checkpoint has no graph branch; leave it out")
        if len(graphs) != len(token_ids):
            raise ValueError(f"neighbour_tokens has {len(graphs)} graphs for {len(token_ids)} cells")
        for i, graph in enumerate(graphs):
            if graph.ndim != 2 or graph.shape[1] != LENGTH or not len(graph):
                raise ValueError(f"neighbour_tokens[{i}] must be (k + 1, {LENGTH}), got {tuple(graph.shape)}")
            if not torch.equal(graph[-1].to(token_ids), token_ids[i]):
                raise ValueError(f"the last row of neighbour_tokens[{i}] must be the tokens of cell {i} itself")


def check_tokens(token_ids: torch.Tensor, padding_mask: torch.Tensor, n_tokens: int) -> None:
    """Raise ``ValueError`` unless these are token ids and a padding mask that the cell encoder can read."""
    if token_ids.ndim != 2 or token_ids.shape[1] != LENGTH or token_ids.is_floating_point():
        raise ValueError(f"token_ids must be integers (n, {LENGTH}), got {token_ids.dtype} {tuple(token_ids.shape)}")
    if padding_mask.dtype != torch.bool or padding_mask.shape != token_ids.shape:
        raise ValueError(
            f"padding_mask must be bool {tuple(token_ids.shape)}, got {padding_mask.dtype} {tuple(padding_mask.shape)}"
        )
    if padding_mask[:, 0].any():
        raise ValueError("padding_mask is True at the first token, which is never padding; True marks padding")
    if token_ids.numel() and not (0 <= int(token_ids.min()) and int(token_ids.max()) < n_tokens):
        raise ValueError(f"token_ids must lie in 0–{n_tokens - 1}, got {int(token_ids.min())}–{int(token_ids.max())}")
