"""The vision encoder: Florence-2 with learned queries, from image pixels to caption embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Florence2Config, Florence2Model, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutputWithPooling

from vlv.attention import forward_alone, without_masks
from vlv.checkpoints.hub import HubUpload, refuse_upload
from vlv.checkpoints.identity import ENCODER_TYPE, CheckpointError, JsonObject
from vlv.checkpoints.pretrained import load_tokenizer, load_whole, resolve_checkpoint
from vlv.decoders.settings import EmbeddingSpace
from vlv.encoders.florence2_layout import load_original, new_florence2
from vlv.encoders.interface import VisionEncoder
from vlv.encoders.layout import EncoderLayout, Florence2Layout, read_encoder_layout
from vlv.encoders.regions import RegionReader
from vlv.encoders.settings import EncoderPart, EncoderSettings
from vlv.frozen import checkpoint_frozen_layers, checkpoint_trained_layers, is_frozen

# What Florence-2's task token <MORE_DETAILED_CAPTION> stands for.
TASK_PROMPT = "Describe with a paragraph what is shown in the image."

_CARD = """---
library_name: vlv
pipeline_tag: image-feature-extraction
tags: [vlv]
---

# VLV encoder: an image becomes the caption embeddings that a frozen text-to-image model decodes

Florence-2 with learned queries (arXiv 2507.07104), whole: it needs no other folder.

## Use
```python
from vlv import VLVEncoder

encoder = VLVEncoder.from_pretrained("PATH")
embeddings = encoder(pixels)  # uint8 [B, 3, E, E] -> for each embedding space [B, Q, width]
```
"""


class VLVEncoderConfig(PreTrainedConfig):
    """Shape of the encoder.

    Args:
        florence2_config: the native Florence-2 config.
        spaces: width of each embedding space that the decoder wants, by name.
        num_queries: learned queries Q.
        prompt_ids: token ids of the task prompt, so that no tokenizer is needed.
        image_mean, image_std: per channel, on pixels in [0, 1].
        vocab_rows: rows of the embedding in the published checkpoint that this one was imported from, where it has
            fewer than Florence-2 here; an export writes so many.
        region_grid, region_blocks: of `RegionReader`; None as published.
        region_alone: there is one row for each query, and BART is not read at all.
    """

    model_type = ENCODER_TYPE
    # By its name until transformers 5.19, and the one since then.
    sub_configs = sub_configs_defaults = {"florence2_config": Florence2Config}  # noqa: RUF012  # pyright: ignore

    florence2_config: dict | PreTrainedConfig | None = None
    spaces: dict[str, int] | None = None
    num_queries: int = 77
    prompt_ids: list[int] | None = None
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    vocab_rows: int | None = None
    region_grid: int | None = None
    region_blocks: int | None = None
    region_alone: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Make the config of its dict."""
        # By hand: transformers does it from 5.20 on.
        if not isinstance(self.florence2_config, PreTrainedConfig):
            self.florence2_config = Florence2Config(**(self.florence2_config or {}))
        super().__post_init__(**kwargs)


