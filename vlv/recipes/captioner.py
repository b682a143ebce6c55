"""The captioner of a call, on its device and in its number format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vlv.checkpoints.schema import GGUF_NAME
from vlv.config import CaptionConfig
from vlv.models.captioner import VLVCaptioner
from vlv.models.image_rows import ImageRows
from vlv.models.loading import load_captioner
from vlv.training.precision import torch_dtype

if TYPE_CHECKING:
    from vlv.vllm.engine import VllmCaptioner


def open_captioner(config: CaptionConfig, precision: str, device: torch.device | str) -> VLVCaptioner:
    """Load what `ckpt_dir` holds: a captioner of transformers', or one whose language model llama.cpp runs.

    Args:
        precision: fp32 or bf16; of the second kind's language model the file decides.

    Raises:
        ValueError: it does not fit, or an adapter's base is not there.
    """
    dtype = torch_dtype(precision)
    if (Path(config.ckpt_dir) / GGUF_NAME).is_file():
        from vlv.llamacpp.captioner import LlamaCppCaptioner

        captioner: VLVCaptioner = LlamaCppCaptioner.from_pretrained(config.ckpt_dir).set_dtypes(dtype, dtype)
        captioner.to(device)  # pyright: ignore[reportArgumentType]  (decorated in the library)
    else:
        captioner = load_captioner(config.ckpt_dir, dtype, device, config.quantize, **config.bases())
    captioner.encoder.use_first(config.first_queries)
    return captioner


def open_vllm_captioner(config: CaptionConfig, precision: str, device: torch.device | str) -> VllmCaptioner:
    """The captioner's encoder here, and its language model in vLLM.

    Raises:
        ValueError: as of `open_captioner`; or vLLM does not start.
    """
    from vlv.vllm.engine import VllmCaptioner

    rows = open_image_rows(config, precision, device)
    return VllmCaptioner(config.ckpt_dir, rows, config.max_new_tokens, config.vllm_cache_gib)


def open_image_rows(config: CaptionConfig, precision: str, device: torch.device | str) -> ImageRows:
    """What the captioner is without its language model.

    Raises:
        ValueError: as of `open_captioner`.
    """
    rows = ImageRows.from_pretrained(
        config.ckpt_dir, stable_diffusion=config.stable_diffusion_model_path, florence2=config.florence2_model_path
    )
    rows.encoder.use_first(config.first_queries)
    return rows.set_dtype(torch_dtype(precision)).to(device)
