"""The frozen bases of a checkpoint: read tensor by tensor to compare with, and written beside it where they differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Florence2Config, PreTrainedTokenizerBase

from vlv.checkpoints.external_state_dict import ExternalStateDict, open_state_dict
from vlv.checkpoints.identity import CONFIG_NAME, WEIGHTS_NAME, CheckpointError, component_identity, read_json
from vlv.checkpoints.pretrained import load_tokenizer, resolve_base, resolve_component
from vlv.checkpoints.schema import INDEX_NAME
from vlv.encoders.florence2_layout import new_florence2, read_config, rename_original
from vlv.published.import_plan import ImportPlan, Skeleton, accept, plan_import, table

Readers = dict[str, Callable[[], Tensor]]  # our name of a weight -> a function that reads it
_SHARD_BYTES = 2 * 2**30  # what is in memory at once while a captioner is written; the hub's own default is 5 GB
FLORENCE2 = "encoder.florence2."
DECODER_PARTS = {
    "unet": "decoder.unet.",
    "vae": "decoder.vae.",
    "text_encoder": "decoder.conditioner.text.text_encoder.",
}
_PARTS = {"florence2": FLORENCE2, **DECODER_PARTS}


@dataclass(frozen=True)
class Bases:
    """The frozen bases that give configs, tokenizers, and the weights that the source is compared with."""

    florence2_source: str
    decoder_source: str
    florence2: Path
    decoder: Path

    @classmethod
    def of(cls, florence2: str, stable_diffusion: str) -> Bases:
        """Resolve both (folders or hub ids).

        Raises:
            CheckpointError: one is not there, or florence2 is another model.
        """
        folder = resolve_component(florence2, "florence2")
        # The native config class would read any config.json and fall back to its defaults.
        kind = read_json(folder / CONFIG_NAME).get("model_type")
        if kind != "florence2":
            raise CheckpointError(f"florence2: {folder} holds a model of type {kind}, not Florence-2")
        return cls(florence2, stable_diffusion, folder, resolve_component(stable_diffusion, "stable_diffusion"))

    @classmethod
    def recorded(
        cls,
        identities: dict[str, dict[str, str]],
        checkpoint: Path,
        florence2: str | None = None,
        stable_diffusion: str | None = None,
    ) -> Bases:
        """Those that a checkpoint of ours names, checked to be the same.

        Args:
            florence2, stable_diffusion: where they lie, if they have moved since training.

        Raises:
            CheckpointError: one is not there, or is another component.
        """
        return cls.of(
            resolve_base(identities["florence2"], florence2, "florence2_model_path", checkpoint),
            resolve_base(identities["decoder"], stable_diffusion, "stable_diffusion_model_path", checkpoint),
        )

    def folder(self, part: str) -> Path:
        """Where the weights of a part lie: florence2, unet, vae, text_encoder."""
        return self.florence2 if part == "florence2" else self.decoder / part

    def identities(self) -> dict[str, dict[str, str]]:
        """Of both components."""
        return {
            "florence2": component_identity(self.florence2, self.florence2_source),
            "decoder": component_identity(self.decoder, self.decoder_source),
        }

    def tensors(self, parts: Iterable[str] = tuple(_PARTS)) -> Readers:
        """Our stage-1 name of every weight of some parts -> a function that reads it."""
        readers: Readers = {}
        for part in parts:
            weights = open_state_dict(self.folder(part))
            for key in weights:
                # A native Florence-2 file has `model.` before each name, an original one has not; files of CLIP have
                # `text_model.`, which the class of today no longer has.
                name = rename_original(key.removeprefix("model.")) if part == "florence2" else key
                if name is not None:
                    readers[_PARTS[part] + name.removeprefix("text_model.")] = _reader(
                        weights, key, key == "image_projection"
                    )
        return readers


def changed_components(plan: ImportPlan, source: ExternalStateDict, base: Readers, names: Iterable[str]) -> list[str]:
    """The components, florence2 or decoder, of which one of these weights in the source is not the base's."""
    changed: set[str] = set()
    for name in names:
        component = "florence2" if name.startswith(FLORENCE2) else "decoder"
        # One that differs decides, so the rest of its gigabytes need not be read.
        if component not in changed:
            value = plan.tensor(source, name)
            # In the source's format: a training in bf16 saved its frozen weights rounded.
            if name not in base or not torch.equal(value, base[name]().to(value.dtype)):
                changed.add(component)
    return sorted(changed)