class VLVEncoder(HubUpload, VisionEncoder, PreTrainedModel):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Florence-2 (arXiv 2311.06242) encodes the image and a fixed prompt; its decoder reads learned queries, which a
    head for each embedding space projects.

    Shapes: B images, E encoder pixels, N image tokens, P prompt tokens, D Florence-2's width, Q queries.
    """

    base_parts: ClassVar[tuple[str, ...]] = ("florence2.vision_tower.", "florence2.multi_modal_projector.")
    config_class = VLVEncoderConfig
    config: VLVEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "encoder_pixels"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: VLVEncoderConfig, florence2: Florence2Model | None = None) -> None:
        super().__init__(config)
        assert isinstance(config.florence2_config, Florence2Config)
        width: int = config.florence2_config.to_dict()["text_config"]["d_model"]
        self.florence2 = new_florence2(config.florence2_config) if florence2 is None else florence2
        self.query_embed = nn.Parameter(torch.randn(1, config.num_queries, width))  # [1, Q, D]
        self.language_proj = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Linear(width, space), nn.GELU(), nn.Linear(space, space))
                for name, space in (config.spaces or {}).items()
            }
        )
        self.regions: RegionReader | None = None
        if config.region_grid is not None:
            self.regions = RegionReader(width, config.region_grid, config.region_blocks or 0)
        # Not buffers: those would be saved, and cast with the model, and mean and deviation stay fp32.
        self._constants: dict[tuple[str, torch.device], Tensor] = {}
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            # A parameter of the model itself, which no module's initialisation knows; N(0, 1) as published.
            nn.init.normal_(self.query_embed)
        if isinstance(module, RegionReader):
            module.start()

    @property
    def heads(self) -> nn.Module:
        """The projection of each embedding space."""
        return self.language_proj

    @property
    def num_queries(self) -> int:
        return self.config.num_queries

    @property
    def vision_tower(self) -> nn.Module:
        """The image part of Florence-2, frozen unless everything trains."""
        return self.florence2.vision_tower

    def normalize(self, encoder_pixels: Tensor) -> Tensor:
        """Turn uint8 pixels [B, 3, E, E] into normalised fp32 ones, bit-equal to the Pillow-based processors."""
        mean = self._constant("image_mean", encoder_pixels.device)[:, None, None]
        std = self._constant("image_std", encoder_pixels.device)[:, None, None]
        # In this order of operations: multiplying by 1 / 255 or 1 / std would round differently.
        return (encoder_pixels.float() / 255 - mean) / std

    def _constant(self, name: str, device: torch.device) -> Tensor:
        """A list of the config as a tensor, copied to a device once: a copy at each step would wait for it."""
        if (name, device) not in self._constants:
            self._constants[name, device] = torch.tensor(getattr(self.config, name), device=device)
        return self._constants[name, device]

    def image_features(self, encoder_pixels: Tensor) -> Tensor:
        """Image tokens [B, N, D] of uint8 pixels [B, 3, E, E]."""
        keep = self.kept_results
        return self._image_features(encoder_pixels) if keep is None else keep(encoder_pixels, self._image_features)

    def _image_features(self, encoder_pixels: Tensor) -> Tensor:
        frozen = is_frozen(self.florence2.vision_tower) and is_frozen(self.florence2.multi_modal_projector)
        trains = torch.is_grad_enabled() and not frozen
        quick = nullcontext() if trains else forward_alone(encoder_pixels.device)
        with torch.set_grad_enabled(trains), quick:
            pixel_values = self.normalize(encoder_pixels).to(next(self.florence2.vision_tower.parameters()).dtype)
            features = self.florence2.get_image_features(pixel_values)
            assert isinstance(features, BaseModelOutputWithPooling)
            assert features.pooler_output is not None
            return features.pooler_output

    @torch.no_grad()
    def vision_features(self, encoder_pixels: Tensor) -> Tensor:
        """Mean of the vision tower's map, [B, C] fp32: features for distances between sets of images."""
        pixel_values = self.normalize(encoder_pixels).to(next(self.florence2.vision_tower.parameters()).dtype)
        return self.florence2.vision_tower(pixel_values).last_hidden_state.float().mean((2, 3))

    def encode(self, image_features: Tensor) -> Tensor:
        """Encoder states [B, N + P, D] of image tokens [B, N, D] followed by the prompt."""
        prompt_ids = self._constant("prompt_ids", image_features.device)
        prompt = self.florence2.language_model.shared(prompt_ids)  # [P, D]
        prompt = prompt.expand(image_features.shape[0], -1, -1).to(image_features.dtype)
        # Nothing is padding: all images have as many tokens, and the prompt is the same.
        inputs_embeds = torch.cat([image_features, prompt], dim=1)  # [B, N + P, D]
        bart = self.florence2.language_model
        with without_masks(bart):
            return bart.encoder(inputs_embeds=inputs_embeds, use_cache=False).last_hidden_state

    def read_queries(self, encoder_states: Tensor) -> Tensor:
        """Decoder states [B, Q, D]: the queries, read causally, attend to the encoder states [B, N + P, D]."""
        queries = self.query_embed.expand(encoder_states.shape[0], -1, -1)  # [B, Q, D]
        # Not by Florence2Model.forward: it makes start ids beside the embeddings, and the decoder refuses both.
        bart = self.florence2.language_model
        with without_masks(bart):
            output = bart.decoder(inputs_embeds=queries, encoder_hidden_states=encoder_states, use_cache=False)
        return output.last_hidden_state

    def forward(self, encoder_pixels: Tensor) -> dict[str, Tensor]:
        """Caption embeddings [B, Q, width] for each embedding space, from uint8 pixels [B, 3, E, E].

        Fewer rows where some are left out (`leave_out`).
        """
        states = self._states(self.image_features(encoder_pixels))  # [B, Q, D]
        return self.leave_out({name: head(states) for name, head in self.language_proj.items()})

    def _states(self, image_features: Tensor) -> Tensor:
        if self.regions is not None and self.config.region_alone:
            return self.regions.rows(image_features)
        states = self.read_queries(self.encode(image_features))
        return states if self.regions is None else self.regions(image_features, states)

    def set_trained(self, part: EncoderPart) -> None:
        """Choose what trains; the rest is frozen.

        `language_model`: queries, projection and BART; `decoder_only`: queries, projection and BART's
        decoder; `all`: the vision tower too; `bart`: BART alone (stage 2); `regions`: what reads them, and
        projection; `none`. What reads regions trains with BART, and in its place where that is not read.
        """
        self.requires_grad_(part == "all")
        bart, alone = self.florence2.language_model, self.config.region_alone
        if part in ("language_model", "bart"):
            bart.requires_grad_(not alone)
        elif part == "decoder_only":
            bart.decoder.requires_grad_(True)
            bart.shared.requires_grad_(False)  # tied into the decoder, which reads queries, not tokens
        if part in ("language_model", "decoder_only", "regions"):
            self.query_embed.requires_grad_(not alone)
            self.language_proj.requires_grad_(True)
        if self.regions is not None:
            self.regions.requires_grad_(part != "none")
            self.regions.gate.requires_grad_(part != "none" and not alone)
        self.train(self.training)  # what is frozen now goes into eval mode, what trains into the model's

    def set_dropout(self, dropout: float) -> None:
        """Set every dropout and drop-path of the encoder to one share."""
        for module in self.modules():
            # BART's shares are floats of its modules, DaViT's drop-path has one as drop_prob.
            for name in ("dropout", "attention_dropout", "activation_dropout", "drop_prob", "layerdrop"):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, dropout)
            if isinstance(module, nn.Dropout):
                module.p = dropout

    def enable_gradient_checkpointing(self) -> None:
        checkpoint_trained_layers(self)
        # Not the vision tower: where it is frozen, no gradient enters it and nothing is kept for backward.
        checkpoint_frozen_layers(self.florence2.language_model)

    def describe(self) -> JsonObject:
        config = self.config
        more = {key: getattr(config, key) for key in ("vocab_rows", "region_grid", "region_blocks")}
        return {
            "num_queries": config.num_queries,
            "prompt_ids": config.prompt_ids,
            "spaces": config.spaces,
            **{key: value for key, value in more.items() if value is not None},
        }

    def restore(self, description: JsonObject) -> None:
        self.config.vocab_rows = description.get("vocab_rows")

    def card(self, folder: Path) -> str:
        """The model card of an encoder that was saved into a folder."""
        return _CARD

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the whole encoder, its frozen parts too: weights, config and card."""
        refuse_upload(kwargs)
        super().save_pretrained(save_directory, **kwargs)
        if kwargs.get("is_main_process", True):
            self.save_card(Path(save_directory))

    @classmethod
    def from_pretrained(cls, folder: str | Path, **kwargs: Any) -> VLVEncoder:  # type: ignore[override]
        """Load an encoder saved alone, from a folder or a hub id; fp32 unless `dtype` is given.

        Raises:
            ValueError: not an encoder's folder, or weights that do not fit; says what it is.
        """
        path = resolve_checkpoint(folder, "encoder", kwargs)
        kwargs.setdefault("dtype", torch.float32)
        model = load_whole(super().from_pretrained, path, **kwargs)
        model.loaded_from = path
        return model.eval()


def prompt_token_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Token ids of the task prompt, with the tokenizer's own begin and end tokens."""
    return list(tokenizer(prompt)["input_ids"])  # type: ignore[arg-type]  # of one prompt: numbers, no encodings


