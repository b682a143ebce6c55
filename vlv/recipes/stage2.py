"""Stage 2: a projector and a causal language model learn to read stage 1's embeddings as captions.

`bash train_stage2.sh` and `vlv stage2` check the call and start the processes; this is the work of one of them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from vlv.config import Stage2Config

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch
    from accelerate import Accelerator

    from vlv.models.captioner import VLVCaptioner

PROJECTOR_SAMPLES = 1024  # that projector_init=whitened looks at


def train(config: Stage2Config) -> None:
    """Build the parts and fit."""
    import torch

    from vlv.cli.dry_run import print_dry_run
    from vlv.data.captions import CaptionTokenizer
    from vlv.data.preparation import SamplePreparation
    from vlv.inference.validation import CaptionSamples
    from vlv.models.from_stage1 import decoder_of
    from vlv.models.objectives import CaptionObjective
    from vlv.recipes import training_run as assembly
    from vlv.recipes.training_data import BatchSizes, open_training_data, training_loader
    from vlv.training.processes import is_sharded, resolve_precision, start_processes, torch_dtype
    from vlv.training.state import TrainState

    precision = resolve_precision(config.precision)
    compute_dtype = torch_dtype(precision)
    torch.manual_seed(config.seed)
    model = build_captioner(config, compute_dtype)
    if config.dropout is not None:
        model.set_dropout(config.dropout)
    decoder = None
    if config.diffusion_weight > 0:
        decoder = decoder_of(model, config.stable_diffusion_model_path, dtype=precision)
        decoder.set_dtypes(compute_dtype)
    if config.gradient_checkpointing:
        model.enable_gradient_checkpointing()
        if decoder is not None:
            decoder.enable_gradient_checkpointing()
    objective = CaptionObjective(model, config.seed, decoder, config.diffusion_weight, config.token_mean)
    if config.dry_run:
        return print_dry_run(config, objective, BatchSizes.of(config, config.num_gpus), precision)

    sizes = BatchSizes.of(config, assembly.world_size())
    accelerator = start_processes(precision, sizes.accumulation, sizes.micro_batch_size, config.max_grad_norm)
    assembly.start_run_folder(config, accelerator)
    data = open_training_data(config, accelerator, sizes)
    tokenizer = CaptionTokenizer(model.tokenizer, config.max_caption_tokens, config.supervise_eos, model.eos_token_id)
    prepare = SamplePreparation(model.image_processor, tokenizer, config.max_image_pixels)
    is_new = config.initial_checkpoint is None and assembly.resumed_checkpoint(config) is None
    if config.projector_init == "whitened" and is_new:
        first = training_loader(config, accelerator, data, sizes, TrainState(), prepare)
        start_projector(model, accelerator, first)
    weights = assembly.fit(
        config,
        accelerator,
        objective,
        data,
        sizes,
        assembly.StageParts(
            prepare=prepare,
            identity=model.origin,
            write_extras=lambda folder: None,
            show=CaptionSamples(assembly.validation_samples(config, accelerator), model),
            part_lrs=part_lrs(config),
        ),
    )
    if accelerator.is_main_process:
        # Sharded weights cannot be written by one process: the captioner is built once more, whole.
        whole = build_captioner(config, compute_dtype) if is_sharded(accelerator) else model
        whole.load_state_dict(weights, strict=False)
        assembly.save_final(config, data, whole.save_pretrained)
    accelerator.end_training()
    return None


def part_lrs(config: Stage2Config) -> dict[str, float]:
    """Peak learning rates of the parts that have one of their own, by the beginning of their parameters' names."""
    rates = {"model.mlp.": config.projector_lr, "model.encoder.": config.encoder_lr}
    return {prefix: rate for prefix, rate in rates.items() if rate is not None}


def build_captioner(config: Stage2Config, compute_dtype: torch.dtype) -> VLVCaptioner:
    """The captioner that training starts from."""
    from vlv.checkpoints.initial import load_initial
    from vlv.models.from_stage1 import CaptionerSettings, captioner_from_stage1
    from vlv.models.projector import start_as_torch_does
    from vlv.training.processes import torch_dtype

    param_dtype = torch_dtype(config.param_dtype)
    model = captioner_from_stage1(
        config.diffusion_model_path,
        config.qwen_model,
        CaptionerSettings(
            trained=[*config.train],
            max_caption_tokens=config.max_caption_tokens,
            draws_with_own_weights=config.diffusion_weight > 0,
            llm_dtype=param_dtype if "llm" in config.train else compute_dtype,
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


def start_projector(model: VLVCaptioner, accelerator: Accelerator, loader: Iterable[dict[str, Any]]) -> None:
    """Start the projector from the embeddings of the run's first samples, the same on every process.

    Raises:
        ValueError: none of them can be used.
    """
    import torch

    from vlv.models.projector import StateMoments

    read: tuple[Any, ...] = (model.encoder, model.conditioner)
    for part in read:
        part.to(accelerator.device)
    model.eval()
    moments, wanted = StateMoments(model.conditioner.width), PROJECTOR_SAMPLES / accelerator.num_processes
    given = 0
    for batch in loader:
        with torch.no_grad(), accelerator.autocast():
            states = model.conditioner.prefix_states(model.embed(batch["encoder_pixels"].to(accelerator.device)).states)
        moments.add(states[(batch["weights"] > 0).to(states.device)])
        given += len(states)
        if given >= wanted:
            break
    reduce: Any = partial(accelerator.reduce, reduction="sum")
    mean, covariance = moments.summed(lambda value: reduce(value.to(accelerator.device)))
    model.mlp.start_whitened(mean, covariance, model.llm.get_input_embeddings().weight.float().std().item())
    for part in read:
        part.to("cpu")  # the accelerator places or shards the whole of it
