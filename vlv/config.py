"""The settings of each command, as one flat frozen dataclass a recipe.

Flat on purpose: a key has one name, the same in the launcher, in the YAML and on the command line
(`lr=1e-4`). The groups are mixins, so that a setting that two recipes share is written once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlv.settings import ConfigError, describe, load_config, option, require, save_config

__all__ = [
    "CaptionConfig",
    "ConfigError",
    "ReconstructConfig",
    "Stage1Config",
    "Stage2Config",
    "describe",
    "load_config",
    "save_config",
]

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DataFormat = Literal["auto", "folder", "webdataset", "parquet"]


@dataclass(frozen=True)
class ReadingConfig:
    """How images are read and decoded; every command reads images."""

    num_workers: int = option(4, "loader workers a process; 0 reads in the main process")
    max_image_pixels: int = option(178_956_970, "images with more pixels than this are skipped as absurdly large")

    def __post_init__(self) -> None:
        require(self.num_workers >= 0, "num_workers", self.num_workers, "give 0 or more")
        require(self.max_image_pixels > 0, "max_image_pixels", self.max_image_pixels, "give a positive number")


@dataclass(frozen=True)
class DataConfig(ReadingConfig):
    """What a training run reads, and in which order."""

    val_dataset_path: str = option("./assets", "validation images; with captions.json beside them for stage 2")
    data_format: DataFormat = option("auto", "format of the training data; auto looks at what is there")
    image_column: str = option("image", "parquet column, or json field, with the image")
    caption_column: str = option("caption", "parquet column, or json field, with the caption")
    raw_image_size: list[int] = option([384, 384], "height and width of images stored as raw uint8 CHW bytes")
    shuffle_window: int = option(8192, "samples: permuted shards are pooled until they hold this many, then shuffled")
    max_bad_share: float = option(0.1, "training stops when more than this share of samples is unreadable")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.shuffle_window >= 1, "shuffle_window", self.shuffle_window, "give at least 1 sample")
        require(0 < self.max_bad_share <= 1, "max_bad_share", self.max_bad_share, "give a share above 0, at most 1")
        require(len(self.raw_image_size) == 2, "raw_image_size", self.raw_image_size, "give [height, width]")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule, and the number formats of training."""

    lr: float = option(5e-5, "peak learning rate")
    betas: list[float] = option([0.9, 0.99], "AdamW betas")
    weight_decay: float = option(0.01, "AdamW weight decay")
    max_grad_norm: float = option(1.0, "gradients are clipped to this global norm; 0 switches clipping off")
    lr_schedule: Literal["cosine", "linear", "constant"] = option("cosine", "lr falls to 0 at the last optimizer step")
    lr_schedule_steps: int | None = option(
        None, "steps that the schedule is made for; null is the run's, and a cosine made for fewer swings back up"
    )
    warmup_steps: int = option(0, "optimizer steps over which lr rises linearly from 0")
    precision: Precision = option("auto", "number format of the computation; auto is bf16 on a GPU, fp32 on the CPU")
    param_dtype: Literal["fp32", "bf16"] = option("fp32", "number format of the weights that train")
    max_micro_batch: int = option(64, "most samples a process takes at once; the rest is gradient accumulation")
    gradient_checkpointing: bool = option(False, "recompute activations in backward: less memory, slower")
    ema_decay: float = option(0.0, "moving average of the trained weights, which the finished model gets; 0 is off")
    dropout: float | None = option(None, "dropout of every trained part; null keeps what the components say")

    def __post_init__(self) -> None:
        require(self.lr > 0, "lr", self.lr, "give a positive learning rate")
        require(len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "betas", self.betas, "give two in [0, 1)")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "give 0 or more")
        require(self.max_grad_norm >= 0, "max_grad_norm", self.max_grad_norm, "give 0 or more")
        require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "give 0 or more")
        require(self.max_micro_batch >= 1, "max_micro_batch", self.max_micro_batch, "give at least 1")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "give a decay in [0, 1), say 0.9999")
        if self.lr_schedule_steps is not None:
            require(self.lr_schedule_steps >= 1, "lr_schedule_steps", self.lr_schedule_steps, "give null or at least 1")
        if self.dropout is not None:
            require(0 <= self.dropout < 1, "dropout", self.dropout, "give null or a share in [0, 1)")


