"""Checks of a call, before any process is started: each failure is one line and exit code 2."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlv.checkpoints.identity import (
    CONFIG_NAME,
    CheckpointError,
    is_hub_id,
    read_json,
    recorded_place,
)
from vlv.checkpoints.origin import BASE_OPTIONS, adapter_bases, preview_stage1
from vlv.checkpoints.schema import require_checkpoint
from vlv.cli.missing import check_present
from vlv.cli.resume_check import check_resume
from vlv.cli.size_check import check_inference_steps, check_stage1_sizes
from vlv.config import CaptionConfig, ConfigError, ReconstructConfig, Stage1Config, Stage2Config

if TYPE_CHECKING:
    from vlv.data.formats import DataFormat


def check_call(config: Any) -> None:
    """Check paths, checkpoints, sizes and the output folder of a call, as far as names, configs and headers tell.

    Raises:
        ValueError: the first thing that cannot work; names it and the fix.
    """
    if isinstance(config, Stage1Config):
        _check_stage1(config)
    elif isinstance(config, Stage2Config):
        _check_stage2(config)
    elif isinstance(config, CaptionConfig):
        _check_captioning(config)
    elif isinstance(config, ReconstructConfig):
        _check_drawing(config)


def _check_stage1(config: Stage1Config) -> None:
    from vlv.data.order import largest_micro_batch

    largest_micro_batch(config.global_batch_size, config.num_gpus, config.max_micro_batch)
    check_present(config, "train_dataset_path", "stable_diffusion_model_path", "florence2_model_path")
    for option in ("stable_diffusion_model_path", "florence2_model_path"):
        _check_component(option, getattr(config, option))
    check_stage1_sizes(config)
    if config.t5_dtype == "int8" and read_accelerate_config(config.accelerate_config).get("distributed_type") == "FSDP":
        raise ConfigError("t5_dtype=int8: 8-bit weights cannot be sharded; set t5_dtype=bf16, which FSDP shares out")
    _check_data("train_dataset_path", config, config.data_format)
    _check_data("val_dataset_path", config)
    _check_run_folder(config)


def _check_stage2(config: Stage2Config) -> None:
    check_present(config, "dataset_path", "diffusion_model_path", "qwen_model")
    stage1 = require_checkpoint(config.diffusion_model_path, "stage1")
    _check_base(stage1, "florence2", "florence2_model_path", config)
    _check_base(stage1, "decoder", "stable_diffusion_model_path", config)
    _check_component("qwen_model", config.qwen_model)
    _check_data("dataset_path", config, config.data_format)
    check_epochs(config)
    _check_data("val_dataset_path", config)
    _check_run_folder(config)


def check_epochs(config: Stage2Config) -> None:
    """Check that the epochs can be counted.

    Raises:
        ConfigError: epochs of a stream, whose length nobody knows.
    """
    from vlv.data.files import is_stream

    if config.epochs is not None and is_stream(config.dataset_path):
        raise ConfigError(f"epochs={config.epochs} of a stream cannot be counted: set epochs=null and total_steps")


def _check_captioning(config: CaptionConfig) -> None:
    check_present(config, "ckpt_dir", "image_path")
    captioner = require_checkpoint(config.ckpt_dir, "stage2")
    for base in adapter_bases(read_json(captioner / CONFIG_NAME)):
        _check_base(captioner, base, BASE_OPTIONS[base], config)
    _check_images(config.image_path)
    output = Path(config.output_path)
    if output.is_dir() or config.output_path.endswith("/"):
        raise ConfigError(
            f"output_path={config.output_path} is a folder: give the JSON file, say {output / 'captions.json'}"
        )
    check_writable("output_path", output.parent)
    if config.preview_dir:
        check_writable("preview_dir", Path(config.preview_dir))
        stage1 = preview_stage1(captioner, config.stage1_path)
        if stage1 is not None:
            _check_base(stage1, "florence2", "florence2_model_path", config)
        _check_sampler(stage1 or captioner, config)


def _check_drawing(config: ReconstructConfig) -> None:
    from vlv.evaluation.extractors import extractor_problem

    check_present(config, "ckpt_dir", "image_path")
    stage1 = require_checkpoint(config.ckpt_dir, "stage1")
    _check_base(stage1, "florence2", "florence2_model_path", config)
    _check_sampler(stage1, config)
    _check_images(config.image_path)
    check_writable("output_dir", Path(config.output_dir))
    problem = extractor_problem(config.extractor, config.inception_weights)
    if problem is not None:
        raise ConfigError(problem)


def _check_sampler(checkpoint: Path, config: CaptionConfig | ReconstructConfig) -> None:
    decoder = _check_base(checkpoint, "decoder", "stable_diffusion_model_path", config)
    if decoder is not None:
        check_inference_steps("num_inference_steps", config.num_inference_steps, decoder)


def _check_component(option: str, source: str) -> None:
    folder = Path(source)
    if folder.is_dir():
        if (
            not (folder / "config.json").is_file()
            and not (folder / "model_index.json").is_file()
            and not any((folder / part).is_dir() for part in ("unet", "transformer"))
        ):
            raise CheckpointError(f"{option}={source} holds neither config.json nor model_index.json: not a model")
    elif not is_hub_id(source):
        raise CheckpointError(f"{option}={source} does not exist: give a folder or a hub id")


def _check_base(
    checkpoint: Path, name: str, option: str, config: Stage2Config | CaptionConfig | ReconstructConfig
) -> Path | None:
    """Check that a checkpoint's frozen base is there; returns its folder, or None where it is a hub's."""
    given: str | None = getattr(config, option, None)  # a captioner's language model has no option to move it
    if given is not None:
        _check_component(option, given)
        folder, source = Path(given), given
    else:
        content = read_json(checkpoint / CONFIG_NAME)
        bases = content.get("bases") or content.get("origin") or {}
        source = recorded_place((bases.get(name) or {}).get("source", ""), checkpoint)
        folder = Path(source)
    if folder.is_dir():
        return folder
    if source and not is_hub_id(source):
        raise CheckpointError(
            f"{checkpoint} was trained on {folder}, which is not there any more: set {option} to where it lies now"
        )
    return None


def _check_data(option: str, config: Stage1Config | Stage2Config, data_format: DataFormat = "auto") -> None:
    """Check that there is something to read, and for stage 2 that it has captions."""
    from vlv.data.files import is_stream
    from vlv.data.formats import SourceSettings
    from vlv.data.sources import check_source

    path = getattr(config, option)
    if is_stream(path) and option != "val_dataset_path":
        return
    try:
        check_source(
            path,
            SourceSettings(
                data_format=data_format,
                captions=isinstance(config, Stage2Config),
                image_column=config.image_column,
                caption_column=config.caption_column,
            ),
        )
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _check_images(path: str) -> None:
    from vlv.data.files import find_images, kind_of

    try:
        names = find_images(path)[1]
    except ValueError as error:
        raise ConfigError(f"image_path: {error}") from None
    if len(names) == 1 and kind_of(names[0]) != "folder":
        raise ConfigError(f"image_path={path} is no image by its name: give an image, a folder of images or a glob")


def _check_run_folder(config: Stage1Config | Stage2Config) -> None:
    folder = Path(config.output_dir)
    check_writable("output_dir", folder)
    check_resume(config)
    holds_run = any(folder.glob("checkpoints/step_*")) or (folder / "final").exists()
    if holds_run and config.resume is None and not config.overwrite and not config.dry_run:
        raise ConfigError(
            f"output_dir={folder} holds a run already: resume=latest continues it, overwrite=true starts it anew, "
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


def check_devices(num_gpus: int, accelerate_config: str | None, precision: str = "auto") -> bool:
    """Whether the processes run on the CPU.

    Raises:
        ConfigError: more GPUs are asked for than there are (names the number that fits), or fp16 on the CPU.
    """
    on_cpu = _run_on_cpu(num_gpus, accelerate_config)
    if on_cpu and precision == "fp16":
        raise ConfigError("precision=fp16 needs a GPU: set precision=bf16 or fp32")
    return on_cpu


def _run_on_cpu(num_gpus: int, accelerate_config: str | None) -> bool:
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
            f"num_gpus={num_gpus} but this machine has no GPU: num_gpus=1 runs on the CPU, and with "
            f"accelerate_config=configs/accelerate/cpu.yaml num_gpus is the number of CPU processes"
        )
    if wanted > here:
        raise ConfigError(f"num_gpus={num_gpus} but {here} GPUs are here: set num_gpus={here}")
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
