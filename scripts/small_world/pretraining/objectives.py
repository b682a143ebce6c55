"""What each part of the family is trained on. Each gives sums and counts, as the trainer wants them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, max_pool2d
from transformers import CLIPTextModel, Florence2ForConditionalGeneration

from vlv.losses import IGNORED
from vlv.sampling import sample_generators, sample_noise, sample_timesteps
from vlv.shapes.scene import BACKGROUNDS, COLORS, GRID, SHAPES, SIZES, TEXTURES

Batch = dict[str, Any]
CLASSES = {
    "size": len(SIZES) + 1,
    "texture": len(TEXTURES) + 1,
    "color": len(COLORS) + 1,
    "shape": len(SHAPES) + 1,
}


class Objective(nn.Module):
    """An objective with one term, `loss`, that counts samples."""

    loss_weights = {"loss": 1.0}  # noqa: RUF012

    @staticmethod
    def counts(batch: Batch) -> dict[str, Tensor]:
        """How many samples the batch's sum is over."""
        return {"loss": torch.tensor(float(len(batch["numbers"])))}


class AutoencoderObjective(Objective):
    """The VAE: L1 (and L2 where it has a weight), the same over the dilated foreground, and a weak KL.

    Without the foreground term the background, nine tenths of a picture, is all that is learned for long; without
    L2, whose gradient grows with the error, colours other than the commonest come late.
    """

    def __init__(self, vae: AutoencoderKL, squared_weight: float = 2.0, kl_weight: float = 5e-4) -> None:
        super().__init__()
        self.model: Any = vae
        self.squared_weight = squared_weight
        self.kl_weight = kl_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum over pictures: pixels [B, 3, R, R] uint8."""
        # A picture of two scenes has two grounds: what differs from its right edge and its left one is foreground.
        shown = batch["pixels"].float()
        left = (shown - shown[:, :, :1, :1]).abs().amax(1, keepdim=True) > 8
        right = (shown - shown[:, :, :1, -1:]).abs().amax(1, keepdim=True) > 8
        shape = left & right  # [B, 1, R, R]
        foreground = max_pool2d(shape.float(), 5, stride=1, padding=2)  # [B, 1, R, R]
        pixels = 2 * shown / 255 - 1
        posterior = self.model.encode(pixels).latent_dist
        difference = self.model.decode(posterior.sample()).sample.float() - pixels
        error = (difference.abs() + self.squared_weight * difference**2).mean(1, keepdim=True)  # [B, 1, R, R]
        inside = (error * foreground).sum((1, 2, 3)) / foreground.sum((1, 2, 3)).clamp(min=1)
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean((1, 2, 3))
        return {"loss": (error.mean((1, 2, 3)) + inside + self.kl_weight * kl).sum()}


class Attributes(nn.Module):
    """Names size, texture, colour and shape of each place, and the background, from states [B, 9 + 1, D]: linearly."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in CLASSES.items()})
        self.background = nn.Linear(width, len(BACKGROUNDS))

    def forward(self, states: Tensor) -> dict[str, Tensor]:
        """Logits: of each attribute [B, 9, classes], background [B, 4]."""
        states = self.norm(states)
        logits = {name: head(states[:, :-1]) for name, head in self.heads.items()}
        return {**logits, "background": self.background(states[:, -1])}


