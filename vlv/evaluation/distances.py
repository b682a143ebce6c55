"""Distances between two sets of images, taken over their features: Frechet (FID) and kernel (KID)."""

from __future__ import annotations

import importlib.util
import warnings
from typing import NamedTuple

import torch
from torch import Tensor, nn

KID_SUBSET = 1000
_KID_SUBSETS = 100
_KID_SEED = 0


class SetDistances(NamedTuple):
    """Frechet distance, and mean and standard deviation of the kernel distance over its subsets.

    `kernel_std` is None where all images were taken at once.
    """

    frechet: float
    kernel: float
    kernel_std: float | None


class _GivenFeatures(nn.Module):
    """Stands where torchmetrics wants a feature network; features were taken before, by several processes."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def require_torchmetrics() -> None:
    """Check that the image metrics of torchmetrics can be imported; takes seconds the first time.

    Raises:
        ValueError: they cannot, as happens where torch-fidelity is installed and torchvision does not work.
    """
    try:
        import torchmetrics.image.fid
        import torchmetrics.image.kid  # noqa: F401
    except (ImportError, RuntimeError) as error:
        culprit = "torch-fidelity" if importlib.util.find_spec("torch_fidelity") else "torchmetrics"
        raise ValueError(
            f"{culprit} is installed but does not work here ({error}): install a torchvision that fits torch, or "
            f"pip uninstall {culprit}"
        ) from None


def set_distances(real: Tensor, drawn: Tensor) -> SetDistances:
    """Compare two sets of features, [N, D] and [M, D], in float64.

    The kernel distance is the mean over 100 random subsets of 1,000; below that it is taken over all once.
    It is unbiased, so it may be a little below 0. The subsets come from a seed of their own.

    Raises:
        ValueError: fewer than 2 images in a set.
    """
    size = min(len(real), len(drawn))
    if size < 2:
        raise ValueError(f"{size} images in a set: FID and KID need at least 2")
    require_torchmetrics()
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    subsets = _KID_SUBSETS if max(len(real), len(drawn)) > KID_SUBSET else 1
    network = _GivenFeatures(real.shape[1])
    frechet = FrechetInceptionDistance(feature=network, sync_on_compute=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*save all extracted features.*")
        kernel = KernelInceptionDistance(
            feature=network,
            subset_size=min(size, KID_SUBSET),
            subsets=subsets,
            sync_on_compute=False,
        )
    for metric in (frechet, kernel):
        metric.update(real.double(), real=True)
        metric.update(drawn.double(), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_KID_SEED)
        kernel_mean, kernel_std = kernel.compute()
    spread = float(kernel_std) if subsets > 1 else None
    return SetDistances(float(frechet.compute()), float(kernel_mean), spread)
