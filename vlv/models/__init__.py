"""The models. Names are loaded on first use, so that light modules in here stay light to import."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlv.models.autoencoder import VLVAutoEncoder
    from vlv.models.captioner import VLVCaptioner
    from vlv.models.encoder import VLVEncoder
    from vlv.models.image_processor import VLVImageProcessor
    from vlv.models.stage2 import preview_autoencoder

__all__ = ["VLVAutoEncoder", "VLVCaptioner", "VLVEncoder", "VLVImageProcessor", "preview_autoencoder"]

_HOMES = {
    "VLVAutoEncoder": "autoencoder",
    "VLVCaptioner": "captioner",
    "VLVEncoder": "encoder",
    "VLVImageProcessor": "image_processor",
    "preview_autoencoder": "stage2",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"vlv.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlv.models' has no attribute {name!r}")
