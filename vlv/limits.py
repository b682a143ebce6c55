"""Sizes that the components have room for, from their configs' numbers: without torch, for the check of a call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

# Rows of zeros where Stable Diffusion 3.5's T5 is left out, and the most that it is given: as in diffusers' training
# example (its pipeline takes 256 where nothing else is given).
T5_ROWS = 77


def check_queries(num_queries: int, positions: Iterable[int]) -> None:
    """Check that there is a learned position for each query.

    Args:
        positions: of Florence-2's decoder and of every embedding space.

    Raises:
        ValueError: names the most that fit.
    """
    limit = min(positions)
    if not 1 <= num_queries <= limit:
        raise ValueError(f"num_queries={num_queries} cannot be used: give 1 to {limit}, the text encoder's limit")


def region_rows(grid: int) -> int:
    """Rows of an image read in grid x grid regions: one a region, and one of the whole image."""
    return grid * grid + 1


def check_region_grid(grid: int, num_queries: int, encoder_resolution: int, patch_stride: Sequence[int]) -> None:
    """Check that there is a query for each region, and an image token or more in each.

    Args:
        patch_stride: of each stage of the vision tower.

    Raises:
        ValueError: names the largest grid that fits.
    """
    side = math.ceil(encoder_resolution / math.prod(patch_stride))
    limit = min(math.isqrt(max(0, num_queries - 1)), side)
    if 1 <= grid <= limit:
        return
    if not limit:
        raise ValueError(f"region_grid={grid} cannot be used with num_queries={num_queries}: give region_grid=null")
    rows, why = region_rows(grid), f"does not fit {side} x {side} image tokens"
    if rows > num_queries:
        why = f"makes {rows} rows, more than num_queries={num_queries}"
    raise ValueError(f"region_grid={grid} {why}: give 1 to {limit}, or null as published")


def check_regions_alone(grid: int | None, num_queries: int) -> None:
    """Check that an encoder without BART has a region for each query.

    Raises:
        ValueError: names the number that does.
    """
    if grid is None:
        raise ValueError("train=regions needs regions: give region_grid, or train=language_model as published")
    if num_queries != region_rows(grid):
        raise ValueError(
            f"train=regions leaves BART out, and num_queries={num_queries} has queries that it alone would read: "
            f"give num_queries={region_rows(grid)}, the rows of region_grid={grid}"
        )


def check_encoder_resolution(
    resolution: int, patch_stride: Sequence[int], vision_positions: int, text_positions: int, num_prompt_ids: int
) -> None:
    """Check that the image tokens of a resolution fit into Florence-2's learned positions.

    Args:
        patch_stride: of each stage of the vision tower.
        vision_positions: rows, and columns, that the tower's projection has positions for.
        text_positions: that BART's encoder has, for the image tokens, their mean and the prompt.

    Raises:
        ValueError: names the largest resolution that fits.
    """
    stride = math.prod(patch_stride)
    side = min(vision_positions, math.isqrt(text_positions - num_prompt_ids - 1))
    if resolution < 1:
        raise ValueError(f"encoder_resolution={resolution} cannot be used: give 1 to {side * stride}")
    if resolution > side * stride:
        tokens = math.ceil(resolution / stride)
        raise ValueError(
            f"encoder_resolution={resolution} gives {tokens} x {tokens} image tokens, more than this Florence-2 has "
            f"positions for: give at most {side * stride}"
        )


def check_decoder_resolution(resolution: int, multiple: int) -> None:
    """Check that VAE and denoiser can halve a resolution as often as they do.

    Raises:
        ValueError: names the nearest that fits.
    """
    if resolution < 1 or resolution % multiple:
        nearest = max(multiple, round(resolution / multiple) * multiple)
        raise ValueError(f"decoder_resolution={resolution} is no multiple of {multiple}: give {nearest}")
