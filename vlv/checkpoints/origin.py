"""Where a captioner came from, and so which stage-1 model generates its images. JSON alone: quick, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlv.checkpoints.identity import CONFIG_NAME, CheckpointError, JsonObject, read_json, recorded_place
from vlv.checkpoints.schema import require_checkpoint

# Each base of a checkpoint by its name in config.json, and the option that says where it lies now.
BASE_OPTIONS = {
    "florence2": "florence2_model_path",
    "decoder": "stable_diffusion_model_path",
    "language_model": "qwen_model",
}


def adapter_bases(config: Mapping[str, object]) -> list[str]:
    """The bases without which a captioner cannot be loaded, by its config.json; none of a whole one."""
    named = config.get("adapter_bases")
    if isinstance(named, list):
        return [str(name) for name in named]
    # The name of 2025, when the language model was always kept.
    return ["florence2", "decoder"] if config.get("frozen_in_bases") else []


def absolute_origin(origin: JsonObject, captioner: Path) -> JsonObject:
    """An origin whose places do not depend on the captioner's folder, as it may be saved in another one."""
    return {
        name: {**value, "source": recorded_place(value["source"], captioner)}
        if isinstance(value, dict) and "source" in value
        else value
        for name, value in origin.items()
    }


def preview_stage1(captioner: Path, stage1_path: str | None) -> Path | None:
    """The stage-1 model that generates a captioner's images: the given one, or the one that it came from.

    None where the captioner's own weights generate them.

    Raises:
        CheckpointError: it is not known, not there, or no stage-1 model.
    """
    origin = read_json(captioner / CONFIG_NAME).get("origin")
    if not origin:
        raise CheckpointError(f"{captioner} does not name the stage-1 model that it came from: set stage1_path")
    if origin["draws_with_own_weights"] and stage1_path is None:
        return None
    if stage1_path is None and origin["stage1"] is None:
        raise CheckpointError(f"{captioner} was imported and does not know its stage-1 model: set stage1_path to it")
    stage1 = Path(stage1_path or recorded_place(origin["stage1"]["source"], captioner))
    if not stage1.is_dir():
        raise CheckpointError(
            f"{captioner} generates images through its stage-1 model, {stage1}, which is not there: "
            "set stage1_path to where it lies now"
        )
    return require_checkpoint(stage1, "stage1")