class ReadOutHead(nn.Module):
    """Learned queries attend to states [B, L, D], one for each place and one for the background."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, GRID * GRID + 1, width) * 0.5)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU())
        self.attributes = Attributes(2 * width)

    def forward(self, states: Tensor) -> dict[str, Tensor]:
        """Logits of `Attributes`."""
        queries = self.queries.expand(len(states), -1, -1)
        return self.attributes(self.mlp(self.attention(queries, states, states, need_weights=False)[0]))


class RegionHead(nn.Module):
    """Each place is read, linearly, from the mean of its own image tokens, the background from the mean of all.

    So the tower keeps what a place shows where the place is, in a form that is easy to read; queries that attend would
    let it lie anywhere, in any form.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attributes = Attributes(width)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Logits of `Attributes` from image tokens [B, 1 + side * side, D], the first of which is global."""
        side = round((tokens.shape[1] - 1) ** 0.5)
        spatial = tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # [B, D, side, side]
        places = adaptive_avg_pool2d(spatial, GRID).flatten(2).transpose(1, 2)  # [B, 9, D]
        return self.attributes(torch.cat([places, tokens.mean(1, keepdim=True)], 1))


class ReadOutModel(nn.Module):
    """A part and the head that reads it."""

    def __init__(self, part: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.part = part
        self.head = head


def read_out_loss(logits: dict[str, Tensor], batch: Batch) -> Tensor:
    """Cross-entropies of background and attributes, summed over the batch."""
    losses = [cross_entropy(logits["background"].float(), batch["background"], reduction="sum")]
    for name in CLASSES:
        flat = logits[name].float().flatten(0, 1)
        losses.append(cross_entropy(flat, batch[name].flatten(), reduction="sum") / GRID**2)
    return torch.stack(losses).sum()


class TextReadOut(Objective):
    """The text encoder, trained alone through a read-out head over its states."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.model = ReadOutModel(text_encoder, ReadOutHead(text_encoder.config.hidden_size))

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """Logits of token ids [B, L]."""
        encoder: Any = self.model.part
        return self.model.head(encoder(input_ids=batch["ids"]).last_hidden_state)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum of the read-out loss."""
        return {"loss": read_out_loss(self.logits(batch), batch)}


class TowerReadOut(Objective):
    """Florence-2's vision tower and its projector, trained through a read-out head over the image tokens."""

    def __init__(self, florence2: Florence2ForConditionalGeneration) -> None:
        super().__init__()
        width = florence2.config.text_config.d_model  # type: ignore[union-attr]
        self.model = ReadOutModel(florence2, RegionHead(width))
        florence2.model.language_model.requires_grad_(False)

    def logits(self, batch: Batch) -> dict[str, Tensor]:
        """Logits of normalised pixels [B, 3, R, R]."""
        florence2: Any = self.model.part
        return self.model.head(florence2.model.get_image_features(batch["pixel_values"]).pooler_output)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum of the read-out loss."""
        return {"loss": read_out_loss(self.logits(batch), batch)}


class TaskObjective(Objective):
    """Florence-2's own tasks: prompt and picture in, a short answer out. No answer binds shape, colour and place."""

    def __init__(self, florence2: Florence2ForConditionalGeneration, train_tower: bool) -> None:
        super().__init__()
        self.model = florence2
        self.train_tower = train_tower
        tower: Any = florence2.model
        tower.vision_tower.requires_grad_(train_tower)
        tower.multi_modal_projector.requires_grad_(train_tower)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum over samples of the mean cross-entropy of an answer's tokens."""
        florence2: Any = self.model.model
        with torch.set_grad_enabled(self.train_tower and torch.is_grad_enabled()):
            image = florence2.get_image_features(batch["pixel_values"]).pooler_output  # [B, N, D]
        bart = florence2.language_model
        prompt = bart.shared(batch["prompt_ids"])
        mask = torch.cat([torch.ones_like(image[:, :, 0]), batch["prompt_mask"].to(image.dtype)], 1).long()
        encoded = bart.encoder(inputs_embeds=torch.cat([image.to(prompt.dtype), prompt], 1), attention_mask=mask)
        labels = batch["labels"]
        start = torch.full_like(labels[:, :1], 2)
        shifted = torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, 1)], 1)
        states = bart.decoder(
            input_ids=shifted,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state
        logits = states.float() @ bart.shared.weight.float().T
        losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
        return {"loss": (losses.sum(1) / (labels != IGNORED).sum(1)).sum()}


class LanguageObjective(Objective):
    """Qwen2: next token, on texts alone."""

    def __init__(self, llm: nn.Module) -> None:
        super().__init__()
        self.model = llm

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum over samples of the mean cross-entropy of a text's tokens."""
        labels = batch["labels"]
        logits = self.model(input_ids=batch["ids"], attention_mask=(labels != IGNORED).long()).logits.float()
        losses = cross_entropy(logits[:, :-1].transpose(1, 2), labels[:, 1:], ignore_index=IGNORED, reduction="none")
        return {"loss": (losses.sum(1) / (labels[:, 1:] != IGNORED).sum(1)).sum()}


class TextToImageObjective(Objective):
    """The UNet: v-prediction on latents, conditioned on the frozen text encoder; a tenth on the empty prompt.

    Most noisy latents still show a colour, so a denoiser learns to rely on them instead of the text, and while it
    samples, small errors of colour grow. Two remedies:

    late_share: of this share of samples the timestep comes from the noisiest fifth of the schedule, where the text
        alone determines a colour.
    drift_share: of this share of samples the noise leans, by a random amount, towards the same picture in other
        colours, while the target stays: as if sampling had drifted away from the text.

    foreground_weight: of the error where shapes lie; the text determines where, so the best prediction stays the same.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        scheduler: DDPMScheduler,
        seed: int,
        late_share: float = 0.0,
        drift_share: float = 0.0,
        foreground_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.model: Any = unet
        self._frozen = (text_encoder.requires_grad_(False).eval(), scheduler)  # a tuple: not among the weights
        self.seed = seed
        self.late_share = late_share
        self.drift_share = drift_share
        self.foreground_weight = foreground_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum over samples of the mean squared error of the velocity."""
        text_encoder, scheduler = self._frozen
        mean, std = batch["latent_mean"].float(), batch["latent_std"].float()
        shape: Any = tuple(mean.shape[1:])
        generators = sample_generators(self.seed, batch["numbers"])
        latents = mean + std * sample_noise(shape, generators).to(mean.device)
        steps: Any = scheduler.config
        timesteps: Any = sample_timesteps(steps.num_train_timesteps, generators)
        chances = torch.stack([torch.rand(3, generator=generator) for generator in generators])  # [B, 3]
        late = chances[:, 0] < self.late_share
        timesteps = torch.where(late, steps.num_train_timesteps - 1 - timesteps // 5, timesteps).to(mean.device)
        noise = sample_noise(shape, generators).to(mean.device)
        amount = torch.where(chances[:, 1] < self.drift_share, chances[:, 2], 0.0).to(mean.device)
        signal = scheduler.alphas_cumprod.to(mean.device)[timesteps].sqrt()
        noise = noise + (amount * signal)[:, None, None, None] * batch["drift"].float()
        with torch.no_grad():
            states = text_encoder(input_ids=batch["ids"]).last_hidden_state
        noisy = scheduler.add_noise(latents, noise, timesteps)
        target = scheduler.get_velocity(latents, noise, timesteps)
        error = (self.model(noisy, timesteps, states).sample.float() - target) ** 2  # [B, C, h, w]
        weight = 1 + (self.foreground_weight - 1) * batch["foreground"]
        return {"loss": (error * weight).mean((1, 2, 3)).sum()}