def build(layout: EncoderLayout, spaces: Sequence[EmbeddingSpace], settings: EncoderSettings) -> VLVEncoder:
    """A new encoder on a folder of Florence-2, in fp32; see `build_encoder`."""
    florence2 = load_florence2(layout.folder, torch.float32)
    prompt_ids = None if settings.prompt_ids is None else list(settings.prompt_ids)
    if prompt_ids is None:
        prompt_ids = prompt_token_ids(load_tokenizer(layout.folder, "florence2_model_path"), TASK_PROMPT)
    layout.check(settings, spaces, len(prompt_ids))
    # A copy: a config that holds the loaded model's own would reset its attention implementation.
    return VLVEncoder(new_config(florence2.config.to_dict(), spaces, settings, prompt_ids), florence2)


def new_config(
    florence2: JsonObject, spaces: Sequence[EmbeddingSpace], settings: EncoderSettings, prompt_ids: list[int]
) -> VLVEncoderConfig:
    """The config of a new encoder, from that of its Florence-2."""
    return VLVEncoderConfig(
        florence2_config=florence2,
        spaces={space.name: space.width for space in spaces},
        num_queries=settings.num_queries,
        prompt_ids=prompt_ids,
        region_grid=settings.region_grid,
        region_blocks=None if settings.region_grid is None else settings.region_blocks,
        region_alone=settings.trained == "regions",
    )


def load_florence2(folder: Path, dtype: torch.dtype) -> Florence2Model:
    """Florence-2 without its language head, from the native or the original layout.

    The dtype is always given: the native config says float16, which would be taken otherwise.

    Raises:
        CheckpointError: a folder of something else, or weights that do not fit.
    """
    layout = read_encoder_layout(folder)
    if isinstance(layout, Florence2Layout) and layout.is_original:
        try:
            return load_original(folder, layout.config, dtype)
        except (RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).splitlines()[:2])
            raise CheckpointError(f"{folder} is damaged, or no original Florence-2 ({reason})") from None
    return load_whole(Florence2Model.from_pretrained, folder, dtype=dtype)
