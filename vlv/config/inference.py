"""The settings of captioning and reconstruction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlv.config.groups import (
    QUANTIZE_DOC,
    AdapterBasesConfig,
    BasesConfig,
    FormatConfig,
    Precision,
    Quantize,
    ReadingConfig,
    Scheduler,
    data_option,
    model_option,
    run_option,
)
from vlv.settings import recipe, require


@dataclass(frozen=True)
class InferenceConfig(ReadingConfig, BasesConfig):
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
        "auto",
        "number format of the computation; auto is bf16 on a GPU, and on a CPU where it is measured to pay",
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
class CaptionConfig(InferenceConfig, FormatConfig, AdapterBasesConfig):
    """Captions of images from any source, into a file, texts beside the images, or shards."""

    image_path: str = data_option(
        "./assets",
        "an image, a folder (recursive), a glob, or any other data: .tar shards, parquet, hub:owner/name, URLs",
        frequent=True,
        path="local",
    )

    ckpt_dir: str = model_option(
        "./pretrained_checkpoints/VLV-captioner",
        "the captioner's folder",
        frequent=True,
        path="local",
        source="vlv stage2 makes one, vlv download captioner and then vlv import get the released one",
    )
    output_path: str | None = run_option(
        None,
        "the file that is written, or the folder for txt, parquet and webdataset; null is ./captions.json, "
        "./captions.jsonl, beside the images (txt), ./captions (parquet, webdataset)",
        frequent=True,
        path="local",
    )
    to: Literal["json", "jsonl", "txt", "parquet", "webdataset"] = run_option(
        "json",
        "one JSON file; JSON lines; a .txt of each image; parquet files of names and captions; .tar shards with the "
        "images",
        frequent=True,
    )
    overwrite: bool = run_option(False, "to=txt: also caption images that have a .txt already")
    prefix: str = run_option("", "what every caption begins with, as a trigger word")
    suffix: str = run_option("", "what every caption ends with")
    captions_per_image: int = model_option(1, "captions of each image; several need a temperature")
    temperature: float = model_option(0.0, "captions are sampled at this temperature; 0 searches the most likely one")
    end_at_sentence: bool = model_option(
        False, "cut a caption that reaches max_new_tokens back to its last whole sentence"
    )
    engine: Literal["plain", "ray", "vllm"] = run_option(
        "plain",
        "ray: Ray Data, on this machine or on the cluster of $RAY_ADDRESS, with files that all of it sees; vllm: the "
        "language model in vLLM, of an environment that scripts/install_vllm.sh makes",
    )
    ray_captioners: int | None = run_option(
        None, "engine=ray: language models; null is one for each GPU that no encoder has, or one"
    )
    ray_encoders: int | None = run_option(None, "engine=ray: encoders; null is one for every four GPUs, or one")
    ray_decoders: int | None = run_option(
        None, "engine=ray: workers that read and decode, at most; null is four for each GPU, or four"
    )
    vllm_cache_gib: float = run_option(
        4.0, "engine=vllm: memory for keys and values, in GiB; more works on more captions at once"
    )
    part: str | None = run_option(
        None, "I/N: this job's share of N jobs that run side by side or one after the other; the last makes the output"
    )
    max_bad_share: float = run_option(
        1.0, "exit code 1, with everything written, when more than this share of the images cannot be read"
    )
    num_beams: int = model_option(4, "beams of the caption search; 1 is greedy", frequent=True)
    max_new_tokens: int | None = model_option(
        None, "longest caption in tokens; null is what the captioner was trained with", frequent=True
    )
    quantize: Quantize | None = model_option(None, QUANTIZE_DOC)
    preview_dir: str | None = run_option(
        None, "also generate each image from its embeddings, into an index.html here", frequent=True, path="local"
    )
    stage1_path: str | None = model_option(
        None, "the stage-1 model that generates previews, where it has moved", path="local"
    )
    seed: int = run_option(42, "seed of sampled captions, and of the previews")

    def __post_init__(self) -> None:
        InferenceConfig.__post_init__(self)
        FormatConfig.__post_init__(self)
        require(self.temperature >= 0, "temperature", self.temperature, "give 0 or more")
        require(0 <= self.max_bad_share <= 1, "max_bad_share", self.max_bad_share, "give a share of 0 to 1")
        require(self.captions_per_image >= 1, "captions_per_image", self.captions_per_image, "give at least 1")
        several = self.captions_per_image > 1
        require(not several or self.temperature > 0, "captions_per_image", self.captions_per_image, "several are "
                "sampled: set temperature=0.7, say")  # fmt: skip
        require(self.num_beams >= 1, "num_beams", self.num_beams, "give at least 1")
        if self.max_new_tokens is not None:
            require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "give at least 1, or null")
        for key in ("ray_captioners", "ray_encoders", "ray_decoders"):
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "give at least 1")
        require(self.vllm_cache_gib > 0, "vllm_cache_gib", self.vllm_cache_gib, "give more than 0")
        searches = self.engine == "vllm" and self.temperature == 0 and self.num_beams > 1
        require(not searches, "num_beams", self.num_beams, "engine=vllm has no beam search: set num_beams=1, or a "
                "temperature")  # fmt: skip
        if self.part is not None:
            found = re.fullmatch(r"(\d+)/(\d+)", self.part)
            good = found is not None and int(found[1]) < int(found[2])
            require(good, "part", self.part, "give I/N with I from 0 to N - 1, as 0/16 to 15/16")

    @property
    def share(self) -> tuple[int, int] | None:
        """Index and number of the jobs that share the images."""
        if self.part is None:
            return None
        index, _, count = self.part.partition("/")
        return int(index), int(count)

    @property
    def output(self) -> Path:
        """The file or folder that is written, absolute."""
        if self.output_path is not None:
            return Path(self.output_path).absolute()
        if self.to == "txt":
            from vlv.data.files import image_root  # it loads numpy and pyarrow, which no other setting needs

            return Path(image_root(self.image_path)).absolute()
        return Path({"json": "captions.json", "jsonl": "captions.jsonl"}.get(self.to, "captions")).absolute()


@recipe("reconstruct")
@dataclass(frozen=True)
class ReconstructConfig(InferenceConfig):
    """Images generated again from their embeddings, compared and measured."""

    output_dir: str = run_option(
        "./reconstructed_images", "folder of pictures, index.html and metrics.json", frequent=True, path="local"
    )
    seeds: list[int] = run_option([42], "one or several seeds; each gives a whole set of images", frequent=True)
    scheduler: Scheduler = model_option(
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
