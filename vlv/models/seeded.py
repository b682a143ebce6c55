"""Sampled captions that depend on an image and its seed alone, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor
from transformers import LogitsProcessor, LogitsProcessorList


class SeededChoice(LogitsProcessor):
    """Leaves of each row's logits the one token that is drawn, by the row's own generator.

    The largest of logit / temperature + Gumbel noise is a draw from the softmax (Gumbel-max; Maddison and others, arXiv
    1411.0030). It goes last: what `generate` then samples is certain.
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        """Start a generator for each row.

        Args:
            seeds: [B], of each sequence that is generated.
            temperature: above 0; 1 samples from the model's own distribution.
        """
        self._generators = [Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # On the CPU: GPUs' generators give other numbers by model. In fp64 no draw is 0, whose logarithm is not finite.
        draws = torch.stack(
            [torch.rand(scores.shape[1], generator=one, dtype=torch.float64) for one in self._generators]
        )
        noise = -(-draws.clamp_min(1e-300).log()).log()
        best = (scores.float() / self._temperature + noise.to(scores.device, torch.float32)).argmax(1, keepdim=True)
        return torch.full_like(scores, -torch.inf).scatter(1, best, 0.0)


def seeded_sampling(seeds: Sequence[Sequence[int]], temperature: float) -> dict[str, Any]:
    """Options of `generate` that sample n captions of each of B images, each by its own seed, [B][n]."""
    choice = SeededChoice([seed for own in seeds for seed in own], temperature)
    return {
        "do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "num_beams": 1,
        "num_return_sequences": len(seeds[0]), "logits_processor": LogitsProcessorList([choice]),
    }  # fmt: skip
