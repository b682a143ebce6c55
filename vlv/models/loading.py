"""A finished captioner, loaded for captions: on its device, in its number format, its language model in 8 or 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, TorchAoConfig

from vlv.checkpoints.schema import require_merged
from vlv.extras import missing_packages
from vlv.models.captioner import VLVCaptioner

# Patterns of module names, matched from their beginning: all but the language model, and what lies in it beside its
# layers, which is its head. A head may be tied to the embedding, which stays as it is.
_NOT_QUANTIZED = [r"(?!llm\.).*", r"llm\.[^.]+(\.weight)?$"]


def load_captioner(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    quantize: str | None = None,
    **bases: str | None,
) -> VLVCaptioner:
    """A captioner to caption with, in eval mode.

    Args:
        folder: what `save_pretrained` wrote, or its hub id.
        dtype: number format of the computation, and of the weights that are not quantised.
        quantize: None, int8 or int4 (see `quantization`); the language model's layers alone.
        bases: `stable_diffusion`, `florence2`, `language_model`: where an adapter's bases lie, if they have moved.

    Raises:
        ValueError: no captioner's folder; another `quantize`, or one whose package is not installed.
    """
    options: dict[str, Any] = {}
    if quantize is not None:
        require_merged(folder, f"quantize={quantize}")
        # Layers are quantised one by one as they are read, on the device that they stay on.
        device = torch.device(device)
        config = quantization(quantize, device.type, dtype, _NOT_QUANTIZED)
        options = {"device_map": {"": device}, "quantization_config": config}
    captioner = VLVCaptioner.from_pretrained(folder, **bases, **options)
    captioner.set_dtypes(dtype, dtype)
    return captioner.to(device)  # pyright: ignore[reportArgumentType]  (decorated in the library)


def quantization(
    quantize: str, device: str, dtype: torch.dtype, left_out: list[str] | None
) -> BitsAndBytesConfig | TorchAoConfig:
    """How transformers quantises a model's linear layers as it loads them.

    int8: weights of 8 bits with a scale for each row, by torchao; on a GPU LLM.int8 by bitsandbytes (arXiv
    2208.07339). int4: NF4 in blocks of 64 (arXiv 2305.14314), by bitsandbytes: torchao has no format of 4 bits for the
    CPU that saves memory (0.18; a prototype needs bf16).

    Args:
        device: its type, cpu or cuda.
        dtype: of the computation.
        left_out: patterns of names of modules that stay as they are; None is transformers' choice, a language
            model's head.

    Raises:
        ValueError: no such format, or the package that has it is not installed.
    """
    if quantize not in ("int8", "int4"):
        raise ValueError(f"quantize={quantize!r} cannot be used: give null, int8 or int4")
    package = "torchao" if quantize == "int8" and device == "cpu" else "bitsandbytes"
    if problem := missing_packages(f"quantize={quantize}", "quant", package):
        raise ValueError(problem)
    if package == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports]  (an extra)

        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=left_out)
    if quantize == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=left_out)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=left_out
    )
