"""Stable Diffusion 3 and 3.5: two CLIPs and T5, trained by rectified flow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    ConfigMixin,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SD3Transformer2DModel,
)
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Generator, Tensor, nn
from transformers import BitsAndBytesConfig, CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from vlv.checkpoints.identity import JsonObject
from vlv.decoders.clip import PenultimateTextConditioner
from vlv.decoders.direct import build_direct, load_direct
from vlv.decoders.interface import Conditioner, Conditioning, NoiseAndTimesteps
from vlv.decoders.latent import LatentDecoder
from vlv.decoders.parts import DecoderParts
from vlv.decoders.settings import EmbeddingSpace
from vlv.frozen import freeze, keep_dtype
from vlv.limits import T5_ROWS
from vlv.losses import diffusion_loss
from vlv.sampling import sample_noise

FAMILY = "stable_diffusion_3"


class ThreeTextEncodersConditioner(Conditioner):
    """Embeddings of each space pass its frozen text encoder: states [B, 2 Q, 4096] and pooled [B, 2048].

    The first Q rows are both CLIPs' states side by side, padded with zeros to T5's width; T5's rows stand below.
    Without T5, `T5_ROWS` of zeros stand there, as in the pipeline: the denoiser's bias makes them act.
    """

    def __init__(
        self,
        text_encoder: CLIPTextModelWithProjection,
        text_encoder_2: CLIPTextModelWithProjection,
        text_encoder_3: T5EncoderModel | None,
        width: int,
    ) -> None:
        """Freeze and hold the text encoders.

        Args:
            width: of the states, the transformer's `joint_attention_dim`.
        """
        super().__init__()
        self.clip_l = PenultimateTextConditioner(text_encoder)
        self.clip_g = PenultimateTextConditioner(text_encoder_2)
        self.t5 = None if text_encoder_3 is None else freeze(text_encoder_3)
        self._width = width
        # transformers asks a model's children for theirs, so that a captioner's file holds T5's table once.
        tied = {} if text_encoder_3 is None else text_encoder_3.all_tied_weights_keys
        self.all_tied_weights_keys = {f"t5.{name}": f"t5.{other}" for name, other in tied.items()}

    @property
    def spaces(self) -> tuple[EmbeddingSpace, ...]:
        texts = {"clip_l": self.clip_l, "clip_g": self.clip_g}
        clips = tuple(EmbeddingSpace(name, text.width, text.max_length) for name, text in texts.items())
        return clips if self.t5 is None else (*clips, EmbeddingSpace("t5", self.t5.config.d_model, T5_ROWS))

    @property
    def width(self) -> int:
        return self._width

    def forward(self, embeddings: dict[str, Tensor], pooled_at: Tensor | None = None) -> Conditioning:
        left, pooled_left = self.clip_l(embeddings["clip_l"], pooled_at)
        right, pooled_right = self.clip_g(embeddings["clip_g"], pooled_at)
        below = None
        if self.t5 is not None:
            # No attention mask anywhere, as in the pipeline: padding is attended.
            with in_own_dtype(embeddings["t5"]):
                below = self.t5(inputs_embeds=embeddings["t5"].to(self.t5.dtype)).last_hidden_state
        assert pooled_left is not None  # both CLIPs have a projection
        assert pooled_right is not None
        pooled = torch.cat([pooled_left, pooled_right], dim=-1)
        return Conditioning(join_rows(torch.cat([left, right], dim=-1), below, self.width), pooled)

    def token_tables(self) -> dict[str, tuple[str, nn.Module]]:
        tables = {
            "clip_l": ("tokenizer", self.clip_l.text_encoder.get_input_embeddings()),
            "clip_g": ("tokenizer_2", self.clip_g.text_encoder.get_input_embeddings()),
        }
        return tables if self.t5 is None else {**tables, "t5": ("tokenizer_3", self.t5.get_input_embeddings())}

    def num_prefix_tokens(self, queries: int) -> int:
        return queries if self.t5 is None else 2 * queries

    def prefix_states(self, states: Tensor) -> Tensor:
        return states if self.t5 is not None else states[:, :-T5_ROWS]  # the rest are zeros

    def to_dict(self) -> JsonObject:
        return {
            "family": FAMILY,
            "conditioning": "text_encoder" if self.t5 is not None else "clip",
            "text_encoder": self.clip_l.text_encoder.config.to_dict(),
            "text_encoder_2": self.clip_g.text_encoder.config.to_dict(),
            "text_encoder_3": None if self.t5 is None else self.t5.config.to_dict(),
            "width": self.width,
        }


class StableDiffusion3Decoder(LatentDecoder):
    """The frozen transformer and VAE with their conditioner."""

    schedulers: ClassVar[Mapping[str, type[ConfigMixin]]] = {
        "euler": FlowMatchEulerDiscreteScheduler,
        "heun": FlowMatchHeunDiscreteScheduler,
    }
    supported_loss_options = frozenset({"precondition_outputs"})

    def __init__(
        self,
        vae: AutoencoderKL,
        transformer: SD3Transformer2DModel,
        noise_scheduler: FlowMatchEulerDiscreteScheduler,
        conditioner: Conditioner,
        unconditional: Conditioning,
        resolution: int,
    ) -> None:
        """Freeze and hold the parts; arguments as in `LatentDecoder`."""
        super().__init__(vae, conditioner, unconditional, resolution)
        self.transformer = freeze(transformer)
        self.noise_scheduler = noise_scheduler
        self._below: dict[int, Tensor] = {}  # T5's states of the empty prompt, by their number

    def unconditional(self, like: Conditioning) -> Conditioning:
        texts = self.conditioner
        # Where no text encoder made the rows, all of the pipeline's: T5's stand at the end, and to cut at the number
        # of queries would leave a prompt that the denoiser has never seen.
        states = self.unconditional_states
        if isinstance(texts, ThreeTextEncodersConditioner):
            # The CLIPs are causal, so their first rows stay the same; T5 looks both ways, so each length is another.
            clip_rows = states.shape[1] - T5_ROWS
            below_rows = like.states.shape[1] // 2 if texts.t5 is not None else T5_ROWS
            below = states[:, clip_rows:]
            if texts.t5 is not None and below_rows != T5_ROWS:
                if below_rows not in self._below:
                    self._below[below_rows] = encode_empty_t5(texts.t5, below_rows)
                below = self._below[below_rows]
            states = torch.cat([states[:, : like.states.shape[1] - below_rows], below.to(states)], dim=1)
        assert like.pooled is not None
        assert self.unconditional_pooled is not None
        batch = len(like.states)
        return Conditioning(
            states.to(like.states.dtype).expand(batch, -1, -1),
            self.unconditional_pooled.to(like.pooled.dtype).expand(batch, -1),
        )

    def sample_noise_and_timesteps(self, generators: Sequence[Generator]) -> NoiseAndTimesteps:
        """Timesteps are indices into the scheduler's shifted tables, logit-normal (arXiv 2403.03206)."""
        posterior_noise = sample_noise(self.latent_shape, generators)
        normal = torch.stack([torch.randn((), generator=generator) for generator in generators])
        count = self.noise_scheduler.config["num_train_timesteps"]
        # In fp32 the sigmoid reaches 1 for a normal above 17, whose index would be one too many.
        index = (normal.sigmoid() * count).long().clamp(max=count - 1)
        return NoiseAndTimesteps(posterior_noise, index, sample_noise(self.latent_shape, generators))

    def denoising_loss(
        self, latents: Tensor, conditioning: Conditioning, sampled: NoiseAndTimesteps, crops: Tensor | None = None
    ) -> Tensor:
        index = sampled.timesteps
        sigmas = self.noise_scheduler.sigmas.to(latents.device)[index][:, None, None, None]  # [B, 1, 1, 1]
        timesteps = self.noise_scheduler.timesteps.to(latents.device)[index]
        noisy_latents = (1 - sigmas) * latents + sigmas * sampled.noise
        velocity = self.predict(noisy_latents, timesteps, conditioning, crops).float()
        losses = diffusion_loss(velocity, sampled.noise - latents)
        return losses * sigmas.flatten() ** 2 if self.loss_options.precondition_outputs else losses

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, crops: Tensor | None
    ) -> Tensor:
        dtype = self.transformer.dtype
        assert conditioning.pooled is not None
        output = self.transformer(
            hidden_states=noisy_latents.to(dtype),
            timestep=timesteps.expand(len(noisy_latents)),  # samplers give one for the whole batch
            encoder_hidden_states=conditioning.states.to(dtype),
            pooled_projections=conditioning.pooled.to(dtype),
        )
        return cast(Transformer2DModelOutput, output).sample

    def enable_gradient_checkpointing(self) -> None:
        self.transformer.enable_gradient_checkpointing()


