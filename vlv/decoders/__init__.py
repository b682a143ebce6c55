"""The diffusion decoders: one interface, one file a family.

To add a family: write its file with `build`, `load_conditioner` and `build_conditioner`, and enter it in
`vlv.decoders.layout.FAMILIES` under its diffusers pipeline class. `layout` and `settings` need no torch, so the names
below are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlv.decoders.building import build_conditioner, build_decoder, load_conditioner
    from vlv.decoders.interface import Conditioner, Conditioning, DiffusionDecoder, NoiseAndTimesteps
    from vlv.decoders.layout import DecoderLayout, read_layout
    from vlv.decoders.settings import DecoderSettings, EmbeddingSpace

__all__ = [
    "Conditioner",
    "Conditioning",
    "DecoderLayout",
    "DecoderSettings",
    "DiffusionDecoder",
    "EmbeddingSpace",
    "NoiseAndTimesteps",
    "build_conditioner",
    "build_decoder",
    "load_conditioner",
    "read_layout",
]

_PLACES = {
    "build_conditioner": "building",
    "build_decoder": "building",
    "load_conditioner": "building",
    "DecoderLayout": "layout",
    "read_layout": "layout",
    "DecoderSettings": "settings",
    "EmbeddingSpace": "settings",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'vlv.decoders' has no attribute {name!r}")
    return getattr(import_module(f"vlv.decoders.{_PLACES.get(name, 'interface')}"), name)
