"""VLV: the vision-language-vision auto-encoder.

`import vlv` is light: the classes below are loaded on first use, and with them torch and transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlv.models import VLVAutoEncoder, VLVCaptioner, VLVEncoder, VLVForConditionalGeneration, VLVProcessor

__all__ = ["VLVAutoEncoder", "VLVCaptioner", "VLVEncoder", "VLVForConditionalGeneration", "VLVProcessor"]
__version__ = "0.1.0"


def __dir__() -> list[str]:
    """Every name of the module, the classes that are not loaded yet among them: for completion in a shell."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("vlv.models"), name)
    raise AttributeError(f"module 'vlv' has no attribute {name!r}")
