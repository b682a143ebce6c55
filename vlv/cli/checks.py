"""Checks of a call, before any process is started: each failure is one line and exit code 2.

What a folder must be is asked of the code that will load it: the layouts of decoders and encoders, the checkpoints'
schema, the data's formats. All of that reads names, JSON and file headers, and loads no torch. A component that a hub
must give first is checked when it is loaded.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.checkpoints.identity import CONFIG_NAME, CheckpointError, local_component, read_json
from vlv.checkpoints.origin import BASE_OPTIONS, adapter_bases, find_base, preview_stage1
from vlv.checkpoints.schema import require_checkpoint, require_initial
from vlv.cli.engine_checks import check_engine
from vlv.cli.missing import check_packages, check_present
from vlv.cli.resume_check import check_resume
from vlv.config import (
    CaptionConfig,
    ConfigError,
    FormatConfig,
    LatentsConfig,
    LaunchConfig,
    ReconstructConfig,
    Stage1Config,
    Stage2Config,
    TrainingConfig,
)
from vlv.decoders.layout import FAMILIES, DecoderLayout, check_inference_steps, read_layout
from vlv.decoders.settings import DecoderSettings, EmbeddingSpace
from vlv.encoders.layout import read_encoder_layout
from vlv.recipes.accelerate_config import read_accelerate_config
from vlv.recipes.batch_sizes import BatchSizes, require_countable_epochs
from vlv.recipes.stage1 import encoder_settings
from vlv.settings.declare import require, shown

if TYPE_CHECKING:
    from vlv.data.formats import DataFormat, SourceSettings

DECODER, ENCODER = "stable_diffusion_model_path", "florence2_model_path"


def check_call(config: LaunchConfig) -> None:
    """Check paths, checkpoints, sizes and the output folder of a call, as far as names, configs and headers tell.

    Raises:
        ValueError: the first thing that cannot work; names it and the fix.
    """
    if isinstance(config, Stage1Config):
        _check_stage1(config)
    elif isinstance(config, Stage2Config):
        _check_stage2(config)
    elif isinstance(config, LatentsConfig):
        _check_latents(config)
    elif isinstance(config, CaptionConfig):
        _check_captioning(config)
    else:
        _check_reconstruction(config)


def _check_stage1(config: Stage1Config) -> None:
    BatchSizes.of(config, config.num_gpus)
    check_present(config, "train_dataset_path", DECODER, ENCODER)
    _check_components(config)
    if config.t5_dtype == "int8" and read_accelerate_config(config.accelerate_config).get("distributed_type") == "FSDP":
        raise ConfigError("t5_dtype=int8: 8-bit weights cannot be sharded; set t5_dtype=bf16, which FSDP shares out")
    _check_training(config, "train_dataset_path")


def _check_latents(config: LatentsConfig) -> None:
    check_present(config, "dataset_path", DECODER)
    decoder = _component(config, DECODER)
    if decoder is not None:
        _decoder_layout(decoder, DECODER).check(DecoderSettings(resolution=config.decoder_resolution))
    _check_source("dataset_path", config.dataset_path, _data_settings(config, config.captions, config.data_format))
    check_writable("output_dir", Path(config.output_dir))


def _check_components(config: Stage1Config) -> None:
    """Ask the layouts of both components whether they take the call's sizes and options."""
    decoder, encoder = _component(config, DECODER), _component(config, ENCODER)
    spaces: tuple[EmbeddingSpace, ...] = ()
    if decoder is not None:
        layout = _decoder_layout(decoder, DECODER)
        options = DecoderSettings.options_of(config)
        layout.check(DecoderSettings(config.conditioning, config.decoder_resolution, **options))
        spaces = layout.spaces(config.conditioning)
        _check_loss_options(config, layout)
        if config.val_pictures:  # steps are taken for pictures alone
            check_inference_steps("val_inference_steps", config.val_inference_steps, layout)
    if encoder is not None:
        try:
            encoder_layout = read_encoder_layout(encoder)
        except CheckpointError as error:
            raise CheckpointError(f"{ENCODER}: {error}") from None
        encoder_layout.check(encoder_settings(config), spaces)


def _check_loss_options(config: Stage1Config, layout: DecoderLayout) -> None:
    supported = layout.family.loss_options
    of_others = frozenset().union(*(family.loss_options for family in FAMILIES.values())) - supported
    for item in dataclasses.fields(config):
        if item.name in of_others:
            value, off = getattr(config, item.name), item.default
            wanted = f"this decoder's loss has {', '.join(supported)} alone; leave {item.name}={shown(off)}"
            require(value == off, item.name, value, wanted)


