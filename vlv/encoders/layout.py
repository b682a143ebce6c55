"""What a vision encoder's folder is, read from its config.json alone: kind, positions, and what fits into them.

The check of a call and the builders read a folder through here. Torch is not loaded. Entering a kind in `ENCODERS`
gives it both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from vlv.checkpoints.identity import CheckpointError, JsonObject, read_json
from vlv.decoders.settings import EmbeddingSpace
from vlv.encoders.settings import EncoderSettings
from vlv.limits import check_encoder_resolution, check_queries, check_region_grid, check_regions_alone


@dataclass(frozen=True)
class EncoderLayout(ABC):
    """An encoder's folder as its config.json describes it.

    Args:
        folder: local folder.
        config: its config.json.
    """

    module: ClassVar[str]  # of `vlv.encoders`, with `build`
    folder: Path
    config: JsonObject

    @abstractmethod
    def check(self, settings: EncoderSettings, spaces: Sequence[EmbeddingSpace], num_prompt_ids: int = 0) -> None:
        """Check that queries and image fit the encoder's learned positions.

        Args:
            spaces: that the decoder wants; each has room for so many rows.
            num_prompt_ids: tokens of the prompt; 0 before a tokenizer is loaded.

        Raises:
            ValueError: they do not; names the largest that do.
        """


@dataclass(frozen=True)
class Florence2Layout(EncoderLayout):
    """Florence-2, in transformers' own layout or in the original one of its remote code."""

    module: ClassVar[str] = "florence2"

    @property
    def is_original(self) -> bool:
        """Whether the folder has the original layout, whose config and weights have other names."""
        return "dim_embed" in self._part("vision_config")

    @property
    def vision_positions(self) -> int:
        # Here and below: what a file leaves out has the native config class's default.
        """Rows, and columns, of image tokens that there are positions for."""
        vision = self._part("vision_config")
        return vision["image_pos_embed"]["max_pos_embeddings"] if self.is_original else vision.get(_POSITIONS, 50)

    @property
    def text_positions(self) -> int:
        """Positions of BART's encoder and decoder: image tokens with the prompt, and queries."""
        return self._part("text_config").get(_POSITIONS, 1024)

    @property
    def patch_stride(self) -> Sequence[int]:
        """Stride of each stage of the vision tower."""
        return self._part("vision_config").get("patch_stride", (4, 2, 2, 2))

    def check(self, settings: EncoderSettings, spaces: Sequence[EmbeddingSpace], num_prompt_ids: int = 0) -> None:
        check_queries(settings.num_queries, [self.text_positions, *(space.max_length for space in spaces)])
        positions = (self.vision_positions, self.text_positions)
        check_encoder_resolution(settings.resolution, self.patch_stride, *positions, num_prompt_ids)
        if settings.region_grid is not None:
            check_region_grid(settings.region_grid, settings.num_queries, settings.resolution, self.patch_stride)
        if settings.trained == "regions":
            check_regions_alone(settings.region_grid, settings.num_queries)

    def _part(self, name: str) -> JsonObject:
        return self.config.get(name) or {}


_POSITIONS = "max_position_embeddings"
ENCODERS: dict[str, type[EncoderLayout]] = {"florence2": Florence2Layout}  # by `model_type` of config.json


def read_encoder_layout(folder: Path) -> EncoderLayout:
    """Read an encoder's folder.

    Raises:
        CheckpointError: it is none, or of a kind that is not here; says what it is.
    """
    if (folder / "model_index.json").is_file():
        pipeline = read_json(folder / "model_index.json").get("_class_name")
        raise CheckpointError(f"{folder} is a {pipeline}, a decoder: give the folder of Florence-2")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json, so it is not a model: give the folder of Florence-2")
    config = read_json(folder / "config.json")
    kind = str(config.get("model_type"))
    if kind not in ENCODERS:
        raise CheckpointError(f"{folder} holds a model of type {kind}, not Florence-2")
    return ENCODERS[kind](folder, config)
