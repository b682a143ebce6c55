"""The settings of `vlv data latents`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vlv.config.groups import FormatConfig, data_option, model_option, run_option
from vlv.settings import require

# Settings that change nothing of what is written; another call with other ones goes on with what is there.
FREE = frozenset(("batch_size", "num_gpus", "num_workers", "accelerate_config", "print_config", "output_dir"))


@dataclass(frozen=True)
class LatentsConfig(FormatConfig):
    """VAE moments of a whole dataset, beside the small image that the encoder sees: stage 1 then needs no VAE."""

    precision: ClassVar[str] = "fp32"  # of a VAE alone: in fp16 it overflows, and in bf16 colours drift

    dataset_path: str = data_option("./data/images", "the images or pairs", frequent=True, path="local")
    output_dir: str = run_option("./data/latents", "the folder that is written", frequent=True, path="local")
    captions: bool = data_option(False, "keep captions too, for stage 2")
    stable_diffusion_model_path: str = model_option(
        "./pretrained_checkpoints/stable-diffusion-2-1-base",
        "the frozen diffusion decoder: diffusers folder or hub id",
        frequent=True,
        path="source",
    )
    decoder_resolution: int = model_option(384, "side of the decoder's image in pixels", frequent=True)
    numbers: Literal["fp16", "fp32"] = run_option("fp16", "number format of the moments")
    encoding: Literal["jpeg", "png"] = run_option("jpeg", "file format of the small image; png loses nothing")
    quality: int = run_option(95, "of jpeg, 1 to 100")
    samples_per_shard: int = run_option(2000, "samples of the source that go into a file, less unreadable ones")
    batch_size: int = run_option(16, "images a process takes at once", frequent=True)
    num_gpus: int = run_option(1, "number of processes", frequent=True)
    accelerate_config: str | None = run_option(
        None, "Accelerate YAML; null is one process a GPU, or one on the CPU", path="shipped"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("decoder_resolution", "samples_per_shard", "batch_size", "num_gpus"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        require(1 <= self.quality <= 100, "quality", self.quality, "give 1 to 100")
