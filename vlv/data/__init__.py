"""The data: a source read by index, an order over it, and a loader. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlv.data.bad_samples import BadSampleLog, TooManyBadSamples
    from vlv.data.captions import CaptionTokenizer
    from vlv.data.dataset import OrderedDataset, build_loader
    from vlv.data.files import find_images, is_stream
    from vlv.data.folder import FolderSource
    from vlv.data.formats import SourceSettings
    from vlv.data.order import (
        BatchPlan,
        SampleOrder,
        largest_micro_batch,
        training_positions,
        validation_positions,
    )
    from vlv.data.preparation import SamplePreparation
    from vlv.data.sample import BadSample, RawSample, SampleSource
    from vlv.data.sources import open_source
    from vlv.data.streaming import StreamedDataset, StreamSettings, build_stream_loader
    from vlv.data.transforms import decode_image

__all__ = [
    "BadSample",
    "BadSampleLog",
    "BatchPlan",
    "CaptionTokenizer",
    "FolderSource",
    "OrderedDataset",
    "RawSample",
    "SampleOrder",
    "SamplePreparation",
    "SampleSource",
    "SourceSettings",
    "StreamSettings",
    "StreamedDataset",
    "TooManyBadSamples",
    "build_loader",
    "build_stream_loader",
    "decode_image",
    "find_images",
    "is_stream",
    "largest_micro_batch",
    "open_source",
    "training_positions",
    "validation_positions",
]

_HOMES = {
    "BadSample": "sample",
    "BadSampleLog": "bad_samples",
    "BatchPlan": "order",
    "CaptionTokenizer": "captions",
    "FolderSource": "folder",
    "OrderedDataset": "dataset",
    "RawSample": "sample",
    "SampleOrder": "order",
    "SamplePreparation": "preparation",
    "SampleSource": "sample",
    "SourceSettings": "formats",
    "StreamSettings": "streaming",
    "StreamedDataset": "streaming",
    "TooManyBadSamples": "bad_samples",
    "build_loader": "dataset",
    "build_stream_loader": "streaming",
    "decode_image": "transforms",
    "find_images": "files",
    "is_stream": "files",
    "largest_micro_batch": "order",
    "open_source": "sources",
    "training_positions": "order",
    "validation_positions": "order",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"vlv.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'vlv.data' has no attribute {name!r}")
