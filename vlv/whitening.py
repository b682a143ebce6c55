"""Second moments of states, gathered batch by batch, and the matrix that whitens what they describe. Pure torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RIDGE = 0.02  # of the mean variance: directions with less than that hold little but noise, and are not blown up


class StateMoments:
    """Mean and covariance of states, in fp64.

    Args:
        width: D, of a state.
        rows: 1 takes all rows of a sample as one kind; R gives each row a mean of its own, and the covariance is about
            it, over all rows.
    """

    def __init__(self, width: int, rows: int = 1) -> None:
        self.count = torch.zeros((), dtype=torch.float64)
        self.total = torch.zeros(rows, width, dtype=torch.float64)  # [R, D]
        self.products = torch.zeros(width, width, dtype=torch.float64)  # [D, D]

    def add(self, states: Tensor) -> None:
        """Take in states [B, Q, D]; Q is R where rows have means of their own."""
        states = states.double().cpu()
        flat = states.flatten(0, 1)  # [B Q, D]
        kinds = states if len(self.total) > 1 else flat[:, None]  # [samples, R, D]
        self.count += len(kinds)
        self.total += kinds.sum(0)
        self.products += flat.T @ flat

    def summed(self, reduce: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Mean [D] ([R, D] of several rows) and covariance [D, D], once `reduce` has summed over the processes.

        Raises:
            ValueError: there are no states.
        """
        count, total, products = (reduce(value).cpu() for value in (self.count, self.total, self.products))
        if not count:
            raise ValueError("none of the first samples can be read, so nothing can be whitened by them")
        mean = total / count
        covariance = products / (count * len(mean)) - mean.T @ mean / len(mean)
        return (mean if len(mean) > 1 else mean[0]), covariance


def whitening(covariance: Tensor, ridge: float = RIDGE) -> Tensor:
    """The symmetric matrix [D, D] that whitens states of a covariance [D, D], but for a ridge of the mean variance."""
    variances, directions = torch.linalg.eigh(covariance)
    # Rounding may leave a variance a little below 0.
    scales = (variances.clamp(min=0) + ridge * variances.mean()).rsqrt()
    return directions @ torch.diag(scales) @ directions.T
