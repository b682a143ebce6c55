"""Where a captioner came from, and so which stage-1 model generates its images. JSON alone: quick, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlv.checkpoints.identity import (
    CONFIG_NAME,
    CheckpointError,
    JsonObject,
    is_hub_id,
    local_component,
    read_json,
    recorded_place,
    require_same_component,
)
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


def find_base(checkpoint: Path, base: str, moved: str | None = None) -> Path | None:
    """The folder of a checkpoint's frozen base; None where a hub must give it first, or none is recorded.

    Args:
        base: its name in `BASE_OPTIONS`.
        moved: where it lies now; None is where training found it.

    Raises:
        CheckpointError: it is not there; names the option that says where it is.
    """
    option = BASE_OPTIONS[base]
    if moved is not None:
        return local_component(moved, option)
    content = read_json(checkpoint / CONFIG_NAME)
    bases = content.get("bases") or content.get("origin") or {}
    source = recorded_place((bases.get(base) or {}).get("source", ""), checkpoint)
    folder = Path(source)
    if source and not folder.is_dir() and not is_hub_id(source):
        raise CheckpointError(
            f"{checkpoint} was trained on {folder}, which is not there any more: set {option} to where it lies now"
        )
    return folder if source and folder.is_dir() else None


def find_adapter_bases(captioner: Path, moved: Mapping[str, str | None]) -> dict[str, Path | None]:
    """The folders of the bases without which a captioner cannot be loaded, by name; see `find_base`.

    Args:
        moved: where they lie now, by the names of `VLVCaptioner.from_pretrained`.

    Raises:
        CheckpointError: one is not there.
    """
    needed = adapter_bases(read_json(captioner / CONFIG_NAME))
    names = {base: "stable_diffusion" if base == "decoder" else base for base in needed}
    return {base: find_base(captioner, base, moved.get(name)) for base, name in names.items()}


def bases_problems(checkpoint: Path) -> dict[str, str]:
    """What is wrong with the bases that a stage 1 or a captioner cannot be loaded without, by the option of each.

    Those of a hub are not looked at. Of a base's large files 64 blocks are read.
    """
    content = read_json(checkpoint / CONFIG_NAME)
    known = content.get("bases")  # of a stage 1, which has none but those it needs
    problems = {}
    for base in adapter_bases(content) if known is None else known:
        option = BASE_OPTIONS[base]
        identity = (known or content.get("origin") or {}).get(base) or {}
        try:
            folder = find_base(checkpoint, base)
            if folder is not None:
                require_same_component(base, folder, identity, option)
        except (CheckpointError, OSError) as error:
            problems[option] = str(error)
    return problems


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