@dataclass(frozen=True)
class RunConfig:
    """What a training run is called, where it writes, and what it reports."""

    run_name: str = option("run", "name of the run")
    output_dir: str = option("./outputs/${run_name}", "folder of the run: checkpoints, metrics, pictures")
    save_step: int = option(1000, "optimizer steps between checkpoints; each save validates too")
    keep_checkpoints: int = option(3, "how many of the newest checkpoints stay on disk; 0 keeps all")
    log_every: int = option(10, "optimizer steps between two lines of metrics")
    seed: int = option(42, "seed of the data order, of the noise and of new weights")
    resume: str | None = option(None, "latest, or the path of a checkpoint, to go on from; null starts anew")
    overwrite: bool = option(False, "allow a new run in a folder that holds checkpoints, which are then removed")
    initial_checkpoint: str | None = option(
        None, "start from the weights of this stage-1 model (its encoder) or captioner (its encoder, or all of it)"
    )
    dry_run: bool = option(False, "print the resolved config, parameter counts and a memory estimate, and stop")
    num_gpus: int = option(8, "number of processes")
    accelerate_config: str | None = option(None, "Accelerate YAML with the parallelism; null is DDP over num_gpus")
    wandb_mode: Literal["off", "online", "offline"] = option("off", "Weights & Biases logging")
    wandb_project: str = option("vlv", "Weights & Biases project")
    val_pictures: int = option(8, "validation images drawn or captioned at each save")
    val_max_samples: int = option(1000, "validation images that the validation loss is taken over")
    val_inference_steps: int = option(50, "denoising steps of validation pictures")
    val_guidance_scale: float = option(2.0, "guidance of validation pictures")

    def __post_init__(self) -> None:
        for key in ("save_step", "log_every", "num_gpus", "val_max_samples", "val_inference_steps"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        for key in ("keep_checkpoints", "val_pictures", "seed"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "give 0 or more")


@dataclass(frozen=True)
class Stage1Config(RunConfig, OptimConfig, DataConfig):
    """Stage 1: images to caption embeddings, taught by the frozen decoder's denoising loss."""

    train_dataset_path: str = option("./data/Images_6M", "training images: folder, .tar shards or parquet")
    num_steps: int = option(10000, "optimizer steps of the run")
    global_batch_size: int = option(64, "images of one optimizer step, over all processes and accumulation")
    stable_diffusion_model_path: str = option(
        "./pretrained_checkpoints/stable-diffusion-2-1-base", "frozen diffusion decoder: diffusers folder or hub id"
    )
    florence2_model_path: str = option("./pretrained_checkpoints/Florence-2-large", "Florence-2: folder or hub id")
    decoder_resolution: int = option(384, "side in pixels of the square that the diffusion decoder sees")
    encoder_resolution: int = option(768, "side in pixels of the square that the vision encoder sees")
    encoder_view_from_original: bool = option(
        False, "take the encoder's view from the original image, not from the decoder's crop as published"
    )
    num_queries: int = option(77, "learned queries, from 1 to the text encoder's limit")
    conditioning_dropout: float = option(0.0, "share of samples trained on the empty prompt instead; not the paper's")
    min_snr_gamma: float | None = option(
        None, "weight the loss by min-SNR with this gamma (5 is usual); null is the paper's"
    )
    precondition_outputs: bool = option(
        False, "rectified flow: weight the velocity's loss by sigma squared, as diffusers' example does"
    )
    conditioning: Literal["text_encoder", "clip", "direct"] = option(
        "text_encoder", "embeddings pass the frozen text encoders (clip: all but T5), or go straight into attention"
    )
    t5_dtype: Literal["bf16", "int8"] | None = option(
        None, "number format of SD 3.5's T5 (int8 needs bitsandbytes); null is that of the other frozen weights"
    )
    train: Literal["language_model", "decoder_only", "all"] = option(
        "language_model", "what of Florence-2 trains beside queries and projection: BART, its decoder, or everything"
    )

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        OptimConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        for key in ("num_steps", "global_batch_size", "num_queries", "decoder_resolution", "encoder_resolution"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        share = self.conditioning_dropout
        require(0 <= share < 1, "conditioning_dropout", share, "give a share in [0, 1)")
        if self.min_snr_gamma is not None:
            require(self.min_snr_gamma > 0, "min_snr_gamma", self.min_snr_gamma, "give null or a positive number")


@dataclass(frozen=True)
class Stage2Config(RunConfig, OptimConfig, DataConfig):
    """Stage 2: a projector and a causal language model learn to read the embeddings as captions."""

    lr: float = option(1e-5, "peak learning rate")
    lr_schedule: Literal["cosine", "linear", "constant"] = option("linear", "lr falls to 0 at the last optimizer step")
    dataset_path: str = option("./data/Image_384_VL_Captions", "pairs: parquet, .tar shards, or folder with captions")
    epochs: float | None = option(2, "passes over the pairs; training ends at epochs or total_steps, null is no limit")
    total_steps: int = option(10000, "optimizer steps; training ends at whichever of epochs and steps comes first")
    batch_size: int = option(8, "pairs of one forward pass of one process")
    accumulation: int = option(1, "forward passes of a process in one optimizer step")
    qwen_model: str = option("./pretrained_checkpoints/Qwen2.5-3B", "any causal LM of transformers: folder or hub id")
    diffusion_model_path: str = option(
        "./pretrained_checkpoints/stage1_checkpoint", "the finished stage 1: <its output_dir>/final"
    )
    stable_diffusion_model_path: str | None = option(
        None, "the frozen diffusion decoder, where it has moved since stage 1; null is where stage 1 found it"
    )
    florence2_model_path: str | None = option(
        None, "Florence-2, where it has moved since stage 1; null is where stage 1 found it"
    )
    train: list[str] = option(["mlp", "llm", "encoder"], "what trains: any of mlp, llm, encoder (Florence's BART)")
    max_caption_tokens: int = option(300, "captions are cut here; a cut caption gets no end-of-caption token")
    projector_lr: float | None = option(None, "peak learning rate of the MLP; null is lr, as published")
    encoder_lr: float | None = option(None, "peak learning rate of the encoder; null is lr, as published")
    projector_init: Literal["random", "whitened"] = option(
        "random", "a new MLP starts at random as published, or so that it whitens the first samples' embeddings"
    )
    supervise_eos: bool = option(True, "learn one end token after each caption; false is the published behaviour")
    diffusion_weight: float = option(0.0, "weight of the denoising loss beside the caption loss; 0 is the paper's")

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        OptimConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        for key in ("total_steps", "batch_size", "accumulation", "max_caption_tokens"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        if self.epochs is not None:
            require(self.epochs > 0, "epochs", self.epochs, "give a positive number, or null for no limit")
        unknown = sorted(set(self.train) - {"mlp", "llm", "encoder"})
        require(bool(self.train) and not unknown, "train", self.train, "give one or more of mlp, llm, encoder")
        for part, key in (("mlp", "projector_lr"), ("encoder", "encoder_lr")):
            rate = getattr(self, key)
            if rate is not None:
                require(rate > 0, key, rate, "give null or a positive learning rate")
                require(part in self.train, key, rate, f"{part} does not train: add {part} to train, or set {key}=null")
        require(self.diffusion_weight >= 0, "diffusion_weight", self.diffusion_weight, "give 0 or more")
        if self.diffusion_weight > 0:
            require(
                "encoder" in self.train, "diffusion_weight", self.diffusion_weight, "the denoising loss trains the "
                "encoder: add encoder to train, or set diffusion_weight=0",
            )  # fmt: skip


@dataclass(frozen=True)
class InferenceConfig(ReadingConfig):
    """What both inferences share: the images, the checkpoint, and how pictures are drawn."""

    image_path: str = option("./assets", "an image, a folder (recursive) or a glob")
    ckpt_dir: str = option("./pretrained_checkpoints/stage1_checkpoint", "the trained model's folder")
    guidance_scale: float = option(2.0, "classifier-free guidance; 1 switches it off")
    num_inference_steps: int = option(50, "denoising steps")
    batch_size: int = option(8, "images a process takes at once")
    num_gpus: int = option(1, "number of processes")
    accelerate_config: str | None = option(None, "Accelerate YAML; null is one process a GPU, or one on the CPU")
    precision: Precision = option("auto", "number format of the computation; auto is bf16 on a GPU, fp32 on the CPU")
    stable_diffusion_model_path: str | None = option(None, "the diffusion decoder, where it has moved since training")
    florence2_model_path: str | None = option(None, "Florence-2, where it has moved since training")

    def __post_init__(self) -> None:
        ReadingConfig.__post_init__(self)
        require(self.guidance_scale >= 0, "guidance_scale", self.guidance_scale, "give 0 or more")
        for key in ("num_inference_steps", "batch_size", "num_gpus"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")


@dataclass(frozen=True)
class CaptionConfig(InferenceConfig):
    """Captions of a set of images, into one JSON file."""

    output_path: str = option("./captions.json", "the JSON file that is written")
    num_beams: int = option(4, "beams of the caption search; 1 is greedy")
    max_new_tokens: int | None = option(None, "longest caption in tokens; null is what the captioner was trained with")
    preview_dir: str | None = option(None, "also draw each image from its embeddings into an index.html here")
    stage1_path: str | None = option(None, "the stage-1 model that previews draw with, where it has moved")
    seed: int = option(42, "seed of the preview pictures")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.num_beams >= 1, "num_beams", self.num_beams, "give at least 1")
        if self.max_new_tokens is not None:
            require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "give at least 1, or null")


@dataclass(frozen=True)
class ReconstructConfig(InferenceConfig):
    """Images drawn back from their embeddings, compared and measured."""

    output_dir: str = option("./reconstructed_images", "folder of pictures, index.html and metrics.json")
    seeds: list[int] = option([42], "one or several seeds; each gives a whole set of pictures")
    scheduler: Literal["auto", "ddpm", "ddim", "dpm++", "euler", "heun"] = option(
        "auto", "sampler, built from the model's own config; auto is ddpm, and euler for rectified flow"
    )
    extractor: Literal["auto", "inception", "vision_tower", "efficientnet_lite0"] = option(
        "auto", "features of FID and KID; auto is inception where it is installed, else the encoder's vision tower"
    )
    inception_weights: str | None = option(None, "local InceptionV3 weights file of torch-fidelity")
    t5_dtype: Literal["bf16", "int8"] | None = option(
        None, "number format of SD 3.5's T5 (int8 needs bitsandbytes); null is that of the other weights"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 1, "seeds", self.seeds, "give at least one seed")
        require(all(seed >= 0 for seed in self.seeds), "seeds", self.seeds, "give seeds of 0 or more")
