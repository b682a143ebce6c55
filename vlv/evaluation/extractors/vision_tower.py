"""The encoder's own frozen vision tower: always at hand, but over its features a distance is no FID."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlv.evaluation.extractors.interface import Autoencoder, Extractor, FeatureExtractor

if TYPE_CHECKING:
    import torch


class VisionTower(Extractor):
    """The vision tower of the model that is evaluated."""

    name = "vision_tower"

    def problem(self, weights_path: str | None, may_download: bool) -> str | None:
        """It can always be used; see `Extractor.problem`."""
        return None

    def build(self, autoencoder: Autoencoder, weights_path: str | None, device: torch.device | str) -> FeatureExtractor:
        """Take the model's own tower, which is on the device already; see `Extractor.build`."""
        side = autoencoder.image_processor.encoder_resolution
        return FeatureExtractor(self.name, side, device, autoencoder.encoder.vision_features)
