"""Captioners in vLLM: a plugin that makes them known to it, and the engine of `vlv caption engine=vllm`."""

from __future__ import annotations

import multiprocessing
import os

from vlv.orphans import end_with_parent

DRIVER = "VLV_VLLM_DRIVER"  # set by a process whose vLLM is to end with it

# The second is the class's name in checkpoints of 2025 and before.
ARCHITECTURES = ("VLVForConditionalGeneration", "VLVCaptioner")


def register() -> None:
    """Make captioners known to vLLM, which calls this in each of its processes (entry point vllm.general_plugins)."""
    end_with_driver()
    from vllm import ModelRegistry  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue]

    import vlv.models  # noqa: F401  (configs and processor become known to transformers)

    for name in ARCHITECTURES:
        ModelRegistry.register_model(name, "vlv.vllm.model:VLVForVllm")


def end_with_driver() -> None:
    """Let vLLM's engine end with the `vlv caption` that started it: it was seen to live on when that is killed."""
    if DRIVER in os.environ and multiprocessing.parent_process() is not None:
        end_with_parent()
