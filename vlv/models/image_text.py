"""What transformers' tools expect of a model for images and text: `forward` and `generate` over one sequence of ids."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.drafting import Drafter, Generates
from vlv.models.image_rows import ReadsImages


class ImageTextGeneration(ReadsImages):
    """Transformers' conventions over an encoder and a language model, of a class that is its `GenerationMixin` too.

    In `input_ids` each image is a run of placeholders, one for each of its `num_image_tokens` rows; where they stand,
    the language model reads the rows. Caption tokens follow.

    Shapes: B sequences, N images in all of them, Q rows of an image, S tokens, H width, V vocabulary.
    """

    config: VLVCaptionerConfig
    llm: Any  # a class of transformers' own for each language model
    compute_dtype: torch.dtype

    @property
    def generation_config(self) -> GenerationConfig:
        """The language model's: there is one."""
        return self.llm.generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig) -> None:
        if "llm" in vars(self).get("_modules", {}):  # transformers sets one before there is a language model
            self.llm.generation_config = config

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.llm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Give the language model others."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.llm.get_output_embeddings()

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Give the language model another head."""
        self.llm.set_output_embeddings(value)

    def merged(self, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        """What the language model reads, [B, S, H]: embeddings of the tokens, and images' rows at the placeholders.

        Args:
            input_ids: [B, S].
            pixel_values: uint8 encoder pixels [N, 3, E, E], or their `image_rows` [N, Q, H], in the order of their
                placeholders.

        Raises:
            ValueError: other images than there are placeholders for.
        """
        embedding = self.get_input_embeddings()
        is_image = input_ids == self.config.image_token_id
        texts = embedding(input_ids.masked_fill(is_image, 0))  # the placeholder may have no row
        images = 0 if pixel_values is None else len(pixel_values)
        rows = images * self.num_image_tokens
        if pixel_values is None:
            if is_image.any():
                raise ValueError("input_ids has placeholders of images, but pixel_values is not given")
            return texts
        if (found := int(is_image.sum())) != rows:
            raise ValueError(
                f"input_ids has {found} placeholders for {images} images of {self.num_image_tokens} rows each: take "
                "both from one call of the processor"
            )
        prefix = self.rows_of(pixel_values.to(texts.device))  # [N, Q, H]
        # Autocast may have made it another number format.
        return texts.masked_scatter(is_image[..., None], prefix.to(texts.dtype))

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """The language model's outputs, over images and tokens.

        Args:
            input_ids: [B, S], with `num_image_tokens` placeholders for each image.
            pixel_values: uint8 encoder pixels [N, 3, E, E]; None once the images are in the cache.
            attention_mask: [B, S + cached]; 0 at padding.
            inputs_embeds: [B, S, H] instead of the first two, from `merged`.
            labels: [B, S]; -100 where nothing is learned, as at placeholders and padding. They are not shifted.
            options: of the language model: `past_key_values`, `use_cache`, `logits_to_keep`, `position_ids`, ...

        Raises:
            ValueError: other images than there are placeholders for.
        """
        if inputs_embeds is None:
            assert input_ids is not None, "input_ids or inputs_embeds is needed"
            inputs_embeds = self.merged(input_ids, pixel_values)
        return self.llm(inputs_embeds=inputs_embeds, attention_mask=attention_mask, labels=labels, **options)

    @property
    def base_model(self) -> nn.Module:
        """What gives the last states instead of logits, by the name under which trainers look for it."""
        return _WithoutLogits(self)

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        prompt_embeds: Tensor | None = None,
        cache: object = None,
        past_key_values: object = None,
        **kwargs: Any,
    ) -> dict[str, object]:
        """Inputs of the next forward pass of `generate`: of the prompt, as far as it is not cached, its embeddings.

        Args:
            input_ids: [B, S + generated].
            prompt_embeds: [B, S, H], from `merged`.
            cache, past_key_values: of the language model, by the name of the installed transformers; `generate` takes
                no option that is neither named here nor by `forward`.
            kwargs: of transformers' own method; by this name `generate` knows that `forward`'s arguments are taken.
        """
        given = {"cache": cache, "past_key_values": past_key_values}
        kwargs |= {name: value for name, value in given.items() if value is not None}
        # What is cached is cut off by it, whatever kind of cache that is.
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]
        ids: Tensor = inputs["input_ids"]  # [B, those that are not cached]
        first = input_ids.shape[1] - ids.shape[1]
        if prompt_embeds is not None and first < prompt_embeds.shape[1]:
            # Drafted tokens, of prompt lookup or an assistant, come with the prompt in the first pass.
            new = ids[:, prompt_embeds.shape[1] - first :]
            drafted = self.get_input_embeddings()(new).to(prompt_embeds.dtype)
            inputs["inputs_embeds"] = torch.cat([prompt_embeds[:, first:], drafted], dim=1)
            inputs["input_ids"] = None
        return inputs

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, **options: Any) -> Any:
        """Token ids [B, S + new], the given ones first: transformers' `generate` with all that it can do.

        Args:
            inputs: `input_ids` [B, S], by place; without them and `input_ids`, a caption of each image.
            options: `input_ids`, `pixel_values` (uint8 encoder pixels [N, 3, E, E]), `attention_mask`, and all that
                transformers' `generate` takes. Defaults are generation_config.json's.

        Raises:
            ValueError: other images than there are placeholders for, neither ids nor images, or an `assistant_model`
                that cannot read this prompt.
        """
        if (layers := options.get("assistant_early_exit")) is not None:
            raise ValueError(
                f"assistant_early_exit={layers}: a captioner has no early exit: give assistant_model, or "
                "prompt_lookup_num_tokens"
            )
        pixels: Tensor | None = options.pop("pixel_values", None)
        ids = options.pop("input_ids", inputs)
        if ids is None:
            if pixels is None:
                raise ValueError("nothing to generate from: give pixel_values, or input_ids")
            ids = torch.full((len(pixels), self.num_image_tokens), cast("int", self.config.image_token_id))
        ids = ids.to(self.llm.device)
        options.setdefault("attention_mask", torch.ones_like(ids))
        if (assistant := options.get("assistant_model")) is not None:
            options["assistant_model"] = self._drafter(assistant, ids, pixels)
        # A processor of logits may look a prompt's ids up among the logits.
        known = ids.clamp(max=self.config.text_config.vocab_size - 1)
        found = self._generate_after(self._prompt_embeds(ids, pixels), known, **options)
        sequences = found if isinstance(found, Tensor) else found.sequences
        sequences[:, : ids.shape[1]] = ids.repeat_interleave(len(sequences) // len(ids), dim=0)
        return found

    def _prompt_embeds(self, input_ids: Tensor, pixel_values: Tensor | None) -> Tensor:
        """`merged`, [B, S, H], in the language model's number format.

        Encoded once: in transformers' own loop each beam, and each of several answers, would be encoded again.
        """
        with self.autocast():
            return self.merged(input_ids.to(self.llm.device), pixel_values).to(self.llm.dtype)

    def _generate_after(self, prompt_embeds: Tensor, input_ids: Tensor, **options: Any) -> Any:
        """Transformers' `generate`, from the embeddings [B, S, H] of a prompt."""
        with self.autocast():
            return super().generate(input_ids, prompt_embeds=prompt_embeds, **options)  # type: ignore[misc]

    def _drafter(self, assistant: Generates, input_ids: Tensor, pixel_values: Tensor | None) -> Drafter:
        """An assistant that has read the prompt: another captioner its images too, a language model the ids alone.

        Raises:
            ValueError: a captioner that cannot read this prompt.
        """
        if not isinstance(assistant, ImageTextGeneration) or not isinstance(assistant.llm, GenerationMixin):
            return Drafter(assistant, assistant.generate)
        theirs, ours = (
            (model.num_image_tokens, model.config.text_config.vocab_size, model.config.image_token_id)
            for model in (assistant, self)
        )
        if theirs != ours:
            raise ValueError(
                f"assistant_model has {theirs[0]} rows an image and {theirs[1]} tokens, this captioner {ours[0]} and "
                f"{ours[1]}: give a captioner of the same rows and tokenizer, or a language model"
            )
        if pixel_values is not None and pixel_values.ndim == 3:
            raise ValueError(
                "assistant_model: another captioner cannot read pixel_values that are rows of this one: give pixels"
            )
        embeds = assistant._prompt_embeds(input_ids, pixel_values)
        return Drafter(assistant, partial(assistant._generate_after, embeds))


class _WithoutLogits(nn.Module):
    """A captioner without its head; made anew at each call, so that the captioner does not hold itself."""

    def __init__(self, captioner: ImageTextGeneration) -> None:
        super().__init__()
        self.captioner = captioner

    def forward(
        self,
        input_ids: Tensor,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """The language model's last states, [B, S, H], in `last_hidden_state`."""
        embeds = self.captioner.merged(input_ids, pixel_values)
        return self.captioner.llm.base_model(inputs_embeds=embeds, attention_mask=attention_mask, **options)
