"""Tiny components with random weights, in exactly the hub's layouts: for tests and dry runs."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CLIPTextConfig,
    CLIPTextModel,
    Florence2Config,
    Florence2ForConditionalGeneration,
    GenerationConfig,
    Qwen2Config,
)

from vlv.checkpoints.identity import JsonObject
from vlv.encoders.florence2_layout import original_config, original_weights
from vlv.testing.tokenizers import special_id, train_clip_tokenizer, train_florence2_tokenizer, train_qwen_tokenizer

FLORENCE2, QWEN = "florence2", "qwen"
_WIDTH = 64
# As many blocks as the real one, so that its latents are an eighth of the image's side too.
VAE: JsonObject = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 64,
    "scaling_factor": 0.18215,
}
_UNET: JsonObject = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": _WIDTH,
    "attention_head_dim": (2, 4),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "use_linear_projection": True,
}
SENTENCES = (
    "A red house with a white door stands in a green meadow under a clear blue sky.",
    "Two small boats with yellow sails lie on a calm lake, and dark mountains rise behind them.",
    "A bowl of fruit on a wooden table holds three apples, a pear and a bunch of purple grapes.",
    "Snow covers the roofs of a village at night, and warm light shines from every window.",
    "Describe with a paragraph what is shown in the image.",  # the task prompt, so that the tokenizer knows its words
)


def write_stable_diffusion(
    folder: Path, sentences: list[str], prediction_type: str = "epsilon", first: bool = False
) -> dict[str, int]:
    """A diffusers folder of Stable Diffusion 2.x's shape for 64 px; returns parameters by component.

    Args:
        first: of 1.5's shape: one number of heads for all blocks, projections by convolution, and the scheduler that
            the hub names for generation, whose config has no prediction type.
    """
    tokenizer = train_clip_tokenizer(sentences, vocab_size=1000)
    text_encoder = CLIPTextModel._from_config(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_WIDTH,
            intermediate_size=2 * _WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=_WIDTH,
            bos_token_id=special_id(tokenizer.bos_token_id),
            eos_token_id=special_id(tokenizer.eos_token_id),
            pad_token_id=special_id(tokenizer.pad_token_id),
        )
    )
    vae = AutoencoderKL(**VAE)
    unet = UNet2DConditionModel(
        **{**_UNET, **({"use_linear_projection": False, "attention_head_dim": 4} if first else {})}
    )
    noise: JsonObject = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if first:
        scheduler = PNDMScheduler(**noise, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
        scheduler.register_to_config(clip_sample=False)  # another scheduler's, in the hub's file too
    else:
        noise["prediction_type"] = prediction_type
        # What the pipeline's constructor sets anyway; by itself this scheduler would clip latents to [-1, 1].
        scheduler = DDPMScheduler(**noise, clip_sample=False, steps_offset=1)
    folder.mkdir(parents=True, exist_ok=True)
    parts: JsonObject = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    tokenizer.save_pretrained(folder / "tokenizer")
    name_tokenizer_class(folder / "tokenizer", "CLIPTokenizer")
    scheduler.save_pretrained(folder / "scheduler")
    write_model_index(folder, type(scheduler).__name__)
    return {name: _count(part) for name, part in parts.items()}


def write_florence2(folder: Path, sentences: list[str], layout: str = "native") -> dict[str, int]:
    """A Florence-2 folder for 128 px (17 image tokens), in the native or in the original layout."""
    tokenizer = train_florence2_tokenizer(sentences, vocab_size=1000)
    text: JsonObject = {
        "model_type": "bart",
        "vocab_size": len(tokenizer) + 1,  # a last row for the image token, which the tokenizer lacks
        "d_model": _WIDTH,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 2 * _WIDTH,
        "decoder_ffn_dim": 2 * _WIDTH,
        "max_position_embeddings": 256,
        # The real shares: that frozen parts stay in eval mode shows only where there is dropout.
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
        "tie_word_embeddings": True,
    }
    vision = {
        "embed_dim": [16, 32, 64, _WIDTH],
        "depths": [1, 1, 2, 1],
        "num_heads": [2, 2, 4, 4],
        "num_groups": [2, 2, 4, 4],
        "projection_dim": _WIDTH,
    }
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=len(tokenizer))
    folder.mkdir(parents=True, exist_ok=True)
    model = Florence2ForConditionalGeneration._from_config(config)
    if layout == "original":
        weights = original_weights({name.removeprefix("model."): v for name, v in model.state_dict().items()})
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(original_config(config), indent=2) + "\n")
    else:
        model.save_pretrained(folder)
    GenerationConfig(bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    name_tokenizer_class(folder, "BartTokenizer")
    write_preprocessor(folder, 128)
    return {"florence2": _count(model)}


def write_qwen(folder: Path, sentences: list[str]) -> dict[str, int]:
    """A Qwen2 folder: 3 layers of 128, tied embeddings."""
    tokenizer = train_qwen_tokenizer(sentences, vocab_size=1000)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=special_id(tokenizer.eos_token_id),
        eos_token_id=special_id(tokenizer.eos_token_id),
        pad_token_id=special_id(tokenizer.pad_token_id),
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    name_tokenizer_class(folder, "Qwen2Tokenizer")
    return {"qwen": _count(model)}


def write_model_index(folder: Path, scheduler: str = "DDPMScheduler") -> None:
    """Write model_index.json of a Stable Diffusion pipeline without safety checker."""
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


def name_tokenizer_class(folder: Path, name: str) -> None:
    """Write the class that the hub's folders name, so that loading takes the same path as theirs."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = name
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def write_preprocessor(folder: Path, resolution: int) -> None:
    size = {"height": resolution, "width": resolution}
    values = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "do_center_crop": False,
        "size": size,
        "crop_size": size,
        "resample": 3,  # bicubic
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(values, indent=2) + "\n")


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
