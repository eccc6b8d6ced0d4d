"""What a model is: architecture and the image it works on, as JSON beside the weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from pastpy.engine.pool import Region

__all__ = ["PASTConfig"]

_REGIONS = (Region("nucleus", "shape"), Region("ring", "ring", 10.0), Region("context", "disc", 30.0))


@dataclass(frozen=True)
class PASTConfig:
    """Architecture of a PAST model.

    Attributes
    ----------
    name
        Name of the model.
    backbone
        timm name of the image backbone.
    backbone_stage
        Index of the backbone's last used block; what follows is cut off.
    target_mpp
        µm per pixel at which the image is read.
    image_mean, image_std
        Pixel statistics of the backbone, for pixels in [0, 1].
    regions
        Parts of a cell's surroundings that each become one image token.
    dim
        Width of tokens in the heads.
    embedding_dim
        Length of the embeddings.
    heads
        Attention heads of the decoder.
    expression_tokens
        Tokens in which the expression encoder summarises a cell's measured genes.
    dropout
        Dropout in the heads.

    Examples
    --------
    >>> from pastpy.models import PASTConfig
    >>> PASTConfig(name="tiny", dim=16).heads
    4
    """

    name: str
    backbone: str = "tf_efficientnet_lite0"
    backbone_stage: int = 2
    target_mpp: float = 0.5
    image_mean: tuple[float, ...] = (127 / 255,) * 3
    image_std: tuple[float, ...] = (128 / 255,) * 3
    regions: tuple[Region, ...] = field(default=_REGIONS)
    dim: int = 64
    embedding_dim: int = 64
    heads: int = 4
    expression_tokens: int = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"dim={self.dim} must be a multiple of heads={self.heads}")
        if self.target_mpp <= 0:
            raise ValueError(f"target_mpp must be positive, got {self.target_mpp}")

    def to_json(self, path: Path) -> None:
        """Write the configuration to a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def from_json(cls, path: Path) -> PASTConfig:
        """Read a configuration; unknown or missing entries raise ``ValueError`` naming the file."""
        try:
            raw = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from error
        known = {f.name for f in fields(cls)}
        if not isinstance(raw, dict) or "name" not in raw or set(raw) - known:
            raise ValueError(
                f"{path} is not a pastpy model configuration: expected the entries {sorted(known)}, "
                f"got {sorted(raw) if isinstance(raw, dict) else type(raw).__name__}"
            )
        raw["regions"] = tuple(Region(**r) for r in raw.get("regions", [asdict(r) for r in _REGIONS]))
        for name in ("image_mean", "image_std"):
            if name in raw:
                raw[name] = tuple(raw[name])
        return cls(**raw)
