"""A captioner whose language model llama.cpp runs: what `vlv export gguf` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from vlv.checkpoints.schema import GGUF_NAME
from vlv.llamacpp.language_model import Choice, LlamaCppModel
from vlv.models.captioner import VLVForConditionalGeneration
from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.seeded import SeededChoice


class LlamaCppCaptioner(VLVForConditionalGeneration):
    """Encoder, text encoder and projector by torch, language model by llama.cpp.

    It captions as `VLVCaptioner` does, greedily or sampled; it neither trains nor has transformers' `generate`.
    """

    def __init__(self, config: VLVCaptionerConfig) -> None:
        """Build from the config of a folder, and open the language model that lies beside it.

        `from_pretrained` calls it: transformers takes no built part, and tells the config where it came from.

        Raises:
            CheckpointError: llama.cpp cannot load the language model.
        """
        super().__init__(config, llm=cast("Any", LlamaCppModel(Path(str(config.name_or_path)) / GGUF_NAME)))

    def generate_ids(
        self, encoder_pixels: Tensor, num_beams: int | None = None, max_new_tokens: int | None = None
    ) -> Tensor:
        """Caption token ids [B, <= max_new_tokens] of uint8 encoder pixels [B, 3, E, E], by greedy search.

        Raises:
            ValueError: more than one beam.
        """
        if (num_beams or 1) > 1:
            raise ValueError(f"num_beams={num_beams}: llama.cpp searches greedily: set num_beams=1")
        return self._continued(self.image_rows(encoder_pixels), lambda scores: scores.argmax(1), max_new_tokens)

    def _sampled_ids(
        self, encoder_pixels: Tensor, seeds: Sequence[Sequence[int]], temperature: float, max_new_tokens: int | None
    ) -> Tensor:
        """The captioner's own draws, from llama.cpp's logits."""
        prefix = self.image_rows(encoder_pixels).repeat_interleave(len(seeds[0]), dim=0)
        choice = SeededChoice([seed for own in seeds for seed in own], temperature)
        unused = torch.zeros(len(prefix), 0, dtype=torch.long)  # it goes by the logits alone
        return self._continued(prefix, lambda scores: choice(unused, scores).argmax(1), max_new_tokens)

    def generate(self, *_: object, **__: object) -> NoReturn:
        """Not here.

        Raises:
            ValueError: always.
        """
        raise ValueError("llama.cpp runs this captioner: call caption, or load the folder that it was exported from")

    def _continued(self, prefix: Tensor, choose: Choice, max_new_tokens: int | None) -> Tensor:
        limit = max_new_tokens or self.generation_config.max_new_tokens
        said = self.llm.generate(prefix, limit, self.eos_token_id, choose)
        longest, padding = max(map(len, said)), self.config.pad_token_id
        return torch.tensor([ids + [padding] * (longest - len(ids)) for ids in said])
