"""The MLP between the embeddings and the language model, and a start for it that suits the embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vlv.whitening import whitening

PROBES = 4096  # inputs that the size of the outputs is measured on


def start_as_torch_does(module: nn.Module) -> None:
    """Give the linear layers of a new module torch's own random start, which the published code leaves them.

    Ours start as transformers starts all layers, N(0, 0.02) whatever the width: at width 64 the published z is 16
    times as large at first, at width 1,024 about as large.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()


class Projector(nn.Module):
    """Linear - GELU - Linear, [B, Q, D] -> [B, Q, H]: conditioning states into the language model's width."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.out_width = out_width
        self.layers = nn.Sequential(nn.Linear(in_width, out_width), nn.GELU(), nn.Linear(out_width, out_width))

    def forward(self, states: Tensor) -> Tensor:
        """Project states [B, Q, D] to prefix embeddings [B, Q, H]."""
        return self.layers(states)

    @torch.no_grad()
    def start_whitened(self, mean: Tensor, covariance: Tensor, out_std: float) -> None:
        """Sample new weights so that the states come in whitened, and the prefix as large as token embeddings.

        Most of the states' variance is the same from image to image (each row has a mean of its own), and what the
        images differ in drowns in it at first. A data-dependent start, as in arXiv 1511.06856.

        Args:
            mean, covariance: of the states' rows, as `StateMoments` gives them, [D] and [D, D].
            out_std: standard deviation of the language model's token embeddings.
        """
        first, _, last = self.layers
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        width = len(mean)
        variances, directions = torch.linalg.eigh(covariance)
        root = directions @ torch.diag(variances.clamp(min=0).sqrt())
        probes = torch.randn(PROBES, width, dtype=torch.float64) @ root.T  # [P, D], of the states' covariance
        weight = torch.randn(first.out_features, width, dtype=torch.float64) @ whitening(covariance)  # [H, D]
        weight /= (probes @ weight.T).std()  # for GELU's inputs to have unit variance
        hidden = nn.functional.gelu(probes @ weight.T)  # [P, H]
        spread = (hidden @ last.weight.double().T).std(0).square().mean().sqrt()
        first.weight.copy_(weight)
        first.bias.copy_(-weight @ mean)
        last.weight.mul_(out_std / spread.item())
        last.bias.zero_()
