"""The calls that measure a machine as docs/performance.md has it: on a CPU what it can hold, on a GPU everything."""

from __future__ import annotations

Call = tuple[str, ...]  # of `vlv benchmark`: the suite, then its settings

_TINY = ("rounds=3", "steps=3", "levers=true")
_TINY_CALLS: dict[str, Call] = {
    "stage1": ("stage1", "batch_size=32", *_TINY),
    "stage2": ("stage2", "batch_size=8", "accumulation=4", *_TINY),
    "caption": ("caption", "batch_size=32", *_TINY),
    "reconstruct": ("reconstruct", "batch_size=32", *_TINY),
    "startup": ("startup", "rounds=3"),
}


def calls_of_cpu(has_bf16: bool) -> dict[str, Call]:
    """By the name of its JSON file: full size, in 24 GB, and tiny components.

    Args:
        has_bf16: whether the processor has instructions for it; without them bf16 is not measured.
    """
    once = ("steps=2", "rounds=1")
    numbers = ("bf16", "fp32") if has_bf16 else ("fp32",)
    calls: dict[str, Call] = {
        f"stage1_full_{number}": (
            "stage1", "size=full", *once, "batch_size=1", f"precision={number}",
            "levers=true" if number == numbers[0] else "lever=latents",
        )
        for number in numbers
    }  # fmt: skip
    small = ("size=full", "language_model=Qwen2.5-0.5B", f"precision={numbers[0]}", "levers=true")
    calls[f"stage2_full_{numbers[0]}"] = ("stage2", *small, "steps=1", "rounds=2", "batch_size=1")
    calls[f"caption_full_{numbers[0]}"] = ("caption", *small, *once, "batch_size=4")
    two = ("batch_size=16", "rounds=3", "steps=3", "processes=2", "num_workers=0")
    return calls | _TINY_CALLS | {"stage1_two": ("stage1", *two)}


def calls_of_gpu(gpus: int) -> dict[str, Call]:
    """By the name of its JSON file: full size at the recipes' micro-batches and captions' length, and tiny components.

    Stage 2's recipes accumulate nothing; here a step has four passes, to show what captions by length bring.

    Args:
        gpus: with several, stage 1 is measured on all of them too, beside one.
    """
    full = ("size=full", "rounds=3", "levers=true")
    calls: dict[str, Call] = {
        "stage1_full": ("stage1", *full, "batch_size=16", "steps=10", "num_workers=8"),
        "stage2_full": ("stage2", *full, "batch_size=8", "accumulation=4", "steps=3", "num_workers=8"),
        "caption_full": ("caption", *full, "batch_size=32", "steps=3", "new_tokens=230", "num_workers=8"),
        "caption_full_beams": (
            "caption", "size=full", "rounds=3", "batch_size=32", "steps=2", "new_tokens=230", "num_beams=4",
            "num_workers=8",
        ),
        "reconstruct_full": ("reconstruct", *full, "batch_size=16", "steps=3", "denoising_steps=50", "num_workers=8"),
    }  # fmt: skip
    if gpus > 1:
        calls["stage1_full_all"] = (
            "stage1", "size=full", "rounds=3", "batch_size=16", "steps=10", "num_workers=8", f"processes={gpus}",
        )  # fmt: skip
    return calls | _TINY_CALLS
