"""The MLP between the embeddings and the language model."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Linear - GELU - Linear, [B, Q, D] -> [B, Q, H]: conditioning states into the language model's width."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_width, out_width), nn.GELU(), nn.Linear(out_width, out_width))

    def forward(self, states: Tensor) -> Tensor:
        """Project states [B, Q, D] to prefix embeddings [B, Q, H]."""
        return self.layers(states)
