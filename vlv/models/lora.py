"""LoRA in a captioner's language model, by PEFT: weights stay, a product of two thin matrices trains beside each.

Hu et al., arXiv 2106.09685; over weights of 4 bits it is QLoRA (arXiv 2305.14314). PEFT puts the layers into the model
in place, so that captioner and training see the same language model as without.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from vlv.checkpoints.identity import WEIGHTS_NAME, CheckpointError
from vlv.checkpoints.schema import LORA_FOLDER
from vlv.extras import missing_packages

_LLM, _TRAINED = "llm.", ".lora_"
_ADAPTER = "default"  # PEFT's name of a model's only adapter, which its files leave out


@dataclass(frozen=True)
class LoraSettings:
    """How LoRA is put in.

    rank: columns of the thin matrices. alpha: their product is scaled by alpha / rank. dropout: of what they read.
    targets: endings of names of linear layers; None is all of them but the head.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: list[str] | None = None


def add_lora(llm: Any, settings: LoraSettings, base: str) -> None:
    """Put LoRA into a language model, in place; its own weights are frozen. The product starts as zeros.

    Args:
        base: the language model's folder or hub id, which PEFT's file names.

    Raises:
        ValueError: PEFT is not installed, or no layer's name ends so.
    """
    _require_peft(f"lora_rank={settings.rank}")
    from peft import LoraConfig, inject_adapter_in_model  # pyright: ignore[reportMissingImports]  (an extra)

    targets = settings.targets or "all-linear"
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # pyright: ignore[reportArgumentType]  (it takes fractions too)
        lora_dropout=settings.dropout,
        target_modules=targets,
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
    )
    try:
        inject_adapter_in_model(config, llm)
    except ValueError as error:
        if settings.targets is None:
            raise
        raise ValueError(f"lora_targets={settings.targets}: {str(error).splitlines()[0]}") from None


def has_lora(llm: Any) -> bool:
    """Whether LoRA is in a language model."""
    # By its weights: PEFT may leave its config with a model that it has merged into.
    return any(_TRAINED in name for name, _ in llm.named_parameters())


def is_lora(name: str) -> bool:
    """Whether a captioner's weight is of LoRA's."""
    return name.startswith(_LLM) and _TRAINED in name


def save_lora(llm: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write LoRA as PEFT does, adapter_config.json and adapter_model.safetensors, into a folder `lora`.

    Args:
        weights: a captioner's, by its names; those of others are left out.
        folder: the checkpoint's.
    """
    place = folder / LORA_FOLDER
    place.mkdir(parents=True, exist_ok=True)
    config = copy.copy(llm.peft_config[_ADAPTER])
    config.inference_mode = True
    config.save_pretrained(str(place))
    own = {_name_of_peft(name): value.detach().cpu().contiguous() for name, value in weights.items() if is_lora(name)}
    save_file(own, place / "adapter_model.safetensors", metadata={"format": "pt"})


def save_lora_of_checkpoint(llm: Any, folder: Path) -> None:
    """Write LoRA of a checkpoint for resuming beside the trained weights, which hold it under the model's names."""
    save_lora(llm, load_file(folder / WEIGHTS_NAME), folder)


def merged_lora(llm: Any, folder: Path) -> Any:
    """The language model with what `save_lora` wrote added to its weights; a plain one again.

    Raises:
        CheckpointError: PEFT is not installed, or the adapter is of another model.
    """
    _require_peft(f"{folder / LORA_FOLDER}")
    from peft import PeftModel  # pyright: ignore[reportMissingImports]  (an extra)

    try:
        return PeftModel.from_pretrained(llm, str(folder / LORA_FOLDER)).merge_and_unload()
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{folder / LORA_FOLDER} does not fit the language model ({reason})") from None


def _require_peft(what: str) -> None:
    if problem := missing_packages(what, "peft", "peft"):
        raise CheckpointError(problem)


def _name_of_peft(name: str) -> str:
    return "base_model.model." + re.sub(rf"\.{_ADAPTER}(?=\.|$)", "", name.removeprefix(_LLM))
