"""Captions of an image, a folder of images or a glob, into one JSON file.

`bash Caption_inference.sh` and `vlv caption` check the call and start the processes; this is the work of one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlv.config import CaptionConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vlv.inference.captions import CaptionReport
    from vlv.inference.processes import Processes
    from vlv.inference.reconstruction import GeneratedSet


def run(config: CaptionConfig) -> CaptionReport:
    """Generate the previews if wanted, caption, and show both; callable from a notebook, on one process."""
    import json
    from datetime import timedelta
    from pathlib import Path

    from vlv.inference.captions import CaptionSearch, caption_images
    from vlv.inference.identity import checkpoint_identity
    from vlv.inference.images import ReadSettings
    from vlv.inference.preview import write_previews
    from vlv.inference.processes import Processes, explain_out_of_memory
    from vlv.models.captioner import VLVCaptioner
    from vlv.training.processes import resolve_precision, start_processes, torch_dtype

    precision = resolve_precision(config.precision)
    accelerator = start_processes(precision, patience=timedelta(days=1))  # shares may end hours apart
    processes = Processes(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
    # Pictures first: a missing stage-1 model shows at once, and an interruption costs no captions.
    previews = _generate(config, precision, accelerator, processes) if config.preview_dir else None
    dtype = torch_dtype(precision)
    captioner = VLVCaptioner.from_pretrained(
        config.ckpt_dir, stable_diffusion=config.stable_diffusion_model_path, florence2=config.florence2_model_path
    )
    captioner.encoder.use_first(config.first_queries)
    captioner.set_dtypes(dtype, dtype).to(accelerator.device)
    fix = f"set batch_size below {config.batch_size}, or num_beams below {config.num_beams}"
    with explain_out_of_memory(fix):
        report = caption_images(
            captioner,
            config.image_path,
            Path(config.output_path),
            CaptionSearch(config.num_beams, config.max_new_tokens),
            ReadSettings(config.batch_size, config.num_workers, config.decode_settings(), config.loader_timeout),
            checkpoint_identity(config.ckpt_dir, precision, first_queries=config.first_queries),
            Path(config.preview_dir) if config.preview_dir else None,
            processes,
        )
    accelerator.print(f"captions of {report.num_captions} of {report.num_images} images in {report.output_path}")
    if previews is not None:
        page = write_previews(previews, json.loads(report.output_path.read_bytes()), processes)
        accelerator.print(f"previews in {page}")
    accelerator.end_training()
    return report


def _generate(config: CaptionConfig, precision: str, accelerator: Accelerator, processes: Processes) -> GeneratedSet:
    """Generate the previews with the stage-1 model that the captioner came from."""
    from pathlib import Path

    from vlv.inference.identity import checkpoint_identity
    from vlv.inference.images import ReadSettings
    from vlv.inference.pictures import SamplingSettings
    from vlv.inference.preview import generate_previews
    from vlv.inference.processes import explain_out_of_memory
    from vlv.models import preview_autoencoder
    from vlv.training.processes import torch_dtype

    dtype = torch_dtype(precision)
    autoencoder = preview_autoencoder(
        config.ckpt_dir, config.stage1_path, config.stable_diffusion_model_path, config.florence2_model_path
    )
    autoencoder.encoder.use_first(config.first_queries)
    with explain_out_of_memory(f"set batch_size below {config.batch_size}"):
        return generate_previews(
            autoencoder.set_dtypes(dtype, dtype).to(accelerator.device),
            config.image_path,
            Path(config.preview_dir or ""),
            SamplingSettings([config.seed], config.guidance_scale, config.num_inference_steps),
            ReadSettings(config.batch_size, config.num_workers, config.decode_settings(), config.loader_timeout),
            checkpoint_identity(config.ckpt_dir, precision, first_queries=config.first_queries),
            processes,
        )
