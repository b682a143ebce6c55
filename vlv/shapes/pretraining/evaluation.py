"""How good the parts of the family are, each on scenes that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextModel

from vlv.models.decoders import load_decoder
from vlv.models.decoders.interface import Conditioning, DiffusionDecoder
from vlv.sampling import sample_generators
from vlv.shapes.describe import describe
from vlv.shapes.measures import SceneMeasures, measure_pictures
from vlv.shapes.pretraining.samples import clip_ids, to_pixels
from vlv.shapes.render import RESOLUTION, render
from vlv.shapes.scene import Split, make_scene


@torch.no_grad()
def vae_round_trip(folder: Path, split: Split, count: int) -> dict[str, float]:
    """Measures of pictures after the VAE's encoder (mean) and decoder, with their PSNR in dB."""
    from diffusers import AutoencoderKL

    vae: Any = AutoencoderKL.from_pretrained(folder, subfolder="vae", torch_dtype=torch.float32)
    scenes = [make_scene(split, number) for number in range(count)]
    pictures, errors = [], []
    for start in range(0, count, 64):
        numbers = range(start, min(count, start + 64))
        pixels = torch.stack([to_pixels(render(scenes[number], number)) for number in numbers])
        latents = vae.encode(2 * pixels.float() / 255 - 1).latent_dist.mean
        back = ((vae.decode(latents).sample + 1) * 127.5).round().clamp(0, 255)
        errors.append(((back - pixels.float()) ** 2).mean((1, 2, 3)))
        pictures += to_pictures(back.byte())
    psnr = (10 * torch.log10(255**2 / torch.cat(errors))).mean().item()
    return {**measure_pictures(pictures, scenes).to_dict(), "psnr_db": psnr}


@torch.no_grad()
def drawn_from_sentences(
    folder: Path, split: Split, count: int, guidance_scale: float, num_inference_steps: int, scheduler: str
) -> tuple[SceneMeasures, list[Image.Image]]:
    """Measures of what Stable Diffusion draws from the true descriptions, and the pictures."""
    decoder = load_decoder(folder, "text_encoder", RESOLUTION)
    text_encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    scenes = [make_scene(split, number) for number in range(count)]
    pictures: list[Image.Image] = []
    for start in range(0, count, 100):
        numbers = range(start, min(count, start + 100))
        ids = torch.stack([clip_ids(tokenizer, describe(scenes[number], number)) for number in numbers])
        states = text_encoder(input_ids=ids).last_hidden_state
        pictures += draw(decoder, states, numbers, guidance_scale, num_inference_steps, scheduler)
    return measure_pictures(pictures, scenes), pictures


def draw(
    decoder: DiffusionDecoder, states: Tensor, numbers: Sequence[int], guidance: float, steps: int, scheduler: str
) -> list[Image.Image]:
    """Pictures of states [B, L, D]; the noise of each depends on its scene's number."""
    images = decoder.draw_images(
        Conditioning(states),
        guidance_scale=guidance,
        num_inference_steps=steps,
        generators=sample_generators(0, numbers),
        scheduler=scheduler,
    )
    return to_pictures(images)


def to_pictures(pixels: Tensor) -> list[Image.Image]:
    """PIL pictures of uint8 pixels [B, 3, R, R]."""
    return [Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()) for picture in pixels]
