"""The losses, as pure functions of tensors, and the options of the denoising loss.

None takes a mean over the batch: the trainer divides sums by their counts over the whole global batch, whose size
it alone has, so that a mean does not depend on how the batch was split over processes and micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label that cross-entropy skips


@dataclass(frozen=True)
class LossOptions:
    """How timesteps weigh in the denoising loss; the defaults are the paper's plain mean.

    A new option is a field here with its formula below, the setting of the same name in `vlv.config`, and its use in
    the decoder family that supports it; every other family refuses it by name.

    min_snr_gamma: weight by min-SNR with this gamma (see `min_snr_weights`).
    precondition_outputs: rectified flow: weight the velocity's squared error by sigma squared.
    """

    min_snr_gamma: float | None = None
    precondition_outputs: bool = False

    @classmethod
    def of(cls, settings: object) -> LossOptions:
        """Read the options from a config, in which each is a setting of its name."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    def require_supported(self, supported: frozenset[str]) -> None:
        """Check that every option that is not at its default is one of `supported`.

        Raises:
            ValueError: names the first that is not.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if value != field.default and field.name not in supported:
                default = {None: "null", False: "false"}.get(field.default, field.default)
                known = f"it supports {', '.join(sorted(supported))}" if supported else "it supports no such option"
                raise ValueError(
                    f"{field.name}={str(value).lower()} does not fit this decoder's objective ({known}): "
                    f"leave {field.name}={default}"
                )


def diffusion_loss(model_pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, in fp32.

    With the noise as target it is the simplified objective of DDPM (arXiv 2006.11239, equation 14), which VLV trains
    with; with the velocity, that of v-prediction (arXiv 2202.00512, section 4) or of rectified flow (arXiv 2209.03003,
    equation 1).

    Args:
        model_pred: [B, C, h, w], what the denoiser predicts.
        target: [B, C, h, w], the noise (epsilon) or the velocity.

    Returns:
        [B], the mean over all elements of a sample.
    """
    # fp32 also where the model computes in bf16: its 8 bits of mantissa would round the errors' sum.
    errors = F.mse_loss(model_pred.float(), target.float(), reduction="none")
    return errors.flatten(1).mean(1)


def min_snr_weights(signal: Tensor, gamma: float, velocity: bool) -> Tensor:
    """Min-SNR loss weights of each sample, [B] (arXiv 2303.09556, section 3.4).

    min(SNR, gamma) weighs a prediction of the clean latents. The same objective in terms of the noise has
    min(SNR, gamma) / SNR, and in terms of the velocity min(SNR, gamma) / (SNR + 1).

    The formula of `diffusers.training_utils.compute_snr` with the weights of its training scripts; it is written out
    here because this module needs torch alone, and a test holds that both agree.

    Args:
        signal: [B], the scheduler's cumulative alpha at each sample's timestep, in (0, 1).
        gamma: the signal-to-noise ratio above which a timestep weighs no more.
        velocity: whether the target is the velocity; the noise otherwise.
    """
    snr = signal / (1 - signal)
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


def caption_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample, summed over its caption tokens, in fp32.

    Args:
        logits: [B, L, V]; row l is the prediction of labels[:, l] (already shifted).
        labels: [B, L], token ids, IGNORED where nothing is to be learned.

    Returns:
        [B], the sum over the labels of a sample that are not IGNORED.
    """
    errors = F.cross_entropy(
        logits.float().flatten(0, 1), labels.to(logits.device).flatten(), ignore_index=IGNORED, reduction="none"
    )
    return errors.view(labels.shape).sum(1)


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Sum of values [B] with weights [B]; a weight of 0 leaves out even a value that is not finite."""
    # A product alone would keep a NaN: 0 * nan is nan, in backward too.
    return (torch.where(weights > 0, values, torch.zeros_like(values)) * weights).sum()
