"""Kernel distance of paired sets of features: KID's kernel, with the estimate that is right for pairs.

KID (Binkowski et al., 2018, "Demystifying MMD GANs") is the squared maximum mean discrepancy MMD^2 with the kernel
k(a, b) = (a.b / D + 1)^3. Its usual estimate averages k(x_i, y_j) over all i and j, i = j included. It is unbiased
where the two sets are independent. Originals x_i and their own reconstructions y_i are not: k(x_i, y_i) is larger
than the mean by far, and the estimate is off by -2/n * (E k(x_i, y_i) - E k(x, y')). A set against itself then is not 0
but negative.

Left out on all sides, the terms i = j cannot do that. With z_i = (x_i, y_i),

    h(z_i, z_j) = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)

averaged over i != j is the U-statistic of Gretton et al. (2012, "A kernel two-sample test", JMLR 13, lemma 6). For
i != j, x_i and y_j come from different images and are independent whatever ties x_i to y_i, so its expectation is
MMD^2 for pairs as for independent sets; for a set against itself every h is 0. It differs from the usual estimate in
the cross terms i = j alone and has a name of its own, so that it is not compared with a published KID.
"""

from __future__ import annotations

from statistics import fmean, pstdev

import torch
from torch import Generator, Tensor

from vlv.evaluation.interface import FeatureMeasure, SetValue

# The subsets of KID's authors; the seed is fixed, so that the same features give the same value.
SUBSET = 1000
_NUM_SUBSETS = 100
_SEED = 0


def paired_kernel_distance(originals: Tensor, reconstructions: Tensor) -> SetValue:
    """Unbiased MMD^2 of paired features, [n, D] each, in float64; it may be a little below 0.

    Over more than 1,000 pairs it is the mean over 100 random subsets of 1,000, KID's own scheme, as the
    time grows with the square of n. The subsets come from a seed of their own and hold whole pairs.

    Raises:
        ValueError: sets of different sizes, which are no pairs.
    """
    if originals.shape != reconstructions.shape:
        raise ValueError(
            f"features of shapes {tuple(originals.shape)} and {tuple(reconstructions.shape)} are no pairs: row i of "
            "both must belong to one image"
        )
    x, y = originals.double(), reconstructions.double()
    if len(x) <= SUBSET:
        return SetValue(_mmd(x, y))
    generator = Generator().manual_seed(_SEED)
    subsets = [torch.randperm(len(x), generator=generator)[:SUBSET] for _ in range(_NUM_SUBSETS)]
    values = [_mmd(x[rows], y[rows]) for rows in subsets]
    return SetValue(fmean(values), pstdev(values))


def _mmd(x: Tensor, y: Tensor) -> float:
    """Mean of h over i != j, of [n, D] float64 each."""
    cross = _kernel(x, y)
    h = _kernel(x, x) + _kernel(y, y) - cross - cross.T  # [n, n]
    n = len(x)
    return float((h.sum() - h.diagonal().sum()) / (n * (n - 1)))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


MEASURE = FeatureMeasure(
    name="kd_paired",
    meaning="Kernel distance of the features of originals and reconstructions, unbiased for pairs; not the usual KID",
    better="lower",
    minimum=2,
    compute=paired_kernel_distance,
    established={"inception": "kid_paired"},
)
