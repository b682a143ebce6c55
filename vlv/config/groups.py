"""Groups of settings that several commands share, as mixins."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from vlv.data.formats import (
    LOADER_TIMEOUT,
    MAX_IMAGE_MIB,
    RAW_SIZE_ADVICE,
    REMOTE_CACHE_GB,
    DataFormat,
    DecodeSettings,
    SourceSettings,
    is_raw_size,
    raw_shape,
)
from vlv.settings import option, require

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Quantize = Literal["int8", "int4"]
QUANTIZE_DOC = "the language model's layers in 8 or 4 bits: less memory (needs 'vlv[quant]'); null is precision"
Scheduler = Literal["auto", "ddpm", "ddim", "dpm++", "euler", "heun", "pndm"]

# An option of each group that `--help` shows.
data_option = partial(option, group="data")
model_option = partial(option, group="model")
optim_option = partial(option, group="optimisation")
run_option = partial(option, group="run")
logging_option = partial(option, group="logging")


@dataclass(frozen=True)
class BasesConfig:
    """Where the frozen bases lie that a checkpoint names; every command that loads one."""

    stable_diffusion_model_path: str | None = model_option(
        None, "the diffusion decoder, where it has moved since training", path="source", former=("stable_diffusion",)
    )
    florence2_model_path: str | None = model_option(
        None, "Florence-2, where it has moved since training", path="source", former=("florence2",)
    )


@dataclass(frozen=True)
class AdapterBasesConfig(BasesConfig):
    """Those of a captioner that was saved as an adapter; every command that loads one."""

    qwen_model: str | None = model_option(
        None,
        "the language model of an adapter, as LoRA leaves one, where it has moved since training",
        path="source",
        former=("language_model",),
    )

    def bases(self) -> dict[str, str | None]:
        """Where they lie now, by the names that `VLVCaptioner.from_pretrained` has for them."""
        return {
            "stable_diffusion": self.stable_diffusion_model_path,
            "florence2": self.florence2_model_path,
            "language_model": self.qwen_model,
        }


@dataclass(frozen=True)
class ReadingConfig:
    """How images are read and decoded; every command reads images."""

    num_workers: int = data_option(
        4, "loader workers a process, on a CPU no more than its share of the cores; 0 reads in the main process"
    )
    loader_timeout: float = data_option(
        LOADER_TIMEOUT, "seconds without a batch after which loader workers are taken to hang and started anew"
    )
    max_image_mib: int = data_option(
        MAX_IMAGE_MIB,
        "memory in MiB that an image may take in a worker, 12 bytes a pixel for a usual photo; larger ones are skipped "
        "before they are decoded",
    )
    convert_profiles: bool = data_option(
        True, "convert images with an ICC profile to sRGB; false takes their values as they are, as published"
    )
    read_truncated: bool = data_option(
        True, "read JPEGs that lack at most their lowest row of blocks, and count them; false skips them"
    )
    reduced_jpeg: bool = data_option(
        False,
        "decode JPEGs at 1/2, 1/4 or 1/8 of their size where that is at least what they are resized to: faster, not "
        "the published pixels",
    )
    print_config: bool = run_option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        require(self.num_workers >= 0, "num_workers", self.num_workers, "give 0 or more")
        require(self.loader_timeout > 0, "loader_timeout", self.loader_timeout, "give a positive number of seconds")
        require(self.max_image_mib > 0, "max_image_mib", self.max_image_mib, "give a positive number")

    def decode_settings(self) -> DecodeSettings:
        """How images are decoded."""
        return DecodeSettings(self.max_image_mib, self.convert_profiles, self.read_truncated, self.reduced_jpeg)


@dataclass(frozen=True)
class FormatConfig(ReadingConfig):
    """How a dataset is stored; every command that reads one by index."""

    data_format: DataFormat = data_option("auto", "format of the data; auto looks at what is there")
    image_column: str = data_option("image", "parquet column, or json field, with the image")
    caption_column: str = data_option("caption", "parquet column, or json field, with the caption")
    data_split: str | None = data_option(None, "split of a dataset of `datasets`; null is train, or the only one")
    data_subset: str | None = data_option(None, "subset (configuration) of a hub:owner/name dataset")
    data_revision: str | None = data_option(None, "branch, tag or commit of a hub:owner/name dataset")
    raw_image_size: list[int] | None = data_option(
        None,
        "parquet images that are raw uint8 pixels: [height, width] of channels-first ones, or the whole shape such as "
        "[384, 384, 3]; null where there are none",
    )
    remote_cache_gb: float = data_option(
        REMOTE_CACHE_GB,
        "GiB of this machine's disk for what is read of s3://, gs://, hf:// and https:// data; 0 keeps nothing",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.remote_cache_gb >= 0, "remote_cache_gb", self.remote_cache_gb, "give 0 or more")
        require(is_raw_size(self.raw_image_size), "raw_image_size", self.raw_image_size, RAW_SIZE_ADVICE)

    def source_settings(self) -> SourceSettings:
        """How the data is opened: its columns and raw pixels. The format is of one dataset of a run alone."""
        return SourceSettings(
            image_column=self.image_column,
            caption_column=self.caption_column,
            raw_image_shape=raw_shape(self.raw_image_size),
            split=self.data_split,
            subset=self.data_subset,
            revision=self.data_revision,
            remote_cache_gb=self.remote_cache_gb,
        )


@dataclass(frozen=True)
class DataConfig(FormatConfig):
    """What a training run reads, and in which order."""

    val_dataset_path: str = data_option(
        "./assets", "validation images; with captions.json beside them for stage 2", path="local"
    )
    encoder_view: Literal["auto", "device", "loader"] = data_option(
        "auto",
        "where the decoder's crop is resized to the encoder's: by loader workers with Pillow, as published, or on the "
        "device, which sends a fifth of the bytes; auto is device on a GPU where that enlarges it",
    )
    shuffle_window: int | None = data_option(
        None,
        "samples: permuted shards are pooled until they hold this many, then shuffled; null is 8192, and for .tar "
        "shards as many as 64 of them hold",
    )
    max_bad_share: float = data_option(
        0.1,
        "training stops when more than this share of samples is unreadable; 0 stops at the first, or a damaged file",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        window = self.shuffle_window
        require(window is None or window >= 1, "shuffle_window", window, "give at least 1 sample, or null")
        require(0 <= self.max_bad_share <= 1, "max_bad_share", self.max_bad_share, "give a share of 0 to 1")


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its schedule, and the number formats of training."""

    # Defaults are those of the paper's stage 1 (arXiv 2507.07104); stage 2 has a rate and a schedule of its own.
    lr: float = optim_option(5e-5, "peak learning rate", frequent=True)
    optimizer: Literal["adamw", "muon"] = optim_option(
        "adamw", "adamw is the paper's; muon moves weight matrices by Muon, the rest by AdamW"
    )
    # Pairs are lists here: YAML has no tuples, and a saved config must read back the same.
    betas: list[float] = optim_option([0.9, 0.99], "AdamW betas")
    weight_decay: float = optim_option(0.01, "AdamW weight decay")
    max_grad_norm: float = optim_option(1.0, "gradients are clipped to this global norm; 0 switches clipping off")
    max_skipped_steps: int = optim_option(
        10, "steps in a row with a loss or gradient that is not finite, each of which is skipped, until the run stops"
    )
    lr_schedule: Literal["cosine", "linear", "constant"] = optim_option(
        "cosine", "lr falls to 0 at the last optimizer step"
    )
    lr_schedule_steps: int | None = optim_option(
        None, "steps that the schedule is made for; null is the run's, and a cosine made for fewer swings back up"
    )
    warmup_steps: int = optim_option(0, "optimizer steps over which lr rises linearly from 0")
    precision: Precision = optim_option(
        "auto",
        "number format of the computation; auto is bf16 on a GPU, and on a CPU where it is measured to pay",
    )
    param_dtype: Literal["fp32", "bf16"] = optim_option("fp32", "number format of the weights that train")
    max_micro_batch: int = optim_option(
        64, "most samples a process takes at once; the rest is gradient accumulation", frequent=True
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = optim_option(
        "auto", "recompute activations in backward: less memory, slower; auto is on where the plan exceeds the GPU"
    )
    ema_decay: float = optim_option(
        0.0, "moving average of the trained weights, which the finished model gets; 0 is off"
    )
    dropout: float | None = model_option(
        None, "dropout of every trained part; null keeps what the components' configs have"
    )
    keep_results: int = optim_option(
        0, "images whose latents and image tokens each process keeps in memory; pays where a small set is seen again"
    )
    nested_dropout: float = optim_option(
        0.0, "share of forward passes in which only the first embeddings are used, a random number of them"
    )

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "give a positive learning rate")
        require(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", self.betas, "give two in [0, 1)")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "give 0 or more")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "give 0 or more")
        require(self.max_skipped_steps >= 1, "max_skipped_steps", self.max_skipped_steps, "give at least 1")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "give 0 or more")
        require(self.max_micro_batch >= 1, "max_micro_batch", self.max_micro_batch, "give at least 1")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "give a decay in [0, 1), as 0.9999")
        if self.lr_schedule_steps is not None:
            require(self.lr_schedule_steps >= 1, "lr_schedule_steps", self.lr_schedule_steps, "give null or at least 1")
        require(self.keep_results >= 0, "keep_results", self.keep_results, "give 0 or more")
        require(0 <= self.nested_dropout <= 1, "nested_dropout", self.nested_dropout, "give a share from 0 to 1")
        if self.dropout is not None:
            require(0 <= self.dropout < 1, "dropout", self.dropout, "give null or a share in [0, 1)")


