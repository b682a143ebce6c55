"""What an extractor is: its name, whether it can be used here, and how its features are taken."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

# Resizing by another library moves FID by whole points (Parmar et al., 2022), so it is stated beside each value.
RESIZER = "pillow bicubic (antialiased, on uint8)"


class VisionEncoder(Protocol):
    """The part of a model whose vision tower gives features."""

    def vision_features(self, encoder_pixels: Tensor) -> Tensor:
        """Features [B, D] of uint8 pixels [B, 3, E, E]."""
        ...


class Resolutions(Protocol):
    """The part of a model that knows its pixels' sizes."""

    @property
    def encoder_resolution(self) -> int:
        """The E above."""
        ...


class Autoencoder(Protocol):
    """What the vision tower's extractor needs of a model."""

    @property
    def encoder(self) -> VisionEncoder:
        """The encoder."""
        ...

    @property
    def image_processor(self) -> Resolutions:
        """The image processor."""
        ...


@dataclass(frozen=True)
class FeatureExtractor:
    """An extractor that is loaded.

    name: as in `EXTRACTORS`.
    side: it takes squares of this many pixels.
    device: where its network is.
    features: float features [B, D] of uint8 pixels [B, 3, side, side] on that device, without gradients.
    """

    name: str
    side: int
    device: torch.device | str
    features: Callable[[Tensor], Tensor]
    resizer: str = RESIZER

    def __call__(self, pixels: Tensor) -> Tensor:
        """Features [B, D] fp32 on the CPU, of uint8 pixels [B, 3, side, side] anywhere."""
        import torch

        with torch.no_grad():
            # To the CPU, where whole sets are gathered: a GPU need not hold them.
            return self.features(pixels.to(self.device)).float().cpu()


class Extractor(ABC):
    """An extractor by its name: can it be used, and build it."""

    name: str

    @abstractmethod
    def problem(self, weights_path: str | None, may_download: bool) -> str | None:
        """Why it cannot be used here, with the fix; None where it can. Loads none of its packages.

        Args:
            weights_path: the setting `inception_weights`, a local file of weights.
            may_download: whether weights that are not here may be fetched.
        """

    @abstractmethod
    def build(self, autoencoder: Autoencoder, weights_path: str | None, device: torch.device | str) -> FeatureExtractor:
        """Load its network onto a device.

        Raises:
            ValueError: its packages or weights cannot be had; names the fix.
        """


def resize_square(picture: Image.Image, side: int) -> Image.Image:
    """Resize a square RGB picture as every extractor's input is; a picture of that side stays as it is."""
    from PIL import Image

    if picture.size == (side, side):
        return picture
    return picture.resize((side, side), Image.Resampling.BICUBIC)
