"""What a call changes of a run that it continues."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from vlv.config.training import Stage1Config, Stage2Config
from vlv.redaction import redact
from vlv.settings import ConfigError, load_config
from vlv.settings.declare import settings_of, shown
from vlv.settings.paths import is_stream

# Settings that change neither the model nor its order of samples, but for the last bits of a float: where a run
# writes, how fast it goes, what it reports. One that is not listed here decides the model.
HARMLESS = frozenset(
    {
        "accelerate_config",
        "allow_changes",
        "dry_run",
        "gradient_checkpointing",
        "initial_checkpoint",
        "keep_checkpoints",
        "keep_every",
        "keep_best",
        "keep_results",
        "log_every",
        "max_bad_share",
        "max_micro_batch",
        "max_skipped_steps",
        "num_gpus",
        "num_workers",
        "output_dir",
        "overwrite",
        "print_config",
        "remote_cache_gb",
        "resume",
        "run_name",
        "save_step",
        "stop_on_full_disk",
        "val_dataset_path",
        "val_guidance_scale",
        "val_inference_steps",
        "val_max_samples",
        "val_pictures",
        "wandb_mode",
        "wandb_project",
    }
)
# What these name is known by its hashes, which the identity of a checkpoint has: they may have moved.
_COMPONENTS = frozenset(("stable_diffusion_model_path", "florence2_model_path", "qwen_model", "diffusion_model_path"))
# Of stage 2: their product with the number of processes is the global batch, which is compared instead.
_FACTORS = frozenset(("batch_size", "accumulation"))


def changed_settings(saved: Path, config: Stage1Config | Stage2Config) -> list[str]:
    """What a call has else than a config.yaml that was saved, of the settings that decide the model, in words.

    An earlier version's file that cannot be read any more counts as unchanged.
    """
    try:
        before = load_config(type(config), saved, [])
    except ConfigError:
        return []
    if _reads_urls_as_streams(saved):
        before = _with_streams(before)
    kept = HARMLESS | _COMPONENTS | (_FACTORS if isinstance(config, Stage2Config) else set())
    pairs = {key: (getattr(before, key), getattr(config, key)) for key in settings_of(type(config)) if key not in kept}
    if isinstance(config, Stage2Config):
        pairs["batch_size x accumulation x num_gpus"] = (_global_batch(before), _global_batch(config))
    return [
        f"{key} was {shown(old)} and is {shown(_written(new))}"
        for key, (old, new) in pairs.items()
        if _comparable(old) != _comparable(_written(new))
        and (key, new) != ("precision", "auto")  # it goes on with what the run has
    ]


def _reads_urls_as_streams(saved: Path) -> bool:
    """Whether a config.yaml is of a version that streamed every URL: it had no cache of what is read by index."""
    return "remote_cache_gb:" not in saved.read_text()


def _with_streams(config: Stage1Config | Stage2Config) -> Stage1Config | Stage2Config:
    """The settings as this version says them, for the same order of samples."""
    key = "train_dataset_path" if isinstance(config, Stage1Config) else "dataset_path"
    url = config.data_path.lstrip().startswith(("http://", "https://"))
    return replace(config, **{key: f"stream:{config.data_path.lstrip()}"}) if url else config


def _global_batch(config: Stage1Config | Stage2Config) -> int:
    return config.total_batch_size(config.num_gpus)


def _written(value: object) -> object:
    """A value as it was saved: without credentials, which may have been renewed."""
    return redact(value) if isinstance(value, str) else value


def _comparable(value: object) -> object:
    """The same for two ways to write a path."""
    return os.path.abspath(value) if isinstance(value, str) and "/" in value and not is_stream(value) else value
