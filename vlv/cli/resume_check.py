"""Whether a run can resume from a checkpoint: what this call's settings say of the run, held against the checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

from vlv.checkpoints.identity import CONFIG_NAME, component_hashes
from vlv.checkpoints.resume import find_checkpoint, require_same_run
from vlv.config import ConfigError, Stage1Config, Stage2Config
from vlv.config.changes import changed_settings


def check_resume(config: Stage1Config | Stage2Config) -> None:
    """Check that the checkpoint that `resume` means is one, and that this call's settings continue it.

    Raises:
        ValueError: it is no checkpoint, or something that decides the model differs; names it with both values.
    """
    path = find_checkpoint(config.resume, Path(config.output_dir) / "checkpoints")
    if path is not None:  # with resume=latest and nothing there yet, the run starts from the beginning
        identity = _of_stage1(config) if isinstance(config, Stage1Config) else _of_stage2(config)
        identity["optimizer"] = config.optimizer
        require_same_run(path, identity, average=bool(config.ema_decay), partly=True)
        _check_changes(path, config)


def finished_model(config: Stage1Config | Stage2Config) -> Path | None:
    """The model of a run that a call would continue, where it is finished: by these settings nothing is left to do."""
    final = Path(config.output_dir) / "final"
    if config.resume != "latest" or not (final / CONFIG_NAME).is_file() or not (final / "config.yaml").is_file():
        return None
    return None if changed_settings(final / "config.yaml", config) else final


def _check_changes(path: Path, config: Stage1Config | Stage2Config) -> None:
    changes = changed_settings(path / "config.yaml", config)
    if changes and not config.allow_changes:
        raise ConfigError(
            f"resume={path}: {', '.join(changes)}: give the former values, or another run_name, or allow_changes=true "
            "to go on with the new ones"
        )
    for change in changes:
        print(f"allow_changes=true: {change}", file=sys.stderr)


def _of_stage1(config: Stage1Config) -> dict[str, object]:
    return {
        "trained": config.train,
        "conditioning": config.conditioning,
        "num_queries": config.num_queries,
        "bases": {
            "florence2": _hashes(config.florence2_model_path),
            "decoder": _hashes(config.stable_diffusion_model_path),
        },
    }


def _of_stage2(config: Stage2Config) -> dict[str, object]:
    return {
        "trained": config.train,
        "draws_with_own_weights": config.diffusion_weight > 0,
        "language_model": _hashes(config.qwen_model),
    }


def _hashes(source: str) -> dict[str, str]:
    """Of a component that is here; one that a hub must give first is compared when it is loaded."""
    return component_hashes(Path(source)) if Path(source).is_dir() else {}
