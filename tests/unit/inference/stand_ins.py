"""Small stand-ins for the models, and folders of small images, some of them broken."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from vlv.models.image_processor import VLVImageProcessor

SIDE = 16


class FakeCaptioner:
    """Captions an image by its mean colour; counts what it is asked and may stop after some batches."""

    def __init__(self, stop_after=None):
        self.image_processor = VLVImageProcessor(SIDE, SIDE)
        self.captioned = 0
        self.stop_after = stop_after

    def caption_pixels(self, encoder_pixels, num_beams, max_new_tokens, end_at_sentence):
        if self.stop_after is not None and self.captioned >= self.stop_after:
            raise KeyboardInterrupt
        self.captioned += len(encoder_pixels)
        return [f"colour {[round(float(c)) for c in image.float().mean((1, 2))]} é" for image in encoder_pixels]

    def sample_pixels(self, encoder_pixels, seeds, temperature, max_new_tokens, end_at_sentence):
        said = self.caption_pixels(encoder_pixels, 1, max_new_tokens, end_at_sentence)
        return [[f"{text} {seed}" for seed in own] for text, own in zip(said, seeds, strict=True)]


class FakeGenerator:
    """Reconstructs an image darker, plus noise from its generator."""

    def __init__(self):
        self.image_processor = VLVImageProcessor(SIDE, 2 * SIDE)
        self.generated = 0
        self.encoder = self

    def reconstruct_pixels(self, encoder_pixels, *, guidance_scale, num_inference_steps, generators, scheduler):
        self.generated += len(encoder_pixels)
        noise = [torch.randint(0, 50, (3, SIDE, SIDE), generator=generator) for generator in generators]
        small = torch.nn.functional.avg_pool2d(encoder_pixels.float(), 2)
        return (small * 0.8 + torch.stack(noise)).to(torch.uint8)

    def vision_features(self, encoder_pixels):
        pooled = torch.nn.functional.adaptive_avg_pool2d(encoder_pixels.float() / 255, 2)
        return pooled.flatten(1)  # [B, 12]


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 255, (2, 2, 3), dtype=np.uint8)
    Image.fromarray(colours).resize((24, 20)).save(path)


def break_images(folder):
    """Add unreadable files of three kinds; returns their names."""
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    whole = (folder / "b.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    return {"empty.jpg", "text.jpg", "cut.png"}
