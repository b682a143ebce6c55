"""Whether a run can resume from a checkpoint: what this call's settings say of the run, held against the checkpoint."""

from __future__ import annotations

from pathlib import Path

from vlv.checkpoints.identity import component_hashes
from vlv.checkpoints.resume import find_checkpoint, require_same_run
from vlv.config import Stage1Config, Stage2Config


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
