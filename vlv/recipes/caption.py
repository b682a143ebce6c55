"""Captions of images from any source, into a JSON file, texts beside the images, tables or shards.

`bash Caption_inference.sh` and `vlv caption` check the call and start the processes; this is the work of one of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vlv.config import CaptionConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from accelerate import Accelerator

    from vlv.inference.blocks import Inputs, Output
    from vlv.inference.captions import CaptionReport, CaptionSearch
    from vlv.inference.journal import JsonObject
    from vlv.inference.processes import Processes
    from vlv.inference.reconstruction import GeneratedSet


def run(config: CaptionConfig) -> CaptionReport:
    """Generate the previews if wanted, caption, and show both; callable from a notebook, on one process.

    Raises:
        ValueError: no image can be read, or more cannot than `max_bad_share`, once everything is written.
    """
    import os

    from vlv.inference.blocks import partial_folder
    from vlv.inference.captions import CaptionSearch
    from vlv.inference.journal import IDENTITY_NAME
    from vlv.recipes.precision import settle_inference

    search = CaptionSearch(
        config.num_beams, config.max_new_tokens, config.temperature, config.captions_per_image, config.seed,
        config.end_at_sentence, config.prefix, config.suffix,
    )  # fmt: skip
    precision, identity = settle_inference(
        config.precision,
        config.ckpt_dir,
        partial_folder(config.output) / IDENTITY_NAME,
        config.engine == "ray" and "RAY_ADDRESS" in os.environ,
        first_queries=config.first_queries,
        quantize=config.quantize,
    )
    identity |= {"to": config.to}
    if config.engine == "vllm":
        identity["engine"] = "vllm"  # its samples are others, and its sums are rounded in another order
    if config.engine == "ray":
        from vlv.recipes.caption_ray import caption_on_ray

        report, show = caption_on_ray(config, search, identity, precision), print
    else:
        report, show = _caption_here(config, search, identity, precision)
    if report.was_whole:
        show(f"{report.output_path} is whole, so there is nothing to do; to caption again, remove it")
        return report
    if report.num_open:
        show(
            f"part {config.part} is done: captions of {report.num_captions} images; {report.num_open} blocks are other "
            "parts', the last of which makes the output whole"
        )
        return report
    kept = f", {report.num_kept} had one" if report.num_kept else ""
    show(f"captions of {report.num_captions} of {report.num_images} images in {report.output_path}{kept}")
    if len(report.bad) > config.max_bad_share * report.num_images:
        raise ValueError(
            f"{len(report.bad)} of {report.num_images} images could not be read, more than max_bad_share="
            f"{config.max_bad_share:g}; the others' captions are written"
        )
    return report


def _caption_here(
    config: CaptionConfig, search: CaptionSearch, identity: JsonObject, precision: str
) -> tuple[CaptionReport, Callable[[str], None]]:
    """Caption by the processes of this run; returns what came of it, and what prints by the first of them."""
    import json
    from datetime import timedelta

    from vlv.inference.blocks import Part
    from vlv.inference.captions import caption_images
    from vlv.inference.preview import write_previews
    from vlv.inference.processes import Processes, explain_out_of_memory
    from vlv.recipes.captioner import open_captioner, open_vllm_captioner
    from vlv.recipes.reading import read_settings
    from vlv.training.processes import start_processes

    accelerator = start_processes(precision, patience=timedelta(days=1))  # shares may end hours apart
    processes = Processes(accelerator.process_index, accelerator.num_processes, accelerator.wait_for_everyone)
    # Pictures first: a missing stage-1 model shows at once, and an interruption costs no captions.
    previews = _generate(config, precision, accelerator, processes) if config.preview_dir else None
    opened = open_vllm_captioner if config.engine == "vllm" else open_captioner
    captioner = opened(config, precision, accelerator.device)
    inputs, output = open_plan(config)
    with explain_out_of_memory(f"set batch_size below {config.batch_size}, or num_beams below {config.num_beams}"):
        report = caption_images(
            captioner,
            inputs,
            output,
            search,
            read_settings(config),
            identity,
            processes,
            None if config.share is None else Part(*config.share),
        )
    if previews is not None:
        page = write_previews(previews, json.loads(report.output_path.read_bytes()), processes)
        accelerator.print(f"previews in {page}")
    accelerator.end_training()
    return report, accelerator.print


class Plan(NamedTuple):
    """What is captioned, and where it goes."""

    inputs: Inputs
    output: Output


def open_plan(config: CaptionConfig) -> Plan:
    """Open the images and the output of a call.

    Raises:
        ValueError: there are none, or the output cannot hold them.
    """
    from pathlib import Path

    inputs = _inputs(config, Path(config.preview_dir) if config.preview_dir else None)
    return Plan(inputs, _output(config, inputs))


def _inputs(config: CaptionConfig, preview_dir: Path | None) -> Inputs:
    """The images, or whatever else there is, opened as training opens it."""
    from dataclasses import replace
    from pathlib import Path

    from vlv.data.files import holds_images
    from vlv.data.sources import open_source
    from vlv.inference.blocks import Inputs
    from vlv.inference.captions import local_images
    from vlv.redaction import redact

    path = config.image_path
    if config.data_format in ("auto", "folder") and holds_images(path):
        return local_images(path, preview_dir)
    source = open_source(path, replace(config.source_settings(), data_format=config.data_format))
    return Inputs(str(Path(path).absolute()) if Path(path).exists() else redact(path), source)


def _output(config: CaptionConfig, inputs: Inputs) -> Output:
    """What writes the captions."""
    from functools import partial

    from vlv.datatools.captioned import write_captioned_shard
    from vlv.inference.outputs import JsonFile, JsonLines, PartFiles, TextFiles, write_caption_table

    path, source = config.output, inputs.source
    if config.to == "txt":
        return TextFiles(path, map(source.name, range(len(source))), config.overwrite)
    if config.to == "parquet":
        return PartFiles(path, "parquet", write_caption_table)
    if config.to == "webdataset":
        return PartFiles(path, "tar", partial(write_captioned_shard, source))
    return JsonFile(path) if config.to == "json" else JsonLines(path)


def _generate(config: CaptionConfig, precision: str, accelerator: Accelerator, processes: Processes) -> GeneratedSet:
    """Generate the previews with the stage-1 model that the captioner came from."""
    from pathlib import Path

    from vlv.inference.identity import checkpoint_identity
    from vlv.inference.pictures import SamplingSettings
    from vlv.inference.preview import generate_previews
    from vlv.inference.processes import explain_out_of_memory
    from vlv.models import preview_autoencoder
    from vlv.recipes.reading import read_settings
    from vlv.training.precision import torch_dtype

    dtype = torch_dtype(precision)
    autoencoder = preview_autoencoder(
        config.ckpt_dir,
        config.stage1_path,
        config.stable_diffusion_model_path,
        config.florence2_model_path,
        language_model=config.qwen_model,
    )
    autoencoder.encoder.use_first(config.first_queries)
    with explain_out_of_memory(f"set batch_size below {config.batch_size}"):
        return generate_previews(
            autoencoder.set_dtypes(dtype, dtype).to(accelerator.device),
            config.image_path,
            Path(config.preview_dir or ""),
            SamplingSettings([config.seed], config.guidance_scale, config.num_inference_steps),
            read_settings(config),
            checkpoint_identity(config.ckpt_dir, precision, first_queries=config.first_queries),
            processes,
        )
