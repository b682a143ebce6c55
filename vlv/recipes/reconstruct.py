"""Images drawn back from their embeddings: pictures, comparisons, a page, and FID and KID.

`bash Image_inference.sh` and `vlv reconstruct` check the call and start the processes; this is the work of one of them.
"""

from __future__ import annotations

from vlv.config import ReconstructConfig


def run(config: ReconstructConfig) -> None:
    """Choose the measure, draw, and report."""
    from datetime import timedelta
    from pathlib import Path

    from vlv.evaluation.extractors import build_extractor, choose_extractor
    from vlv.inference.identity import checkpoint_identity
    from vlv.inference.processes import explain_out_of_memory
    from vlv.inference.reconstruction import reconstruct_images
    from vlv.models.autoencoder import VLVAutoEncoder
    from vlv.training.processes import resolve_precision, start_processes, torch_dtype

    precision = resolve_precision(config.precision)
    accelerator = start_processes(precision, patience=timedelta(days=1))  # shares may end hours apart
    choice = choose_extractor(config.extractor, config.inception_weights)
    accelerator.print(choice.message)
    dtype = torch_dtype(precision)
    autoencoder = VLVAutoEncoder.from_pretrained(
        config.ckpt_dir, config.stable_diffusion_model_path, config.florence2_model_path, config.t5_dtype
    )
    autoencoder = autoencoder.set_dtypes(dtype, dtype).to(accelerator.device)
    t5 = {} if config.t5_dtype is None else {"t5_dtype": config.t5_dtype}
    with explain_out_of_memory(f"set batch_size below {config.batch_size}"):
        report = reconstruct_images(
            autoencoder,
            config.image_path,
            Path(config.output_dir),
            seeds=config.seeds,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            scheduler=autoencoder.decoder.scheduler_name(config.scheduler),
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            max_image_pixels=config.max_image_pixels,
            extractor=build_extractor(choice.name, autoencoder, config.inception_weights, accelerator.device),
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            wait=accelerator.wait_for_everyone,
            identity={**checkpoint_identity(config.ckpt_dir, precision), **t5},
        )
    if accelerator.is_main_process:
        total = len(report.names) + len(report.bad)
        print(f"{len(report.names)} of {total} images drawn: {Path(config.output_dir) / 'index.html'}")
        for entry in report.metrics.get("seeds", []):
            values = ", ".join(f"{key} {value:.4g}" for key, value in entry.items() if key in report.measured)
            print(f"seed {entry['seed']}: {values} (n {entry['n']})")
    accelerator.end_training()
