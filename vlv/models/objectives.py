"""What is minimised: modules that turn a batch of the loader into sums of losses and what they count.

The trainer divides each sum by its count over the whole global batch, so a mean does not depend on how
the batch was split. Every objective holds its model as `model`; the trained weights are found there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vlv.batch import Batch, PairBatch
from vlv.decoders import DiffusionDecoder, NoiseAndTimesteps
from vlv.frozen import FrozenStaysEval
from vlv.losses import IGNORED, weighted_sum
from vlv.models.autoencoder import VLVAutoEncoder
from vlv.models.captioner import VLVCaptioner
from vlv.sampling import sample_generators


class SourceTerms(FrozenStaysEval):
    """Mixin of the objectives: each loss term once more for each source of a mixture, for the metrics alone.

    These terms have weight 0, so that the trainer sums, counts and logs them like any other, and learns nothing of
    them. A validation set is another mixture or none: they count nothing there.
    """

    loss_weights: dict[str, float]
    source_names: tuple[str, ...] = ()

    def report_sources(self, names: Sequence[str]) -> None:
        """Report the terms of these sources too, as `NAME/TERM`."""
        self.source_names = tuple(names)
        reported = {f"{name}/{term}": 0.0 for name in names for term in self.loss_weights}
        self.loss_weights = {**self.loss_weights, **reported}

    def _of_sources(self, term: str, values: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums of values [B] over the samples of each source; [] each."""
        if not self.source_names:
            return {}
        members = F.one_hot(batch["sources"].to(values.device), len(self.source_names)).T  # [sources, B]
        own = members.bool() & self.training
        # By a mask, not by a product: a value that is not finite stays with its own source.
        sums = torch.where(own, values.detach().float(), 0.0).sum(1)
        return {f"{name}/{term}": total for name, total in zip(self.source_names, sums, strict=True)}

    def _diffusion_terms(self, losses: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Sums of the denoising losses [B] of real samples: of all, and of each source; [] each."""
        weights = batch["weights"]
        own = torch.where(weights > 0, losses, 0.0)
        return {"diffusion": weighted_sum(losses, weights), **self._of_sources("diffusion", own, batch)}

    def _diffusion_counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many samples those sums are over; [] each."""
        weights = batch["weights"]
        return {"diffusion": weights.sum(), **self._of_sources("diffusion", weights, batch)}


class DenoisingObjective(SourceTerms):
    """Stage 1: the decoder's denoising loss; the count is of real samples."""

    def __init__(
        self, model: VLVAutoEncoder, seed: int, conditioning_dropout: float = 0.0, noise_draws: int = 1
    ) -> None:
        """Hold the model.

        Args:
            conditioning_dropout: share of samples that train on the empty prompt's conditioning instead.
            noise_draws: noise levels at which each sample is denoised, in training; its loss is their mean.
        """
        super().__init__()
        self.model = model
        self.seed = seed
        self.conditioning_dropout = conditioning_dropout
        self.noise_draws = noise_draws
        self.loss_weights = {"diffusion": 1.0}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """How many samples the batch's sum is over, []; padded and unreadable ones do not count."""
        return self._diffusion_counts(batch)

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward."""
        self.model.enable_gradient_checkpointing()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sum of the loss over the batch's real samples, []; the noise of each depends on its position alone."""
        generators = sample_generators(self.seed, batch["positions"])
        sampled = self.model.decoder.sample_noise_and_timesteps(generators)
        weights = batch["weights"]
        dropped = None
        if self.conditioning_dropout and self.training:
            # Sampled last, so that noise and timesteps are those of a run without.
            shares = torch.stack([torch.rand((), generator=generator) for generator in generators])
            dropped = (shares < self.conditioning_dropout).to(weights.device)
        if self.noise_draws > 1 and self.training:
            more = [self.model.decoder.sample_noise_and_timesteps(generators) for _ in range(self.noise_draws - 1)]
            sampled = NoiseAndTimesteps.join([sampled, *more])
        losses = self.model(
            batch["encoder_pixels"], batch["decoder_pixels"], sampled.to(weights.device), dropped, batch.get("crops")
        )
        return self._diffusion_terms(losses, batch)


class CaptionObjective(SourceTerms):
    """Stage 2: cross-entropy over caption tokens, with the denoising loss beside it where it has a weight."""

    def __init__(
        self,
        model: VLVCaptioner,
        seed: int,
        decoder: DiffusionDecoder | None = None,
        diffusion_weight: float = 0.0,
        token_mean: Literal["global", "per_process"] = "global",
    ) -> None:
        """Hold the model.

        Args:
            decoder: the diffusion decoder of the model's embeddings; None leaves the denoising loss out.
            diffusion_weight: its weight beside the caption loss, which has 1.
            token_mean: `global` weighs each token of the global batch alike; `per_process` takes the mean over the
                tokens of each forward pass first, as the published code does, so a token beside short captions weighs
                more. In training alone: validation is over tokens.
        """
        super().__init__()
        self.model = model
        self.seed = seed
        self.decoder = decoder
        self.token_mean = token_mean
        self.loss_weights = {"caption": 1.0}
        if decoder is not None:
            self.loss_weights["diffusion"] = diffusion_weight

    def counts(self, batch: PairBatch) -> dict[str, Tensor]:
        """How many caption tokens (or forward passes that have some), and real samples, the sums are over; [] each."""
        tokens = _tokens(batch)  # [B]
        total = tokens.sum()
        counts = {"caption": total.clamp(max=1) if self._counts_passes() else total}
        counts |= self._of_sources("caption", tokens, batch)
        if self.decoder is not None:
            counts |= self._diffusion_counts(batch)
        return counts

    def _counts_passes(self) -> bool:
        return self.token_mean == "per_process" and self.training

    def enable_gradient_checkpointing(self) -> None:
        """Recompute activations in backward, in the diffusion decoder too."""
        self.model.enable_gradient_checkpointing()
        if self.decoder is not None:
            self.decoder.enable_gradient_checkpointing()

    def forward(self, batch: PairBatch) -> dict[str, Tensor]:
        """Sums of the losses over the batch, [] each."""
        conditioning = self.model.embed(batch["encoder_pixels"])
        losses = self.model.caption_losses(conditioning, batch["input_ids"], batch["labels"])  # [B]
        caption = losses.sum()
        if self._counts_passes():
            caption = caption / _tokens(batch).sum().clamp(min=1)
        sums = {"caption": caption, **self._of_sources("caption", losses, batch)}
        if self.decoder is not None:
            weights = batch["weights"]
            sampled = self.decoder.sample_noise_and_timesteps(sample_generators(self.seed, batch["positions"])).to(
                weights.device
            )
            latents = self.decoder.encode_images(batch["decoder_pixels"], sampled.posterior_noise)
            losses = self.decoder.denoising_loss(latents, conditioning, sampled, batch.get("crops"))
            sums |= self._diffusion_terms(losses, batch)
        return sums


def _tokens(batch: PairBatch) -> Tensor:
    """How many caption tokens of each sample are learned from, [B]."""
    return (batch["labels"] != IGNORED).sum(1).float()
