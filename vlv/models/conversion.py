"""Published checkpoints written in our format: tensor by tensor, so that memory stays far below a file's size."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig

from vlv.identity import (
    CONFIG_NAME,
    OWN_BASES,
    STAGE1_TYPE,
    WEIGHTS_NAME,
    CheckpointError,
    component_hashes,
    component_identity,
)
from vlv.models.bases import FLORENCE2, Bases, read_weight, write_decoder, write_florence2, write_shards
from vlv.models.captioner import VLVCaptioner, VLVCaptionerConfig
from vlv.models.decoders import load_skeleton
from vlv.models.encoder import VLVEncoder, VLVEncoderConfig, prompt_token_ids
from vlv.models.florence2 import read_config
from vlv.models.foreign import ForeignWeights
from vlv.models.image_processor import VLVImageProcessor
from vlv.models.importing import ImportPlan, Skeleton, check_copies, plan_import
from vlv.models.pretrained import TASK_PROMPT, load_tokenizer, resolve_component
from vlv.models.reference import strip_wrapper
from vlv.models.stage2 import end_and_pad_ids


def import_stage1(
    source: ForeignWeights, destination: Path, bases: Bases, *, resolutions: tuple[int, int], allow: Iterable[str] = ()
) -> tuple[ImportPlan, list[str]]:
    """Write a published stage-1 checkpoint as ours.

    Args:
        source: with or without UNet and VAE; without them the base's are taken.
        resolutions: the decoder's and the encoder's, in pixels.
        allow: patterns of missing or unexpected names that are accepted.

    Returns:
        the plan, and the components whose frozen weights differ from the base and were written beside.
    """
    module, trained, prompt_ids = stage1_skeleton(bases, _num_queries(source, "query_embed"), resolutions[0])
    plan = plan_import(source.shapes, "stage1", Skeleton.of(module))
    base = bases.tensors()
    if not any(name.startswith("decoder.unet.") for name in plan.mapped):
        plan.missing = [name for name in plan.missing if not name.startswith(("decoder.unet.", "decoder.vae."))]
    accept(plan, source, allow)
    check_copies(plan, source)
    changed = _changed(plan, source, base, trained)
    destination.mkdir(parents=True, exist_ok=True)
    weights = {name: read_weight(plan, source, base, name, Skeleton.of(module)) for name in trained}
    save_file(weights, destination / WEIGHTS_NAME, metadata={"format": "pt"})
    identities = {
        "florence2": component_identity(bases.florence2, bases.florence2_source),
        "decoder": component_identity(bases.decoder, bases.decoder_source),
    }
    for component in changed:
        folder = destination / OWN_BASES / component
        write = write_florence2 if component == "florence2" else write_decoder
        write(folder, bases, plan, source, base)
        identities[component] = {"source": f"{OWN_BASES}{component}", **component_hashes(folder)}
    config = {
        "model_type": STAGE1_TYPE,
        "trained": "language_model",
        "conditioning": "text_encoder",
        "num_queries": module.encoder.config.num_queries,
        "prompt_ids": prompt_ids,
        "spaces": module.encoder.config.spaces,
        "bases": identities,
        **_vocab_rows(plan, source, Skeleton.of(module)),
    }
    (destination / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
    VLVImageProcessor(*resolutions).save_pretrained(destination)
    return plan, changed


def import_stage2(
    source: ForeignWeights,
    destination: Path,
    bases: Bases,
    language_model: str,
    *,
    resolutions: tuple[int, int],
    allow: Iterable[str] = (),
) -> ImportPlan:
    """Write a published stage-2 checkpoint (`model.pt`, or the released captioner) as a captioner of ours."""
    llm_folder = resolve_component(language_model, "--llm")
    tokenizer = load_tokenizer(llm_folder, "--llm")
    stage1, _, _ = stage1_skeleton(bases, _num_queries(source, "VLV_model.query_embed"), resolutions[0])
    eos_token_id, pad_token_id = end_and_pad_ids(tokenizer, llm_folder)
    llm_config = AutoConfig.from_pretrained(llm_folder)
    config = VLVCaptionerConfig(
        encoder_config=stage1.encoder.config.to_dict(),
        llm_config=llm_config.to_dict(),
        conditioner=stage1.decoder.conditioner.to_dict(),
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        tie_word_embeddings=llm_config.tie_word_embeddings,  # type: ignore[call-arg]
        origin={
            "stage1": None,
            "decoder": component_identity(bases.decoder, bases.decoder_source),
            "florence2": component_identity(bases.florence2, bases.florence2_source),
            "language_model": component_identity(llm_folder, language_model),
            "conditioning": "text_encoder",
            "trained": ["mlp", "llm", "encoder"],
            "draws_with_own_weights": False,
        },
    )
    with torch.device("meta"):
        skeleton = Skeleton.of(VLVCaptioner(config))
    plan = plan_import(source.shapes, "stage2", skeleton)
    base = {name.removeprefix("decoder."): read for name, read in bases.tensors().items()}
    accept(plan, source, allow)
    check_copies(plan, source)
    destination.mkdir(parents=True, exist_ok=True)
    names = sorted(skeleton.shapes)
    write_shards(destination, names, lambda name: read_weight(plan, source, base, name, skeleton))
    config.encoder_config.update(_vocab_rows(plan, source, skeleton))  # type: ignore[union-attr]
    config.architectures = ["VLVCaptioner"]
    config.save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    VLVImageProcessor(*resolutions).save_pretrained(destination)
    return plan


def captioners_stage1(source: ForeignWeights) -> ForeignWeights:
    """The stage-1 part of a published captioner, under stage 1's names; it has no UNet and no VAE."""
    keys = {strip_wrapper(key): key for key in source}
    inner = {key.removeprefix("VLV_model."): key for key in keys if key.startswith("VLV_model.")}
    shapes = {name: source.shapes[keys[key]] for name, key in inner.items()}
    return ForeignWeights(source.path, shapes, lambda name: source[keys[inner[name]]])


