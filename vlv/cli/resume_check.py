"""Whether a run can go on from a checkpoint, as far as its JSON and the components' files tell."""

from __future__ import annotations

from pathlib import Path

from vlv.checkpoints.identity import TRAINER_STATE_NAME, read_json, require_same_component
from vlv.config import ConfigError, Stage1Config, Stage2Config

_AVERAGE = "average.safetensors"


def check_resume(config: Stage1Config | Stage2Config) -> None:
    """Check that the checkpoint that `resume` means is one, and that this call's settings continue it.

    Raises:
        ValueError: it is no checkpoint, or something that decides the model differs; names it with both values.
    """
    if config.resume is None:
        return
    if config.resume == "latest":
        found = sorted(Path(config.output_dir).glob(f"checkpoints/step_*/{TRAINER_STATE_NAME}"))
        if not found:
            return  # nothing yet: the run starts anew
        path = found[-1].parent
    else:
        path = Path(config.resume)
        if not (path / TRAINER_STATE_NAME).is_file():
            raise ConfigError(f"resume={path} is no checkpoint: give latest, or a folder checkpoints/step_*")
    identity = read_json(path / TRAINER_STATE_NAME).get("identity", {})
    decides, components = _of_stage1(config) if isinstance(config, Stage1Config) else _of_stage2(config)
    for (option, key), value in decides.items():
        if identity.get(key) != value:
            raise ConfigError(
                f"resume={path} was trained with {key}={identity.get(key)}, this call has {value}: give the same "
                f"{option}, or another run_name"
            )
    for option, (key, source) in components.items():
        base = identity.get("bases", identity).get(key)
        if base and Path(source).is_dir():
            require_same_component(f"resume={path}: {key}", Path(source), base, option)
    if config.ema_decay and not (path / _AVERAGE).is_file():
        raise ConfigError(f"resume={path} was trained without an average: set ema_decay=0, or give another run_name")


_Settings = tuple[dict[tuple[str, str], object], dict[str, tuple[str, str]]]


def _of_stage1(config: Stage1Config) -> _Settings:
    """What decides the model: (option, key in the checkpoint) -> value, and option -> (key, component)."""
    decides: dict[tuple[str, str], object] = {
        ("train", "trained"): config.train,
        ("conditioning", "conditioning"): config.conditioning,
        ("num_queries", "num_queries"): config.num_queries,
    }
    return decides, {
        "florence2_model_path": ("florence2", config.florence2_model_path),
        "stable_diffusion_model_path": ("decoder", config.stable_diffusion_model_path),
    }


def _of_stage2(config: Stage2Config) -> _Settings:
    decides: dict[tuple[str, str], object] = {
        ("train", "trained"): config.train,
        ("diffusion_weight", "draws_with_own_weights"): config.diffusion_weight > 0,
    }
    return decides, {"qwen_model": ("language_model", config.qwen_model)}
