"""Frechet distance of two sets of features; over InceptionV3's it is FID."""

from __future__ import annotations

from torch import Tensor, nn

from vlv.evaluation.interface import FeatureMeasure, SetValue
from vlv.evaluation.packages import require_torchmetrics


class _GivenFeatures(nn.Module):
    """Stands where torchmetrics wants a feature network; features were taken before, by several processes."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(originals: Tensor, reconstructions: Tensor) -> SetValue:
    """Frechet distance of two Gaussians with the means and covariances of [n, D] and [m, D], in float64.

    The formula has no term in which an image meets its own reconstruction, so pairs do not spoil it as they spoil the
    usual estimate of KID. What pairs do change is its bias: over independent sets of n images it is too high
    by about O(1/n), as means and covariances are estimates (Chong and Forsyth, 2020, "Effectively unbiased FID");
    originals and their reconstructions share much of that error, so theirs is smaller. A FID of pairs is therefore
    compared with a FID of pairs over as many images, not with that of an unconditional generator.
    """
    require_torchmetrics()
    from torchmetrics.image.fid import FrechetInceptionDistance

    # Not synchronised: the features are all here, and the other processes do not come to a collective.
    distance = FrechetInceptionDistance(feature=_GivenFeatures(originals.shape[1]), sync_on_compute=False)
    # torchmetrics computes in float64 and then rounds to the features' own format, which is therefore float64.
    distance.update(originals.double(), real=True)
    distance.update(reconstructions.double(), real=False)
    return SetValue(float(distance.compute()))


MEASURE = FeatureMeasure(
    name="fd",
    meaning="Frechet distance of the features of originals and reconstructions",
    better="lower",
    minimum=2,
    compute=frechet_distance,
    established={"inception": "fid"},
)
