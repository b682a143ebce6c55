"""Captions of an image, a folder of images or a glob, into one JSON file.

`bash Caption_inference.sh` and `vlv caption` check the call and start the processes; this is the work of one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlv.config import CaptionConfig

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vlv.inference.reconstruction import GeneratedSet


def run(config: CaptionConfig) -> None:
    """Draw the previews if wanted, caption, and show both."""
    import json
    from datetime import timedelta
    from pathlib import Path

    from vlv.inference.captions import caption_images
    from vlv.inference.identity import checkpoint_identity
    from vlv.inference.preview import write_previews
    from vlv.inference.processes import explain_out_of_memory
    from vlv.models.captioner import VLVCaptioner
    from vlv.training.processes import resolve_precision, start_processes, torch_dtype

    precision = resolve_precision(config.precision)
    accelerator = start_processes(precision, patience=timedelta(days=1))  # shares may end hours apart
    # Pictures first: a missing stage-1 model shows at once, and an interruption costs no captions.
    drawn = _draw(config, precision, accelerator) if config.preview_dir else None
    dtype = torch_dtype(precision)
    captioner = VLVCaptioner.from_pretrained(config.ckpt_dir).set_dtypes(dtype, dtype).to(accelerator.device)
    fix = f"set batch_size below {config.batch_size}, or num_beams below {config.num_beams}"
    with explain_out_of_memory(fix):
        report = caption_images(
            captioner,
            config.image_path,
            Path(config.output_path),
            batch_size=config.batch_size,
            num_beams=config.num_beams,
            max_new_tokens=config.max_new_tokens,
            num_workers=config.num_workers,
            max_image_pixels=config.max_image_pixels,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            wait=accelerator.wait_for_everyone,
            identity=checkpoint_identity(config.ckpt_dir, precision),
            preview_dir=Path(config.preview_dir) if config.preview_dir else None,
        )
    if accelerator.is_main_process:
        print(f"captions of {report.num_captions} of {report.num_images} images in {report.output_path}")
        if drawn is not None:
            print(f"previews in {write_previews(drawn, json.loads(report.output_path.read_bytes()))}")
    accelerator.end_training()


def _draw(config: CaptionConfig, precision: str, accelerator: Accelerator) -> GeneratedSet:
    """Draw the previews with the stage-1 model that the captioner came from."""
    from pathlib import Path

    from vlv.inference.identity import checkpoint_identity
    from vlv.inference.preview import generate_previews
    from vlv.inference.processes import explain_out_of_memory
    from vlv.models import preview_autoencoder
    from vlv.training.processes import torch_dtype

    dtype = torch_dtype(precision)
    autoencoder = preview_autoencoder(
        config.ckpt_dir, config.stage1_path, config.stable_diffusion_model_path, config.florence2_model_path
    )
    with explain_out_of_memory(f"set batch_size below {config.batch_size}"):
        return generate_previews(
            autoencoder.set_dtypes(dtype, dtype).to(accelerator.device),
            config.image_path,
            Path(config.preview_dir or ""),
            seed=config.seed,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.num_inference_steps,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            max_image_pixels=config.max_image_pixels,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
            wait=accelerator.wait_for_everyone,
            identity=checkpoint_identity(config.ckpt_dir, precision),
        )
