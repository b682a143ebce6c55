"""The settings of both training stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from vlv.config.groups import DataConfig, OptimConfig, RunConfig, data_option, model_option, optim_option
from vlv.settings import recipe, require


@recipe("stage1")
@dataclass(frozen=True)
class Stage1Config(RunConfig, OptimConfig, DataConfig):
    """Stage 1: images to caption embeddings, taught by the frozen decoder's denoising loss."""

    reads_captions: ClassVar[bool] = False  # of the stage, so no setting

    train_dataset_path: str = data_option(
        "./data/Images_6M",
        "the training images: folder, .tar shards or parquet, on a disk or behind URLs",
        frequent=True,
        path="local",
        source="vlv download pairs fetches 6 million images with captions into ./data/Image_384_VL_Captions, raw "
        "pixels that need raw_image_size=[384,384]",
    )
    num_steps: int = optim_option(10000, "optimizer steps of the run", frequent=True)
    global_batch_size: int = optim_option(
        64, "images of one optimizer step, over all processes and accumulation", frequent=True
    )
    stable_diffusion_model_path: str = model_option(
        "./pretrained_checkpoints/stable-diffusion-2-1-base",
        "the frozen diffusion decoder: diffusers folder or hub id",
        frequent=True,
        path="source",
    )
    florence2_model_path: str = model_option(
        "./pretrained_checkpoints/Florence-2-large",
        "Florence-2: folder or hub id",
        path="source",
    )
    decoder_resolution: int = model_option(384, "side in pixels of the square that the diffusion decoder sees")
    encoder_resolution: int = model_option(768, "side in pixels of the square that the vision encoder sees")
    encoder_view_from_original: bool = model_option(
        False, "take the encoder's view from the original image, not from the decoder's crop as published"
    )
    num_queries: int = model_option(77, "learned queries, from 1 to the text encoder's limit")
    region_grid: int | None = model_option(
        None,
        "g: the first g*g + 1 queries start from averages of the image's g x g regions and of all of it, far fewer "
        "steps until they say what is there; null is the paper's",
    )
    region_blocks: int = model_option(3, "residual blocks between those averages and the projection")
    bart_lr: float | None = optim_option(None, "peak learning rate of BART and the queries; null is lr, as published")
    noise_draws: int = optim_option(
        1, "noisy versions of each image in a step, which read one encoding; the paper's is 1"
    )
    conditioning_dropout: float = optim_option(
        0.0, "share of samples trained on the empty prompt instead; not the paper's"
    )
    min_snr_gamma: float | None = optim_option(
        None, "weight the loss by min-SNR with this gamma (5 is usual); null is the paper's"
    )
    precondition_outputs: bool = optim_option(
        False, "rectified flow: weight the velocity's loss by sigma squared, as diffusers' example does"
    )
    conditioning: Literal["text_encoder", "clip", "direct"] = model_option(
        "text_encoder", "embeddings pass the frozen text encoders (clip: all but T5), or go straight into attention"
    )
    t5_dtype: Literal["bf16", "int8"] | None = model_option(
        None, "number format of SD 3.5's T5 (int8 needs bitsandbytes); null is that of the other frozen weights"
    )
    head_init: Literal["normal", "torch"] = model_option(
        "normal", "start of the new layers into the embedding spaces: N(0, 0.02), or torch's default as published"
    )
    train: Literal["language_model", "decoder_only", "all", "regions"] = model_option(
        "language_model",
        "what of Florence-2 trains beside queries and projection: BART, its decoder, or everything; regions leaves "
        "BART out, and trains what reads region_grid alone",
    )

    def __post_init__(self) -> None:
        # Each by name: `super()` would reach the first mixin alone, as they do not call one another.
        RunConfig.__post_init__(self)
        OptimConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        for key in ("num_steps", "global_batch_size", "num_queries", "decoder_resolution", "encoder_resolution"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        require(self.noise_draws >= 1, "noise_draws", self.noise_draws, "give at least 1")
        require(
            not self.keep_results or self.train != "all", "keep_results", self.keep_results,
            "the vision tower trains, so its results change: set keep_results=0",
        )  # fmt: skip
        require(self.region_blocks >= 0, "region_blocks", self.region_blocks, "give 0 or more")
        if self.bart_lr is not None:
            require(self.bart_lr > 0, "bart_lr", self.bart_lr, "give null or a positive learning rate")
            require(self.train != "regions", "bart_lr", self.bart_lr, "BART does not train: set bart_lr=null")
        share = self.conditioning_dropout
        require(0 <= share < 1, "conditioning_dropout", share, "give a share in [0, 1)")
        if self.min_snr_gamma is not None:
            require(self.min_snr_gamma > 0, "min_snr_gamma", self.min_snr_gamma, "give null or a positive number")

    @property
    def data_path(self) -> str:
        """The training data."""
        return self.train_dataset_path

    @property
    def step_limit(self) -> int:
        """Optimizer steps at most."""
        return self.num_steps

    @property
    def epoch_limit(self) -> float | None:
        """Passes over the data at most: no limit, stage 1 has a number of steps."""
        return None

    @property
    def micro_batch_limit(self) -> int:
        """Most samples that a process takes at once."""
        return self.max_micro_batch

    def total_batch_size(self, num_processes: int) -> int:
        """Samples of one optimizer step over all processes."""
        return self.global_batch_size


@recipe("stage2")
@dataclass(frozen=True)
class Stage2Config(RunConfig, OptimConfig, DataConfig):
    """Stage 2: a projector and a causal language model learn to read the embeddings as captions."""

    reads_captions: ClassVar[bool] = True

    # Rate and schedule are those of the paper's stage 2.
    lr: float = optim_option(1e-5, "peak learning rate", frequent=True)
    lr_schedule: Literal["cosine", "linear", "constant"] = optim_option(
        "linear", "lr falls to 0 at the last optimizer step"
    )
    dataset_path: str = data_option(
        "./data/Image_384_VL_Captions",
        "the pairs: parquet, .tar shards, or folder with captions.json, on a disk or behind URLs",
        frequent=True,
        path="local",
        source="vlv download pairs fetches 6 million of them, raw pixels that need raw_image_size=[384,384]",
    )
    epochs: float | None = optim_option(
        2, "passes over the pairs; training ends at epochs or total_steps, null is no limit", frequent=True
    )
    total_steps: int = optim_option(
        10000, "optimizer steps; training ends at whichever of epochs and steps comes first", frequent=True
    )
    batch_size: int = optim_option(8, "pairs of one forward pass of one process", frequent=True)
    accumulation: int = optim_option(1, "forward passes of a process in one optimizer step")
    qwen_model: str = model_option(
        "./pretrained_checkpoints/Qwen2.5-3B",
        "any causal LM of transformers: folder or hub id",
        frequent=True,
        path="source",
    )
    diffusion_model_path: str = model_option(
        "./pretrained_checkpoints/stage1_checkpoint",
        "the finished stage 1: <its output_dir>/final",
        frequent=True,
        path="local",
        source="vlv stage1 makes one, vlv import converts a published one",
    )
    stable_diffusion_model_path: str | None = model_option(
        None,
        "the frozen diffusion decoder, where it has moved since stage 1; null is where stage 1 found it",
        path="source",
    )
    florence2_model_path: str | None = model_option(
        None, "Florence-2, where it has moved since stage 1; null is where stage 1 found it", path="source"
    )
    train: list[Literal["mlp", "llm", "encoder"]] = model_option(
        ["mlp", "llm", "encoder"], "what trains: the projector, the language model, the encoder (Florence's BART)"
    )
    lora_rank: int | None = model_option(
        None, "LoRA of this rank trains in place of the language model's weights (needs 'vlv[peft]'); null is off"
    )
    lora_alpha: float | None = model_option(None, "LoRA's product is scaled by lora_alpha / lora_rank; null is 2 ranks")
    lora_dropout: float = model_option(0.0, "dropout of what LoRA reads")
    lora_targets: list[str] | None = model_option(
        None, "linear layers that get LoRA, by the end of their names, as [q_proj,v_proj]; null is all but the head"
    )
    quantize: Literal["int4"] | None = model_option(
        None, "int4: the weights beside LoRA in 4 bits (NF4, QLoRA; needs 'vlv[quant]'); null is precision"
    )
    # Most of the paper's captions have 170 to 280 tokens.
    max_caption_tokens: int = data_option(300, "captions are cut here; a cut caption gets no end-of-caption token")
    projector_lr: float | None = optim_option(None, "peak learning rate of the MLP; null is lr, as published")
    encoder_lr: float | None = optim_option(None, "peak learning rate of the encoder; null is lr, as published")
    projector_init: Literal["random", "torch", "whitened"] = model_option(
        "random",
        "start of a new MLP: random is N(0, 0.02); torch is torch's default, as published; whitened is such that the "
        "first samples' embeddings come in whitened",
    )
    token_mean: Literal["global", "per_process"] = optim_option(
        "global",
        "caption loss: mean over the tokens of the global batch, or mean of each forward pass's own, as published",
    )
    supervise_eos: bool = data_option(True, "learn one end token after each caption; false is the published behaviour")
    diffusion_weight: float = optim_option(
        0.0, "weight of the denoising loss beside the caption loss; 0 is the paper's"
    )

    def __post_init__(self) -> None:
        RunConfig.__post_init__(self)
        OptimConfig.__post_init__(self)
        DataConfig.__post_init__(self)
        for key in ("total_steps", "batch_size", "accumulation", "max_caption_tokens"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        if self.epochs is not None:
            require(self.epochs > 0, "epochs", self.epochs, "give a positive number, or null for no limit")
        require(len(self.train) > 0, "train", self.train, "give one or more of mlp, llm, encoder")
        for part, key in (("mlp", "projector_lr"), ("encoder", "encoder_lr")):
            rate = getattr(self, key)
            if rate is not None:
                require(rate > 0, key, rate, "give null or a positive learning rate")
                require(part in self.train, key, rate, f"{part} does not train: add {part} to train, or set {key}=null")
        self._check_lora()
        frozen = "encoder" not in self.train
        require(not (self.nested_dropout and frozen), "nested_dropout", self.nested_dropout, "add encoder to train")
        require(self.diffusion_weight >= 0, "diffusion_weight", self.diffusion_weight, "give 0 or more")
        if self.diffusion_weight > 0:
            require(
                "encoder" in self.train, "diffusion_weight", self.diffusion_weight, "the denoising loss trains the "
                "encoder: add encoder to train, or set diffusion_weight=0",
            )  # fmt: skip

    def _check_lora(self) -> None:
        rank = self.lora_rank
        if rank is None:
            for key, off in (("lora_alpha", None), ("lora_dropout", 0.0), ("lora_targets", None), ("quantize", None)):
                value = getattr(self, key)
                require(value == off, key, value, "it is of LoRA: set lora_rank=16, say")
            return
        require(rank >= 1, "lora_rank", rank, "give at least 1, or null")
        require("llm" in self.train, "lora_rank", rank, "LoRA is of the language model: add llm to train")
        require(self.lora_alpha is None or self.lora_alpha > 0, "lora_alpha", self.lora_alpha, "give null or above 0")
        require(0 <= self.lora_dropout < 1, "lora_dropout", self.lora_dropout, "give a share in [0, 1)")
        require(self.lora_targets != [], "lora_targets", self.lora_targets, "give null, or one or more names")
        require(
            self.initial_checkpoint is None, "initial_checkpoint", self.initial_checkpoint, "LoRA starts on qwen_model "
            "and on stage 1: set initial_checkpoint=null, or lora_rank=null",
        )  # fmt: skip

    @property
    def data_path(self) -> str:
        """The training data."""
        return self.dataset_path

    @property
    def step_limit(self) -> int:
        """Optimizer steps at most."""
        return self.total_steps

    @property
    def epoch_limit(self) -> float | None:
        """Passes over the data at most; None is no limit."""
        return self.epochs

    @property
    def micro_batch_limit(self) -> int:
        """Most samples that a process takes at once."""
        return min(self.max_micro_batch, self.batch_size)

    def total_batch_size(self, num_processes: int) -> int:
        """Samples of one optimizer step over all processes."""
        return self.batch_size * self.accumulation * num_processes


TrainingConfig = Stage1Config | Stage2Config
