"""Our checkpoints written back in the published layout, as one state dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlv.atomic import whole_file
from vlv.checkpoints.external_state_dict import ExternalStateDict, open_state_dict
from vlv.checkpoints.identity import CONFIG_NAME, STAGE1_TYPE, CheckpointError, read_json
from vlv.checkpoints.origin import adapter_bases
from vlv.checkpoints.pretrained import require_same_names
from vlv.checkpoints.schema import LORA_FOLDER, require_checkpoint
from vlv.models.adapter import with_bases
from vlv.models.captioner import VLVCaptioner
from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.image_processor import VLVImageProcessor
from vlv.published.bases import FLORENCE2, Bases
from vlv.published.import_checkpoint import Stage1Skeleton
from vlv.published.import_plan import Skeleton
from vlv.published.key_mapping import Stage, final_logits_bias, published_names

# A Linear's [out, in] here; the original multiplies by a matrix [in, out].
_TRANSPOSED = f"{FLORENCE2}multi_modal_projector.image_projection.weight"
_EMBEDDING = f"{FLORENCE2}language_model.shared.weight"
_SUFFIXES = (".safetensors", ".bin", ".pt")


@dataclass(frozen=True)
class Export:
    """What was written: the stage, how many tensors, and a line for each thing that the layout does not hold."""

    stage: Stage
    count: int
    left_out: list[str]


def export_checkpoint(
    folder: Path,
    destination: Path,
    stable_diffusion: str | None = None,
    florence2: str | None = None,
    language_model: str | None = None,
) -> Export:
    """Write a stage-1 checkpoint or a captioner in the published layout.

    Tied copies are written again under each of their names, and Florence-2's `lm_head` as a copy of the
    embedding, which is what it is natively. Of an embedding that grew to a padded base at the import, the rows
    of the published checkpoint are written.

    Args:
        destination: a .safetensors file, or a .bin or .pt one of torch.save.
        stable_diffusion, florence2, language_model: frozen bases of a stage 1 or of an adapter, where they have moved.

    Raises:
        ValueError: no checkpoint of ours, one that is not complete or that the published layout has no place
            for, or a missing base.
    """
    if destination.suffix not in _SUFFIXES:
        raise CheckpointError(f"{destination}: give a file that ends in {', '.join(_SUFFIXES)}")
    # Without a config.json too: `require_checkpoint` then says what the folder is.
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    stage: Stage = "stage1" if config.get("model_type") == STAGE1_TYPE else "stage2"
    require_checkpoint(folder, stage)
    if (folder / LORA_FOLDER).is_dir():
        raise CheckpointError(f"LoRA of {folder} is not merged: vlv export {folder} MERGED, and export that folder")
    encoder = config if stage == "stage1" else config["encoder_config"]
    if list(encoder["spaces"]) != ["clip"]:
        raise CheckpointError(
            f"{folder} has embeddings for {', '.join(encoder['spaces'])}; the published layout has one CLIP alone"
        )
    if encoder.get("region_grid"):
        raise CheckpointError(
            f"{folder} has rows of regions (region_grid={encoder['region_grid']}); the published layout has no place "
            "for what makes them"
        )
    if stage == "stage1":
        weights, left_out = _stage1_weights(folder, stable_diffusion, florence2)
    else:
        moved = {"decoder": stable_diffusion, "florence2": florence2, "language_model": language_model}
        weights, left_out = _stage2_weights(folder, moved)
    if encoder.get("vocab_rows"):
        weights[_EMBEDDING] = weights[_EMBEDDING][: encoder["vocab_rows"]].clone()  # torch.save would keep all rows
    published = published_state_dict(weights, stage)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(destination) as temporary:
        if destination.suffix == ".safetensors":
            save_file(published, temporary, metadata={"format": "pt"})
        else:
            torch.save(published, temporary)
    return Export(stage, len(published), left_out)


def published_state_dict(weights: Mapping[str, Tensor], stage: Stage) -> dict[str, Tensor]:
    """A model's weights under the published names, with all that the published strict loader asks for.

    Args:
        weights: by our names; a tied weight of the language model under each of its names.
    """
    published: dict[str, Tensor] = {}
    mapped: set[int] = set()  # weights stay in their mapped files; only what is written twice is copied
    for name, value in weights.items():
        value = value.t().contiguous() if name == _TRANSPOSED else value
        for other in published_names(name, stage):
            # Copied: safetensors refuses tensors that share memory.
            published[other] = value.clone() if value.data_ptr() in mapped else value
            mapped.add(value.data_ptr())
    # A buffer of the language head, zeros in every published file; its width is the vocabulary's.
    embedding = weights[_EMBEDDING]
    published[final_logits_bias(stage)] = embedding.new_zeros(1, embedding.shape[0])
    return published


def _stage1_weights(
    folder: Path, stable_diffusion: str | None, florence2: str | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Every weight of a stage-1 model by our name, the trained ones and its bases'; and what is left out."""
    config, pixels = read_json(folder / CONFIG_NAME), VLVImageProcessor.from_pretrained(folder)
    bases = Bases.recorded(config["bases"], folder, florence2, stable_diffusion)
    module = Stage1Skeleton(bases, config["num_queries"], pixels.decoder_resolution)
    module.encoder.set_trained(config["trained"])
    trained = module.trained_shapes()
    source, base = open_state_dict(folder), bases.tensors()
    _require_fit(source, trained)
    names = Skeleton.of(module).shapes
    for base_folder, prefix in ((bases.florence2, "encoder."), (bases.decoder, "decoder.")):
        missing = [name for name in names if name.startswith(prefix) and name not in {*trained, *base}]
        require_same_names(base_folder, sorted(missing), [])
    weights = {name: source[name] if name in trained else base[name]() for name in names}
    left_out = _pixels_left_out(pixels)
    if config["trained"] != "language_model":
        left_out.append(f"trained={config['trained']}: an import trains language_model")
    if config["prompt_ids"] != module.prompt_ids:
        left_out.append(
            f"prompt_ids={config['prompt_ids']}: an import takes those of the task prompt, {module.prompt_ids}"
        )
    return weights, left_out


