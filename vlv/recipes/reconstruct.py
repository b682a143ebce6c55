"""Images reconstructed from their embeddings: pictures, comparisons, a page, and measures.

`bash Image_inference.sh` and `vlv reconstruct` check the call and start the processes; this is the work of one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlv.config import ReconstructConfig

if TYPE_CHECKING:
    from vlv.inference.reconstruction import ReconstructionReport


def run(config: ReconstructConfig) -> ReconstructionReport:
    """Choose the measures, generate, and report; callable from a notebook, on one process."""
    from datetime import timedelta
    from pathlib import Path

    from vlv.decoders import DecoderSettings
    from vlv.evaluation.extractors import build_extractor, choose_extractor
    from vlv.inference.pictures import SamplingSettings
    from vlv.inference.processes import Processes, explain_out_of_memory
    from vlv.inference.reconstruction import SETTINGS, reconstruct_images
    from vlv.models.autoencoder import VLVAutoEncoder
    from vlv.recipes.precision import settle_inference
    from vlv.recipes.reading import read_settings
    from vlv.training.precision import torch_dtype
    from vlv.training.processes import start_processes

    decoder_options = DecoderSettings.options_of(config)
    precision, identity = settle_inference(
        config.precision,
        config.ckpt_dir,
        Path(config.output_dir) / SETTINGS,
        **decoder_options,
        first_queries=config.first_queries,
    )
    accelerator = start_processes(precision, patience=timedelta(days=1))  # shares may end hours apart
    choice = choose_extractor(config.extractor, config.inception_weights)
    accelerator.print(choice.message)
    dtype = torch_dtype(precision)
    autoencoder = VLVAutoEncoder.from_pretrained(
        config.ckpt_dir,
        config.stable_diffusion_model_path,
        config.florence2_model_path,
        dtype=precision,
        **decoder_options,
    )
    autoencoder = autoencoder.set_dtypes(dtype, dtype).to(accelerator.device)
    autoencoder.encoder.use_first(config.first_queries)
    scheduler = autoencoder.decoder.scheduler_name(config.scheduler)
    with explain_out_of_memory(f"set batch_size below {config.batch_size}"):
        report = reconstruct_images(
            autoencoder,
            config.image_path,
            Path(config.output_dir),
            SamplingSettings(config.seeds, config.guidance_scale, config.num_inference_steps, scheduler),
            read_settings(config),
            identity,
            build_extractor(choice.name, autoencoder, config.inception_weights, accelerator.device),
            Processes(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone),
        )
    total = len(report.names) + len(report.bad)
    accelerator.print(f"{len(report.names)} of {total} images generated: {Path(config.output_dir) / 'index.html'}")
    for entry in report.metrics.get("seeds", []):  # on the first process alone
        values = ", ".join(f"{key} {entry[key]:.4g}" for key in report.metrics.get("measures", {}))
        print(f"seed {entry['seed']}: {values} (n {entry['n']})")
    accelerator.end_training()
    return report
