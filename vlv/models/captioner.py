"""Stage 2's model: image -> caption embeddings -> projector -> causal language model -> caption."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from vlv.checkpoints.hub import HubUpload, refuse_upload
from vlv.checkpoints.identity import CONFIG_NAME, CheckpointError, JsonObject, read_json
from vlv.checkpoints.origin import absolute_origin, adapter_bases
from vlv.checkpoints.pretrained import load_tokenizer, load_whole, require_language_model, resolve_checkpoint
from vlv.checkpoints.schema import GGUF_NAME, LORA_FOLDER
from vlv.decoders import Conditioner, build_conditioner
from vlv.decoders.interface import Conditioning
from vlv.encoders import VisionEncoder, encoder_from_config
from vlv.frozen import (
    FrozenStaysEval,
    checkpoint_frozen_layers,
    checkpoint_trained_layers,
    freeze,
    set_dtypes,
)
from vlv.models.adapter import leave_to_bases, with_bases
from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.image_processor import ImageInput, VLVImageProcessor
from vlv.models.image_text import ImageTextGeneration
from vlv.models.image_token import image_token_id
from vlv.models.language_head import caption_losses
from vlv.models.lora import has_lora, is_lora, merged_lora, save_lora
from vlv.models.projector import Projector
from vlv.models.seeded import seeded_sampling
from vlv.models.texts import caption_texts


class VLVForConditionalGeneration(  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]
    HubUpload, FrozenStaysEval, ImageTextGeneration, PreTrainedModel, GenerationMixin
):
    """Stage 2's model: encoder, frozen text encoder, projector and language model (arXiv 2507.07104).

    `caption` takes images and gives captions; `forward` and `generate` go by transformers' conventions for image-text
    models. `vlv.VLVCaptioner` is this class by its short name.

    Shapes: B images, E encoder pixels, Q rows of conditioning, D and H widths, L caption tokens, V vocabulary.
    """

    config_class = VLVCaptionerConfig
    config: VLVCaptionerConfig
    base_model_prefix = "captioner"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    tokenizer: PreTrainedTokenizerBase
    image_processor: VLVImageProcessor

    def __init__(
        self,
        config: VLVCaptionerConfig,
        encoder: VisionEncoder | None = None,
        conditioner: Conditioner | None = None,
        llm: PreTrainedModel | None = None,
    ) -> None:
        """Build from the config; parts that are given are taken as they are."""
        super().__init__(config)
        if encoder is None:
            assert isinstance(config.encoder_config, PreTrainedConfig)
            encoder = encoder_from_config(config.encoder_config)
        self.encoder = encoder
        self.conditioner = build_conditioner(config.conditioner or {}) if conditioner is None else conditioner
        if llm is None:
            assert isinstance(config.llm_config, PreTrainedConfig)
            require_language_model(config.llm_config, "llm_config")
            llm = AutoModelForCausalLM.from_config(config.llm_config)
        self.llm: Any = llm
        self.mlp = Projector(self.conditioner.width, self.llm.get_input_embeddings().embedding_dim)
        self.compute_dtype = torch.float32
        freeze(self.conditioner)
        # The language model's own defaults (a repetition penalty, sampling) are for chats.
        self.llm.generation_config = self.generation_defaults()
        self.post_init()

    @property
    def origin(self) -> JsonObject:
        """The stage-1 model, bases and training that this captioner came from."""
        assert self.config.origin is not None, "captioner_from_stage1 writes it"
        return self.config.origin

    @property
    def eos_token_id(self) -> int:
        """The token that ends a caption."""
        assert self.config.eos_token_id is not None, "captioner_from_stage1 writes it"
        return self.config.eos_token_id

    def set_trained(self, parts: list[str]) -> None:
        """Choose what trains: any of `mlp`, `llm` (its LoRA, where it has one), `encoder` (Florence's BART alone).

        The rest is frozen.
        """
        self.requires_grad_(False)
        self.encoder.set_trained("bart" if "encoder" in parts else "none")
        self.mlp.requires_grad_("mlp" in parts)
        all_of_it = not has_lora(self.llm)
        for name, value in self.llm.named_parameters():
            value.requires_grad_("llm" in parts and (all_of_it or is_lora(f"llm.{name}")))
        self.train(self.training)

    def set_dropout(self, dropout: float) -> None:
        """Set every dropout of the encoder and of the language model to one share."""
        self.encoder.set_dropout(dropout)
        for module in self.llm.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
            for name in ("dropout", "attention_dropout", "activation_dropout"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, dropout)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward, in what trains and in what gradients pass through."""
        checkpoint_trained_layers(self)
        checkpoint_frozen_layers(self)

    def set_dtypes(self, compute_dtype: torch.dtype, param_dtype: torch.dtype) -> VLVForConditionalGeneration:
        """Number formats of frozen and of trained weights."""
        set_dtypes(self, compute_dtype, param_dtype)
        self.compute_dtype = compute_dtype
        return self

    def caption_losses(self, conditioning: Conditioning, input_ids: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each sample, summed over its caption tokens, fp32 [B].

        Args:
            conditioning: states [B, Q, D].
            input_ids, labels: [B, L], right padded; labels are -100 where nothing is learned.
        """
        prefix = self.prefix(conditioning)  # [B, Q, H]
        caption = self.llm.get_input_embeddings()(input_ids).to(prefix.dtype)  # [B, L, H]
        return caption_losses(self.llm, torch.cat([prefix, caption], dim=1), labels)  # of [B, Q + L, H]

    def generate_ids(
        self, encoder_pixels: Tensor, num_beams: int | None = None, max_new_tokens: int | None = None
    ) -> Tensor:
        """Caption token ids [B, <= max_new_tokens] of uint8 encoder pixels [B, 3, E, E], by beam search.

        None takes the value of generation_config.json.
        """
        given = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
        asked: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        return self.generate(pixel_values=encoder_pixels, **asked)[:, self.num_image_tokens :]

    def generation_defaults(self) -> GenerationConfig:
        """How captions are generated where no argument is given: saved as generation_config.json."""
        return GenerationConfig(
            num_beams=4,
            max_new_tokens=self.config.max_caption_tokens + 1,  # the end token is generated too
            do_sample=False,
            # Not the published True: it stops at the first few finished beams, so a short wrong caption
            # was seen to win over a longer one that had nearly all of the probability.
            early_stopping=False,
            eos_token_id=self.config.eos_token_id,
            pad_token_id=self.config.pad_token_id,
        )

    def sample_pixels(
        self,
        encoder_pixels: Tensor,
        seeds: Sequence[Sequence[int]],
        temperature: float,
        max_new_tokens: int | None = None,
        end_at_sentence: bool = False,
    ) -> list[list[str]]:
        """Sampled captions of uint8 encoder pixels [B, 3, E, E], as many of each as it has seeds.

        Args:
            seeds: n of each of B images; a caption depends on its image and its seed alone.
            temperature: above 0; 1 samples from the model's own distribution.
            max_new_tokens, end_at_sentence: as of `caption_pixels`.
        """
        count = len(seeds[0])
        found = self._texts(self._sampled_ids(encoder_pixels, seeds, temperature, max_new_tokens), end_at_sentence)
        return [found[start : start + count] for start in range(0, len(found), count)]

    def _sampled_ids(
        self, encoder_pixels: Tensor, seeds: Sequence[Sequence[int]], temperature: float, max_new_tokens: int | None
    ) -> Tensor:
        """Token ids [B n, L] of `sample_pixels`, those of an image one after the other."""
        asked: dict[str, Any] = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
        ids = self.generate(pixel_values=encoder_pixels, **seeded_sampling(seeds, temperature), **asked)
        return ids[:, self.num_image_tokens :]

    def _texts(self, ids: Tensor, end_at_sentence: bool) -> list[str]:
        """The captions of token ids [B, L]."""
        return caption_texts(self.tokenizer, ids.tolist(), self.eos_token_id, end_at_sentence)

    def caption_pixels(
        self,
        encoder_pixels: Tensor,
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        end_at_sentence: bool = False,
    ) -> list[str]:
        """Captions of uint8 encoder pixels [B, 3, E, E].

        Args:
            end_at_sentence: cut a caption that did not come to its end back to its last whole sentence.
        """
        return self._texts(self.generate_ids(encoder_pixels, num_beams, max_new_tokens), end_at_sentence)

    def caption(
        self,
        images: Sequence[ImageInput],
        num_beams: int | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 8,
    ) -> list[str]:
        """Captions of images of any number, size and mode.

        Args:
            images: PIL images or paths of image files.
            num_beams: beams of the search; 1 is greedy; None is that of generation_config.json (4).
            max_new_tokens: longest caption, in tokens; None is what the captioner was trained with.
            batch_size: images that are captioned at once.

        Returns:
            One caption for each of `images`, in their order.

        Raises:
            ValueError: a single image in place of a list, or a file that cannot be read.
        """
        captions: list[str] = []
        for batch in self.image_processor.batches(images, batch_size):
            captions += self.caption_pixels(batch["encoder_pixels"], num_beams, max_new_tokens)
        return captions

    def save_pretrained(self, save_directory: str | Path, adapter: bool = False, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the captioner: weights, config, tokenizer, image processor, card.

        Args:
            adapter: leave out the weights that its bases hold, which are then needed to load it. Without, the folder
                needs no other one. With LoRA that is not merged it always is, and the folder `lora` has PEFT's files.

        Raises:
            ValueError: an adapter of a captioner whose bases are not there, or are not known.
        """
        refuse_upload(kwargs)
        if adapter or has_lora(self.llm):
            place = self.loaded_from or Path(self.name_or_path or "captioner")
            state = kwargs.get("state_dict") or self.state_dict()
            if has_lora(self.llm) and kwargs.get("is_main_process", True):
                save_lora(self.llm, state, Path(save_directory))
            kwargs["state_dict"], self.config.adapter_bases = leave_to_bases(state, self.origin, place)
        try:
            super().save_pretrained(save_directory, **kwargs)
        finally:
            self.config.adapter_bases = None  # the model in memory stays whole
        if kwargs.get("is_main_process", True):
            self.tokenizer.save_pretrained(save_directory)
            self.image_processor.save_pretrained(save_directory)
            self.save_card(Path(save_directory))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, folder: str | Path, *, stable_diffusion: str | None = None, florence2: str | None = None,
        language_model: str | None = None, **kwargs: Any,
    ) -> VLVForConditionalGeneration:  # fmt: skip
        """Load a captioner from a folder or a hub id; fp32 unless `dtype` is given.

        Args:
            folder: what `save_pretrained` wrote, or its hub id.
            stable_diffusion, florence2, language_model: paths of an adapter's bases, if they have moved.

        Raises:
            ValueError: not a captioner's folder, weights that do not fit, or an adapter's base that is missing or
                another one; the message names it.
        """
        path = resolve_checkpoint(folder, "stage2", kwargs)
        if (path / GGUF_NAME).is_file() and cls is VLVForConditionalGeneration:
            raise CheckpointError(f"{path} is for llama.cpp: vlv caption reads it, and vlv.llamacpp.LlamaCppCaptioner")
        kwargs.setdefault("dtype", torch.float32)
        config = kwargs.get("config") or VLVCaptionerConfig.from_pretrained(path)  # AutoModel gives it
        if bases := adapter_bases(read_json(path / CONFIG_NAME)):
            config.adapter_bases = None  # whole from here on, and where it is saved again
            vars(config).pop("frozen_in_bases", None)  # the key's former name
            moved = {"decoder": stable_diffusion, "florence2": florence2, "language_model": language_model}
            weights = with_bases(path, config.origin or {}, bases, moved)
            kwargs |= {"config": config, "state_dict": weights}
            load = partial(super().from_pretrained, None)  # no folder: the weights are given
            model = load_whole(lambda _, **options: load(**options), path, **kwargs)
            model.name_or_path = str(path)
        else:
            model = load_whole(super().from_pretrained, path, **kwargs)
        if (path / LORA_FOLDER).is_dir():
            model.llm = merged_lora(model.llm, path)
        if (path / "generation_config.json").is_file():
            model.llm.generation_config = GenerationConfig.from_pretrained(path)
        model.loaded_from = path
        if model.config.origin is not None:
            model.config.origin = absolute_origin(model.config.origin, path)
        model.tokenizer = load_tokenizer(path, "ckpt_dir")
        model.config.image_token_id = image_token_id(model.tokenizer)
        model.image_processor = VLVImageProcessor.from_pretrained(path)
        return model.eval()


VLVCaptioner = VLVForConditionalGeneration  # the name that the package's own examples use
