"""The settings of captioning and reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlv.config.groups import Precision, ReadingConfig, data_option, model_option, run_option
from vlv.settings import recipe, require


@dataclass(frozen=True)
class InferenceConfig(ReadingConfig):
    """What both inferences share: the images, the checkpoint, and how images are generated."""

    image_path: str = data_option("./assets", "an image, a folder (recursive) or a glob", frequent=True, path="local")
    ckpt_dir: str = model_option(
        "./pretrained_checkpoints/stage1_checkpoint",
        "the trained model's folder",
        frequent=True,
        path="local",
        source="vlv stage1 makes one, vlv import converts a published one",
    )
    # At 2 the paper's FID of reconstructions is lowest (its table 5, of 1 to 4).
    guidance_scale: float = model_option(2.0, "classifier-free guidance; 1 switches it off")
    num_inference_steps: int = model_option(50, "denoising steps")
    first_queries: int | None = model_option(
        None, "only the embeddings of the first so many queries are used; null is all"
    )
    batch_size: int = run_option(8, "images a process takes at once", frequent=True)
    num_gpus: int = run_option(1, "number of processes", frequent=True)
    accelerate_config: str | None = run_option(
        None, "Accelerate YAML; null is one process a GPU, or one on the CPU", path="shipped"
    )
    precision: Precision = run_option(
        "auto", "number format of the computation; auto is bf16 on a GPU, fp32 on the CPU"
    )
    stable_diffusion_model_path: str | None = model_option(
        None, "the diffusion decoder, where it has moved since training", path="source"
    )
    florence2_model_path: str | None = model_option(
        None, "Florence-2, where it has moved since training", path="source"
    )

    def __post_init__(self) -> None:
        ReadingConfig.__post_init__(self)
        require(self.guidance_scale >= 0, "guidance_scale", self.guidance_scale, "give 0 or more")
        for key in ("num_inference_steps", "batch_size", "num_gpus"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        if self.first_queries is not None:
            require(self.first_queries >= 1, "first_queries", self.first_queries, "give null or at least 1")


@recipe("caption")
@dataclass(frozen=True)
class CaptionConfig(InferenceConfig):
    """Captions of a set of images, into one JSON file."""

    ckpt_dir: str = model_option(
        "./pretrained_checkpoints/VLV-captioner",
        "the captioner's folder",
        frequent=True,
        path="local",
        source="vlv stage2 makes one, vlv download captioner and then vlv import get the released one",
    )
    output_path: str = run_option("./captions.json", "the JSON file that is written", frequent=True, path="local")
    num_beams: int = model_option(4, "beams of the caption search; 1 is greedy", frequent=True)
    max_new_tokens: int | None = model_option(
        None, "longest caption in tokens; null is what the captioner was trained with", frequent=True
    )
    preview_dir: str | None = run_option(
        None, "also generate each image from its embeddings, into an index.html here", frequent=True, path="local"
    )
    stage1_path: str | None = model_option(
        None, "the stage-1 model that generates previews, where it has moved", path="local"
    )
    seed: int = run_option(42, "seed of the previews")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_beams >= 1, "num_beams", self.num_beams, "give at least 1")
        if self.max_new_tokens is not None:
            require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "give at least 1, or null")


@recipe("reconstruct")
@dataclass(frozen=True)
class ReconstructConfig(InferenceConfig):
    """Images generated again from their embeddings, compared and measured."""

    output_dir: str = run_option(
        "./reconstructed_images", "folder of pictures, index.html and metrics.json", frequent=True, path="local"
    )
    seeds: list[int] = run_option([42], "one or several seeds; each gives a whole set of images", frequent=True)
    scheduler: Literal["auto", "ddpm", "ddim", "dpm++", "euler", "heun", "pndm"] = model_option(
        "auto", "sampler, built from the model's own config; auto is ddpm, and euler for rectified flow", frequent=True
    )
    extractor: Literal["auto", "inception", "vision_tower", "efficientnet_lite0"] = run_option(
        "auto",
        "features of fid and kid_paired; auto is inception where it is installed, else the encoder's vision tower",
    )
    inception_weights: str | None = run_option(None, "local InceptionV3 weights file of torch-fidelity", path="local")
    t5_dtype: Literal["bf16", "int8"] | None = model_option(
        None, "number format of SD 3.5's T5 (int8 needs bitsandbytes); null is that of the other weights"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 1, "seeds", self.seeds, "give at least one seed")
        require(all(seed >= 0 for seed in self.seeds), "seeds", self.seeds, "give seeds of 0 or more")
