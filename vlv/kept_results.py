"""What a frozen part makes of a picture, kept in memory: for small sets of pictures that are seen again and again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


class KeptResults:
    """Results of a frozen part by a digest of the picture's bytes, so that no augmentation or order mixes them up.

    A picture's result is kept as the batch gave it in which it came first, so a run that resumes, whose memory is
    empty, may differ in the last bits.

    Args:
        limit: pictures that are kept; later ones are computed each time.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._results: dict[bytes, Tensor] = {}

    def __call__(self, pixels: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Results [B, ...] of uint8 pixels [B, 3, E, E]; `compute` makes them for those that are not kept."""
        # Not the bytes themselves: at full size they are twenty times the latents that they would name.
        names = [hashlib.sha256(row.tobytes()).digest() for row in pixels.cpu().numpy()]
        found = {name: self._results[name] for name in names if name in self._results}
        new = [row for row, name in enumerate(names) if name not in found]
        if new:
            computed = compute(pixels[torch.tensor(new, device=pixels.device)])
            for row, result in zip(new, computed, strict=True):
                found[names[row]] = result
                if len(self._results) < self.limit:
                    self._results[names[row]] = result.clone()
        return torch.stack([found[name] for name in names])
