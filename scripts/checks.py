"""Checks of a call, before any process is started: each failure is one line and exit code 2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from vlv.config import CaptionConfig, ConfigError, ReconstructConfig, Stage1Config, Stage2Config
from vlv.identity import CheckpointError, is_hub_id, require_checkpoint

TRAINING_DATA = ("folder", "webdataset", "parquet")


def check_call(config: Any) -> None:
    """Check paths, checkpoints, batch sizes and the output folder of a call.

    Raises:
        ValueError: the first thing that cannot work; names it and the fix.
    """
    if isinstance(config, Stage1Config):
        _check_stage1(config)
    elif isinstance(config, Stage2Config):
        _check_stage2(config)
    elif isinstance(config, CaptionConfig):
        require_checkpoint(config.ckpt_dir, "stage2")
        _check_data("image_path", config.image_path, ("folder",))
        check_writable("output_path", Path(config.output_path).parent)
        if Path(config.output_path).is_dir():
            raise ConfigError(f"output_path={config.output_path} is a folder: give the JSON file, say captions.json")
        if config.preview_dir:
            check_writable("preview_dir", Path(config.preview_dir))
    elif isinstance(config, ReconstructConfig):
        require_checkpoint(config.ckpt_dir, "stage1")
        _check_data("image_path", config.image_path, ("folder",))
        check_writable("output_dir", Path(config.output_dir))


def _check_stage1(config: Stage1Config) -> None:
    from vlv.data.order import largest_micro_batch

    largest_micro_batch(config.global_batch_size, config.num_gpus, config.max_micro_batch)
    for option in ("stable_diffusion_model_path", "florence2_model_path"):
        _check_component(option, getattr(config, option))
    _check_data("train_dataset_path", config.train_dataset_path, TRAINING_DATA)
    _check_data("val_dataset_path", config.val_dataset_path, TRAINING_DATA)
    _check_run_folder(config)


def _check_stage2(config: Stage2Config) -> None:
    require_checkpoint(config.diffusion_model_path, "stage1")
    for option in ("stable_diffusion_model_path", "florence2_model_path", "qwen_model"):
        if getattr(config, option) is not None:
            _check_component(option, getattr(config, option))
    _check_data("dataset_path", config.dataset_path, TRAINING_DATA)
    _check_data("val_dataset_path", config.val_dataset_path, TRAINING_DATA)
    _check_run_folder(config)


def _check_component(option: str, source: str) -> None:
    folder = Path(source)
    if folder.is_dir():
        if (
            not (folder / "config.json").is_file()
            and not (folder / "model_index.json").is_file()
            and not (folder / "unet").is_dir()
        ):
            raise CheckpointError(f"{option}={source} holds neither config.json nor model_index.json: not a model")
    elif not is_hub_id(source):
        raise CheckpointError(
            f"{option}={source} is not there: bash scripts/download_pretrained.sh fetches the components, "
            "or name a folder or a hub id"
        )


def _check_data(option: str, path: str, kinds: tuple[str, ...]) -> None:
    """Check that there is something to read; the reader says more about what it finds."""
    from vlv.data.files import ACCEPTED, is_stream, kind_of

    if is_stream(path) or any(mark in path for mark in "*?[{"):
        return  # the reader expands the pattern
    where = Path(path)
    accepted = ACCEPTED if len(kinds) > 1 else "an image, a folder of images or a glob is wanted"
    if not where.exists():
        raise ConfigError(f"{option}={path} is not there: {accepted}")
    names = [path] if where.is_file() else (name for _, _, names in os.walk(path, followlinks=True) for name in names)
    if not any(kind_of(name) in kinds for name in names):
        raise ConfigError(f"{option}={path} holds nothing to read: {accepted}")


def _check_run_folder(config: Stage1Config | Stage2Config) -> None:
    folder = Path(config.output_dir)
    check_writable("output_dir", folder)
    if config.resume not in (None, "latest") and not (Path(config.resume) / "trainer_state.json").is_file():
        raise ConfigError(f"resume={config.resume} is no checkpoint: give latest, or a folder checkpoints/step_*")
    holds_run = any(folder.glob("checkpoints/step_*")) or (folder / "final").exists()
    if holds_run and config.resume is None and not config.overwrite and not config.dry_run:
        raise ConfigError(
            f"output_dir={folder} holds a run already: resume=latest goes on with it, overwrite=true starts it anew, "
            "and another run_name keeps both"
        )


def check_writable(option: str, folder: Path) -> None:
    """Check that files can be made in a folder, or that the folder can be made.

    Raises:
        ConfigError: they cannot.
    """
    nearest = folder
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        raise ConfigError(f"{option}={folder} cannot be written: {nearest} is not a folder")
    probe = nearest / f".vlv-write-probe-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{option}={folder} cannot be written: {error.strerror} in {nearest}") from None


def check_devices(num_gpus: int, accelerate_config: str | None, launcher: str) -> bool:
    """Whether the processes run on the CPU.

    Raises:
        ConfigError: more GPUs are asked for than there are; names the command that fits.
    """
    import torch

    settings = read_accelerate_config(accelerate_config)
    if settings.get("use_cpu") or settings.get("distributed_type") == "MULTI_CPU":
        return True
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    machines = int(os.environ.get("NUM_MACHINES") or settings.get("num_machines") or 1)
    wanted = num_gpus // max(1, machines)
    if here == 0 and num_gpus == 1 and not settings:
        return True
    if here == 0:
        raise ConfigError(
            f"num_gpus={num_gpus} but this machine has no GPU: {launcher.format(1)} runs on the CPU, and with "
            f"ACCELERATE_CONFIG=configs/accelerate/cpu.yaml num_gpus is the number of CPU processes"
        )
    if wanted > here:
        raise ConfigError(f"num_gpus={num_gpus} but {here} GPUs are here: {launcher.format(here)} fits")
    return False


def read_accelerate_config(path: str | None) -> dict[str, Any]:
    """The settings of an Accelerate YAML; empty without one.

    Raises:
        ConfigError: the file is missing or broken.
    """
    import yaml

    if not path:
        return {}
    if not Path(path).is_file():
        raise ConfigError(f"accelerate_config={path} is not there; ready ones are in configs/accelerate/")
    try:
        settings = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"accelerate_config={path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"accelerate_config={path} holds no settings")
    return settings
