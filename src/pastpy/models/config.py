"""What a model is: architecture and the image it works on, as JSON beside the weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from pastpy.engine.pool import Region

__all__ = ["PASTConfig", "context_grid"]

_REGIONS = (Region("nucleus", "shape"), Region("ring", "ring", 10.0), Region("context", "disc", 30.0))
#: Coarsest spacing of tokens that still tells cells apart, µm.
MAX_STRIDE_UM = 4.0

Training = Literal["frozen", "lora", "full"]
Joint = Literal["sum", "attention"]
Mode = Literal["dense", "crop"]


def context_grid(side: int = 3, spacing_um: float = 20.0) -> tuple[Region, ...]:
    """Discs on a square grid around the cell, without the one at the cell itself: context that says where it lies.

    Parameters
    ----------
    side
        Discs along the side of the grid, odd.
    spacing_um
        Distance between neighbouring discs, and the diameter of each, µm.

    Examples
    --------
    >>> import pastpy as past
    >>> len(past.models.context_grid(3, 20.0)), past.models.context_grid(3, 20.0)[0].offset_um
    (8, (-20.0, -20.0))
    """
    if side < 3 or side % 2 == 0:
        raise ValueError(f"side must be odd and at least 3, got {side}")
    steps = range(-(side // 2), side // 2 + 1)
    return tuple(
        Region(f"context_{x:+d}_{y:+d}", "disc", spacing_um / 2, (x * spacing_um, y * spacing_um))
        for y in steps
        for x in steps
        if (x, y) != (0, 0)
    )


_IMAGENET: dict[str, Any] = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
#: What each size changes of the defaults; µm/px and patch keep tokens 4 µm apart.
_SIZES: dict[str, dict[str, Any]] = {
    "mini": {"heads": 1},
    "small": {
        "dim": 128, "embedding_dim": 128, "expression_tokens": 8, "expression_layers": 1, "fusion_layers": 1,
        "regions": _REGIONS + context_grid(), "neighbours": 8,
    },
    "base": {
        "backbone": "vit_small_patch8_224.dino", "backbone_stage": None, **_IMAGENET, "dim": 256, "embedding_dim": 256,
        "heads": 8,
        "expression_tokens": 16, "expression_layers": 2, "fusion_layers": 2, "regions": _REGIONS + context_grid(),
        "neighbours": 12, "backbone_training": "lora", "joint": "attention",
    },
    "large": {
        "backbone": "vit_base_patch8_224.dino", "backbone_stage": None, **_IMAGENET, "dim": 512, "embedding_dim": 512,
        "heads": 8,
        "expression_tokens": 16, "expression_layers": 4, "fusion_layers": 4,
        "regions": _REGIONS + context_grid(5, 12.0), "neighbours": 16, "backbone_training": "lora",
        "joint": "attention",
    },
}  # fmt: skip


@dataclass(frozen=True)
class PASTConfig:
    """Architecture of a PAST model.

    Attributes
    ----------
    name
        Name of the model.
    backbone
        Image backbone: a timm name, ``"hf-hub:organisation/name"``, ``"lazyslide:name"``, or ``"module"`` for a network
        that is handed over beside the configuration.
    backbone_stage
        Index of the last used block of an EfficientNet, or of the last used stage of another of timm's convolutional
        networks; what follows is cut off. ``None`` for vision transformers and modules.
    backbone_options
        Further arguments of ``timm.create_model``, e.g. ``{"init_values": 1e-5}``.
    backbone_training
        ``"frozen"``; ``"lora"``: low-rank additions to its linear layers are trained; ``"full"``.
    lora_rank
        Rank of these additions.
    store_backbone
        Save the backbone's weights with the model. ``False`` for a frozen backbone whose licence or size forbids it:
        the model is then loaded with the backbone from its own place, and the weights' hash is checked.
    mode
        How cells are read by default: ``"dense"``, fields shared by many cells, or ``"crop"``, a window on each.
    window_px
        Side of the window that a vision transformer sees at once, px; ``None`` takes that of its position embedding.
    target_mpp
        µm per pixel at which the image is read.
    image_mean, image_std
        Pixel statistics of the backbone, for pixels in [0, 1].
    regions
        Parts of a cell's surroundings that each become one image token; see :func:`context_grid` for context that says
        where it lies.
    coarse_tokens
        Allow image tokens more than 4 µm apart, with a warning.
    coarse_mpp
        µm per pixel of a second pass of the same backbone over the image, for what lies farther around: a whole
        multiple of ``target_mpp``. ``None`` leaves it out.
    coarse_radii_um
        Radii of the discs around the cell that the second pass pools, µm; each becomes one more image token.
    dim
        Width of tokens in the heads.
    embedding_dim
        Length of the embeddings.
    heads
        Attention heads of the decoder.
    expression_tokens
        Tokens in which the expression encoder summarises a cell's measured genes.
    expression_layers
        Self-attention layers over a cell's measured genes before they are summarised.
    technologies
        Names of technologies or batches that the expression encoder is told of in a token of its own.
    gene_tokens
        Let the decoder's gene queries attend to each measured gene, not to the summary alone.
    slide_norm
        Take what is pooled for a cell relative to its slide: less the mean over cells of the same image, in standard
        deviations over them. Stain and scanner then matter less; a cell alone is taken relative to the training slides.
    summary_tokens, summary_width
        Image tokens beside those of the regions that a network of two hidden layers of this width makes of all regions
        at once; 0 leaves them out.
    fusion_layers
        Self-attention layers over the tokens of both modalities before the decoder.
    rank
        Programs of which the decoder makes all genes: a cell's log profile is a baseline plus this many numbers times
        the genes' loadings, up to its normalisation. 0 lets every gene attend for itself.
    zero_inflation
        Give the decoder's counts a per-gene probability of a zero that is not a low rate.
    joint
        How the embedding of both modalities is made: ``"sum"`` of the two, or ``"attention"`` over all their tokens.
    logit_bias
        A learnt offset of the contrastive logits, which the SigLIP loss needs.
    neighbours
        Cells in whose tokens a cell's tokens attend; 0 leaves neighbours out.
    neighbour_radius_um
        Neighbours lie within this distance, µm.
    dropout
        Dropout in the heads.
    members
        How often all that lies behind the image encoder is there; predictions are the members' mean, and embeddings
        are made from the tokens of all.
    linear_share
        Share of a linear readout in the log rates that are predicted of cells without counts, from 0, which leaves it
        out, to below 1.

    Examples
    --------
    >>> from pastpy.models import PASTConfig
    >>> PASTConfig(name="tiny", dim=16).heads
    4
    >>> PASTConfig.of_size("base", name="mine").dim
    256
    """

    name: str
    backbone: str = "tf_efficientnet_lite0"
    backbone_stage: int | None = 2
    backbone_options: dict[str, Any] = field(default_factory=dict)
    backbone_training: Training = "frozen"
    lora_rank: int = 8
    store_backbone: bool = True
    mode: Mode = "dense"
    window_px: int | None = None
    target_mpp: float = 0.5
    image_mean: tuple[float, ...] = (127 / 255,) * 3
    image_std: tuple[float, ...] = (128 / 255,) * 3
    regions: tuple[Region, ...] = field(default=_REGIONS)
    coarse_tokens: bool = False
    coarse_mpp: float | None = None
    coarse_radii_um: tuple[float, ...] = ()
    dim: int = 64
    embedding_dim: int = 64
    heads: int = 4
    expression_tokens: int = 4
    expression_layers: int = 0
    technologies: tuple[str, ...] = ()
    gene_tokens: bool = False
    slide_norm: bool = False
    summary_tokens: int = 0
    summary_width: int = 256
    fusion_layers: int = 0
    rank: int = 0
    zero_inflation: bool = False
    joint: Joint = "sum"
    logit_bias: bool = False
    neighbours: int = 0
    neighbour_radius_um: float = 50.0
    dropout: float = 0.1
    members: int = 1
    linear_share: float = 0.0

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} must be a multiple of heads={self.heads}")
        for name in ("target_mpp", "neighbour_radius_um", "lora_rank"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name, choices in (("backbone_training", Training), ("mode", Mode), ("joint", Joint)):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; use one of {list(get_args(choices))}")
        if not self.store_backbone and self.backbone_training == "full":
            raise ValueError("a backbone with backbone_training='full' must be stored; leave store_backbone=True")
        if not any(region.at_unit and region.of_image for region in self.regions):
            raise ValueError(
                "regions must hold at least one of the image that lies at the cell itself (offset_um=(0, 0))"
            )
        for name, least in (("rank", 0), ("summary_tokens", 0), ("summary_width", 1), ("members", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not 0 <= self.linear_share < 1:
            raise ValueError(f"linear_share is a share, from 0 to below 1; got {self.linear_share}")
        averaged = self.members > 1 or self.linear_share
        if averaged and (self.gene_tokens or self.neighbours or self.joint == "attention"):
            raise ValueError(
                f"members={self.members} with linear_share={self.linear_share} needs gene_tokens=False, neighbours=0 "
                f"and joint='sum', got {self.gene_tokens}, {self.neighbours} and {self.joint!r}"
            )
        self._check_coarse_pass()

    def _check_coarse_pass(self) -> None:
        """Refuse a second pass that lacks its discs or its µm per pixel, or lies off the grid of the first."""
        if (self.coarse_mpp is None) == bool(self.coarse_radii_um):
            raise ValueError(
                "coarse_mpp and coarse_radii_um belong together: set both for a second pass, or neither; got "
                f"coarse_mpp={self.coarse_mpp}, coarse_radii_um={self.coarse_radii_um}"
            )
        if self.coarse_mpp is None:
            return
        factor = self.coarse_mpp / self.target_mpp
        if round(factor) < 2 or abs(factor - round(factor)) > 1e-6:
            raise ValueError(
                f"coarse_mpp must be a whole multiple of target_mpp={self.target_mpp:g}, at least twice, got "
                f"{self.coarse_mpp:g}"
            )
        if min(self.coarse_radii_um) <= 0 or len(set(self.coarse_radii_um)) < len(self.coarse_radii_um):
            raise ValueError(f"coarse_radii_um must be positive and differ, got {self.coarse_radii_um}")

    @property
    def coarse_regions(self) -> tuple[Region, ...]:
        """What the second pass pools."""
        return tuple(Region(f"coarse_{radius:g}um", "disc", radius) for radius in self.coarse_radii_um)

    @classmethod
    def of_size(cls, size: str, *, name: str, **changes: Any) -> PASTConfig:
        """Configuration of one of four sizes.

        Parameters
        ----------
        size
            ``"mini"`` (a convolutional backbone and one attention layer), ``"small"`` (the same backbone; context,
            neighbours, one layer of self-attention), ``"base"`` and ``"large"`` (ViT-S/8 and ViT-B/8, further layers).
        name
            Name of the model.
        **changes
            Entries that replace those of the size, e.g. ``backbone="hf-hub:bioptimus/H-optimus-0"``.

        Raises
        ------
        ValueError
            If there is no such size.
        """
        if size not in _SIZES:
            raise ValueError(f"size={size!r} is unknown; use one of {list(_SIZES)}")
        return cls.from_dict({"name": name, **_SIZES[size], **changes})

    def to_json(self, path: Path) -> None:
        """Write the configuration to a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def from_json(cls, path: Path) -> PASTConfig:
        """Read a configuration; unknown or missing entries raise ``ValueError`` naming the file."""
        try:
            raw = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        known = {f.name for f in fields(cls)}
        if not isinstance(raw, dict) or "name" not in raw or set(raw) - known:
            raise ValueError(
                f"{path} is not a pastpy model configuration: expected the entries {sorted(known)}, "
                f"got {sorted(raw) if isinstance(raw, dict) else type(raw).__name__}"
            )
        try:
            return cls.from_dict(raw)
        except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{path} is not a pastpy model configuration: {error}") from error

    @classmethod
    def from_dict(cls, entries: dict[str, Any]) -> PASTConfig:
        """Configuration from plain values, as JSON holds them: lists for tuples, dictionaries for regions."""
        plain = dict(entries)
        if "regions" in plain:
            plain["regions"] = tuple(
                r if isinstance(r, Region) else Region(**{**r, "offset_um": tuple(r.get("offset_um", (0.0, 0.0)))})
                for r in plain["regions"]
            )
        for name in ("image_mean", "image_std", "coarse_radii_um", "technologies"):
            if name in plain:
                plain[name] = tuple(plain[name])
        return cls(**plain)
