"""The vision encoders: one interface, one file a kind; Florence-2 is the first.

To add a kind: write its file with a `VisionEncoder` and `build`, and enter a layout for it in
`vlv.encoders.layout.ENCODERS` under the `model_type` of its config.json. `layout` and `settings` need no torch, so the
names below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlv.encoders.building import build_encoder, encoder_from_config
    from vlv.encoders.interface import VisionEncoder
    from vlv.encoders.layout import EncoderLayout, read_encoder_layout
    from vlv.encoders.settings import EncoderPart, EncoderSettings

__all__ = [
    "EncoderLayout",
    "EncoderPart",
    "EncoderSettings",
    "VisionEncoder",
    "build_encoder",
    "encoder_from_config",
    "read_encoder_layout",
]

_PLACES = {
    "EncoderLayout": "layout",
    "EncoderPart": "settings",
    "EncoderSettings": "settings",
    "VisionEncoder": "interface",
    "build_encoder": "building",
    "encoder_from_config": "building",
    "read_encoder_layout": "layout",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'vlv.encoders' has no attribute {name!r}")
    return getattr(import_module(f"vlv.encoders.{_PLACES[name]}"), name)