def _decoder_layout(folder: Path, option: str) -> DecoderLayout:
    try:
        return read_layout(folder)
    except CheckpointError as error:
        raise CheckpointError(f"{option}: {error}") from None


def _check_stage2(config: Stage2Config) -> None:
    check_present(config, "dataset_path", "diffusion_model_path", "qwen_model")
    stage1 = require_checkpoint(config.diffusion_model_path, "stage1")
    _check_base(stage1, "florence2", config)
    _check_base(stage1, "decoder", config)
    language_model = _component(config, "qwen_model")
    if language_model is not None:
        _require_language_model(language_model, "qwen_model")
    for key in ("lora_rank", "quantize"):
        check_packages(config, key)
    parallelism = read_accelerate_config(config.accelerate_config).get("distributed_type")
    if config.lora_rank is not None and parallelism == "FSDP":
        raise ConfigError(f"lora_rank={config.lora_rank} does not go with FSDP: leave out accelerate_config (DDP)")
    require_countable_epochs(config)
    _check_training(config, "dataset_path")


def _check_training(config: TrainingConfig, data_option: str) -> None:
    """What both stages have in common: data, the model that training starts from, and the run's folder."""
    _check_data(data_option, config, config.data_format)
    _check_data("val_dataset_path", config)
    if config.initial_checkpoint is not None:
        require_initial(config.initial_checkpoint)
    _check_run_folder(config)


def _check_captioning(config: CaptionConfig) -> None:
    check_present(config, "ckpt_dir", "image_path")
    captioner = require_checkpoint(config.ckpt_dir, "stage2")
    for base in adapter_bases(read_json(captioner / CONFIG_NAME)):
        _check_base(captioner, base, config)
    check_engine(config)
    _check_captioned(config)
    check_packages(config, "quantize")
    output, given = config.output, config.output_path or config.output
    if config.to in ("json", "jsonl"):
        if output.is_dir() or str(given).endswith("/"):
            raise ConfigError(
                f"output_path={given} is a folder: give the file, say {Path(given) / f'captions.{config.to}'}"
            )
        if output.exists() and not output.is_file():
            raise ConfigError(f"output_path={given} is a device or a pipe: give a file, which is replaced")
        check_writable("output_path", output.parent)
    else:
        if output.exists() and not output.is_dir():
            raise ConfigError(f"output_path={given} is no folder, which to={config.to} writes into: give another")
        if config.to != "txt" and output.resolve().is_relative_to(Path(config.image_path).resolve()):
            raise ConfigError(
                f"output_path={given} lies in image_path={config.image_path}, where it would be read as images: give a "
                "folder elsewhere"
            )
        check_writable("output_path", output)
    if config.preview_dir:
        if config.to != "json" or config.part is not None:
            raise ConfigError("preview_dir: previews are of to=json and of a whole run alone: leave out to and part")
        check_writable("preview_dir", Path(config.preview_dir))
        try:
            stage1 = preview_stage1(captioner, config.stage1_path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}, or leave preview_dir empty") from None
        if stage1 is not None:
            _check_base(stage1, "florence2", config)
        _check_sampler(stage1 or captioner, config)


def _check_reconstruction(config: ReconstructConfig) -> None:
    from vlv.evaluation.extractors import extractor_problem

    check_present(config, "ckpt_dir", "image_path")
    stage1 = require_checkpoint(config.ckpt_dir, "stage1")
    _check_base(stage1, "florence2", config)
    _check_sampler(stage1, config)
    _check_images(config.image_path)
    check_writable("output_dir", Path(config.output_dir))
    problem = extractor_problem(config.extractor, config.inception_weights)
    if problem is not None:
        raise ConfigError(problem)


def _check_sampler(checkpoint: Path, config: CaptionConfig | ReconstructConfig) -> None:
    folder = _check_base(checkpoint, "decoder", config)
    if folder is None:
        return
    layout = _decoder_layout(folder, DECODER)
    conditioning = read_json(checkpoint / CONFIG_NAME).get("conditioning")
    if conditioning is not None:  # a captioner's own weights generate in the way that it was trained
        layout.check_conditioning(DecoderSettings(conditioning, **DecoderSettings.options_of(config)))
    check_inference_steps("num_inference_steps", config.num_inference_steps, layout)
    if isinstance(config, ReconstructConfig):
        names = ("auto", *layout.family.schedulers)
        wanted = f"this decoder generates with {', '.join(names)}"
        require(config.scheduler in names, "scheduler", config.scheduler, wanted)


