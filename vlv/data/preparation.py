"""A raw sample becomes pixels and token ids, and samples become a batch; decoding and both resizes happen here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypedDict

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from vlv.batch import Batch, PairBatch
from vlv.data.bad_samples import reason_of
from vlv.data.captions import CaptionTokenizer, pad_captions
from vlv.data.formats import DecodeSettings
from vlv.data.sample import BadSample, Caption, LatentImage, RawSample, caption_at
from vlv.data.transforms import DECODE_ERRORS, damage, decode_image, is_truncated, upright_size


class ImageProcessor(Protocol):
    """Turns an image into the two uint8 pixel tensors, `decoder_pixels` [3, R, R] and `encoder_pixels` [3, E, E].

    `crop`, int64 [4]: height and width of the image, and the crop's top and left in the resized one.
    """

    decoder_resolution: int
    encoder_resolution: int
    encoder_view_from_original: bool

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """Return decoder_pixels, encoder_pixels and crop."""
        ...


class PreparedSample(TypedDict):
    """One row of a batch; the fields are those of `Batch`, and token ids, none where captions are not read."""

    decoder_pixels: Tensor
    encoder_pixels: Tensor
    crop: Tensor
    weight: float
    position: int
    name: str
    error: str | None
    truncated: bool
    source: int
    caption_ids: list[int]


class SamplePreparation:
    """Prepares samples in the loader's workers; one that cannot be used keeps its place with weight 0."""

    def __init__(
        self,
        image_processor: ImageProcessor,
        caption_tokenizer: CaptionTokenizer | None = None,
        decoding: DecodeSettings | None = None,
    ) -> None:
        """Hold the processor, and the tokenizer where captions are read."""
        self.image_processor = image_processor
        self.caption_tokenizer = caption_tokenizer
        self.decoding = decoding or DecodeSettings()
        sides = (image_processor.decoder_resolution, image_processor.encoder_resolution)
        self._least_side = max(sides) if image_processor.encoder_view_from_original else sides[0]

    def __call__(
        self, position: int, name: str, read: Callable[[], RawSample], epoch: int | None = None
    ) -> PreparedSample:
        """Read and prepare one sample; whatever goes wrong with it gives an empty one with the reason in `error`.

        `epoch` decides among several captions (`caption_at`). Only a lack of memory, and remote data that cannot be
        had, are raised: they say nothing about the sample.
        """
        try:
            sample = read()
            latents = sample.image if isinstance(sample.image, LatentImage) else None
            image = decode_image(sample.image, self.decoding, self._least_side)
            pixels = self._process(image)
            caption_ids = self._tokenize(sample.caption, name, epoch)
        except Exception as error:  # noqa: BLE001  (what is no matter of the sample is raised again)
            return self.empty(position, name, reason_of(error))
        return PreparedSample(
            decoder_pixels=pixels["decoder_pixels"] if latents is None else torch.tensor(latents.moments),
            encoder_pixels=pixels["encoder_pixels"],
            crop=pixels["crop"] if latents is None else torch.tensor(latents.crop),
            weight=1.0,
            position=position,
            name=name,
            error=None,
            truncated=is_truncated(image),
            source=0,
            caption_ids=caption_ids,
        )

    def empty(self, position: int, name: str, error: str | None) -> PreparedSample:
        """Stand in for a sample that cannot be used, or for padding: zero pixels, weight 0.

        It takes its place so that batches keep their shape and every position its noise: a run reads the same
        numbers whether or not a file in it is damaged. The loss leaves it out by its weight.
        """
        decoder_side, encoder_side = self.image_processor.decoder_resolution, self.image_processor.encoder_resolution
        return PreparedSample(
            decoder_pixels=torch.zeros(3, decoder_side, decoder_side, dtype=torch.uint8),
            encoder_pixels=torch.zeros(3, encoder_side, encoder_side, dtype=torch.uint8),
            crop=torch.tensor([decoder_side, decoder_side, 0, 0]),
            weight=0.0,
            position=position,
            name=name,
            error=error,
            truncated=False,
            source=0,
            caption_ids=[],
        )

    def collate(self, samples: list[PreparedSample]) -> Batch | PairBatch:
        """Stack B samples, and pad their captions where captions are read."""
        batch = Batch(
            # Not torch.stack: in a worker this stacks in shared memory, without a copy, and without the holes in the
            # heap that such copies leave, by which a worker grew with every batch.
            encoder_pixels=default_collate([sample["encoder_pixels"] for sample in samples]),
            decoder_pixels=default_collate([sample["decoder_pixels"] for sample in samples]),
            crops=default_collate([sample["crop"] for sample in samples]),
            weights=torch.tensor([sample["weight"] for sample in samples], dtype=torch.float32),
            positions=[sample["position"] for sample in samples],
            names=[sample["name"] for sample in samples],
            errors=[sample["error"] for sample in samples],
            truncated=[sample["truncated"] for sample in samples],
            sources=torch.tensor([sample["source"] for sample in samples]),
        )
        if self.caption_tokenizer is None:
            return batch
        captions = pad_captions([sample["caption_ids"] for sample in samples], self.caption_tokenizer.pad_token_id)
        return PairBatch(**batch, **captions)

    def _process(self, image: Image.Image) -> dict[str, Tensor]:
        try:
            pixels = self.image_processor(image)
            if self.decoding.reduced_jpeg:
                pixels["crop"][:2] = torch.tensor(upright_size(image)[::-1])  # the image's, not its reduced copy's
            return pixels
        except DECODE_ERRORS as error:  # Pillow decodes lazily: some damage shows in the first resize alone
            raise BadSample(damage(error)) from None

    def _tokenize(self, caption: Caption | None, name: str, epoch: int | None) -> list[int]:
        if self.caption_tokenizer is None:
            return []
        if caption is None:
            raise BadSample("it has no caption")
        return self.caption_tokenizer(caption_at(caption, name, epoch))
