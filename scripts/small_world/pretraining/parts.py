"""The parts of the family: each built with what it is trained on, and written where its folder has it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModel, Florence2ForConditionalGeneration

from scripts.small_world.pretraining import architecture, evaluation, objectives, samples
from vlv.checkpoints.pretrained import load_language_model
from vlv.decoders import DecoderSettings, build_decoder
from vlv.shapes.render import RESOLUTION
from vlv.shapes.scene import GRID
from vlv.training.precision import fastest_precision


@dataclass(frozen=True)
class Part:
    """One part in training.

    objective: what is trained. sample: scene number -> training sample. save: writes the finished part.
    evaluate: measures on scenes of the val split.
    """

    objective: nn.Module
    sample: Callable[[int], dict[str, Any]]
    save: Callable[[], None]
    evaluate: Callable[[], dict[str, float]]


def build(name: str, out: Path, work: Path, seed: int, latent_scenes: int) -> Part:
    """One part of the family, ready to be trained.

    Args:
        out: the family's folder; parts that this one stands on are read from there.
        work: where cached latents go.
        latent_scenes: how many training scenes the UNet's latents are cached for.
    """
    sd, florence2 = out / "stable-diffusion", out / "florence2"
    save = architecture.save_component
    if name == "vae":
        return _vae(architecture.build_vae(), sd / "vae")
    if name == "text_encoder":
        tokenizer = _tokenizer(sd / "tokenizer")
        encoder = architecture.build_text_encoder(tokenizer)
        objective, val = objectives.TextReadOut(encoder), samples.TextSamples(tokenizer, "val")
        read = partial(evaluation.read_out_accuracy, objective, val, 500)
        return Part(objective, samples.TextSamples(tokenizer), lambda: save(encoder, sd / "text_encoder"), read)
    if name == "tower":
        model = architecture.build_florence2(_tokenizer(florence2))
        objective, val = objectives.TowerReadOut(model), partial(samples.tower_sample, split="val")
        read = partial(evaluation.read_out_accuracy, objective, val, 500)
        return Part(objective, partial(samples.tower_sample, most=GRID**2), lambda: save(model, florence2), read)
    if name == "florence2":
        tokenizer = _tokenizer(florence2)
        model = Florence2ForConditionalGeneration.from_pretrained(florence2, dtype=torch.float32)
        objective = objectives.TaskObjective(model, train_tower=False)
        loss = partial(evaluation.mean_loss, objective, samples.TaskSamples(tokenizer, "val"), 500)
        return Part(objective, samples.TaskSamples(tokenizer), lambda: save(model, florence2), loss)
    if name == "own_tasks":  # to compare with: no read-out head, the tower learns from the tasks too
        tokenizer = _tokenizer(florence2)
        model, folder = architecture.build_florence2(tokenizer), work / name / "florence2"
        objective = objectives.TaskObjective(model, train_tower=True)
        loss = partial(evaluation.mean_loss, objective, samples.TaskSamples(tokenizer, "val"), 500)

        def save_whole() -> None:
            ignored = shutil.ignore_patterns("*.safetensors")
            shutil.copytree(florence2, folder, ignore=ignored, dirs_exist_ok=True)
            save(model, folder)

        return Part(objective, samples.TaskSamples(tokenizer), save_whole, loss)
    if name in ("qwen", "qwen_refine"):
        tokenizer = _tokenizer(out / "qwen")
        begun = name == "qwen_refine"
        llm = load_language_model(out / "qwen", torch.float32) if begun else architecture.build_qwen(tokenizer)
        objective = objectives.LanguageObjective(llm)
        loss = partial(evaluation.mean_loss, objective, samples.DocumentSamples(tokenizer, "val"), 500)
        return Part(objective, samples.DocumentSamples(tokenizer), lambda: save(llm, out / "qwen"), loss)
    latents = cache_latents(sd / "vae", work / "latents.safetensors", latent_scenes)
    if name == "unet":
        return _unet(architecture.build_unet(), sd, latents, seed)
    unet: Any = UNet2DConditionModel.from_pretrained(sd / "unet", torch_dtype=torch.float32)
    assert name in ("unet_finish", "unet_longer"), name
    again = 3 if name == "unet_finish" else 4
    return _unet(unet, sd, latents, seed + again, late_share=0.3, drift_share=0.5, foreground_weight=4.0)


def _vae(vae: Any, folder: Path) -> Part:
    measure = partial(evaluation.vae_round_trip, vae, "val", 200)
    return Part(objectives.AutoencoderObjective(vae), samples.crowded_sample, lambda: save_vae(vae, folder), measure)


def _unet(unet: Any, folder: Path, latents: Path, seed: int, **shares: float) -> Part:
    tokenizer = _tokenizer(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=torch.float32)
    architecture.save_component(unet, folder / "unet")  # so that the folder is whole while the UNet trains
    decoder: Any = build_decoder(folder, DecoderSettings(resolution=RESOLUTION))

    pictures = evaluation.SentencePictures(decoder, encoder, tokenizer, guidance_scale=1.5, num_inference_steps=25)

    def measure() -> dict[str, float]:
        decoder.unet.load_state_dict(unet.state_dict())
        return pictures.measure("val", 100).to_dict()

    return Part(
        objectives.TextToImageObjective(unet, encoder, architecture.build_scheduler(), seed, **shares),
        samples.LatentSamples(tokenizer, latents),
        lambda: architecture.save_component(unet, folder / "unet"),
        measure,
    )


def _tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def save_vae(vae: Any, folder: Path, count: int = 1024) -> None:
    """Write the VAE, its latents brought to zero mean and unit variance over training scenes, channel by channel.

    Channels differ tenfold in spread, and what a shape is lies in the narrow ones too; a denoiser, whose error is
    a mean over channels, would learn those last. The variance is that of samples, not of the posterior's mean:
    a channel that the VAE leaves unused is noise alone, and must not be blown up. The scale is moved into the two
    1x1 convolutions around the latents, which leaves the round trip as it was.
    """
    vae.eval()
    posteriors = [_encode(vae, range(start, start + 64)) for start in range(0, count, 64)]
    means = torch.cat([posterior.mean for posterior in posteriors])  # [count, C, h, w]
    noise = torch.cat([posterior.var for posterior in posteriors]).mean((0, 2, 3))  # [C]
    centre, spread = means.mean((0, 2, 3)), (means.var((0, 2, 3)) + noise).sqrt()  # [C]
    channels = len(centre)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= spread[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - centre) / spread
    into.bias[channels:] -= 2 * spread.log()  # log variance
    out.bias += (out.weight * centre[None, :, None, None]).sum((1, 2, 3))
    out.weight *= spread[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)
    architecture.save_component(vae, folder)


@torch.no_grad()
def cache_latents(folder: Path, path: Path, count: int) -> Path:
    """Scaled latents of the first pictures, fp16 [count, C, h, w]; made once.

    mean, std: of the posterior. recolored: the mean of the same picture in other colours.
    """
    if path.is_file():
        return path
    vae: Any = AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32)
    found: dict[str, list[Tensor]] = {"mean": [], "std": [], "recolored": []}
    for start in range(0, count, 64):
        numbers = range(start, min(count, start + 64))
        posterior, other = _encode(vae.eval(), numbers), _encode(vae, numbers, recolored=True)
        for name, value in (("mean", posterior.mean), ("std", posterior.std), ("recolored", other.mean)):
            found[name].append((value * vae.config.scaling_factor).half())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.cat(values) for name, values in found.items()}, path)
    return path


def _encode(vae: Any, numbers: range, recolored: bool = False) -> Any:
    pictures = [samples.to_pixels(samples.latent_picture(number, recolored)) for number in numbers]
    with torch.autocast("cpu", torch.bfloat16, enabled=fastest_precision() == "bf16"):
        return vae.encode(2 * torch.stack(pictures).float() / 255 - 1).latent_dist