def _component(config: LaunchConfig, option: str) -> Path | None:
    """The folder of a component that a setting names; None where a hub must give it first."""
    return local_component(getattr(config, option), option)


def _check_base(checkpoint: Path, name: str, config: Stage2Config | CaptionConfig | ReconstructConfig) -> Path | None:
    """Check that a checkpoint's frozen base is there and of its kind; returns its folder, or None of a hub's."""
    option = BASE_OPTIONS[name]
    folder = find_base(checkpoint, name, getattr(config, option))
    if folder is not None and name == "florence2":
        read_encoder_layout(folder)
    elif folder is not None and name == "decoder":
        _decoder_layout(folder, option)
    elif folder is not None:
        _require_language_model(folder, option)
    return folder


def _require_language_model(folder: Path, option: str) -> None:
    if not (folder / CONFIG_NAME).is_file():
        raise CheckpointError(f"{option}={folder} holds no {CONFIG_NAME}: it is no language model")


def _check_data(option: str, config: TrainingConfig, data_format: DataFormat = "auto") -> None:
    """Check that there is something to read, and for stage 2 that it has captions."""
    from vlv.data.files import is_stream

    path = getattr(config, option)
    if not is_stream(path):  # nothing of a stream is known before it is read
        _check_source(option, path, _data_settings(config, config.reads_captions, data_format))


def _data_settings(config: FormatConfig, captions: bool, data_format: DataFormat) -> SourceSettings:
    return dataclasses.replace(config.source_settings(), captions=captions, data_format=data_format)


def _check_source(option: str, path: str, settings: SourceSettings) -> None:
    from vlv.data.sources import check_source

    try:
        check_source(path, settings)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _check_captioned(config: CaptionConfig) -> None:
    """Whether there are images, or other data; texts and previews are of images alone."""
    from vlv.data.files import holds_images

    path = config.image_path
    if config.data_format in ("auto", "folder") and (
        holds_images(path) or config.preview_dir or _is_nothing_else(path)
    ):
        _check_images(path)
        return
    if config.to == "txt" and config.output_path is None:
        raise ConfigError(
            f"to=txt: {path} is no folder of images, beside which texts could lie: give output_path=FOLDER"
        )
    _check_source("image_path", path, _data_settings(config, False, config.data_format))


def _is_nothing_else(path: str) -> bool:
    """Whether a path is a local one with no data in it that could be read by another format."""
    from vlv.data.arrow import is_hub
    from vlv.data.files import is_remote, is_stream
    from vlv.data.mixture import is_mixture
    from vlv.data.sources import check_source

    if is_hub(path) or is_mixture(path) or is_remote(path) or is_stream(path) or path.endswith(".list"):
        return False
    try:
        check_source(path)
    except ValueError:
        return True
    return False


def _check_images(path: str) -> None:
    from vlv.data.files import find_images, kind_of

    try:
        names = find_images(path)[1]
    except ValueError as error:
        raise ConfigError(f"image_path: {error}") from None
    # A path to a single file is taken whatever it is; folders and globs have been searched for images.
    if len(names) == 1 and kind_of(names[0]) != "folder":
        raise ConfigError(f"image_path={path} is no image by its name: give an image, a folder of images or a glob")


def _check_run_folder(config: TrainingConfig) -> None:
    folder = Path(config.output_dir)
    check_writable("output_dir", folder)
    check_resume(config)
    holds_run = any(folder.glob("checkpoints/step_*")) or (folder / "final").exists()
    if holds_run and config.resume is None and not config.overwrite and not config.dry_run:
        # A folder that a recipe or the call names does not follow the run's name.
        other = "run_name" if folder.name == config.run_name else "output_dir"
        raise ConfigError(
            f"output_dir={folder} holds a run already: resume=latest continues it, overwrite=true starts it anew, "
            f"and another {other} keeps both"
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
    # By writing: `os.access` answers for permissions alone, and not reliably on network file systems.
    probe = nearest / f".vlv-write-probe-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"{option}={folder} cannot be written: {error.strerror} in {nearest}") from None
