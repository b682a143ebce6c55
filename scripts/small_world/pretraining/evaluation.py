"""How good the parts of the family are, each on scenes that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from scripts.small_world.pretraining.objectives import CLASSES
from scripts.small_world.pretraining.samples import Sample, clip_ids, collate, to_pixels
from vlv.decoders.interface import Conditioning, DiffusionDecoder
from vlv.models.image_processor import to_images
from vlv.sampling import sample_generators
from vlv.shapes.describe import describe
from vlv.shapes.measures import SceneMeasures, measure_pictures
from vlv.shapes.render import render
from vlv.shapes.scene import Scene, Split, make_scene


def vae_round_trip(vae: Any, split: Split, count: int) -> dict[str, float]:
    """Measures of the pictures of a split's first scenes after the VAE's encoder and decoder, with their PSNR in dB."""
    scenes = [make_scene(split, number) for number in range(count)]
    decoded, psnr = through_vae(vae, [render(scene, number) for number, scene in enumerate(scenes)])
    return {**measure_pictures(decoded, scenes).to_dict(), "psnr_db": psnr}


@torch.no_grad()
def through_vae(vae: Any, pictures: Sequence[Image.Image]) -> tuple[list[Image.Image], float]:
    """Pictures after the VAE's encoder (mean) and decoder, and their mean PSNR in dB."""
    decoded, errors = [], []
    for start in range(0, len(pictures), 64):
        pixels = torch.stack([to_pixels(picture) for picture in pictures[start : start + 64]])
        latents = vae.encode(2 * pixels.float() / 255 - 1).latent_dist.mean
        back = ((vae.decode(latents).sample + 1) * 127.5).round().clamp(0, 255)
        errors.append(((back - pixels.float()) ** 2).mean((1, 2, 3)))
        decoded += to_images(back.byte())
    return decoded, (10 * torch.log10(255**2 / torch.cat(errors))).mean().item()


@torch.no_grad()
def read_out_accuracy(objective: Any, sample: Callable[[int], Sample], count: int) -> dict[str, float]:
    """Shares of places whose size, colour and shape are read right, of right backgrounds, and of faultless scenes."""
    batch = collate([{"numbers": number, **sample(number)} for number in range(count)])
    logits = objective.logits(batch)
    right = {name: logits[name].argmax(-1) == batch[name] for name in (*CLASSES, "background")}
    faultless = torch.stack([hits.reshape(count, -1).all(1) for hits in right.values()]).all(0)
    shares = {f"{name}_accuracy": hits.float().mean().item() for name, hits in right.items()}
    return {**shares, "faultless": faultless.float().mean().item()}


@torch.no_grad()
def mean_loss(objective: Any, sample: Callable[[int], Sample], count: int) -> dict[str, float]:
    """The objective's own loss."""
    batch = collate([{"numbers": number, **sample(number)} for number in range(count)])
    return {"loss": objective(batch)["loss"].item() / count}


@dataclass(frozen=True)
class SentencePictures:
    """What Stable Diffusion generates from true descriptions with DDIM; its noise depends on the scene's number."""

    decoder: DiffusionDecoder
    text_encoder: CLIPTextModel
    tokenizer: PreTrainedTokenizerBase
    guidance_scale: float
    num_inference_steps: int

    def measure(self, split: Split, count: int) -> SceneMeasures:
        """Measures of the pictures of a split's first scenes."""
        scenes = [make_scene(split, number) for number in range(count)]
        pictures: list[Image.Image] = []
        for start in range(0, count, 100):
            pictures += self.generate(scenes, range(start, min(count, start + 100)))
        return measure_pictures(pictures, scenes)

    @torch.no_grad()
    def generate(self, scenes: Sequence[Scene], numbers: range) -> list[Image.Image]:
        """Pictures of some of the scenes."""
        ids = torch.stack([clip_ids(self.tokenizer, describe(scenes[number], number)) for number in numbers])
        images = self.decoder.generate_images(
            Conditioning(self.text_encoder(input_ids=ids).last_hidden_state),
            guidance_scale=self.guidance_scale,
            num_inference_steps=self.num_inference_steps,
            generators=sample_generators(0, numbers),
            scheduler="ddim",
        )
        return to_images(images)