@dataclass(frozen=True)
class RunConfig:
    """What a training run is called, where it writes, and what it reports."""

    run_name: str = run_option("run", "name of the run", frequent=True)
    output_dir: str = run_option(
        "./outputs/${run_name}", "folder of the run: checkpoints, metrics, pictures", frequent=True, path="local"
    )
    save_step: int = run_option(1000, "optimizer steps between checkpoints; each save validates too", frequent=True)
    keep_checkpoints: int = run_option(3, "how many of the newest checkpoints stay on disk; 0 keeps all")
    keep_every: int = run_option(0, "checkpoints whose step is a multiple of this stay for good; 0 keeps none for that")
    keep_best: str | None = run_option(
        None, "the checkpoint with the lowest value of this metric of the validation stays too, as val/loss"
    )
    stop_on_full_disk: bool = run_option(
        False,
        "stop where a checkpoint does not fit on the disk; else training goes on, and tries again at the next save",
    )
    log_every: int = logging_option(10, "optimizer steps between two lines of metrics")
    seed: int = run_option(42, "seed of the data order, of the noise and of new weights")
    resume: str | None = run_option(
        None, "latest, or the path of a checkpoint, to resume from; null starts anew", frequent=True, path="source"
    )
    allow_changes: bool = run_option(
        False, "resume although settings that decide the model have changed; they are listed"
    )
    overwrite: bool = run_option(False, "allow a new run in a folder that holds checkpoints, which are then removed")
    initial_checkpoint: str | None = run_option(
        None,
        "start from the weights of this stage-1 model (its encoder) or captioner (its encoder, or all of it)",
        path="source",
    )
    dry_run: bool = run_option(
        False, "print the resolved config, parameter counts and a memory estimate, and stop", frequent=True
    )
    num_gpus: int = run_option(8, "number of processes", frequent=True)
    accelerate_config: str | None = run_option(
        None, "Accelerate YAML with the parallelism; null is DDP over num_gpus", path="shipped"
    )
    wandb_mode: Literal["off", "online", "offline"] = logging_option("off", "Weights & Biases logging")
    wandb_project: str = logging_option("vlv", "Weights & Biases project")
    val_pictures: int = logging_option(8, "validation images that are reconstructed or captioned at each save")
    val_max_samples: int = logging_option(1000, "validation images that the validation loss is taken over")
    val_inference_steps: int = logging_option(50, "denoising steps of validation images")
    # At 2 the paper's FID of reconstructions is lowest (its table 5, of 1 to 4).
    val_guidance_scale: float = logging_option(2.0, "guidance of validation images")

    def __post_init__(self) -> None:
        for key in ("save_step", "log_every", "num_gpus", "val_max_samples", "val_inference_steps"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        # The data order's numpy generator takes no negative seed.
        for key in ("keep_checkpoints", "keep_every", "val_pictures", "seed"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "give 0 or more")
        require(self.seed < 2**63, "seed", self.seed, "give less than 2**63, which torch and numpy take")
