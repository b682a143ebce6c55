"""Queries that start where they should look: the image's regions, read beside BART's cross-attention.

A learned query must find out where to look before it can say what is there, and as long as it does not, the frozen
decoder teaches it little but the mean. Here the first queries are told: each has one region of the image, whose tokens'
average is added to what BART has read for it.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlv.limits import region_rows
from vlv.whitening import whitening

WIDENING = 4  # of a block's hidden layer, as in BART's own
RIDGE = 2e-4  # lower than the projector's: what tells shapes apart lies in directions of little variance
PLACE_STD = 0.5  # of the start of what tells rows apart, beside whitened averages of about as much


class ResidualBlock(nn.Module):
    """LayerNorm - Linear - GELU - Linear beside an identity, on each row alone: [..., D] -> [..., D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, WIDENING * width)
        self.down = nn.Linear(WIDENING * width, width)

    def forward(self, states: Tensor) -> Tensor:
        """Add what the layers make of the states [..., D]."""
        return states + self.down(F.gelu(self.up(self.norm(states))))


class RegionReader(nn.Module):
    """The image tokens' averages over a grid of regions and over the image, one row each, whitened, through an MLP.

    Shapes: B images, N = 1 + side x side image tokens, the image's own first, D their width, g the grid's side,
    R = g x g + 1 rows: the regions in reading order, then the image.
    """

    def __init__(self, width: int, grid: int, blocks: int) -> None:
        """Weights of every part.

        Args:
            width: D.
            grid: g, regions along each side.
            blocks: residual blocks.
        """
        super().__init__()
        self.grid = grid
        rows = region_rows(grid)
        self.mean = nn.Parameter(torch.zeros(rows, width))
        self.whiten = nn.Linear(width, width, bias=False)
        self.place = nn.Parameter(torch.randn(rows, width))
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.gate = nn.Parameter(torch.zeros(1))  # of what BART has read; not 0-dimensional, which FSDP cannot shard

    def averages(self, image_features: Tensor) -> Tensor:
        """Average tokens [B, R, D] of each region, then the image's token, of image tokens [B, N, D], in fp32."""
        # fp32, as all pictures share a mean that is large beside what they differ in.
        features = image_features.float()
        side = math.isqrt(features.shape[1] - 1)
        places = features[:, 1:].transpose(1, 2).unflatten(2, (side, side))  # [B, D, side, side]
        regions = F.adaptive_avg_pool2d(places, self.grid).flatten(2).transpose(1, 2)  # [B, g g, D]
        return torch.cat([regions, features[:, :1]], dim=1)

    def rows(self, image_features: Tensor) -> Tensor:
        """What the regions say, [B, R, D], of image tokens [B, N, D]."""
        centred = (self.averages(image_features) - self.mean).to(self.whiten.weight.dtype)
        return self.blocks(self.whiten(centred) + self.place)

    def forward(self, image_features: Tensor, states: Tensor) -> Tensor:
        """Add the regions' rows to the first R of BART's states [B, Q, D], which come in by the gate."""
        rows = self.rows(image_features)
        rest = states.shape[1] - rows.shape[1]
        return self.gate * states + F.pad(rows, (0, 0, 0, rest)).to(states.dtype)

    def start(self) -> None:
        """Sample new weights as torch does, and let everything through as it is, until `start_whitened`."""
        for block in self.blocks:
            assert isinstance(block, ResidualBlock)
            for part in (block.norm, block.up, block.down):
                part.reset_parameters()
        nn.init.eye_(self.whiten.weight)
        nn.init.zeros_(self.mean)
        nn.init.normal_(self.place, std=PLACE_STD)
        nn.init.zeros_(self.gate)

    @torch.no_grad()
    def start_whitened(self, mean: Tensor, covariance: Tensor) -> None:
        """Start from the averages' statistics, so that what pictures differ in comes in as large as what they share.

        Args:
            mean: of each row over pictures, [R, D].
            covariance: about it, over all rows, [D, D].
        """
        self.mean.copy_(mean)
        self.whiten.weight.copy_(whitening(covariance, RIDGE))
