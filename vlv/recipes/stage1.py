"""Stage 1: the vision encoder learns, from images alone, to drive a frozen text-to-image model.

`bash train_stage1.sh` and `vlv stage1` check the call and start the processes; this is the work of one of them.
"""

from __future__ import annotations

from vlv.config import Stage1Config


def train(config: Stage1Config) -> None:
    """Build the parts and fit."""
    import torch

    from vlv.checkpoints.initial import load_initial
    from vlv.cli.dry_run import print_dry_run
    from vlv.data.preparation import SamplePreparation
    from vlv.decoders import DecoderSettings
    from vlv.encoders import EncoderSettings
    from vlv.inference.validation import ReconstructionSamples
    from vlv.losses import LossOptions
    from vlv.models.autoencoder import VLVAutoEncoder
    from vlv.models.objectives import DenoisingObjective
    from vlv.models.projector import start_as_torch_does
    from vlv.recipes import training_run as assembly
    from vlv.recipes.training_data import BatchSizes, open_training_data
    from vlv.training.processes import resolve_precision, start_processes, torch_dtype

    precision = resolve_precision(config.precision)
    torch.manual_seed(config.seed)
    model = VLVAutoEncoder.from_components(
        config.stable_diffusion_model_path,
        config.florence2_model_path,
        DecoderSettings(
            config.conditioning, config.decoder_resolution, precision, **DecoderSettings.options_of(config)
        ),
        EncoderSettings(config.num_queries, config.encoder_resolution, config.train, config.encoder_view_from_original),
    )
    if config.head_init == "torch":
        start_as_torch_does(model.encoder.heads)
    model.set_dtypes(torch_dtype(precision), torch_dtype(config.param_dtype))
    if config.dropout is not None:
        model.encoder.set_dropout(config.dropout)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
    model.decoder.set_loss_options(LossOptions.of(config))
    if config.initial_checkpoint is not None:
        load_initial(model, config.initial_checkpoint)
    objective = DenoisingObjective(model, config.seed, config.conditioning_dropout)
    if config.dry_run:
        return print_dry_run(config, objective, BatchSizes.of(config, config.num_gpus), precision)

    sizes = BatchSizes.of(config, assembly.world_size())
    accelerator = start_processes(precision, sizes.accumulation, sizes.micro_batch_size, config.max_grad_norm)
    assembly.start_run_folder(config, accelerator)
    data = open_training_data(config, accelerator, sizes)
    weights = assembly.fit(
        config,
        accelerator,
        objective,
        data,
        sizes,
        assembly.StageParts(
            prepare=SamplePreparation(model.image_processor, max_image_pixels=config.max_image_pixels),
            identity=model.identity(),
            write_extras=model.save_description,
            show=ReconstructionSamples(
                assembly.validation_samples(config, accelerator),
                model,
                config.val_guidance_scale,
                config.val_inference_steps,
                config.seed,
            ),
        ),
    )
    if accelerator.is_main_process:
        assembly.save_final(config, data, lambda folder: model.save_pretrained(folder, weights))
    accelerator.end_training()
    return None