def load_conditioner(parts: DecoderParts) -> Conditioner:
    """The conditioner of a folder; `conditioning` is text_encoder, clip (without T5) or direct."""
    if parts.settings.conditioning == "direct":
        return load_direct(parts.layout)
    return ThreeTextEncodersConditioner(
        parts.text_encoder("text_encoder", CLIPTextModelWithProjection),
        parts.text_encoder("text_encoder_2", CLIPTextModelWithProjection),
        _load_t5(parts) if parts.layout.uses_t5(parts.settings.conditioning) else None,
        parts.layout.states_width,
    )


def build_conditioner(description: JsonObject) -> Conditioner:
    """The conditioner that `to_dict` described, with weights still to be loaded."""
    if description["conditioning"] == "direct":
        return build_direct(description)
    dtype = torch.get_default_dtype()
    clips = [
        CLIPTextModelWithProjection._from_config(CLIPTextConfig(**description[name]), dtype=dtype)
        for name in ("text_encoder", "text_encoder_2")
    ]
    third = description["text_encoder_3"]
    t5 = None if third is None else T5EncoderModel._from_config(T5Config(**third), dtype=dtype)
    return ThreeTextEncodersConditioner(clips[0], clips[1], t5, description["width"])


def build(parts: DecoderParts, conditioner: Conditioner | None) -> StableDiffusion3Decoder:
    """The whole decoder of a folder."""
    # Text encoders first: T5's fp32 weights (19 GB) are cast, or gone, before the denoiser's are read.
    given = conditioner or load_conditioner(parts)
    unconditional = _encode_empty_prompt(parts, given)
    if conditioner is None:
        parts.cast(given)
    return StableDiffusion3Decoder(
        vae=parts.latent_model("vae", AutoencoderKL, torch.float32),
        transformer=parts.latent_model("transformer", SD3Transformer2DModel, parts.dtype),
        noise_scheduler=parts.scheduler(FlowMatchEulerDiscreteScheduler),
        conditioner=given,
        unconditional=unconditional,
        resolution=parts.settings.resolution,
    )


