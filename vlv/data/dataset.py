"""Positions in the order become batches of pixels; decoding and both resizes happen here, in the workers."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vlv.data.captions import CaptionTokenizer, pad_captions
from vlv.data.order import SampleOrder
from vlv.data.sample import BadSample, RawSample, SampleSource
from vlv.data.transforms import DECODE_ERRORS, MAX_IMAGE_PIXELS, damage, decode_image

Batch = dict[str, Any]
_PIXELS = ("decoder_pixels", "encoder_pixels")


class SamplePreparation:
    """A raw sample becomes pixels and token ids; one that cannot be used keeps its place with weight 0."""

    def __init__(
        self,
        image_processor: Callable[[Image.Image], dict[str, Tensor]],
        caption_tokenizer: CaptionTokenizer | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        """Take the processor, which has `decoder_resolution` and `encoder_resolution`, and the tokenizer if any."""
        self.image_processor = image_processor
        self.caption_tokenizer = caption_tokenizer
        self.max_image_pixels = max_image_pixels

    def __call__(self, position: int, name: str, read: Callable[[], RawSample]) -> dict[str, Any]:
        """Read and prepare one sample; a BadSample gives a place of weight 0 with its reason in `error`."""
        try:
            sample = read()
            pixels = self._process(decode_image(sample.image, self.max_image_pixels))
            caption_ids = self._tokenize(sample.caption)
        except BadSample as reason:
            return self.empty(position, name, str(reason))
        place = {"weight": 1.0, "position": position, "name": name, "error": None, "caption_ids": caption_ids}
        return {**{key: pixels[key] for key in (*_PIXELS, "crop")}, **place}

    def empty(self, position: int, name: str, error: str | None) -> dict[str, Any]:
        """A place without a sample: zero pixels, weight 0."""
        sides = [getattr(self.image_processor, key) for key in ("decoder_resolution", "encoder_resolution")]
        pixels = {key: torch.zeros(3, side, side, dtype=torch.uint8) for key, side in zip(_PIXELS, sides, strict=True)}
        place = {"weight": 0.0, "position": position, "name": name, "error": error, "caption_ids": []}
        return {**pixels, "crop": torch.tensor([sides[0], sides[0], 0, 0]), **place}

    def collate(self, places: list[dict[str, Any]]) -> Batch:
        """Stack B places: uint8 pixels [B, 3, side, side], crops [B, 4], float32 weights [B], padded captions."""
        batch: Batch = {key: torch.stack([place[key] for place in places]) for key in _PIXELS}
        batch["crops"] = torch.stack([place["crop"] for place in places])
        batch["weights"] = torch.tensor([place["weight"] for place in places], dtype=torch.float32)
        for plural, key in (("positions", "position"), ("names", "name"), ("errors", "error")):
            batch[plural] = [place[key] for place in places]
        if self.caption_tokenizer is not None:
            pad_token_id = self.caption_tokenizer.pad_token_id
            batch.update(pad_captions([place["caption_ids"] for place in places], pad_token_id))
        return batch

    def _process(self, image: Image.Image) -> dict[str, Tensor]:
        try:
            return self.image_processor(image)
        except DECODE_ERRORS as error:
            raise BadSample(damage(error)) from None

    def _tokenize(self, caption: str | None) -> list[int]:
        if self.caption_tokenizer is None:
            return []
        if caption is None:
            raise BadSample("it has no caption")
        return self.caption_tokenizer(caption)


class OrderedDataset(Dataset):
    """The samples of a source, by their position in the order."""

    def __init__(
        self,
        source: SampleSource,
        order: SampleOrder,
        image_processor: Callable[[Image.Image], dict[str, Tensor]],
        caption_tokenizer: CaptionTokenizer | None = None,
        num_samples: int | None = None,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        """Join source and order; positions from `num_samples` on are padding (None: the order is endless)."""
        self._source, self._order, self._num_samples = source, order, num_samples
        self._prepare = SamplePreparation(image_processor, caption_tokenizer, max_image_pixels)
        self.collate = self._prepare.collate

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return the place at `position`: pixels, weight, position, name, error, caption_ids."""
        if self._num_samples is not None and position >= self._num_samples:
            return self._prepare.empty(position, "", None)
        index = self._order[position]
        return self._prepare(position, self._source.name(index), lambda: self._source.read(index))


def build_loader(
    dataset: OrderedDataset, micro_batches: Iterable[list[int]], num_workers: int, pin_memory: bool
) -> DataLoader:
    """Load the given micro-batches of positions, in their order, with `num_workers` processes (0: in this one).

    Needs num_workers x 2 batches of shared memory. One pass; build another loader for another.
    """
    # Without it the tokenizers' library warns at each fork; a caption at a time gains nothing from its threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return DataLoader(
        dataset,
        batch_sampler=micro_batches,  # type: ignore[arg-type]  (any iterable of lists serves)
        collate_fn=dataset.collate,
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        multiprocessing_context="fork" if num_workers else None,  # so that workers share the index
    )


def start_worker(_: int) -> None:
    """Set up a loader worker: one thread, no parallel tokenizer, no remarks of Pillow's on odd metadata.

    Ctrl-C is for the main process to handle.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what cannot be decoded is told as a bad sample
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
