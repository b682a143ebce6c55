"""The one pixel path: a PIL image becomes the decoder's pixels and the encoder's pixels.

The loader's workers and the Python API both call it. Both outputs stay uint8: the crossing from
worker to device is a quarter of the size, and the encoder normalises on its device, bit-exact.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from transformers.image_processing_base import ImageProcessingMixin

from vlv.checkpoints.identity import CheckpointError, read_json
from vlv.colour import to_rgb

CONFIG_NAME = "preprocessor_config.json"
# Of a longer strip the middle alone is resized: 1 x 20,000 pixels would become 384 x 7,680,000.
_LONGEST_RATIO = 64

ImageInput: TypeAlias = "Image.Image | str | os.PathLike[str]"


class ImageProcessorSettings(TypedDict):
    """See `VLVImageProcessor`."""

    decoder_resolution: int
    encoder_resolution: int
    encoder_view_from_original: bool


class VLVImageProcessor(ImageProcessingMixin):
    """Short side to `decoder_resolution`, centre crop; that crop, resized again, is the encoder's view.

    The first resize is bilinear with antialiasing, the second bicubic, both by Pillow on uint8, as in
    the published preprocessing.
    """

    def __init__(
        self, decoder_resolution: int, encoder_resolution: int, encoder_view_from_original: bool = False
    ) -> None:
        """Hold the sizes.

        Args:
            encoder_view_from_original: take the encoder's view from the original image instead of from the
                decoder's small crop, where it has more to see. Not the published preprocessing.
        """
        super().__init__()
        self.decoder_resolution = decoder_resolution
        self.encoder_resolution = encoder_resolution
        self.encoder_view_from_original = encoder_view_from_original

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """Turn one image into `decoder_pixels` uint8 [3, R, R] and `encoder_pixels` uint8 [3, E, E].

        `crop`, int64 [4], is where the decoder's pixels come from: height and width of the image, and the crop's
        top and left in the resized one. SDXL is conditioned on it.
        """
        image = to_rgb(image)
        resized = self._resize(image)
        left, top = _middle_corner(resized, self.decoder_resolution, self.decoder_resolution)
        crop = _middle(resized, self.decoder_resolution, self.decoder_resolution)
        size = (self.encoder_resolution, self.encoder_resolution)
        if self.encoder_view_from_original:
            side = min(image.size)
            view = _middle(image, side, side).resize(size, Image.Resampling.BICUBIC)
        else:
            view = crop if crop.size == size else crop.resize(size, Image.Resampling.BICUBIC)
        place = torch.tensor([image.height, image.width, top, left])
        return {"decoder_pixels": _to_tensor(crop), "encoder_pixels": _to_tensor(view), "crop": place}

    def of_loader(self, view_on_device: bool) -> VLVImageProcessor:
        """The processor that loader workers call: this one, or one that leaves the encoder's view to `encoder_view`.

        Raises:
            ValueError: the view is to be made on the device, but is taken from the original image.
        """
        if not view_on_device:
            return self
        if self.encoder_view_from_original:
            raise ValueError("encoder_view=device: this model's view is of the original image: set encoder_view=loader")
        return VLVImageProcessor(self.decoder_resolution, self.decoder_resolution)

    def encoder_view(self, pixels: Tensor) -> Tensor:
        """The encoder's pixels, uint8 [B, 3, E, E], of the decoder's [B, 3, R, R]; the encoder's own stay.

        Torch's bicubic resize with antialiasing instead of Pillow's, rounded to whole numbers after each direction as
        Pillow rounds: on the CPU at most 2 of 1,000 values of a photo are not Pillow's own, and those are off by 1.
        """
        side = self.encoder_resolution
        if pixels.shape[-1] == side:
            return pixels
        view = pixels.float()
        for size in ((pixels.shape[-2], side), (side, side)):
            view = F.interpolate(view, size, mode="bicubic", antialias=True).add(0.5).floor().clamp(0, 255)
        return view.to(torch.uint8)

    def batch(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Stack several images: `decoder_pixels` uint8 [B, 3, R, R] and `encoder_pixels` uint8 [B, 3, E, E]."""
        made = [self(image) for image in images]
        return {key: torch.stack([item[key] for item in made]) for key in ("decoder_pixels", "encoder_pixels")}

    def batches(self, images: Sequence[ImageInput], batch_size: int) -> Iterator[dict[str, Tensor]]:
        """The batches of any number of images, made as they are asked for.

        Args:
            images: PIL images and paths of image files; a file is opened when its batch is made.

        Raises:
            ValueError: a single image or path, something that is neither, a batch size below 1, or, when its batch is
                made, a file that cannot be read.
        """
        if isinstance(images, (str, os.PathLike, Image.Image)):
            raise ValueError(f"one image was given ({_described(images)}) where a list is wanted: give [image]")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} cannot be used: give at least 1")
        for place, image in enumerate(images):
            if not isinstance(image, (str, os.PathLike, Image.Image)):
                raise ValueError(
                    f"images[{place}] is of type {type(image).__name__}: give a PIL image, or the path of an image file"
                )
        starts = range(0, len(images), batch_size)
        # An expression, no `yield`: what is wrong with the call is then raised by the call, not by its first batch.
        return (self.batch([open_image(image) for image in images[start : start + batch_size]]) for start in starts)

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the RGB square of `decoder_resolution` pixels that the decoder is shown."""
        return _middle(self._resize(to_rgb(image)), self.decoder_resolution, self.decoder_resolution)

    def _resize(self, image: Image.Image) -> Image.Image:
        """The RGB image with its short side at `decoder_resolution`."""
        longest = _LONGEST_RATIO * min(image.size)
        if max(image.size) > longest:
            image = _middle(image, min(image.width, longest), min(image.height, longest))
        size = self.decoder_resolution
        width, height = image.size
        if width <= height:
            # Cut off, not rounded, and the crop's corner rounded: as torchvision's Resize and CenterCrop do.
            resized = (size, max(size, int(size * height / width)))
        else:
            resized = (max(size, int(size * width / height)), size)
        return image if resized == image.size else image.resize(resized, Image.Resampling.BILINEAR)

    def save_pretrained(self, folder: str | Path) -> None:  # type: ignore[override]
        """Write preprocessor_config.json into `folder`."""
        values = {"image_processor_type": type(self).__name__, **self.to_dict()}
        (Path(folder) / CONFIG_NAME).write_text(json.dumps(values, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VLVImageProcessor:  # type: ignore[override]
        """Read preprocessor_config.json from `folder`.

        Raises:
            CheckpointError: the file is missing, broken, or another model's.
        """
        path = Path(folder) / CONFIG_NAME
        values = read_json(path)
        if values.get("image_processor_type") != cls.__name__:
            raise CheckpointError(f"{path} is for {values.get('image_processor_type')}, not for {cls.__name__}")
        for key in ("decoder_resolution", "encoder_resolution"):
            if not isinstance(values.get(key), int):
                raise CheckpointError(f"{path} gives no {key}: the checkpoint is not complete")
        return cls(**{key: values[key] for key in cls(1, 1).to_dict() if key in values})

    def to_dict(self) -> ImageProcessorSettings:  # type: ignore[override]
        """Return the settings as they are saved."""
        return {
            "decoder_resolution": self.decoder_resolution,
            "encoder_resolution": self.encoder_resolution,
            "encoder_view_from_original": self.encoder_view_from_original,
        }


def open_image(image: ImageInput) -> Image.Image:
    """The image itself, or the one in a file, decoded whole.

    Raises:
        ValueError: no file there, or none that can be decoded; names it.
    """
    if isinstance(image, Image.Image):
        return image
    try:
        with Image.open(image) as opened:
            opened.load()
            return opened
    except FileNotFoundError:
        raise ValueError(f"image {_described(image)} is not there: give the path of an image file") from None
    except UnidentifiedImageError:
        raise ValueError(f"image {_described(image)} cannot be read: it is no image file that Pillow knows") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {_described(image)} cannot be read: {error}") from None


def _described(image: ImageInput) -> str:
    return type(image).__name__ if isinstance(image, Image.Image) else repr(os.fspath(image))


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = _middle_corner(image, width, height)
    return image.crop((left, top, left + width, top + height))


def _middle_corner(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Left and top of the middle part of this size."""
    return round((image.width - width) / 2), round((image.height - height) / 2)


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def to_images(pixels: Tensor) -> list[Image.Image]:
    """RGB images of uint8 pixels [B, 3, R, R] on any device."""
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy()) for picture in pixels]
