"""Running numbers between two lines of metrics."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from torch import Tensor


class Window:
    """Sums and counts of the loss terms since the last line, and the time spent.

    Tensors stay on the device until they are read: `.item()` waits for the GPU, so a quiet step must not call it.
    (torchmetrics' MeanMetric would hold the same two sums but reduce them itself at each compute; here the counts are
    already global, since every step needs them for its gradients.)
    """

    def __init__(self) -> None:
        self.restart(0)

    def restart(self, good_before: int) -> None:
        """Start anew.

        Args:
            good_before: usable samples so far, over all processes, from which the next line's speed counts.
        """
        self.started = time.monotonic()
        self.good_before = good_before
        self.steps = 0
        self.waited = 0.0
        self.sums: Tensor | None = None
        self.counts: Tensor | None = None
        self.norm: Tensor | float | None = None
        self.lr = 0.0

    def add(self, sums: Tensor, counts: Tensor, lr: float) -> None:
        """Add a step: this process's sums [terms], all processes' counts [terms], the learning rate."""
        self.steps += 1
        self.sums = sums if self.sums is None else self.sums + sums
        self.counts = counts if self.counts is None else self.counts + counts
        self.lr = lr

    def totals(self) -> tuple[Tensor, Tensor]:
        """Sums and counts, [terms] each, of a window that has seen a step."""
        assert self.sums is not None
        assert self.counts is not None
        return self.sums, self.counts


def named_terms(prefix: str, means: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """The terms of a loss as metrics, where there are several; a part of a term, as `photos/caption`, with its count.

    A part that nothing counts for is left out: no sample of that source came.
    """
    several = sum("/" not in name for name in means) > 1  # a single one is the loss itself
    metrics: dict[str, float] = {}
    for name, mean in means.items():
        if "/" not in name:
            metrics |= {f"{prefix}/{name}_loss": mean} if several else {}
        elif counts[name]:
            metrics |= {f"{prefix}/{name}_loss": mean, f"{prefix}/{name}_count": counts[name]}
    return metrics


def term_means(sums: Sequence[float], counts: Sequence[float]) -> list[float]:
    """Mean of each loss term from its sum and count over all processes; 0 for a term that nothing counts for."""
    return [total / max(1.0, count) for total, count in zip(sums, counts, strict=True)]
