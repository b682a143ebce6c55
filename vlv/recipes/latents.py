"""VAE moments of a whole dataset, written once for any number of trainings.

`vlv data latents` checks the call and starts the processes; this is the work of one of them. The samples are shared out
by files: a file is written under another name and renamed, so that a call that was killed goes on with the files that
are not there yet.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vlv.atomic import remove_leftovers, whole_file, write_whole
from vlv.checkpoints.identity import file_hash
from vlv.checkpoints.pretrained import resolve_component
from vlv.config import LatentsConfig
from vlv.config.latents import FREE
from vlv.data.bad_samples import BadSampleLog
from vlv.data.latent_cache import NUMBERS, LatentFacts, schema, write_manifest
from vlv.data.loader import load_batches
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import RawSample, SampleSource, captions_of
from vlv.data.sources import open_source
from vlv.decoders.building import load_vae
from vlv.decoders.latent import posterior_moments
from vlv.models.image_processor import VLVImageProcessor, to_images
from vlv.recipes.training_data import latent_facts
from vlv.redaction import redact_values
from vlv.training.processes import loader_workers, start_processes

PLAN = "plan.json"


def run(config: LatentsConfig) -> Path:
    """Write this process's files, and on the first process the manifest; returns the folder.

    Raises:
        ValueError: the folder holds latents of another call, or nothing can be read.
    """
    accelerator = start_processes("fp32", patience=timedelta(days=7))  # shares may end hours apart
    folder = Path(config.output_dir)
    settings = replace(config.source_settings(), data_format=config.data_format, captions=config.captions)
    with accelerator.local_main_process_first():
        source = open_source(config.dataset_path, settings)
    decoder = resolve_component(config.stable_diffusion_model_path, "stable_diffusion_model_path")
    vae, shape = load_vae(decoder, config.decoder_resolution)
    facts = latent_facts(decoder, config.decoder_resolution, shape, config.numbers)
    vae.to(accelerator.device)  # pyright: ignore[reportArgumentType]  (diffusers types `to` its own way)
    if accelerator.is_main_process:
        remove_leftovers(folder)  # the launcher keeps every other call out
        _agree_on_plan(folder / PLAN, config, facts, len(source))
    accelerator.wait_for_everyone()
    log = BadSampleLog(folder / "bad_samples.jsonl", "latents", accelerator.num_processes, None)
    shards = [
        (folder / f"{number:06}.arrow", range(first, min(first + config.samples_per_shard, len(source))))
        for number, first in enumerate(range(0, len(source), config.samples_per_shard))
    ]
    for path, indices in shards[accelerator.process_index :: accelerator.num_processes]:
        if not path.exists():
            batches = log.watch(_load(config, source, indices))
            _write(path, _table(vae, facts, config.captions, batches, accelerator.device))
            print(f"{path}: up to sample {indices.stop:,} of {len(source):,}", flush=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _finish(folder, facts, [path for path, _ in shards], len(source), log.path)
    accelerator.end_training()
    return folder


def _finish(folder: Path, facts: LatentFacts, files: list[Path], samples: int, bad: Path) -> None:
    found = [shard for path in files if (shard := _describe(path))["samples"]]
    if not found:
        raise ValueError(f"none of the {samples} samples can be read; {bad} says why")
    write_manifest(folder, facts, found)
    kept, size = (sum(shard[key] for shard in found) for key in ("samples", "bytes"))
    print(f"latents of {kept:,} of {samples:,} samples, {size / 2**20:,.1f} MiB: {folder}")


def _agree_on_plan(path: Path, config: LatentsConfig, facts: LatentFacts, samples: int) -> None:
    """Write down what this call makes, or check that the folder is of the same.

    Raises:
        ValueError: it is of another call.
    """
    settings = redact_values({key: value for key, value in asdict(config).items() if key not in FREE})
    plan = json.loads(json.dumps({**settings, "samples": samples, "vae": facts.vae}))
    if path.exists():
        former = json.loads(path.read_text())
        changed = [key for key in plan if former.get(key) != plan[key]]
        if changed:
            said = ", ".join(f"{key} {former.get(key)} -> {plan[key]}" for key in changed)
            raise ValueError(f"{path.parent} holds latents of another call ({said}): give another output_dir")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    if others:
        raise ValueError(f"output_dir={path.parent} holds other files ({others[0]}): give a new folder")
    write_whole(path, (json.dumps(plan, indent=2) + "\n").encode())


class _Images(Dataset[dict[str, Any]]):
    """The samples of a source by index: prepared as in training, with the crop as an image file."""

    def __init__(self, source: SampleSource, config: LatentsConfig) -> None:
        # Without the encoder's own view, which training makes of the crop.
        processor = VLVImageProcessor(config.decoder_resolution, config.decoder_resolution)
        self._source, self._config = source, config
        self._prepare = SamplePreparation(processor, decoding=config.decode_settings())

    def __getitem__(self, index: int) -> dict[str, Any]:
        captions: list[str] = []

        def read() -> RawSample:
            sample = self._source.read(index)
            captions.extend(captions_of(sample.caption))
            return sample

        prepared = self._prepare(index, self._source.name(index), read)
        file = b"" if prepared["error"] else self._encode(prepared["decoder_pixels"])
        return {"prepared": prepared, "file": file, "caption": captions}

    def _encode(self, pixels: Tensor) -> bytes:
        buffer, (image,) = io.BytesIO(), to_images(pixels[None])
        if self._config.encoding == "png":
            image.save(buffer, "PNG")
        else:
            image.save(buffer, "JPEG", quality=self._config.quality, subsampling=0)
        return buffer.getvalue()

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        batch = self._prepare.collate([sample["prepared"] for sample in samples])
        return {**batch, **{key: [sample[key] for sample in samples] for key in ("file", "caption")}}


def _load(config: LatentsConfig, source: SampleSource, indices: range) -> Iterable[Any]:
    dataset, size = _Images(source, config), config.batch_size
    batches = [list(indices[start : start + size]) for start in range(0, len(indices), size)]
    return load_batches(dataset, batches, dataset.collate, loader_workers(config.num_workers), config.loader_timeout)


def _table(vae: Any, facts: LatentFacts, captions: bool, batches: Iterable[Any], device: torch.device) -> pa.Table:
    """The rows of a file."""
    rows: list[dict[str, Any]] = []
    for batch in batches:
        with torch.no_grad():
            moments = posterior_moments(vae, batch["decoder_pixels"].to(device)).cpu().numpy()
        for row, weight in enumerate(batch["weights"].tolist()):
            if not weight:
                continue
            made = {"name": batch["names"][row], "image": batch["file"][row], "crop": batch["crops"][row].tolist()}
            made["moments"] = moments[row].astype(NUMBERS[facts.numbers]).tobytes()
            rows.append(made | ({"caption": batch["caption"][row]} if captions else {}))
    return pa.Table.from_pylist(rows, schema(captions, facts))


def _write(path: Path, table: pa.Table) -> None:
    with whole_file(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table)


def _describe(path: Path) -> dict[str, Any]:
    """A file's entry in the manifest."""
    rows = pa.ipc.open_file(pa.memory_map(str(path))).read_all().num_rows
    return {"file": path.name, "samples": rows, "bytes": path.stat().st_size, "sha256": file_hash(path)}
