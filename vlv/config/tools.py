"""The settings of `vlv data inspect` and `vlv data shards`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlv.config.groups import FormatConfig
from vlv.settings import ConfigError, option, require

CaptionsChoice = Literal["auto", "on", "off"]
# Settings of `vlv data shards` that change no byte of what is written.
FREE = frozenset({"source", "destination", "num_workers", "print_config", "verify"})


@dataclass(frozen=True)
class InspectDataConfig(FormatConfig):
    """What is looked at, and how closely."""

    source: str = option("", "the data: a folder, a file, a glob or a list", path="local")
    probe: int = option(1000, "samples that are read, spread evenly over the source")
    captions: CaptionsChoice = option("auto", "whether samples are pairs; auto is on where the source has captions")
    tokenizer: str | None = option(
        None, "folder with the tokenizer that counts captions; null counts words", path="local"
    )
    max_caption_tokens: int = option(300, "limit of stage 2, above which captions are counted")
    decoder_resolution: int = option(384, "side in pixels that the first resize of the speed test makes")
    encoder_resolution: int = option(768, "side in pixels that the second resize of the speed test makes")
    json: str | None = option(None, "file for the same facts as JSON", path="local")
    html: str | None = option(None, "file for a page with histograms and 24 samples", path="local")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.source:
            raise ConfigError("vlv data inspect needs a dataset: vlv data inspect SOURCE")
        for key in ("probe", "max_caption_tokens", "decoder_resolution", "encoder_resolution"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")


@dataclass(frozen=True)
class ShardsConfig(FormatConfig):
    """What is packed, how, and what is left out."""

    source: str = option("", "the data: a folder, a file, a glob or a list", path="local")
    destination: str = option("", "the folder of shards; it must be empty, absent, or of the same call", path="local")
    format: Literal["webdataset", "parquet"] = option("webdataset", "what is written")
    captions: CaptionsChoice = option("auto", "whether samples are pairs; auto is on where the source has captions")
    samples_per_shard: int = option(10_000, "samples of the source that go into a shard, less those left out")
    shard_mb: float | None = option(
        None, "size of a shard, about, in MB, instead of samples_per_shard; from the mean of 200 samples"
    )
    row_group_size: int = option(100, "parquet: samples in a row group, the unit that the loader reads")
    keep_names: bool = option(False, "keep each sample's name: field name of KEY.json, or column name of parquet")
    short_side: int | None = option(None, "larger images are made this small, in pixels; null keeps every file's bytes")
    encoding: Literal["jpeg", "webp", "png"] = option("jpeg", "file format of images that were made smaller")
    quality: int = option(95, "of jpeg and webp, 1 to 100")
    check_images: bool = option(True, "decode every image and leave out what cannot be read; false reads headers")
    min_side: int | None = option(None, "leave out images whose short side is below this, in pixels")
    min_aspect: float | None = option(None, "leave out images whose width / height is below this")
    max_aspect: float | None = option(None, "leave out images whose width / height is above this")
    min_caption_words: int | None = option(None, "leave out captions of fewer words")
    max_caption_words: int | None = option(None, "leave out captions of more words")
    duplicates: Literal["keep", "exact", "near"] = option(
        "keep", "leave out all but the first of images with equal bytes (exact) or perceptual hashes (near)"
    )
    verify: bool = option(False, "compare DESTINATION with its manifest, and write nothing")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.source and (self.destination or self.verify)):
            raise ConfigError(
                "vlv data shards needs a dataset and a folder: vlv data shards SOURCE DESTINATION, or "
                "vlv data shards DESTINATION verify=true"
            )
        for key in ("samples_per_shard", "row_group_size", "short_side", "shard_mb"):
            value = getattr(self, key)
            require(value is None or value > 0, key, value, "give a positive number")
        require(1 <= self.quality <= 100, "quality", self.quality, "give 1 to 100")
        needs = self.short_side is not None or self.duplicates == "near"
        require(self.check_images or not needs, "check_images", False, "short_side and duplicates=near decode images")
        require(
            self.captions != "off" or not self.counts_words, "captions", self.captions, "limits of words need captions"
        )

    @property
    def counts_words(self) -> bool:
        """Whether a filter looks at captions."""
        return self.min_caption_words is not None or self.max_caption_words is not None

    @property
    def folder(self) -> str:
        """The folder of shards: with verify=true it is the only path that is needed."""
        return self.destination or self.source
