"""What a diffusion decoder is to the rest of the code. A new family is one file that fills this in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Generator, Tensor, nn

from vlv.checkpoints.identity import JsonObject
from vlv.decoders.settings import EmbeddingSpace
from vlv.frozen import FrozenStaysEval, set_dtypes
from vlv.kept_results import KeptResults
from vlv.losses import LossOptions


class Conditioning(NamedTuple):
    """What the denoiser is conditioned on.

    states: [B, rows, width], the cross-attention states.
    pooled: [B, pooled width] where the family has a pooled vector, else None.
    """

    states: Tensor
    pooled: Tensor | None = None

    def repeat(self, times: int) -> Conditioning:
        """This one so many times over, one below the other along the batch."""
        pooled = None if self.pooled is None else self.pooled.repeat(times, 1)
        return Conditioning(self.states.repeat(times, 1, 1), pooled)

    def where(self, chosen: Tensor, other: Conditioning) -> Conditioning:
        """This one for the samples that are chosen ([B] bool), the other elsewhere; cut to the other's rows."""
        # By `where`, not by indexing: shapes stay fixed, so nothing waits for the GPU.
        states = torch.where(chosen[:, None, None], self.states[:, : other.states.shape[1]], other.states)
        if self.pooled is None or other.pooled is None:
            return Conditioning(states)
        return Conditioning(states, torch.where(chosen[:, None], self.pooled, other.pooled))


class NoiseAndTimesteps(NamedTuple):
    """The random numbers of one training step, each row a function of its sample's generator.

    posterior_noise: [B, C, h, w], for the VAE's posterior.
    timesteps: [B], whatever the family's objective means by it.
    noise: [B, C, h, w], what is added to the latents.
    """

    posterior_noise: Tensor
    timesteps: Tensor
    noise: Tensor

    @staticmethod
    def join(parts: Sequence[NoiseAndTimesteps]) -> NoiseAndTimesteps:
        """Several, one below the other along the batch."""
        return NoiseAndTimesteps(*(torch.cat(values) for values in zip(*parts, strict=True)))

    def to(self, device: torch.device) -> NoiseAndTimesteps:
        """Move all three to a device."""
        # A copy from memory that is not pinned would wait for the kernels that the device still has to do.
        own = [value.pin_memory() for value in self] if device.type == "cuda" else self
        return NoiseAndTimesteps(*(value.to(device, non_blocking=True) for value in own))


class Conditioner(nn.Module, ABC):
    """Frozen: turns the encoder's embeddings into conditioning. Stage 2 keeps it without the denoiser."""

    @property
    @abstractmethod
    def spaces(self) -> tuple[EmbeddingSpace, ...]:
        """The embedding spaces that `forward` wants."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Width of `Conditioning.states`."""

    @abstractmethod
    def forward(self, embeddings: dict[str, Tensor], pooled_at: Tensor | None = None) -> Conditioning:
        """Conditioning of embeddings [B, Q, width], one for each space by name.

        Args:
            pooled_at: [B], the row that a pooled vector is taken from, where the family has one; None is the last.
        """

    def prefix_states(self, states: Tensor) -> Tensor:
        """The rows of states [B, rows, width] that depend on the embeddings, which a captioner reads: all of them."""
        return states

    def num_prefix_tokens(self, queries: int) -> int:
        """How many those are."""
        return queries

    def token_tables(self) -> dict[str, tuple[str, nn.Module]]:
        """Of each space whose text encoder is here, the folder of its tokenizer and its table of token embeddings.

        The CLIPs come first; none where no text encoder is kept.
        """
        return {}

    @abstractmethod
    def to_dict(self) -> JsonObject:
        """A JSON description from which `vlv.decoders.build_conditioner` builds the same module."""


class DiffusionDecoder(FrozenStaysEval, ABC):
    """A frozen text-to-image model: the only teacher of stage 1."""

    conditioner: Conditioner
    kept_results: KeptResults | None = None  # of what encodes images, where they are kept
    loss_options = LossOptions()
    supported_loss_options: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents at the decoder's resolution, from the components' configs."""

    @abstractmethod
    def encode_images(self, decoder_pixels: Tensor, posterior_noise: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] (fp32) of uint8 pixels [B, 3, R, R], or of the VAE's moments [B, 2, C, h, w]."""

    @abstractmethod
    def sample_noise_and_timesteps(self, generators: Sequence[Generator]) -> NoiseAndTimesteps:
        """The random numbers of one training step, on the CPU, one generator a sample."""

    @abstractmethod
    def unconditional(self, like: Conditioning) -> Conditioning:
        """The conditioning of the empty prompt, for as many samples as another's.

        With as many rows too, except where no text encoder makes them and the pipeline has more: there a row count of
        its own is part of what the denoiser knows as "no prompt", and both generation and training keep it.
        """

    @abstractmethod
    def denoising_loss(
        self, latents: Tensor, conditioning: Conditioning, sampled: NoiseAndTimesteps, crops: Tensor | None = None
    ) -> Tensor:
        """The family's training loss of each sample, [B] in fp32.

        Args:
            crops: [B, 4], of each sample the original height and width, and the crop's top and left in the resized
                image, for families whose denoiser is conditioned on them; None says that the images are whole.
        """

    def set_loss_options(self, options: LossOptions) -> None:
        """Choose how timesteps weigh in the training loss.

        Raises:
            ValueError: an option that does not fit the family's objective.
        """
        options.require_supported(self.supported_loss_options)
        self.loss_options = options

    @abstractmethod
    def enable_gradient_checkpointing(self) -> None:
        """Recompute the denoiser's activations in backward: gradients pass through it to the embeddings."""

    def set_dtypes(self, compute_dtype: torch.dtype) -> None:
        """Cast the frozen weights; what must stay in fp32 does."""
        set_dtypes(self, compute_dtype, compute_dtype)

    @abstractmethod
    def scheduler_name(self, name: str) -> str:
        """The scheduler that a name stands for; `auto` is the family's own choice.

        Raises:
            ValueError: none of the family's.
        """

    @abstractmethod
    def generate_images(
        self,
        conditioning: Conditioning,
        *,
        guidance_scale: float,
        num_inference_steps: int,
        generators: Sequence[Generator],
        scheduler: str,
    ) -> Tensor:
        """Images uint8 [B, 3, R, R], denoised from what each image's CPU generator samples."""
