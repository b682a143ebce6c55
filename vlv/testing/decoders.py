"""Tiny Stable Diffusion XL and 3.5 with random weights, in exactly the hub's layouts, for 64 px."""

from __future__ import annotations

import json
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from vlv.checkpoints.identity import JsonObject
from vlv.testing.components import VAE, name_tokenizer_class
from vlv.testing.tokenizers import special_id, train_clip_tokenizer, train_t5_tokenizer

# All different, and both CLIPs together narrower than T5, as at full size: a mix-up or a missing padding shows.
_WIDTH_L, _WIDTH_G, _WIDTH_T5 = 32, 48, 96


def write_stable_diffusion_xl(folder: Path, sentences: list[str]) -> dict[str, int]:
    """A diffusers folder of SDXL's shape: two CLIPs, a UNet with pooled vector and sizes, Euler's scheduler.

    Returns:
        parameters by component.
    """
    parts = _write_clips(folder, sentences, projected_first=False)
    unet: JsonObject = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": _WIDTH_L + _WIDTH_G,
        "attention_head_dim": (2, 4),
        "transformer_layers_per_block": (1, 2),
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + _WIDTH_G,  # six sizes embedded, and the pooled vector
    }
    parts |= {"unet": UNet2DConditionModel(**unet), "vae": AutoencoderKL(**{**VAE, "scaling_factor": 0.13025})}
    EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    ).save_pretrained(folder / "scheduler")
    _write_index(
        folder,
        "StableDiffusionXLPipeline",
        {
            "text_encoder": ("transformers", "CLIPTextModel"),
            "unet": ("diffusers", "UNet2DConditionModel"),
            "scheduler": ("diffusers", "EulerDiscreteScheduler"),
        },
        {"force_zeros_for_empty_prompt": True},  # in the index, not in a part's config, as in SDXL's own
    )
    return _save(folder, parts)


def write_stable_diffusion_3(
    folder: Path, sentences: list[str], with_t5: bool = True, dual_attention: bool = True
) -> dict[str, int]:
    """A diffusers folder of SD 3.5's shape: two CLIPs, T5 or none, a transformer, a flow-matching scheduler.

    Args:
        dual_attention: a second attention in the first blocks, as in medium; large has none.

    Returns:
        parameters by component.
    """
    parts = _write_clips(folder, sentences, projected_first=True)
    if with_t5:
        tokenizer = train_t5_tokenizer(sentences, vocab_size=300)
        config = T5Config(
            vocab_size=len(tokenizer),
            d_model=_WIDTH_T5,
            d_kv=24,
            d_ff=128,
            num_layers=2,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            pad_token_id=special_id(tokenizer.pad_token_id),
            eos_token_id=special_id(tokenizer.eos_token_id),
        )
        parts["text_encoder_3"] = T5EncoderModel._from_config(config)
        tokenizer.save_pretrained(folder / "tokenizer_3")
        name_tokenizer_class(folder / "tokenizer_3", "T5Tokenizer")
    parts["transformer"] = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        out_channels=16,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        caption_projection_dim=64,
        joint_attention_dim=_WIDTH_T5,
        pooled_projection_dim=_WIDTH_L + _WIDTH_G,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
        dual_attention_layers=(0,) if dual_attention else (),
    )
    # As 3.5's VAE: a shift beside the scale, and no convolutions around the latents.
    latents: JsonObject = {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
    parts["vae"] = AutoencoderKL(**{**VAE, **latents, "use_quant_conv": False, "use_post_quant_conv": False})
    # 3.5's own shift: without one, code that reads unshifted tables would pass every test.
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    third = ("transformers", "T5EncoderModel") if with_t5 else (None, None)
    _write_index(
        folder,
        "StableDiffusion3Pipeline",
        {
            "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
            "text_encoder_3": third,
            "tokenizer_3": ("transformers", "T5TokenizerFast") if with_t5 else (None, None),
            "transformer": ("diffusers", "SD3Transformer2DModel"),
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        },
    )
    return _save(folder, parts)


def _write_clips(folder: Path, sentences: list[str], projected_first: bool) -> JsonObject:
    """Both CLIPs, and their tokenizers written; the second pads with id 0, as bigG's does."""
    parts: JsonObject = {}
    for suffix, width, projected in (("", _WIDTH_L, projected_first), ("_2", _WIDTH_G, True)):
        tokenizer = train_clip_tokenizer(sentences, vocab_size=1000)
        config = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=width,
            hidden_act="gelu" if suffix else "quick_gelu",  # bigG's, and CLIP-L's: an activation that is mixed up shows
            bos_token_id=special_id(tokenizer.bos_token_id),
            eos_token_id=special_id(tokenizer.eos_token_id),
            pad_token_id=special_id(tokenizer.pad_token_id),
        )
        model_class = CLIPTextModelWithProjection if projected else CLIPTextModel
        parts[f"text_encoder{suffix}"] = model_class._from_config(config)
        if suffix:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        tokenizer.save_pretrained(folder / f"tokenizer{suffix}")
        name_tokenizer_class(folder / f"tokenizer{suffix}", "CLIPTokenizer")
    return parts


def _save(folder: Path, parts: JsonObject) -> dict[str, int]:
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}


def _write_index(folder: Path, pipeline: str, parts: JsonObject, options: JsonObject | None = None) -> None:
    index = {
        "_class_name": pipeline,
        **(options or {}),
        "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "CLIPTokenizer"),
        "vae": ("diffusers", "AutoencoderKL"),
        "feature_extractor": (None, None),
        "image_encoder": (None, None),
        **parts,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
