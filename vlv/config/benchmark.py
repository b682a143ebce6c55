"""The settings of `vlv benchmark`'s suites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlv.config.groups import Precision
from vlv.settings import ConfigError, option, require


@dataclass(frozen=True)
class BenchmarkAllConfig:
    """Where everything goes."""

    output_dir: str = option("./outputs/performance", "folder of the suites' JSON files", path="local")
    folder: str = option("./outputs/benchmark", "folder of the components, which are written once", path="local")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")


@dataclass(frozen=True)
class BenchmarkDataConfig:
    """How much is read, and how often."""

    images: int = option(512, "JPEGs, which are made for it")
    side: int = option(1024, "their side in pixels; every other is cut to 3:2")
    rounds: int = option(3, "times that each way of reading is measured, in turn; the table has the medians")
    batch_size: int = option(16, "images of a batch")
    num_workers: int = option(1, "loader workers; 0 reads in the main process")
    decoder_resolution: int = option(384, "side of the decoder's pixels")
    encoder_resolution: int = option(768, "side of the encoder's pixels")
    json: str | None = option(None, "file for every measurement", path="local")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        for key in ("images", "side", "rounds", "batch_size", "decoder_resolution", "encoder_resolution"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        require(self.num_workers >= 0, "num_workers", self.num_workers, "give 0 or more")
        require(self.images >= 2 * self.batch_size, "images", self.images, "give at least two batches")


@dataclass(frozen=True)
class BenchmarkIndexConfig:
    """How large the dataset is."""

    folder: str = option("", "folder of the shards and their index, some 120 bytes a sample", path="local")
    samples: int = option(40_000_000, "samples with captions")
    samples_per_shard: int = option(10_000, "samples of a shard")
    processes: int = option(8, "processes that open it at once")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        if not self.folder:
            raise ConfigError("a folder is needed: vlv benchmark index FOLDER")
        for key in ("samples", "samples_per_shard", "processes"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")


@dataclass(frozen=True)
class BenchmarkGrowthConfig:
    """How many images, and where they go."""

    folder: str = option("", "folder of the shards and image files, which are made for it", path="local")
    counts: list[int] = option([1_000, 10_000, 100_000, 1_000_000], "images of each dataset")
    json: str | None = option(None, "file for every measurement", path="local")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        if not self.folder:
            raise ConfigError("a folder is needed: vlv benchmark growth FOLDER")
        require(bool(self.counts) and min(self.counts) >= 128, "counts", self.counts, "give at least 128 each")


@dataclass(frozen=True)
class BenchmarkSaveConfig:
    """How large the checkpoint is, and where it goes."""

    folder: str = option("", "folder on the disk that is measured", path="local")
    parameters: int = option(100_000_000, "trained parameters; a checkpoint has 12 bytes of each")
    rounds: int = option(3, "saves of each kind; the table has the medians")
    json: str | None = option(None, "file for every measurement", path="local")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        if not self.folder:
            raise ConfigError("a folder is needed: vlv benchmark save FOLDER")
        for key in ("parameters", "rounds"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")


@dataclass(frozen=True)
class BenchmarkSpeedConfig:
    """Which models are measured, and how often."""

    size: Literal["tiny", "full"] = option(
        "tiny", "tiny components, or SD 2.1-base, Florence-2-large and Qwen2.5 at full size; all with random weights"
    )
    language_model: Literal["Qwen2.5-3B", "Qwen2.5-0.5B"] = option(
        "Qwen2.5-3B", "size=full: whose config the language model has"
    )
    batch_size: int = option(8, "images at once: the micro-batch of a training")
    accumulation: int = option(1, "trainings: micro-batches of a step of each process")
    steps: int = option(4, "measured steps, or batches, of a run; one more before them is not measured")
    rounds: int = option(3, "runs of each arm, in turn; the table has the medians")
    num_beams: int = option(1, "captions: beams of the search; 1 is greedy")
    new_tokens: int = option(64, "captions: tokens of each; random weights end none before")
    denoising_steps: int = option(10, "reconstructions: denoising steps")
    precision: Precision = option("auto", "number format of ours; auto is what the commands take here")
    num_workers: int = option(1, "loader workers of ours, for each process")
    processes: int = option(
        1,
        "processes, one for each GPU, each with batch_size images at once; with several, ours with one is measured too",
    )
    levers: bool = option(False, "also ours with each lever off by itself, and with each option on")
    lever: str | None = option(None, "those alone whose names have this part: lever=latents")
    profile: str | None = option(None, "folder for a trace of one step of ours, and its top operators", path="local")
    folder: str = option(
        "./outputs/benchmark", "folder of the components, which are written once: 6 GB at full size, and Qwen2.5's 1 "
        "or 6 GB twice for stage 2 and captions", path="local",
    )  # fmt: skip
    json: str | None = option(None, "file for every measurement", path="local")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        for key in (
            "batch_size", "accumulation", "steps", "rounds", "num_beams", "new_tokens", "denoising_steps", "processes",
        ):  # fmt: skip
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        require(self.num_workers >= 0, "num_workers", self.num_workers, "give 0 or more")

    @property
    def step_samples(self) -> int:
        """Samples that a process takes in a step."""
        return self.batch_size * self.accumulation

    @property
    def image_side(self) -> int:
        """Side in pixels of the images that are read."""
        return 1024 if self.size == "full" else 128


@dataclass(frozen=True)
class BenchmarkStartupConfig:
    """How often each call is measured."""

    rounds: int = option(5, "times that each call is measured, in turn; the table has the medians")
    folder: str = option("./outputs/benchmark", "folder of the tiny components, which are written once", path="local")
    json: str | None = option(None, "file for every measurement", path="local")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "rounds", self.rounds, "give at least 1")
