"""How a decoder is built: plain values, which need no torch.

A new option of one family is a field here, the setting of the same name in `vlv.config`, and the family's own code:
`options_of` passes fields on by their names.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, get_args

ConditioningKind = Literal["text_encoder", "clip", "direct"]
DTYPES = ("fp32", "bf16", "fp16")
T5DType = Literal["bf16", "int8"]


@dataclass(frozen=True)
class EmbeddingSpace:
    """A space that the encoder has to produce: its name, its width, and how many rows fit."""

    name: str
    width: int
    max_length: int


@dataclass(frozen=True)
class DecoderSettings:
    """How a decoder is built from its folder.

    Args:
        conditioning: `text_encoder` passes the embeddings through the frozen text encoders, `clip` through all of them
            but T5, `direct` hands them to the denoiser's attention.
        resolution: R, side of the images in pixels.
        dtype: fp32, bf16 or fp16, in which the frozen weights are loaded; the VAE is fp32 whatever it is.
        t5_dtype: of Stable Diffusion 3.5's T5 alone, kept whatever the rest is cast to; None is `dtype`.
    """

    conditioning: ConditioningKind = "text_encoder"
    resolution: int = 384
    dtype: str = "fp32"
    t5_dtype: T5DType | None = None

    def __post_init__(self) -> None:
        for name, known in (("conditioning", get_args(ConditioningKind)), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} cannot be used: give {', '.join(known)}")
        if self.t5_dtype is not None and self.t5_dtype not in get_args(T5DType):
            raise ValueError(f"t5_dtype={self.t5_dtype!r} cannot be used: give null, {', '.join(get_args(T5DType))}")

    @classmethod
    def options_of(cls, config: object) -> dict[str, Any]:
        """The loading options that a recipe's config has under the same name, but for `dtype`, its precision."""
        names = cls.loading_options() - {"dtype"}
        return {name: getattr(config, name) for name in sorted(names) if hasattr(config, name)}

    @classmethod
    def loading_options(cls) -> set[str]:
        """The fields that no checkpoint decides: they may differ from one load to the next."""
        return {field.name for field in dataclasses.fields(cls)} - {"conditioning", "resolution"}
