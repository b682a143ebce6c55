"""Our checkpoints written back in the published layout, as one state dict."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vlv.identity import CONFIG_NAME, STAGE1_TYPE, CheckpointError, read_json, require_checkpoint
from vlv.models.bases import Bases
from vlv.models.conversion import stage1_skeleton
from vlv.models.foreign import open_foreign
from vlv.models.importing import Skeleton
from vlv.models.pretrained import resolve_base
from vlv.models.reference import Stage, published_names

_TRANSPOSED = "encoder.florence2.multi_modal_projector.image_projection.weight"
_SUFFIXES = (".safetensors", ".bin", ".pt")


def export_checkpoint(
    folder: Path, destination: Path, stable_diffusion: str | None = None, florence2: str | None = None
) -> tuple[Stage, int]:
    """Write a stage-1 checkpoint or a captioner in the published layout.

    Tied copies are written again under each of their names, and Florence-2's `lm_head` as a copy of the
    embedding, which is what it is natively.

    Args:
        destination: a .safetensors file, or a .bin or .pt one of torch.save.
        stable_diffusion, florence2: stage 1's frozen bases, where they have moved.

    Returns:
        the stage, and how many tensors were written.

    Raises:
        ValueError: no checkpoint of ours, one that the published layout has no place for, or a missing base.
    """
    if destination.suffix not in _SUFFIXES:
        raise CheckpointError(f"{destination}: give a file that ends in {', '.join(_SUFFIXES)}")
    config = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).is_file() else {}
    stage: Stage = "stage1" if config.get("model_type") == STAGE1_TYPE else "stage2"
    require_checkpoint(folder, stage)
    spaces = config["spaces"] if stage == "stage1" else config["encoder_config"]["spaces"]
    if list(spaces) != ["clip"]:
        raise CheckpointError(
            f"{folder} has embeddings for {', '.join(spaces)}; the published layout has one CLIP alone"
        )
    weights = _stage1_weights(folder, stable_diffusion, florence2) if stage == "stage1" else _stage2_weights(folder)
    published: dict[str, Tensor] = {}
    mapped: set[int] = set()  # weights stay in their mapped files; only what is written twice is copied
    for name, value in weights.items():
        value = value.t().contiguous() if name == _TRANSPOSED else value
        for other in published_names(name, stage):
            published[other] = value.clone() if value.data_ptr() in mapped else value
            mapped.add(value.data_ptr())
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".writing-{destination.name}")
    if destination.suffix == ".safetensors":
        save_file(published, temporary, metadata={"format": "pt"})
    else:
        torch.save(published, temporary)
    os.replace(temporary, destination)
    return stage, len(published)


def _stage1_weights(folder: Path, stable_diffusion: str | None, florence2: str | None) -> dict[str, Tensor]:
    """Every weight of a stage-1 model by our name: the trained ones, and its bases'."""
    config = read_json(folder / CONFIG_NAME)
    identities = config["bases"]
    bases = Bases.of(
        resolve_base(identities["florence2"], florence2, "florence2_model_path", folder),
        resolve_base(identities["decoder"], stable_diffusion, "stable_diffusion_model_path", folder),
    )
    resolution = read_json(folder / "preprocessor_config.json")["decoder_resolution"]
    module, _, _ = stage1_skeleton(bases, config["num_queries"], resolution)
    trained, base = open_foreign(folder), bases.tensors()
    return {name: trained[name] if name in trained.shapes else base[name]() for name in Skeleton.of(module).shapes}


def _stage2_weights(folder: Path) -> dict[str, Tensor]:
    """Every weight of a captioner by our name; a language model's tied head is named too."""
    source = open_foreign(folder)
    weights = {name: source[name] for name in source}
    embedding, head = "llm.model.embed_tokens.weight", "llm.lm_head.weight"
    if head not in weights and embedding in weights:
        weights[head] = weights[embedding]
    return weights
