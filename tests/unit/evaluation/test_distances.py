import numpy as np
import pytest
import scipy.linalg
import torch

from vlv.evaluation.distances import set_distances


def frechet_by_scipy(a, b):
    (a, b) = (x.double().numpy() for x in (a, b))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


def kernel_by_hand(a, b):
    def k(x, y):
        return (x.double() @ y.double().T / x.shape[1] + 1) ** 3

    n = len(a)
    within = [(k(x, x).sum() - k(x, x).diag().sum()) / (n * (n - 1)) for x in (a, b)]
    return float(within[0] + within[1] - 2 * k(a, b).mean())


def features(n, width=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, width, generator=generator), torch.randn(n, width, generator=generator) * 1.5 + 0.3


def test_distances_agree_with_a_second_route():
    a, b = features(200)
    distances = set_distances(a, b)
    assert distances.frechet == pytest.approx(frechet_by_scipy(a, b), rel=1e-6)
    assert distances.kernel == pytest.approx(kernel_by_hand(a, b), rel=1e-9)
    assert distances.kernel_std is None


def test_same_sets_are_near_zero_apart():
    a, _ = features(50)
    distances = set_distances(a, a)
    assert abs(distances.frechet) < 1e-6
    assert abs(distances.kernel) < 1


def test_kernel_subsets_above_a_thousand_repeat_and_leave_the_random_state():
    a, b = features(1100, 3)
    torch.manual_seed(1)
    first = set_distances(a, b)
    after = torch.rand(1)
    torch.manual_seed(2)
    second = set_distances(a, b)
    assert first == second
    assert first.kernel_std > 0
    torch.manual_seed(1)
    assert torch.rand(1) == after


def test_one_image_has_no_distance():
    a, b = features(1)
    with pytest.raises(ValueError, match="at least 2"):
        set_distances(a, b)
