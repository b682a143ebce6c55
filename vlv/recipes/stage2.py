"""Stage 2: a projector and a causal language model learn to read stage 1's embeddings as captions.

`bash train_stage2.sh` and `vlv stage2` check the call and start the processes; this is the work of one of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.config import Stage2Config

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from accelerate import Accelerator

    from vlv.batch import Batch
    from vlv.decoders import DiffusionDecoder
    from vlv.models.captioner import VLVCaptioner


def train(config: Stage2Config) -> Path | None:
    """Build the parts and fit; callable from a notebook, on one process.

    Returns:
        Folder of the finished captioner; None of a dry run.

    Raises:
        ValueError: components, data or settings that do not fit; names them and the fix.
    """
    import torch

    from vlv.models.objectives import CaptionObjective
    from vlv.recipes.checkpointing import recompute_where_needed
    from vlv.recipes.precision import settle_training
    from vlv.training.precision import torch_dtype
    from vlv.training.processes import is_sharded

    config, choice = settle_training(config, config.qwen_model, "qwen_model")
    precision = choice.precision
    compute_dtype = torch_dtype(precision)
    torch.manual_seed(config.seed)
    model = build_captioner(config, compute_dtype)
    if config.dropout is not None:
        model.set_dropout(config.dropout)
    model.encoder.nested_dropout = config.nested_dropout
    decoder = build_decoder(config, model, precision) if config.diffusion_weight > 0 else None
    objective = CaptionObjective(model, config.seed, decoder, config.diffusion_weight, config.token_mean)
    recompute_where_needed(config, objective, precision)
    if config.dry_run:
        from vlv.recipes.dry_run import print_dry_run

        return print_dry_run(config, objective, choice)

    from vlv.attention import choose_for_training
    from vlv.data.captions import CaptionTokenizer
    from vlv.data.preparation import SamplePreparation
    from vlv.inference.validation import CaptionSamples
    from vlv.kept_results import KeptResults
    from vlv.models.from_stage1 import decoder_folder_of
    from vlv.models.lora import save_lora_of_checkpoint
    from vlv.recipes.training_data import loader_processor, require_latents_of
    from vlv.recipes.training_run import StageParts, TrainingRun
    from vlv.training.state import TrainState

    run = TrainingRun.start(config, precision)
    latents = 0 if decoder is None else math.prod(decoder.latent_shape[1:])
    choose_for_training(
        run.accelerator.device, precision, max(latents, model.num_image_tokens + config.max_caption_tokens)
    )
    tokenizer = CaptionTokenizer(model.tokenizer, config.max_caption_tokens, config.supervise_eos, model.eos_token_id)
    find_decoder = partial(decoder_folder_of, model, config.stable_diffusion_model_path)
    check_data = partial(
        require_latents_of, processor=model.image_processor, decoder=decoder, find_decoder=find_decoder
    )
    check_data(run.data.source)
    processor = loader_processor(config, model.image_processor, run.accelerator.device)
    prepare = SamplePreparation(processor, tokenizer, config.decode_settings())
    # Weights that are there already, of another model or of this run, would be lost.
    if config.projector_init == "whitened" and config.initial_checkpoint is None and run.resumed is None:
        start_projector(model, run.accelerator, run.loader(TrainState(), prepare))
    if config.keep_results:
        model.encoder.kept_results = KeptResults(config.keep_results)
        if decoder is not None:
            decoder.kept_results = KeptResults(config.keep_results)
    samples = CaptionSamples(run.validation_samples, model)
    objective.report_sources(run.data.source_names)
    parts = StageParts(prepare, model.origin, samples, check_data, part_lrs=part_lrs(config))
    if config.lora_rank is not None:
        parts = replace(parts, write_extras=partial(save_lora_of_checkpoint, model.llm))
    weights = run.fit(objective, parts)

    def save(folder: Path) -> None:
        # Sharded weights cannot be written by one process: the captioner is built once more, whole.
        whole = build_captioner(config, compute_dtype) if is_sharded(run.accelerator) else model
        whole.load_state_dict(weights, strict=False)  # not strict: `weights` are the trained ones alone
        whole.save_pretrained(folder)

    return run.save_final(save)


def part_lrs(config: Stage2Config) -> dict[str, float]:
    """Peak learning rates of the parts that have one of their own, by the beginning of their parameters' names."""
    rates = {"model.mlp.": config.projector_lr, "model.encoder.": config.encoder_lr}
    return {prefix: rate for prefix, rate in rates.items() if rate is not None}


def build_captioner(config: Stage2Config, compute_dtype: torch.dtype) -> VLVCaptioner:
    """The captioner that training starts from."""
    from vlv.checkpoints.initial import load_initial
    from vlv.models.from_stage1 import CaptionerSettings, captioner_from_stage1
    from vlv.models.lora import LoraSettings
    from vlv.models.projector import start_as_torch_does
    from vlv.training.precision import torch_dtype

    param_dtype = torch_dtype(config.param_dtype)
    rank = config.lora_rank
    lora = None
    if rank is not None:
        alpha = 2.0 * rank if config.lora_alpha is None else config.lora_alpha
        lora = LoraSettings(rank, alpha, config.lora_dropout, config.lora_targets)
    model = captioner_from_stage1(
        config.diffusion_model_path,
        config.qwen_model,
        CaptionerSettings(
            trained=[*config.train],
            max_caption_tokens=config.max_caption_tokens,
            draws_with_own_weights=config.diffusion_weight > 0,
            # Loaded straight in the format that it keeps: no process holds billions of weights in fp32 first.
            llm_dtype=param_dtype if "llm" in config.train and lora is None else compute_dtype,
            lora=lora,
            quantize=config.quantize,
        ),
        config.stable_diffusion_model_path,
        config.florence2_model_path,
    )
    if config.projector_init == "torch":
        start_as_torch_does(model.mlp)
    model.set_dtypes(compute_dtype, param_dtype)
    if config.initial_checkpoint is not None:
        load_initial(model, config.initial_checkpoint)
    return model


def build_decoder(config: Stage2Config, model: VLVCaptioner, precision: str) -> DiffusionDecoder:
    """The frozen decoder whose denoising loss trains beside the caption loss."""
    from vlv.models.from_stage1 import decoder_of
    from vlv.training.precision import torch_dtype

    decoder = decoder_of(model, config.stable_diffusion_model_path, dtype=precision)
    decoder.set_dtypes(torch_dtype(precision))
    return decoder


def start_projector(model: VLVCaptioner, accelerator: Accelerator, loader: Iterable[Batch]) -> None:
    """Start the projector from the embeddings of the run's first samples, the same on every process.

    Raises:
        ValueError: none of them can be used.
    """
    from vlv.recipes.first_samples import first_moments
    from vlv.whitening import StateMoments

    def states(pixels: torch.Tensor) -> torch.Tensor:
        return model.conditioner.prefix_states(model.embed(pixels).states)

    model.eval()  # without dropout; the trainer sets the mode when it starts
    moments = StateMoments(model.conditioner.width)
    mean, covariance = first_moments(accelerator, loader, [model.encoder, model.conditioner], states, moments)
    # Its random numbers are the same on every process: up to here each has drawn as many from the run's seed.
    model.mlp.start_whitened(mean, covariance, model.llm.get_input_embeddings().weight.float().std().item())
