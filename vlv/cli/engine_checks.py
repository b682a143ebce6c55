"""Checks of what generates the captions of a call."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from vlv.checkpoints.schema import GGUF_NAME, require_merged
from vlv.config import CaptionConfig, ConfigError
from vlv.extras import missing_packages


def check_engine(config: CaptionConfig) -> None:
    """Check that what runs the language model is there, and can do what it is told to.

    Raises:
        ConfigError: it is not, or cannot.
    """
    if config.engine == "ray":
        if problem := missing_packages("engine=ray", "ray", "ray"):
            raise ConfigError(problem)
        if config.num_gpus != 1 or config.part is not None or config.preview_dir:
            raise ConfigError("engine=ray shares the work by itself: leave out num_gpus, part and preview_dir")
    if config.engine == "vllm":
        if find_spec("vllm") is None:
            raise ConfigError(
                "engine=vllm needs vLLM in an environment of its own: bash scripts/install_vllm.sh, then source "
                ".venv-vllm/bin/activate"
            )
        if config.num_gpus != 1:
            raise ConfigError(
                "engine=vllm is one process: for N GPUs start N of them, with CUDA_VISIBLE_DEVICES=I and part=I/N"
            )
        if config.quantize is not None:
            raise ConfigError(f"quantize={config.quantize} is of the other engines: leave it out, or engine=vllm")
        require_merged(config.ckpt_dir, "engine=vllm")
        if config.qwen_model is not None:
            raise ConfigError(
                f"qwen_model={config.qwen_model}: engine=vllm looks where training found it: vlv export "
                f"{config.ckpt_dir} WHOLE qwen_model={config.qwen_model}, and caption with that folder"
            )
    if (Path(config.ckpt_dir) / GGUF_NAME).is_file():
        _check_llama_cpp(config)


def _check_llama_cpp(config: CaptionConfig) -> None:
    if config.engine == "vllm":
        raise ConfigError(f"ckpt_dir={config.ckpt_dir} is for llama.cpp: leave out engine=vllm")
    if problem := missing_packages(f"ckpt_dir={config.ckpt_dir}", "gguf", "llama_cpp"):
        raise ConfigError(problem)
    if config.quantize is not None:
        raise ConfigError(
            f"quantize={config.quantize}: {config.ckpt_dir} has the number format of its GGUF file: leave it out"
        )
    if config.num_beams > 1 and not config.temperature:
        raise ConfigError(f"num_beams={config.num_beams}: llama.cpp searches greedily: set num_beams=1")
