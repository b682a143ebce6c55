"""Structural similarity of an image and its reconstruction."""

from __future__ import annotations

from torch import Tensor

from vlv.evaluation.interface import PairMeasure
from vlv.evaluation.packages import require_torchmetrics


def ssim(original: Tensor, reconstruction: Tensor) -> float:
    """SSIM of two uint8 pictures of one shape [3, R, R], R >= 11: Gaussian window of 11 pixels, mean over channels."""
    require_torchmetrics()
    from torchmetrics.functional.image import structural_similarity_index_measure

    pair = [picture[None].float() for picture in (reconstruction, original)]
    value = structural_similarity_index_measure(pair[0], pair[1], data_range=255.0)
    assert isinstance(value, Tensor)  # a tuple where the whole map is asked for
    return float(value)


MEASURE = PairMeasure(
    name="ssim",
    meaning="Structural similarity, 1 for equal pictures, mean over the images",
    better="higher",
    compute=ssim,
)
