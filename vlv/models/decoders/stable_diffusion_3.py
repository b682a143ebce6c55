"""Stable Diffusion 3 and 3.5: two CLIPs and T5, taught by rectified flow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    SD3Transformer2DModel,
)
from torch import Generator, Tensor
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from vlv.losses import diffusion_loss
from vlv.models.decoders.direct import DirectConditioner, build_direct
from vlv.models.decoders.interface import Conditioner, Conditioning, DiffusionDraws, EmbeddingSpace
from vlv.models.decoders.latent import LatentDecoder
from vlv.models.frozen import freeze
from vlv.models.pretrained import load_tokenizer, load_whole
from vlv.models.text_conditioner import PenultimateTextConditioner
from vlv.sampling import sample_noise

FAMILY = "stable_diffusion_3"
T5_ROWS = 77  # of zeros where T5 is left out, and the most that it is given: as in diffusers' training example


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
        self.t5: Any = None if text_encoder_3 is None else freeze(text_encoder_3)
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
            below = self.t5(inputs_embeds=embeddings["t5"].to(self.t5.dtype)).last_hidden_state
        pooled = torch.cat([pooled_left, pooled_right], dim=-1)
        return Conditioning(self.join(torch.cat([left, right], dim=-1), below), pooled)

    def join(self, clips: Tensor, below: Tensor | None) -> Tensor:
        """States of both CLIPs [B, Q, 2048] with T5's rows below [B, L, 4096]; None is zeros."""
        clips = F.pad(clips, (0, self.width - clips.shape[-1]))
        if below is None:
            below = clips.new_zeros(len(clips), T5_ROWS, self.width)
        return torch.cat([clips, below.to(clips.dtype)], dim=1)

    @torch.no_grad()
    def encode_empty_t5(self, rows: int) -> Tensor:
        """T5's states of the empty prompt, [1, rows, 4096]: its end token and padding."""
        ids = torch.full((1, rows), self.t5.config.pad_token_id, device=self.t5.device)
        ids[:, 0] = self.t5.config.eos_token_id
        return self.t5(input_ids=ids).last_hidden_state

    def to_dict(self) -> dict[str, Any]:
        return {
            "family": FAMILY,
            "conditioning": "text_encoder" if self.t5 is not None else "clip",
            "text_encoder": self.clip_l.text_encoder.config.to_dict(),
            "text_encoder_2": self.clip_g.text_encoder.config.to_dict(),
            "text_encoder_3": None if self.t5 is None else self.t5.config.to_dict(),
            "width": self.width,
        }


class StableDiffusion3Decoder(LatentDecoder):
    """The frozen transformer and VAE with their conditioner.

    precondition_outputs: weigh the velocity's loss by sigma squared, the default of diffusers' training example.
    """

    schedulers: ClassVar[dict[str, Any]] = {
        "euler": FlowMatchEulerDiscreteScheduler,
        "heun": FlowMatchHeunDiscreteScheduler,
    }
    precondition_outputs = False

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
        config: Any = transformer.config
        super().__init__(vae, conditioner, unconditional, resolution, patch=config.patch_size)
        self.transformer: Any = freeze(transformer)
        self._below: dict[int, Tensor] = {}
        self.noise_scheduler = noise_scheduler
        if self.noise_scheduler.config.use_dynamic_shifting:
            raise ValueError("scheduler says use_dynamic_shifting: Stable Diffusion 3 and 3.5 have a fixed shift")
        if conditioner.width != config.joint_attention_dim:
            raise ValueError(
                f"the conditioning's width {conditioner.width} is not the transformer's {config.joint_attention_dim}: "
                "the folder mixes two models"
            )

    def unconditional(self, like: Conditioning) -> Conditioning:
        texts = self.conditioner
        if not isinstance(texts, ThreeTextEncodersConditioner):
            return super().unconditional(like)
        # The CLIPs are causal, so their first rows stay the same; T5 looks both ways, so each length is another.
        clip_rows = self.unconditional_states.shape[1] - T5_ROWS
        below_rows = like.states.shape[1] // 2 if texts.t5 is not None else T5_ROWS
        queries = like.states.shape[1] - below_rows
        below = self.unconditional_states[:, clip_rows:]
        if below_rows != T5_ROWS:
            if below_rows not in self._below:
                self._below[below_rows] = texts.encode_empty_t5(below_rows)
            below = self._below[below_rows]
        states = torch.cat([self.unconditional_states[:, :queries], below.to(self.unconditional_states.dtype)], dim=1)
        assert like.pooled is not None
        assert self.unconditional_pooled is not None
        batch = len(like.states)
        return Conditioning(
            states.to(like.states.dtype).expand(batch, -1, -1),
            self.unconditional_pooled.to(like.pooled.dtype).expand(batch, -1),
        )

    def sample_draws(self, generators: Sequence[Generator]) -> DiffusionDraws:
        """Timesteps are indices into the scheduler's shifted tables, logit-normal (arXiv 2403.03206)."""
        posterior_noise = sample_noise(self.latent_shape, generators)
        normal = torch.stack([torch.randn((), generator=generator) for generator in generators])
        count = self.noise_scheduler.config.num_train_timesteps
        index = (normal.sigmoid() * count).long().clamp(max=count - 1)
        return DiffusionDraws(posterior_noise, index, sample_noise(self.latent_shape, generators))

    def denoising_loss(
        self, latents: Tensor, conditioning: Conditioning, draws: DiffusionDraws, crops: Tensor | None = None
    ) -> Tensor:
        index = draws.timesteps
        sigmas = self.noise_scheduler.sigmas.to(latents.device)[index][:, None, None, None]  # [B, 1, 1, 1]
        timesteps = self.noise_scheduler.timesteps.to(latents.device)[index]
        noisy_latents = (1 - sigmas) * latents + sigmas * draws.noise
        velocity = self.predict(noisy_latents, timesteps, conditioning, crops).float()
        losses = diffusion_loss(velocity, draws.noise - latents)
        return losses * sigmas.flatten() ** 2 if self.precondition_outputs else losses

    def predict(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning, crops: Tensor | None
    ) -> Tensor:
        dtype = self.transformer.dtype
        assert conditioning.pooled is not None
        return self.transformer(
            hidden_states=noisy_latents.to(dtype),
            timestep=timesteps.expand(len(noisy_latents)),
            encoder_hidden_states=conditioning.states.to(dtype),
            pooled_projections=conditioning.pooled.to(dtype),
        ).sample

    def set_loss_weights(self, min_snr_gamma: float | None, precondition_outputs: bool) -> None:
        if min_snr_gamma is not None:
            raise ValueError(f"min_snr_gamma={min_snr_gamma} is for UNets: leave it null for rectified flow")
        self.precondition_outputs = precondition_outputs

    def enable_gradient_checkpointing(self) -> None:
        self.transformer.enable_gradient_checkpointing()


