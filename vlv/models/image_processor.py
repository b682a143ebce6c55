"""The one pixel path: a PIL image becomes the decoder's pixels and the encoder's pixels.

The loader's workers and the Python API both call it. Both outputs stay uint8: the crossing from
worker to device is a quarter of the size, and the encoder normalises on its device, to the same bits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from vlv.checkpoints.identity import CheckpointError, read_json

CONFIG_NAME = "preprocessor_config.json"
# Of a longer strip the middle alone is resized: 1 x 20,000 pixels would become 384 x 7,680,000.
_LONGEST_RATIO = 64


class VLVImageProcessor:
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
        self.decoder_resolution = decoder_resolution
        self.encoder_resolution = encoder_resolution
        self.encoder_view_from_original = encoder_view_from_original

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """Turn one image into `decoder_pixels` uint8 [3, R, R] and `encoder_pixels` uint8 [3, E, E].

        `crop`, int64 [4], says where the decoder's pixels come from: height and width of the image, and the crop's
        top and left in the resized one. Some decoders are told of it.
        """
        image = self.to_rgb(image)
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

    def batch(self, images: list[Image.Image]) -> dict[str, Tensor]:
        """Stack several images: uint8 [B, 3, R, R] and uint8 [B, 3, E, E]."""
        made = [self(image) for image in images]
        return {key: torch.stack([item[key] for item in made]) for key in ("decoder_pixels", "encoder_pixels")}

    def batches(self, images: Sequence[Image.Image], batch_size: int) -> Iterator[dict[str, Tensor]]:
        """The batches of any number of images, made as they are asked for.

        Raises:
            ValueError: a single image, or a batch size below 1.
        """
        if isinstance(images, Image.Image):
            raise ValueError("one image was given where a list is wanted: [image]")
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size} cannot be used: give at least 1")
        starts = range(0, len(images), batch_size)
        return (self.batch(list(images[start : start + batch_size])) for start in starts)

    def crop(self, image: Image.Image) -> Image.Image:
        """Return the RGB square of `decoder_resolution` pixels that the decoder is shown."""
        return _middle(self._resize(self.to_rgb(image)), self.decoder_resolution, self.decoder_resolution)

    def _resize(self, image: Image.Image) -> Image.Image:
        """The RGB image with its short side at `decoder_resolution`."""
        longest = _LONGEST_RATIO * min(image.size)
        if max(image.size) > longest:
            image = _middle(image, min(image.width, longest), min(image.height, longest))
        size = self.decoder_resolution
        width, height = image.size
        if width <= height:
            resized = (size, max(size, int(size * height / width)))
        else:
            resized = (max(size, int(size * width / height)), size)
        return image if resized == image.size else image.resize(resized, Image.Resampling.BILINEAR)

    @staticmethod
    def to_rgb(image: Image.Image) -> Image.Image:
        """Apply the EXIF orientation and convert any mode to RGB: alpha over white, 16 bit to 8 bit."""
        image = ImageOps.exif_transpose(image)
        if image.mode == "RGB":
            return image
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            full_range = 65535.0 if image.mode.startswith("I;16") else None
            return Image.fromarray(_to_8_bit(np.asarray(image), full_range)).convert("RGB")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image.convert("RGB")

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preprocessor_config.json into `folder`."""
        values = {"image_processor_type": type(self).__name__, **self.to_dict()}
        (Path(folder) / CONFIG_NAME).write_text(json.dumps(values, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> VLVImageProcessor:
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

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as they are saved."""
        return {
            "decoder_resolution": self.decoder_resolution,
            "encoder_resolution": self.encoder_resolution,
            "encoder_view_from_original": self.encoder_view_from_original,
        }


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = _middle_corner(image, width, height)
    return image.crop((left, top, left + width, top + height))


def _middle_corner(image: Image.Image, width: int, height: int) -> tuple[int, int]:
    """Left and top of the middle part of this size."""
    return round((image.width - width) / 2), round((image.height - height) / 2)


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _to_8_bit(values: np.ndarray, full_range: float | None) -> np.ndarray:
    """Scale a grey image to 8 bits; without a range (32 bit, float) the largest value tells it."""
    values = values.astype(np.float64)
    if full_range is None:
        top = float(values.max(initial=0))
        full_range = next((limit for limit in (1.0, 255.0, 65535.0) if top <= limit), top)
    return np.clip(np.rint(values * (255 / full_range)), 0, 255).astype(np.uint8)


def to_images(pixels: Tensor) -> list[Image.Image]:
    """RGB images of uint8 pixels [B, 3, R, R] on any device."""
    return [Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy()) for picture in pixels]
