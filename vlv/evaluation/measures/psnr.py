"""Peak signal-to-noise ratio of an image and its reconstruction."""

from __future__ import annotations

import math

from torch import Tensor

from vlv.evaluation.interface import PairMeasure
from vlv.evaluation.packages import require_torchmetrics

_PEAK = 255.0


def psnr(original: Tensor, reconstruction: Tensor) -> float:
    """PSNR in dB of two uint8 pictures of one shape [3, R, R], over all channels.

    Two equal pictures count as if one value differed by one level: their true PSNR is infinite, which JSON
    cannot hold and which would take the mean over all pairs with it.
    """
    require_torchmetrics()
    from torchmetrics.functional.image import peak_signal_noise_ratio

    # In floats: differences of uint8 would wrap around at 0.
    value = float(peak_signal_noise_ratio(reconstruction.double(), original.double(), data_range=_PEAK))
    return min(value, 10 * math.log10(_PEAK**2 * original.numel()))


MEASURE = PairMeasure(
    name="psnr",
    meaning="Peak signal-to-noise ratio in dB: how near the pixels are, mean over the images",
    better="higher",
    compute=psnr,
)