def load_conditioner(folder: Path, conditioning: str, dtype: torch.dtype) -> Conditioner:
    """The conditioner of a diffusers SD3 folder; `conditioning` is text_encoder, clip (without T5) or direct."""
    if conditioning == "direct":
        return _direct(folder)
    clips = [
        load_whole(CLIPTextModelWithProjection.from_pretrained, folder / name, dtype=dtype)
        for name in ("text_encoder", "text_encoder_2")
    ]
    t5 = None
    if conditioning == "text_encoder" and _has_t5(folder):
        t5 = load_whole(T5EncoderModel.from_pretrained, folder / "text_encoder_3", dtype=dtype)
    return ThreeTextEncodersConditioner(clips[0], clips[1], t5, _transformer_config(folder)["joint_attention_dim"])


def build_conditioner(description: dict[str, Any]) -> Conditioner:
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


def load_decoder(folder: Path, conditioning: str, resolution: int) -> StableDiffusion3Decoder:
    """The whole decoder of a diffusers SD3 folder, in fp32 on the CPU."""
    texts: Any = load_conditioner(folder, "clip" if conditioning == "clip" else "text_encoder", torch.float32)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    return StableDiffusion3Decoder(
        vae=load_whole(AutoencoderKL.from_pretrained, folder / "vae", torch_dtype=torch.float32),
        transformer=load_whole(
            SD3Transformer2DModel.from_pretrained, folder / "transformer", torch_dtype=torch.float32
        ),
        noise_scheduler=scheduler,
        conditioner=_direct(folder) if conditioning == "direct" else texts,
        unconditional=_unconditional(folder, texts),
        resolution=resolution,
    )


def load_skeleton(folder: Path, conditioning: str, resolution: int) -> StableDiffusion3Decoder:
    """The decoder of a folder without its weights, on the meta device: names and shapes alone."""
    vae: Any = AutoencoderKL.load_config(folder, subfolder="vae")
    config = _transformer_config(folder)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(folder, subfolder="scheduler")
    texts = [CLIPTextConfig.from_pretrained(folder, subfolder=name) for name in ("text_encoder", "text_encoder_2")]
    with torch.device("meta"):
        clips = [CLIPTextModelWithProjection._from_config(text) for text in texts]
        t5 = None
        if conditioning == "text_encoder" and _has_t5(folder):
            t5 = T5EncoderModel._from_config(T5Config.from_pretrained(folder, subfolder="text_encoder_3"))
        conditioner = ThreeTextEncodersConditioner(clips[0], clips[1], t5, config["joint_attention_dim"])
        rows, pooled = conditioner.clip_l.max_length + T5_ROWS, config["pooled_projection_dim"]
        vae = AutoencoderKL.from_config(vae)
        transformer: Any = SD3Transformer2DModel.from_config(config)
        return StableDiffusion3Decoder(
            vae=vae,
            transformer=transformer,
            noise_scheduler=scheduler,
            conditioner=_direct(folder) if conditioning == "direct" else conditioner,
            unconditional=Conditioning(torch.zeros(1, rows, conditioner.width), torch.zeros(1, pooled)),
            resolution=resolution,
        )


def _transformer_config(folder: Path) -> dict[str, Any]:
    config: Any = SD3Transformer2DModel.load_config(folder, subfolder="transformer")
    return config


def _has_t5(folder: Path) -> bool:
    """Whether the folder brings T5; many leave it out, as the pipeline allows."""
    return (folder / "text_encoder_3" / "config.json").is_file()


def _direct(folder: Path) -> DirectConditioner:
    config = _transformer_config(folder)
    text = CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder")
    rows = text.max_position_embeddings + T5_ROWS
    return DirectConditioner(FAMILY, config["joint_attention_dim"], rows, pooled_width=config["pooled_projection_dim"])


@torch.no_grad()
def _unconditional(folder: Path, texts: ThreeTextEncodersConditioner) -> Conditioning:
    """The encoded empty prompt, [1, 77 + T5_ROWS, 4096] and [1, 2048]."""
    tokenizers = [load_tokenizer(folder / name, "stable_diffusion_model_path") for name in ("tokenizer", "tokenizer_2")]
    left, pooled_left = texts.clip_l.encode_empty_prompt(tokenizers[0])
    right, pooled_right = texts.clip_g.encode_empty_prompt(tokenizers[1])
    below = None if texts.t5 is None else texts.encode_empty_t5(T5_ROWS)
    states = texts.join(torch.cat([left, right], dim=-1), below)
    pooled: Any = (pooled_left, pooled_right)  # neither is None: both CLIPs have a projection
    return Conditioning(states, torch.cat(pooled, dim=-1))
