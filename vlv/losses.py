"""The losses, as pure functions of tensors.

Each returns a sum, not a mean: the mean is taken over the whole global batch, whose size only the
trainer knows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # the label that cross-entropy skips


def diffusion_loss(model_pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of each sample, in fp32.

    Args:
        model_pred: [B, C, h, w], what the denoiser predicts.
        target: [B, C, h, w], the noise (epsilon) or the velocity (v-prediction).

    Returns:
        [B], the mean over all elements of a sample.
    """
    errors = F.mse_loss(model_pred.float(), target.float(), reduction="none")
    return errors.flatten(1).mean(1)


def min_snr_weights(signal: Tensor, gamma: float, velocity: bool) -> Tensor:
    """Min-SNR loss weights of each sample, [B] (arXiv 2303.09556).

    Args:
        signal: [B], the scheduler's cumulative alpha at each sample's timestep, in (0, 1).
        gamma: the signal-to-noise ratio above which a timestep weighs no more.
        velocity: whether the target is the velocity; the noise otherwise.
    """
    snr = signal / (1 - signal)
    return snr.clamp(max=gamma) / (snr + 1 if velocity else snr)


def caption_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the caption tokens, in fp32.

    Args:
        logits: [B, L, V]; row l is the prediction of labels[:, l] (already shifted).
        labels: [B, L], token ids, IGNORED where nothing is to be learned.

    Returns:
        scalar, the sum over all labels that are not IGNORED.
    """
    return F.cross_entropy(
        logits.float().flatten(0, 1), labels.to(logits.device).flatten(), ignore_index=IGNORED, reduction="sum"
    )


def weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Sum of values [B] with weights [B]; a weight of 0 leaves out even a value that is not finite."""
    return (torch.where(weights > 0, values, torch.zeros_like(values)) * weights).sum()
