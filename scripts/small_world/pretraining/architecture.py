"""Shapes of the tiny family's parts, and the folders that they are saved in: the hub's own layouts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CLIPTextConfig,
    CLIPTextModel,
    Florence2Config,
    Florence2ForConditionalGeneration,
    GenerationConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
)

from vlv.encoders.florence2 import TASK_PROMPT
from vlv.shapes.describe import brief, describe, describe_halves, inventory, locate, region
from vlv.shapes.render import RESOLUTION
from vlv.shapes.scene import GRID, SHAPES, make_component_scene, make_halves
from vlv.testing.components import name_tokenizer_class, write_model_index, write_preprocessor
from vlv.testing.tokenizers import train_clip_tokenizer, train_florence2_tokenizer, train_qwen_tokenizer

WIDTH = 128
LATENT_CHANNELS, LATENT_SIDE = 24, RESOLUTION // 16
TEXT_LENGTH = 77  # CLIP's own; no description is longer (tested)
CAPTION_TASK = "What shapes does the image show?"
LOCATE_TASK = "Where is the {}?"
REGION_TASK = "What is in row {} and column {}?"


def tokenizer_sentences(count: int = 4000) -> list[str]:
    """What the tokenizers are trained on: every kind of sentence that the family meets."""
    scenes = [(number, make_component_scene(number)) for number in range(count)]
    sentences = [describe(scene, number) for number, scene in scenes]
    sentences += [inventory(scene, number) for number, scene in scenes]
    sentences += [describe_halves(*make_halves(number), number) for number in range(count // 4)]
    sentences += [brief(scene) for _, scene in scenes]
    sentences += [locate(scene, scene.items[0].shape) for _, scene in scenes]
    sentences += [region(scene, scene.items[0].row, scene.items[0].column) for _, scene in scenes]
    tasks = [TASK_PROMPT, CAPTION_TASK, *map(LOCATE_TASK.format, SHAPES)]
    tasks += [REGION_TASK.format(row + 1, column + 1) for row in range(GRID) for column in range(GRID)]
    return sentences + tasks * 20


def build_tokenizers(sentences: Iterable[str]) -> dict[str, PreTrainedTokenizerBase]:
    """The three tokenizers; vocabularies large enough that each word is one token."""
    sentences = list(sentences)
    return {
        "stable-diffusion": train_clip_tokenizer(sentences, vocab_size=1400),
        "florence2": train_florence2_tokenizer(sentences, vocab_size=900),
        "qwen": train_qwen_tokenizer(sentences, vocab_size=900),
    }


def build_vae() -> AutoencoderKL:
    """96 px to latents [24, 6, 6], 2x2 of them for each place of the grid; few channels lose what a small shape is."""
    settings: dict[str, Any] = dict(  # noqa: C408 - the library types these tuples as of one
        block_out_channels=(16, 32, 64, 96, 96),
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=RESOLUTION,
        mid_block_add_attention=False,
    )
    vae = AutoencoderKL(**settings)
    with torch.no_grad():  # latents that start with a noise of 1 say nothing for the first hundreds of steps
        vae.quant_conv.bias[LATENT_CHANNELS:] -= 6  # type: ignore[union-attr]
    return vae


def build_text_encoder(tokenizer: Any) -> CLIPTextModel:
    """CLIP's text encoder: 3 layers of 128, 77 positions."""
    return CLIPTextModel._from_config(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=TEXT_LENGTH,
            projection_dim=WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_unet() -> UNet2DConditionModel:
    """Two cross-attention levels on latents [24, 6, 6]: the lower one has a position for each place of the grid."""
    settings: dict[str, Any] = dict(  # noqa: C408
        sample_size=LATENT_SIDE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(88, 176),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH,
        attention_head_dim=(4, 8),  # heads, by an old mistake of the library's naming
        layers_per_block=1,
        norm_num_groups=8,
        use_linear_projection=True,
    )
    return UNet2DConditionModel(**settings)


def build_scheduler() -> DDPMScheduler:
    """Stable Diffusion's noise schedule with v-prediction and zero signal at its end (arXiv 2305.08891).

    Pictures this small keep so much of a shape at the schedule's usual end that the denoiser reads its colour
    off the noise instead of the text. Without clip_sample=False colours come out wrong.
    """
    return DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def build_florence2(tokenizer: Any) -> Florence2ForConditionalGeneration:
    """A DaViT of strides 4, 2, 2, 1 (96 px to 6x6 tokens) and a BART of 2 + 3 layers."""
    text: dict[str, Any] = {
        "model_type": "bart",
        "vocab_size": len(tokenizer) + 1,
        "d_model": WIDTH,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 4 * WIDTH,
        "decoder_ffn_dim": 4 * WIDTH,
        "max_position_embeddings": 256,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
        "tie_word_embeddings": True,
    }
    vision = {
        "embed_dim": [32, 64, 128, 128],
        "depths": [1, 1, 2, 1],
        "num_heads": [2, 4, 8, 8],
        "num_groups": [2, 4, 8, 8],
        "patch_stride": [4, 2, 2, 1],
        "window_size": 6,
        "drop_path_rate": 0.0,
        "projection_dim": WIDTH,
    }
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=len(tokenizer))
    return Florence2ForConditionalGeneration._from_config(config)


def build_qwen(tokenizer: Any) -> Any:
    """Qwen2: 3 layers of 128, tied embeddings.

    The library's initial deviation of 0.02 suits widths of thousands; at this one attention would start flat, and look
    nothing up.
    """
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.08,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def save_component(model: nn.Module, folder: Path) -> None:
    """Write a part in its library's layout, weights in fp16, leaving the module in fp32."""
    kept = next(model.parameters()).dtype
    model.half()
    try:
        model.save_pretrained(folder)  # type: ignore[operator]
    finally:
        model.to(kept)


def save_tokenizers(folder: Path, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    """Write the three tokenizers, and what stands beside them in the hub's folders."""
    classes = {"stable-diffusion": "CLIPTokenizer", "florence2": "BartTokenizer", "qwen": "Qwen2Tokenizer"}
    for name, tokenizer in tokenizers.items():
        target = folder / name / "tokenizer" if name == "stable-diffusion" else folder / name
        target.mkdir(parents=True, exist_ok=True)
        tokenizer.save_pretrained(target)
        name_tokenizer_class(target, classes[name])
    write_model_index(folder / "stable-diffusion")
    build_scheduler().save_pretrained(folder / "stable-diffusion" / "scheduler")
    write_preprocessor(folder / "florence2", RESOLUTION)
    ids: Any = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    GenerationConfig(**ids).save_pretrained(folder / "florence2")