def _load_t5(parts: DecoderParts) -> T5EncoderModel:
    """T5 as the other text encoders, or kept in bf16 or 8 bit whatever the rest is cast to.

    Raises:
        ValueError: int8 without bitsandbytes.
    """
    kept = parts.settings.t5_dtype
    if kept is None or parts.device is not None:
        return parts.text_encoder("text_encoder_3", T5EncoderModel)
    options: JsonObject = {"dtype": torch.bfloat16}
    if kept == "int8":
        if find_spec("bitsandbytes") is None:
            raise ValueError("t5_dtype=int8 needs bitsandbytes: pip install bitsandbytes, or set t5_dtype=bf16")
        options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
        # 8-bit weights are made on the device that they stay on, so each process names its own here.
        options["device_map"] = {"": f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"}
    t5 = parts.text_encoder("text_encoder_3", T5EncoderModel, **options)
    keep_dtype(t5, torch.bfloat16)
    return t5


def _encode_empty_prompt(parts: DecoderParts, conditioner: Conditioner) -> Conditioning:
    """The encoded empty prompt, [1, 77 + T5_ROWS, 4096] and [1, 2048].

    Encoders that only the empty prompt needs (direct conditioning) are loaded one after another and dropped at once:
    no more than the largest of them is in memory, and nothing has to be kept in step on disk, as a cached file would.
    """
    layout = parts.layout
    if parts.device is not None:
        width, pooled = layout.states_width, layout.pooled_width or 0
        rows = layout.spaces("clip")[0].max_length + T5_ROWS
        device = parts.device
        return Conditioning(torch.zeros(1, rows, width, device=device), torch.zeros(1, pooled, device=device))
    texts = conditioner if isinstance(conditioner, ThreeTextEncodersConditioner) else None
    left, pooled_left = _encode_with_clip(parts, "", None if texts is None else texts.clip_l)
    right, pooled_right = _encode_with_clip(parts, "_2", None if texts is None else texts.clip_g)
    below = None
    if texts is not None:
        below = None if texts.t5 is None else encode_empty_t5(texts.t5, T5_ROWS)
    elif layout.has_t5:
        below = encode_empty_t5(_load_t5(parts).eval(), T5_ROWS)
    states = join_rows(torch.cat([left, right], dim=-1), below, layout.states_width)
    return Conditioning(states, torch.cat([pooled_left, pooled_right], dim=-1))


def _encode_with_clip(
    parts: DecoderParts, suffix: str, text: PenultimateTextConditioner | None
) -> tuple[Tensor, Tensor]:
    """States and pooled vector of the empty prompt, by a text encoder that is there or is loaded for this alone."""
    if text is None:
        text = PenultimateTextConditioner(parts.text_encoder(f"text_encoder{suffix}", CLIPTextModelWithProjection))
    states, pooled = text.encode_empty_prompt(parts.tokenizer(f"tokenizer{suffix}"))
    assert pooled is not None
    return states, pooled


@torch.no_grad()
def encode_empty_t5(t5: T5EncoderModel, rows: int) -> Tensor:
    """T5's states of the empty prompt, [1, rows, 4096]: its end token and padding."""
    pad, end = t5.config.pad_token_id, t5.config.eos_token_id
    assert isinstance(pad, int)
    assert isinstance(end, int)
    ids = torch.full((1, rows), pad, device=t5.device)
    ids[:, 0] = end
    return t5(input_ids=ids).last_hidden_state


def join_rows(clips: Tensor, below: Tensor | None, width: int) -> Tensor:
    """States of both CLIPs [B, Q, 2048], padded to the width, with T5's rows below [B, L, width]; None is zeros."""
    clips = F.pad(clips, (0, width - clips.shape[-1]))
    if below is None:
        below = clips.new_zeros(len(clips), T5_ROWS, width)
    return torch.cat([clips, below.to(clips)], dim=1)  # T5 in 8 bit sits on its GPU from the start


def in_own_dtype(tensor: Tensor) -> AbstractContextManager[object]:
    """T5 computes in its weights' formats, as in the pipeline: autocast would undo the fp32 that fp16 needs."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
