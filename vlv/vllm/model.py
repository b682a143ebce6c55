"""A captioner as a multimodal model of vLLM: its own language model there, and ours in front of it.

vLLM runs the language model of a captioner's config (attention, cache, batching, number formats are its own); the
encoder, the conditioner and the projector are the captioner's modules as they are. Where a prompt has the placeholder
of an image, the model reads the image's rows.
"""

# Packages of vLLM's environment alone.
# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BatchFeature
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsMultiModal
from vllm.model_executor.models.utils import init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from vlv.checkpoints.pretrained import resolve_checkpoint
from vlv.checkpoints.schema import require_merged
from vlv.models.adapter import captioner_weights
from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.image_processor import VLVImageProcessor
from vlv.models.image_rows import LANGUAGE_MODEL, VISION_BASES, ImageRows
from vlv.models.image_token import IMAGE_TOKEN
from vlv.models.processor import VLVProcessor


class VLVProcessingInfo(BaseProcessingInfo):
    """What vLLM asks about a captioner's inputs."""

    def get_hf_processor(self, **kwargs: object) -> VLVProcessor:
        """The captioner's processor."""
        return self.ctx.get_hf_processor(VLVProcessor, **kwargs)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """A caption is of one image."""
        return {"image": 1}

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """None: an image is read in one way."""
        return {}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        """Rows of an image."""
        return {"image": self.get_hf_processor().num_image_tokens}

    def get_default_tok_params(self) -> Any:
        """A caption follows its image at once, without the token that other texts of the vocabulary begin with."""
        return super().get_default_tok_params().with_kwargs(add_special_tokens=False)


class VLVDummyInputs(BaseDummyInputsBuilder[VLVProcessingInfo]):
    """An image to measure memory with."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """The placeholder of each image."""
        return IMAGE_TOKEN * mm_counts.get("image", 0)

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        """White images, of the encoder's size: all become as large."""
        side = self.info.get_hf_processor().image_processor.encoder_resolution
        return {"image": self._get_dummy_images(width=side, height=side, num_images=mm_counts.get("image", 0))}


class VLVMultiModalProcessor(BaseMultiModalProcessor[VLVProcessingInfo]):
    """Images to pixels, and the placeholder of an image in a prompt to as many ids as it has rows."""

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return {"pixel_values": MultiModalFieldConfig.batched("image")}

    def _postprocess_prompt(self, prompt: list[int]) -> list[int]:
        # A vocabulary without the placeholder has cut its text to pieces; the processor's copy knows it as a token.
        processor, tokenizer = self.info.get_hf_processor(), self.info.get_tokenizer()
        if processor.image_token_id in prompt or IMAGE_TOKEN in tokenizer.get_vocab():
            return prompt
        text = tokenizer.decode(prompt)
        return processor.tokenizer.encode(text, add_special_tokens=False) if IMAGE_TOKEN in text else prompt

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, object], out_mm_kwargs: Any
    ) -> Sequence[PromptReplacement]:
        processor = self.info.get_hf_processor()
        config = cast("VLVCaptionerConfig", self.info.get_hf_config())
        # vLLM refuses ids beyond the vocabulary; which one stands there does not matter, as its row is replaced.
        known = processor.image_token_id < config.text_config.vocab_size
        one = processor.image_token_id if known else config.eos_token_id
        rows = [one] * processor.num_image_tokens
        return [PromptReplacement(modality="image", target=[processor.image_token_id], replacement=rows)]


@MULTIMODAL_REGISTRY.register_processor(VLVMultiModalProcessor, info=VLVProcessingInfo, dummy_inputs=VLVDummyInputs)
class VLVForVllm(nn.Module, SupportsMultiModal):
    """A captioner; `vlv.vllm.register` makes it known by the captioner's name.

    Shapes: N images, E encoder pixels, Q rows, H width, T tokens of a step.
    """

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """The placeholder, where a chat template has none."""
        return IMAGE_TOKEN if modality == "image" else None

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Build both halves, without weights.

        Raises:
            ValueError: no captioner's folder or hub id, or one whose LoRA is not merged.
        """
        super().__init__()
        self.config: VLVCaptionerConfig = vllm_config.model_config.hf_config
        self._dtype: torch.dtype = vllm_config.model_config.dtype
        self._folder = resolve_checkpoint(vllm_config.model_config.model, "stage2", {})
        require_merged(self._folder, "vLLM")
        # Nothing of it is built where prompts come as embeddings alone (`limit_mm_per_prompt={"image": 0}`).
        self.rows: ImageRows | None = None
        if vllm_config.model_config.get_multimodal_config().get_limit_per_prompt("image"):
            given = torch.get_default_dtype()
            torch.set_default_dtype(torch.float32)  # the normalization's constants, whatever format the weights get
            try:
                self.rows = ImageRows(deepcopy(self.config), VLVImageProcessor.from_pretrained(self._folder))
            finally:
                torch.set_default_dtype(given)
        with self._mark_language_model(vllm_config):
            self.llm = init_vllm_registered_model(
                vllm_config, hf_config=self.config.text_config, prefix=maybe_prefix(prefix, "llm")
            )

    def embed_multimodal(self, **kwargs: object) -> MultiModalEmbeddings:
        """The rows [N, Q, H] of `pixel_values`, uint8 [N, 3, E, E]."""
        pixels = kwargs.get("pixel_values")
        if pixels is None or self.rows is None:
            return []
        stacked = pixels if isinstance(pixels, Tensor) else torch.stack(cast("list[Tensor]", pixels))
        return self.rows(stacked).to(self._dtype)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: object,
    ) -> Tensor:
        """The language model's last states [T, H]."""
        return self.llm(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Logits of states [T, H]."""
        return self.llm.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take a captioner's weights, by their names in its files; an adapter's bases give the rest.

        Raises:
            ValueError: one is missing, or has no place.
        """
        # Not vLLM's own iteration over the files: an adapter's are not all, and an unused part is never read.
        bases = ("language_model",) if self.rows is None else ("language_model", *VISION_BASES)
        found = captioner_weights(self._folder, self.config.origin or {}, bases, {})
        loaded = self.llm.load_weights(
            (name.removeprefix(LANGUAGE_MODEL), value)
            for name, value in found.items()
            if name.startswith(LANGUAGE_MODEL)
        )
        names = {LANGUAGE_MODEL + name for name in loaded}
        if self.rows is not None:
            self.rows.take(found, self._folder).set_dtype(self._dtype)
            names |= {f"rows.{name}" for name, _ in self.rows.named_parameters()}
        return names