def read_weight(plan: ImportPlan, source: ExternalStateDict, base: Readers, name: str) -> Tensor:
    """Our weight: from the source, or the base's where it is missing; rows beyond the source's are the base's.

    Raises:
        CheckpointError: it is nowhere, or the source's is not finite.
    """
    if (name not in plan.mapped or name in plan.grown) and name not in base:
        what = "the rest of its rows" if name in plan.grown else "it"
        raise CheckpointError(f"{source.path}: {name} is not whole in it, and no base that was given has {what}")
    if name not in plan.mapped:
        return base[name]().contiguous()
    value = plan.tensor(source, name)
    # By the extremes, both of which a NaN takes over: a mask would be of the weight's size.
    if value.is_floating_point() and value.numel() and not torch.stack(torch.aminmax(value)).isfinite().all():
        raise CheckpointError(
            f"{source.path}: {plan.mapped[name]} holds values that are not finite: its training failed"
        )
    if name in plan.grown:
        value = torch.cat([value, base[name]()[value.shape[0] :].to(value.dtype)])
    return value.contiguous()


def write_florence2(folder: Path, bases: Bases, plan: ImportPlan, source: ExternalStateDict, base: Readers) -> None:
    config = read_config(bases.florence2)
    _write_native(folder, config, load_tokenizer(bases.florence2, "florence2"), plan, source, base)


def import_florence2(source: Path, destination: Path, allow: Iterable[str], log: Callable[[str], None]) -> None:
    """Write a Florence-2 folder in the original layout as a native one, and log what becomes of its weights.

    Raises:
        CheckpointError: no tokenizer; weights that are missing, unexpected or of another shape than the config says.
    """
    weights = open_state_dict(source)
    config = read_config(source)
    plan = plan_import(weights.shapes, "florence2", _florence2_skeleton(config))
    for line in table(plan):
        log(line)
    accept(plan, weights, allow)
    _write_native(destination, config, load_tokenizer(source, "SRC"), plan, weights, {})
    for name in ("preprocessor_config.json", "generation_config.json"):
        if (source / name).is_file():
            # `auto_map` names code of the original repository, which the native classes replace.
            values = {key: value for key, value in read_json(source / name).items() if key != "auto_map"}
            (destination / name).write_text(json.dumps(values, indent=2) + "\n")


def _florence2_skeleton(config: Florence2Config) -> Skeleton:
    holder = nn.ModuleDict({"encoder": nn.Module()})
    with torch.device("meta"):
        holder["encoder"].florence2 = new_florence2(config)
    return Skeleton.of(holder)


def _write_native(
    folder: Path,
    config: Florence2Config,
    tokenizer: PreTrainedTokenizerBase,
    plan: ImportPlan,
    source: ExternalStateDict,
    base: Readers,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # The class and the names of the hub's native folders, which Florence2Model reads too.
    config.architectures = ["Florence2ForConditionalGeneration"]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = {
        "model." + name.removeprefix(FLORENCE2): read_weight(plan, source, base, name)
        for name in _florence2_skeleton(config).shapes
    }
    save_file(weights, folder / WEIGHTS_NAME, metadata={"format": "pt"})


def write_decoder(folder: Path, bases: Bases, plan: ImportPlan, source: ExternalStateDict, base: Readers) -> None:
    # All but the weights, which are written below, each part's as one file: an index would name shards.
    ignored = shutil.ignore_patterns("*.safetensors", "*.bin", "*.ckpt", "*.index.json")
    shutil.copytree(bases.decoder, folder, ignore=ignored, dirs_exist_ok=True)
    for part, prefix in DECODER_PARTS.items():
        names = [name for name in base if name.startswith(prefix)]
        weights = {name.removeprefix(prefix): read_weight(plan, source, base, name) for name in names}
        # The text encoder is transformers', the others are diffusers': each looks for its own file name.
        file = WEIGHTS_NAME if part == "text_encoder" else "diffusion_pytorch_model.safetensors"
        save_file(weights, folder / part / file, metadata={"format": "pt"})


def write_shards(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, read: Callable[[str], Tensor]
) -> None:
    """Write safetensors in shards of about 2 GiB, each read, written and let go.

    The library splits; its own `save_torch_state_dict` would want all tensors in memory at once.

    Args:
        shapes: of each weight, by name, in the order in which they are written.
        dtype: their number format.
        read: gives a weight by name.
    """
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty(shape, dtype=dtype, device="meta") for name, shape in shapes.items()},
        max_shard_size=_SHARD_BYTES,
    )
    for file, names in plan.filename_to_tensors.items():
        save_file({name: read(name) for name in names}, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _reader(weights: ExternalStateDict, key: str, transposed: bool = False) -> Callable[[], Tensor]:
    # A function of its own, so that each reader keeps its own key: a lambda in the loop would see the last one.
    return lambda: weights[key].t() if transposed else weights[key]
