"""What LoRA and QLoRA save in stage 2: memory of weights, gradients and AdamW's moments, by the language model.

python -m scripts.plan_lora
python -m scripts.plan_lora language_model=configs/components/Qwen2.5-0.5B ranks=[16]

No weights are read. Counted are the language model and its LoRA alone: activations, the encoder and the MLP are the
same with and without. Weights that train are in fp32 with their gradients, frozen ones in bf16, or in NF4 with a scale
in fp32 for each block of 64.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlv.cli.entry import BAD_CALL, Call, parse, stop
from vlv.settings import option

_FP32, _BF16 = 4.0, 2.0
_NF4 = 0.5 + _FP32 / 64  # bytes of a weight, its share of a block's scale included
_TRAINED = 4 * _FP32  # weight, gradient, two moments
HEAD = ("stage 2 trains", "parameters that train", "weights", "gradients and AdamW", "together")


@dataclass(frozen=True)
class LoraPlanConfig:
    """Of which language model, and with which ranks."""

    language_model: str = option("configs/components/Qwen2.5-3B", "folder with a language model's config.json")
    ranks: list[int] = option([16, 64], "ranks of LoRA")


def main(arguments: list[str] | None = None) -> None:
    """Read the call and print the table."""
    call = Call("python -m scripts.plan_lora", __doc__ or "", ("language_model",))
    config = parse(LoraPlanConfig, call, sys.argv[1:] if arguments is None else arguments)
    try:
        table = rows(Path(config.language_model), config.ranks)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)
    print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    for row in table:
        print("| " + " | ".join(row) + " |")


def rows(folder: Path, ranks: list[int]) -> list[tuple[str, ...]]:
    """The table: all weights, then LoRA over bf16 and over NF4 for each rank.

    Raises:
        ValueError: no causal language model's config, or PEFT is not installed.
    """
    llm = _without_weights(folder)
    total = sum(value.numel() for value in llm.parameters())
    table = [_row("all weights", total, total * _FP32)]
    for rank in ranks:
        trained, in_4_bits = _counts(folder, rank)
        plain = total * _BF16 + trained * _FP32
        table.append(_row(f"LoRA of rank {rank} (`lora_rank={rank}`)", trained, plain))
        small = plain - in_4_bits * (_BF16 - _NF4)
        table.append(_row(f"QLoRA of rank {rank} (`quantize=int4` too)", trained, small))
    return table


def _counts(folder: Path, rank: int) -> tuple[int, int]:
    """Parameters of LoRA, and of the layers that it is in."""
    from vlv.models.lora import LoraSettings, add_lora

    llm = _without_weights(folder)
    add_lora(llm, LoraSettings(rank, 2.0 * rank), str(folder))
    named = list(llm.named_parameters())
    trained = sum(value.numel() for _, value in named if value.requires_grad)
    return trained, sum(value.numel() for name, value in named if name.endswith("base_layer.weight"))


def _without_weights(folder: Path) -> Any:
    """The language model of a config, with shapes alone."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from vlv.checkpoints.pretrained import require_language_model

    config = AutoConfig.from_pretrained(folder)
    require_language_model(config, str(folder))
    with torch.device("meta"):
        llm = AutoModelForCausalLM.from_config(config)
    llm.tie_weights()
    return llm


def _row(name: str, trained: int, weights: float) -> tuple[str, ...]:
    from vlv.planning.size import readable

    states = trained * (_TRAINED - _FP32)
    return name, f"{trained:,}", readable(weights), readable(states), readable(weights + states)


if __name__ == "__main__":
    main()