def stage1_skeleton(bases: Bases, num_queries: int, resolution: int) -> tuple[Any, list[str], list[int]]:
    """Encoder and decoder without weights, the names that train, and the prompt's token ids."""
    decoder = load_skeleton(bases.decoder, "text_encoder", resolution)
    prompt_ids = prompt_token_ids(load_tokenizer(bases.florence2, "--florence2"), TASK_PROMPT)
    config = VLVEncoderConfig(
        florence2_config=read_config(bases.florence2).to_dict(),
        spaces={space.name: space.width for space in decoder.conditioner.spaces},
        num_queries=num_queries,
        prompt_ids=prompt_ids,
    )
    with torch.device("meta"):
        encoder = VLVEncoder(config)
    encoder.set_trained("language_model")
    module = nn.Module()
    module.encoder, module.decoder = encoder, decoder
    return module, [name for name, value in module.named_parameters() if value.requires_grad], prompt_ids


def accept(plan: ImportPlan, source: ForeignWeights, allow: Iterable[str]) -> None:
    """Refuse a plan with weights that are missing, unexpected or of another shape.

    Raises:
        CheckpointError: names the first of them, and how to accept it.
    """
    patterns = list(allow)
    for kind, names in (("missing", plan.missing), ("unexpected", plan.unexpected)):
        left = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
        if left:
            raise CheckpointError(
                f"{source.path}: {len(left)} weights are {kind}, the first is {left[0]}; "
                f"--allow '{left[0]}' (patterns may be given) imports without"
            )
    for name, (theirs, ours) in plan.misshapen.items():
        raise CheckpointError(
            f"{source.path}: {plan.mapped[name]} has shape {theirs}, and {ours} is wanted: the bases are of another "
            "size than the checkpoint's"
        )


def _num_queries(source: ForeignWeights, key: str) -> int:
    found = next((name for name in (key, f"module.{key}") if name in source.shapes), None)
    if found is None:
        raise CheckpointError(f"{source.path} has no {key}")
    return source.shapes[found][1]


def _vocab_rows(plan: ImportPlan, source: ForeignWeights, skeleton: Skeleton) -> dict[str, int]:
    """The rows of the source's embedding, where the base has more: the export cuts there."""
    name = f"{FLORENCE2}language_model.shared.weight"
    rows = source.shapes[plan.mapped[name]][0] if name in plan.mapped else skeleton.shapes[name][0]
    return {} if rows == skeleton.shapes[name][0] else {"vocab_rows": rows}


def _changed(
    plan: ImportPlan, source: ForeignWeights, base: dict[str, Callable[[], Tensor]], trained: list[str]
) -> list[str]:
    """The components of which a frozen weight in the source is not the base's."""
    changed = set()
    for name in plan.mapped.keys() - set(trained):
        component = "florence2" if name.startswith(FLORENCE2) else "decoder"
        if component not in changed:
            value = plan.tensor(source, name)
            if name not in base or not torch.equal(value, base[name]().to(value.dtype)):
                changed.add(component)
    return sorted(changed)
