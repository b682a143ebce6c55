"""The settings of `vlv benchmark`'s suites."""

from __future__ import annotations

from dataclasses import dataclass

from vlv.settings import ConfigError, option, require


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
