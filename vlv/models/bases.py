"""The frozen bases of a checkpoint: read tensor by tensor to compare with, and written anew where they differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vlv.identity import WEIGHTS_NAME, CheckpointError
from vlv.models.florence2 import new_florence2, read_config, rename_original
from vlv.models.foreign import ForeignWeights, open_foreign
from vlv.models.importing import ImportPlan, Skeleton
from vlv.models.pretrained import load_tokenizer, resolve_component

_SHARD_BYTES = 2 * 2**30
_DECODER_PARTS = {
    "unet": "decoder.unet.",
    "vae": "decoder.vae.",
    "text_encoder": "decoder.conditioner.text.text_encoder.",
}
FLORENCE2 = "encoder.florence2."


@dataclass(frozen=True)
class Bases:
    """The frozen bases that give configs, tokenizers, and the weights that the source is compared with."""

    florence2_source: str
    decoder_source: str
    florence2: Path
    decoder: Path

    @classmethod
    def of(cls, florence2: str, stable_diffusion: str) -> Bases:
        """Resolve both (folders or hub ids)."""
        return cls(
            florence2,
            stable_diffusion,
            resolve_component(florence2, "--florence2"),
            resolve_component(stable_diffusion, "--stable-diffusion"),
        )

    def tensors(self) -> dict[str, Callable[[], Tensor]]:
        """Our stage-1 name of every base weight -> a function that reads it."""
        readers: dict[str, Callable[[], Tensor]] = {}
        florence2 = open_foreign(self.florence2)
        for key in florence2:
            name = rename_original(key.removeprefix("model."))
            if name is not None:
                readers[FLORENCE2 + name] = _reader(florence2, key, key == "image_projection")
        for part, prefix in _DECODER_PARTS.items():
            weights = open_foreign(self.decoder / part)
            for key in weights:
                readers[prefix + key.removeprefix("text_model.")] = _reader(weights, key)
        return readers


def read_weight(
    plan: ImportPlan, source: ForeignWeights, base: dict[str, Callable[[], Tensor]], name: str, skeleton: Skeleton
) -> Tensor:
    """Our weight: from the source, or the base's where it is missing; rows beyond the source's are the base's."""
    if name not in plan.mapped:
        if name not in base:
            raise CheckpointError(f"{source.path}: {name} is missing, and no base has it")
        return base[name]().contiguous()
    value = plan.tensor(source, name)
    if value.shape[0] < skeleton.shapes[name][0]:
        value = torch.cat([value, base[name]()[value.shape[0] :].to(value.dtype)])
    return value.contiguous()


def write_florence2(folder: Path, bases: Bases, plan: ImportPlan, source: ForeignWeights, base: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = read_config(bases.florence2)
    config.architectures = ["Florence2ForConditionalGeneration"]
    config.save_pretrained(folder)
    load_tokenizer(bases.florence2, "--florence2").save_pretrained(folder)
    holder = nn.ModuleDict({"encoder": nn.Module()})
    with torch.device("meta"):
        holder["encoder"].florence2 = new_florence2(config)
    skeleton = Skeleton.of(holder)
    weights = {
        "model." + name.removeprefix(FLORENCE2): read_weight(plan, source, base, name, skeleton)
        for name in skeleton.shapes
    }
    save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})


def import_florence2(source: Path, destination: Path) -> int:
    """Write a Florence-2 folder in the original layout as a native one; returns how many weights it has.

    Raises:
        CheckpointError: a weight that the native model needs is missing.
    """
    weights = open_foreign(source)
    config = read_config(source)
    with torch.device("meta"):
        skeleton = Skeleton.of(new_florence2(config))
    readers = {}
    for key in weights:
        name = rename_original(key)
        if name in skeleton.shapes:
            readers[name] = _reader(weights, key, key == "image_projection")
    missing = skeleton.shapes.keys() - readers.keys()
    if missing:
        raise CheckpointError(f"{source}: {len(missing)} weights are missing, the first is {min(missing)}")
    destination.mkdir(parents=True, exist_ok=True)
    config.architectures = ["Florence2ForConditionalGeneration"]
    config.save_pretrained(destination)
    load_tokenizer(source, "SRC").save_pretrained(destination)
    for name in ("preprocessor_config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copyfile(source / name, destination / name)
    tensors = {f"model.{name}": read().contiguous() for name, read in readers.items()}
    save_file(tensors, destination / WEIGHTS_NAME, metadata={"format": "pt"})
    return len(tensors)


def write_decoder(folder: Path, bases: Bases, plan: ImportPlan, source: ForeignWeights, base: dict[str, Any]) -> None:
    ignored = shutil.ignore_patterns("*.safetensors", "*.bin", "*.ckpt", "*.index.json")
    shutil.copytree(bases.decoder, folder, ignore=ignored, dirs_exist_ok=True)
    for part, prefix in _DECODER_PARTS.items():
        names = [name for name in base if name.startswith(prefix)]
        weights = {}
        for name in names:
            value = plan.tensor(source, name) if name in plan.mapped else base[name]()
            weights[name.removeprefix(prefix)] = value.contiguous()
        file = WEIGHTS_NAME if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
        save_file(weights, folder / part / file, metadata={"format": "pt"})


def write_shards(folder: Path, names: list[str], read: Callable[[str], Tensor]) -> None:
    """Write safetensors in shards of about 2 GiB, each read, written and let go."""
    files: list[Path] = []
    places: dict[str, Path] = {}
    shard: dict[str, Tensor] = {}
    total = size = 0
    for name in [*names, None]:
        value = None if name is None else read(name)
        if shard and (value is None or size + value.nbytes > _SHARD_BYTES):
            files.append(folder / f"shard-{len(files)}.safetensors")
            save_file(shard, files[-1], metadata={"format": "pt"})
            shard, size = {}, 0
        if name is not None and value is not None:
            shard[name] = value
            places[name] = folder / f"shard-{len(files)}.safetensors"
            size, total = size + value.nbytes, total + value.nbytes
    if len(files) == 1:
        files[0].rename(folder / WEIGHTS_NAME)
        return
    final = {file: f"model-{n:05d}-of-{len(files):05d}.safetensors" for n, file in enumerate(files, 1)}
    for file, new in final.items():
        file.rename(folder / new)
    index = {"metadata": {"total_size": total}, "weight_map": {name: final[file] for name, file in places.items()}}
    (folder / f"{WEIGHTS_NAME}.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _reader(weights: ForeignWeights, key: str, transposed: bool = False) -> Callable[[], Tensor]:
    return lambda: weights[key].t() if transposed else weights[key]
