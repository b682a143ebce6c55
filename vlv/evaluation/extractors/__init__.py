"""Feature extractors for distances between sets of images: one a file, in the table below.

Importing this loads neither torch nor an extractor's packages, so that a call can be checked first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vlv.evaluation.extractors.efficientnet_lite0 import EfficientNetLite0
from vlv.evaluation.extractors.inception import Inception
from vlv.evaluation.extractors.interface import Autoencoder, Extractor, FeatureExtractor
from vlv.evaluation.extractors.vision_tower import VisionTower

if TYPE_CHECKING:
    import torch

# By the name that the setting `extractor` takes.
EXTRACTORS: dict[str, Extractor] = {
    extractor.name: extractor for extractor in (Inception(), VisionTower(), EfficientNetLite0())
}
_STANDARD, _ALWAYS_THERE = Inception.name, VisionTower.name  # what `auto` takes where it can be had, and elsewhere

__all__ = [
    "EXTRACTORS", "Autoencoder", "Extractor", "ExtractorChoice", "FeatureExtractor", "build_extractor",
    "choose_extractor", "extractor_problem",
]  # fmt: skip


class ExtractorChoice(NamedTuple):
    """The extractor that is taken, and a sentence with its measures and the reason."""

    name: str
    message: str


def extractor_problem(wanted: str, weights_path: str | None) -> str | None:
    """Why the wanted extractor cannot be used, with the fix; None where it can. Loads nothing.

    Args:
        wanted: a name in `EXTRACTORS`, or auto.
        weights_path: a local file with InceptionV3's weights, or None. With `auto` it asks for Inception.
    """
    if wanted == "auto":
        return None if weights_path is None else EXTRACTORS[_STANDARD].problem(weights_path, may_download=True)
    return EXTRACTORS[wanted].problem(weights_path, may_download=True)


def choose_extractor(wanted: str, weights_path: str | None) -> ExtractorChoice:
    """Decide which extractor is taken, without loading the weights of any.

    Args:
        wanted: a name in `EXTRACTORS`, or auto: Inception where it is installed with its weights, else the vision
            tower, so that no run starts a download by itself.
        weights_path: a local file with InceptionV3's weights, or None.

    Raises:
        ValueError: an extractor is wanted that cannot be had; names the install command.
    """
    from vlv.evaluation.packages import require_torchmetrics

    require_torchmetrics()
    problem = extractor_problem(wanted, weights_path)
    if problem is not None:
        raise ValueError(problem)
    if wanted != "auto":
        return ExtractorChoice(wanted, _message(wanted, "as set"))
    missing = EXTRACTORS[_STANDARD].problem(weights_path, may_download=False)
    if missing is None:
        return ExtractorChoice(_STANDARD, _message(_STANDARD))
    return ExtractorChoice(_ALWAYS_THERE, _message(_ALWAYS_THERE, f"for FID: {missing}"))


def _message(name: str, reason: str = "") -> str:
    from vlv.evaluation.registry import feature_measures, pair_measures

    keys = [measure.key(name) for measure in feature_measures()] + [measure.name for measure in pair_measures()]
    no_fid = "" if "fid" in keys else "; over these features the distances are no FID"
    return f"measures: {', '.join(keys)} (extractor {name}{', ' * bool(reason)}{reason}){no_fid}"


def build_extractor(
    name: str, autoencoder: Autoencoder, weights_path: str | None, device: torch.device | str
) -> FeatureExtractor:
    """Build the chosen extractor on a device; the vision tower is the auto-encoder's own.

    Raises:
        ValueError: the extractor's packages or weights cannot be had.
    """
    return EXTRACTORS[name].build(autoencoder, weights_path, device)