def _stage2_weights(folder: Path, moved: Mapping[str, str | None]) -> tuple[dict[str, Tensor], list[str]]:
    """Every weight of a captioner by our name, the language model's under tied names too; and what is left out.

    Args:
        moved: of an adapter, where a base lies now.
    """
    config = VLVCaptionerConfig.from_pretrained(folder)
    with torch.device("meta"):
        skeleton = Skeleton.of(VLVCaptioner(config))
    source = open_state_dict(folder)
    if bases := adapter_bases(read_json(folder / CONFIG_NAME)):
        whole = with_bases(folder, config.origin or {}, bases, moved)
        # A base that is loaded has a tied weight under each of its names.
        source = _whole(source, {name: value for name, value in whole.items() if name not in skeleton.aliases})
    _require_fit(source, skeleton.shapes)
    weights = {name: source[name] for name in skeleton.shapes}
    weights |= {name: weights[first] for name, first in skeleton.aliases.items() if name.startswith("llm.")}
    left_out = _pixels_left_out(VLVImageProcessor.from_pretrained(folder))
    left_out.append("prompt_ids, tokenizer, origin, generation settings: an import takes its bases' and its own")
    return weights, left_out


def _whole(adapter: ExternalStateDict, weights: dict[str, Tensor]) -> ExternalStateDict:
    """An adapter with the weights of its bases, all in its own number format: the layout has one for all."""
    dtype = next(adapter[name].dtype for name in adapter)
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    return ExternalStateDict(
        adapter.path, shapes, dict.fromkeys(shapes, dtype), lambda name: weights[name].to(dtype).contiguous()
    )


def _require_fit(source: ExternalStateDict, wanted: dict[str, tuple[int, ...]]) -> None:
    """Refuse a checkpoint of ours that does not hold exactly the wanted weights.

    Raises:
        CheckpointError: the first that is missing, unexpected, or of another shape.
    """
    require_same_names(
        source.path, sorted(wanted.keys() - source.shapes.keys()), sorted(source.shapes.keys() - wanted.keys())
    )
    for name, shape in wanted.items():
        if source.shapes[name] != shape:
            raise CheckpointError(f"{source.path}: {name} has shape {source.shapes[name]}, the model wants {shape}")


def _pixels_left_out(pixels: VLVImageProcessor) -> list[str]:
    left_out = []
    if (pixels.decoder_resolution, pixels.encoder_resolution) != (384, 768):
        left_out.append(
            f"decoder_resolution={pixels.decoder_resolution}, encoder_resolution={pixels.encoder_resolution}: "
            "an import needs them, the published code has 384 and 768"
        )
    if pixels.encoder_view_from_original:
        left_out.append("encoder_view_from_original=true: the published code sees the decoder's crop alone")
    return left_out
