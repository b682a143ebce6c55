"""Stage 1: the vision encoder learns, from images alone, to drive a frozen text-to-image model.

`bash train_stage1.sh` and `vlv stage1` check the call and start the processes; this is the work of one of them.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.config import Stage1Config

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from accelerate import Accelerator

    from vlv.batch import Batch
    from vlv.encoders import EncoderSettings
    from vlv.models.autoencoder import VLVAutoEncoder


def train(config: Stage1Config) -> Path | None:
    """Build the parts and fit; callable from a notebook, on one process.

    Returns:
        Folder of the finished model; None of a dry run.

    Raises:
        ValueError: components, data or settings that do not fit; names them and the fix.
    """
    import torch

    from vlv.models.objectives import DenoisingObjective
    from vlv.recipes.checkpointing import recompute_where_needed
    from vlv.recipes.precision import settle_training

    config, choice = settle_training(config, config.florence2_model_path, "florence2_model_path")
    precision = choice.precision
    # Every process must build the same weights: FSDP shards each one's own and broadcasts none.
    torch.manual_seed(config.seed)
    model = (build_without_weights if config.dry_run else build_autoencoder)(config, precision)
    objective = DenoisingObjective(model, config.seed, config.conditioning_dropout, config.noise_draws)
    recompute_where_needed(config, objective, precision)
    if config.dry_run:
        from vlv.recipes.dry_run import print_dry_run

        return print_dry_run(config, objective, choice)

    from vlv.attention import choose_for_training
    from vlv.checkpoints.pretrained import resolve_component
    from vlv.data.preparation import SamplePreparation
    from vlv.inference.validation import ReconstructionSamples
    from vlv.recipes.training_data import loader_processor, require_latents_of
    from vlv.recipes.training_run import StageParts, TrainingRun
    from vlv.training.state import TrainState

    run = TrainingRun.start(config, precision)
    choose_for_training(run.accelerator.device, precision, math.prod(model.decoder.latent_shape[1:]))
    find_decoder = partial(resolve_component, config.stable_diffusion_model_path, "stable_diffusion_model_path")
    check_data = partial(
        require_latents_of, processor=model.image_processor, decoder=model.decoder, find_decoder=find_decoder
    )
    check_data(run.data.source)
    processor = loader_processor(config, model.image_processor, run.accelerator.device)
    prepare = SamplePreparation(processor, decoding=config.decode_settings())
    if config.region_grid is not None and config.initial_checkpoint is None and run.resumed is None:
        start_regions(model, run.accelerator, run.loader(TrainState(), prepare))
    objective.report_sources(run.data.source_names)
    weights = run.fit(
        objective,
        StageParts(
            prepare=prepare,
            identity=model.describe(),
            check_data=check_data,
            write_extras=model.save_description,
            show=ReconstructionSamples(
                run.validation_samples, model, config.val_guidance_scale, config.val_inference_steps, config.seed
            ),
            part_lrs=part_lrs(config),
        ),
    )
    return run.save_final(lambda folder: model.save_pretrained(folder, weights))


def encoder_settings(config: Stage1Config) -> EncoderSettings:
    """How the run's encoder is built."""
    from vlv.encoders import EncoderSettings

    return EncoderSettings(
        config.num_queries,
        config.encoder_resolution,
        config.train,
        config.encoder_view_from_original,
        region_grid=config.region_grid,
        region_blocks=config.region_blocks,
    )


def part_lrs(config: Stage1Config) -> dict[str, float]:
    """Peak learning rates of the parts that have one of their own, by the beginning of their parameters' names."""
    bart = ("model.encoder.florence2.language_model.", "model.encoder.query_embed")
    return {} if config.bart_lr is None else dict.fromkeys(bart, config.bart_lr)


def start_regions(model: VLVAutoEncoder, accelerator: Accelerator, loader: Iterable[Batch]) -> None:
    """Start what reads regions from the first pictures' image tokens, the same on every process.

    Raises:
        ValueError: none of them can be used.
    """
    from vlv.recipes.first_samples import first_moments
    from vlv.whitening import StateMoments

    encoder, regions = model.encoder, model.encoder.regions
    assert regions is not None
    rows, width = regions.mean.shape

    def averages(pixels: torch.Tensor) -> torch.Tensor:
        return regions.averages(encoder.image_features(model.image_processor.encoder_view(pixels)))

    regions.start_whitened(*first_moments(accelerator, loader, [encoder], averages, StateMoments(width, rows)))


def build_autoencoder(config: Stage1Config, precision: str) -> VLVAutoEncoder:
    """The model that training starts from, in the precisions of the run."""
    from vlv.checkpoints.initial import load_initial
    from vlv.decoders import DecoderSettings
    from vlv.kept_results import KeptResults
    from vlv.losses import LossOptions
    from vlv.models.autoencoder import VLVAutoEncoder
    from vlv.models.projector import start_as_torch_does
    from vlv.training.precision import torch_dtype

    model = VLVAutoEncoder.from_components(
        config.stable_diffusion_model_path,
        config.florence2_model_path,
        DecoderSettings(
            config.conditioning, config.decoder_resolution, precision, **DecoderSettings.options_of(config)
        ),
        encoder_settings(config),
    )
    if config.head_init == "torch":
        start_as_torch_does(model.encoder.heads)
    model.set_dtypes(torch_dtype(precision), torch_dtype(config.param_dtype))
    if config.dropout is not None:
        model.encoder.set_dropout(config.dropout)
    model.encoder.nested_dropout = config.nested_dropout
    if config.keep_results:
        model.encoder.kept_results = KeptResults(config.keep_results)
        model.decoder.kept_results = KeptResults(config.keep_results)
    model.decoder.set_loss_options(LossOptions.of(config))
    if config.initial_checkpoint is not None:
        load_initial(model, config.initial_checkpoint)
    return model


def build_without_weights(config: Stage1Config, precision: str) -> VLVAutoEncoder:
    """The model of a dry run, on the meta device: shapes and number formats, from the components' configs alone."""
    import torch

    from vlv.checkpoints.pretrained import resolve_component
    from vlv.frozen import keep_dtype
    from vlv.losses import LossOptions
    from vlv.planning.decoders import SizeConfig, build
    from vlv.training.precision import torch_dtype

    folder = resolve_component(config.stable_diffusion_model_path, "stable_diffusion_model_path")
    florence2 = resolve_component(config.florence2_model_path, "florence2_model_path")
    sizes = SizeConfig(
        florence2=str(florence2),
        queries=config.num_queries,
        resolution=config.decoder_resolution,
        encoder_resolution=config.encoder_resolution,
    )
    model = build(folder, config.conditioning, sizes, settings=encoder_settings(config))
    model.encoder.set_trained(config.train)
    t5 = getattr(model.decoder.conditioner, "t5", None)
    if t5 is not None and config.t5_dtype is not None:
        keep_dtype(t5, torch.int8 if config.t5_dtype == "int8" else torch.bfloat16)
    model.set_dtypes(torch_dtype(precision), torch_dtype(config.param_dtype))
    model.decoder.set_loss_options(LossOptions.of(config))
    return model
