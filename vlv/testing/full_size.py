"""Components of the published sizes with random weights, in the hub's layouts: for measurements, without any download.

The tokenizers are small ones: ids count in a measurement, not words.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPTextConfig,
    CLIPTextModel,
    Florence2ForConditionalGeneration,
)

from vlv.checkpoints.identity import JsonObject, read_json
from vlv.encoders.florence2_layout import read_config
from vlv.testing.components import SENTENCES, name_tokenizer_class, write_preprocessor
from vlv.testing.tokenizers import train_clip_tokenizer, train_florence2_tokenizer, train_qwen_tokenizer

_VOCABULARY = 1000
_NUMBERS = torch.bfloat16  # on the disk; half the bytes to write and to read


def write_stable_diffusion(folder: Path, configs: Path) -> None:
    """A diffusers folder of Stable Diffusion 1.5's or 2.1's size, from its published configs."""
    shutil.copytree(configs, folder, dirs_exist_ok=True)
    tokenizer = train_clip_tokenizer(SENTENCES, _VOCABULARY)
    tokenizer.save_pretrained(folder / "tokenizer")
    name_tokenizer_class(folder / "tokenizer", "CLIPTokenizer")
    text = CLIPTextModel._from_config(CLIPTextConfig(**read_json(configs / "text_encoder" / "config.json")))
    parts: JsonObject = {
        "text_encoder": text,
        "unet": UNet2DConditionModel.from_config(read_json(configs / "unet" / "config.json")),
        "vae": AutoencoderKL.from_config(read_json(configs / "vae" / "config.json")),
    }
    for name, part in parts.items():
        part.to(dtype=_NUMBERS).save_pretrained(folder / name)


def write_florence2(folder: Path, configs: Path) -> None:
    """A Florence-2 folder in the native layout, from a published config."""
    folder.mkdir(parents=True, exist_ok=True)
    model = Florence2ForConditionalGeneration._from_config(read_config(configs), dtype=_NUMBERS)
    model.save_pretrained(folder)
    train_florence2_tokenizer(SENTENCES, _VOCABULARY).save_pretrained(folder)
    name_tokenizer_class(folder, "BartTokenizer")
    write_preprocessor(folder, 768)


def write_language_model(folder: Path, configs: Path) -> None:
    """A causal language model, from a published config."""
    folder.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(configs), dtype=_NUMBERS)
    model.save_pretrained(folder)
    train_qwen_tokenizer(SENTENCES, _VOCABULARY).save_pretrained(folder)
    name_tokenizer_class(folder, "Qwen2Tokenizer")
