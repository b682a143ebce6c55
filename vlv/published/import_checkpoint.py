"""Published checkpoints written in our format: tensor by tensor, so that memory stays far below a file's size."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vlv.checkpoints.external_state_dict import ExternalStateDict, holds_weights
from vlv.checkpoints.identity import (
    CONFIG_NAME,
    OWN_BASES,
    WEIGHTS_NAME,
    CheckpointError,
    component_hashes,
    component_identity,
    read_json,
)
from vlv.checkpoints.pretrained import forget_code, load_tokenizer, resolve_component
from vlv.checkpoints.schema import describe
from vlv.decoders import DecoderSettings, build_decoder
from vlv.encoders import EncoderSettings, read_encoder_layout
from vlv.encoders.florence2 import TASK_PROMPT, VLVEncoder, new_config, prompt_token_ids
from vlv.encoders.florence2_layout import read_config
from vlv.models.adapter import NEVER_TRAINED
from vlv.models.captioner import VLVCaptioner
from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.from_stage1 import end_and_pad_ids
from vlv.models.image_processor import VLVImageProcessor
from vlv.models.image_token import image_token_id
from vlv.published.bases import (
    DECODER_PARTS,
    FLORENCE2,
    Bases,
    Readers,
    changed_components,
    read_weight,
    write_decoder,
    write_florence2,
    write_shards,
)
from vlv.published.import_plan import ImportPlan, Skeleton, accept, plan_import, table
from vlv.published.key_mapping import strip_wrapper


def _silent(line: str) -> None:
    pass


def import_stage1(
    source: ExternalStateDict,
    destination: Path,
    bases: Bases,
    *,
    resolutions: tuple[int, int],
    allow: Iterable[str] = (),
    log: Callable[[str], None] = _silent,
) -> None:
    """Write a published stage-1 checkpoint as ours; frozen components that differ from the base go beside it.

    Args:
        source: with or without UNet, VAE and text encoder; the base's are taken for those that it lacks wholly.
        resolutions: the decoder's and the encoder's, in pixels.
        allow: patterns of missing or unexpected names that are accepted.
        log: takes each line of the report.

    Raises:
        CheckpointError: weights that do not fit; the report names them all.
    """
    module = Stage1Skeleton(bases, _num_queries(source, "query_embed"), resolutions[0])
    _check_sizes(bases, module, resolutions[1])
    plan = plan_import(source.shapes, "stage1", Skeleton.of(module))
    plan.take_absent_parts(DECODER_PARTS)
    _report_and_accept(plan, source, allow, log)
    base = bases.tensors()
    trained = module.trained_shapes()
    changed = changed_components(plan, source, base, plan.mapped.keys() - trained.keys())
    destination.mkdir(parents=True, exist_ok=True)
    weights = {name: read_weight(plan, source, base, name) for name in trained}
    save_file(weights, destination / WEIGHTS_NAME, metadata={"format": "pt"})
    identities = bases.identities()
    for component in changed:
        folder = destination / OWN_BASES / component
        write = write_florence2 if component == "florence2" else write_decoder
        write(folder, bases, plan, source, base)
        identities[component] = {"source": f"{OWN_BASES}{component}", **component_hashes(folder)}
        log(f"frozen weights of {component} differ from the base: written beside, to {OWN_BASES}{component}")
    values = {
        "trained": "language_model",
        "conditioning": "text_encoder",
        "num_queries": module.encoder.config.num_queries,
        "prompt_ids": module.prompt_ids,
        "spaces": module.encoder.config.spaces,
        "bases": identities,
        **_vocab_rows(plan, source, Skeleton.of(module)),
    }
    (destination / CONFIG_NAME).write_text(json.dumps(describe("stage1", values), indent=2) + "\n")
    VLVImageProcessor(*resolutions).save_pretrained(destination)


def import_stage2(
    source: ExternalStateDict,
    destination: Path,
    bases: Bases,
    language_model: str,
    *,
    resolutions: tuple[int, int],
    allow: Iterable[str] = (),
    log: Callable[[str], None] = _silent,
) -> None:
    """Write a published stage-2 checkpoint (`model.pt`, or the released captioner) as a captioner of ours.

    The arguments are `import_stage1`'s. Of the bases, only configs and tokenizers are needed; where their
    weights are there, the captioner's frozen ones are compared with them.
    """
    llm_folder = resolve_component(language_model, "llm")
    tokenizer = load_tokenizer(llm_folder, "llm")
    llm_config = _language_model_config(llm_folder)
    stage1 = Stage1Skeleton(bases, _num_queries(source, "VLV_model.query_embed"), resolutions[0])
    _check_sizes(bases, stage1, resolutions[1])
    eos_token_id, pad_token_id = end_and_pad_ids(tokenizer, llm_folder)
    config = VLVCaptionerConfig(
        encoder_config=stage1.encoder.config.to_dict(),
        llm_config=llm_config.to_dict(),
        conditioner=stage1.decoder.conditioner.to_dict(),
        eos_token_id=eos_token_id,
        pad_token_id=pad_token_id,
        image_token_id=image_token_id(tokenizer),
        tie_word_embeddings=llm_config.tie_word_embeddings,  # type: ignore[call-arg]
    )
    with torch.device("meta"):
        captioner = VLVCaptioner(config)
    skeleton = Skeleton.of(captioner)
    plan = plan_import(source.shapes, "stage2", skeleton)
    _report_and_accept(plan, source, allow, log)
    parts = [part for part in ("florence2", "text_encoder") if holds_weights(bases.folder(part))]
    # A captioner holds the decoder's conditioner at its own root.
    base = {name.removeprefix("decoder."): read for name, read in bases.tensors(parts).items()}
    config.origin = {
        "stage1": None,
        **_confirmed_bases(plan, source, bases, base, log),
        "language_model": component_identity(llm_folder, language_model),
        "conditioning": "text_encoder",
        "trained": ["mlp", "llm", "encoder"],  # the file does not say; these the published code trains
        "draws_with_own_weights": False,  # it trained on captions alone, so its encoder has left the decoder's space
    }
    destination.mkdir(parents=True, exist_ok=True)
    shapes = {name: skeleton.shapes[name] for name in sorted(skeleton.shapes)}
    dtype = next(source.dtypes[key] for key in plan.mapped.values())  # of all of them: accept() saw to it
    assert isinstance(dtype, torch.dtype)
    write_shards(destination, shapes, dtype, lambda name: read_weight(plan, source, base, name))
    config.encoder_config.update(_vocab_rows(plan, source, skeleton))  # type: ignore[union-attr]
    config.architectures = [VLVCaptioner.__name__]
    config.save_pretrained(destination)
    captioner.generation_defaults().save_pretrained(destination)
    tokenizer.save_pretrained(destination)
    VLVImageProcessor(*resolutions).save_pretrained(destination)


def _report_and_accept(
    plan: ImportPlan, source: ExternalStateDict, allow: Iterable[str], log: Callable[[str], None]
) -> None:
    for line in table(plan):
        log(line)
    accept(plan, source, allow)


def _confirmed_bases(
    plan: ImportPlan,
    source: ExternalStateDict,
    bases: Bases,
    base: Readers,
    log: Callable[[str], None],
) -> dict[str, dict[str, str] | None]:
    """Identities of Florence-2 and decoder; None for one that is not what the captioner was trained on."""
    identities: dict[str, dict[str, str] | None] = dict(bases.identities())
    frozen = [name for name in plan.mapped if name.startswith(NEVER_TRAINED)]
    # Of the decoder a captioner holds the text encoder alone, so that decides.
    for component, folder in (("florence2", bases.folder("florence2")), ("decoder", bases.folder("text_encoder"))):
        names = [name for name in frozen if name.startswith(FLORENCE2) == (component == "florence2")]
        if not holds_weights(folder):
            log(f"frozen weights of {component} are not compared: {folder} holds none")
        elif changed_components(plan, source, base, names):
            identities[component] = None
            log(f"frozen weights of {component} differ from the base: the captioner keeps its own, and names no base")
    return identities


def captioners_stage1(source: ExternalStateDict) -> ExternalStateDict:
    """The stage-1 part of a published captioner, under stage 1's names; it has no UNet and no VAE."""
    prefix = "VLV_model."
    # Replaced, not cut off at the start: `module.` may stand before it.
    inner = {key.replace(prefix, "", 1): key for key in source if strip_wrapper(key).startswith(prefix)}
    shapes = {name: source.shapes[key] for name, key in inner.items()}
    dtypes = {name: source.dtypes[key] for name, key in inner.items()}
    return ExternalStateDict(source.path, shapes, dtypes, lambda name: source[inner[name]])


class Stage1Skeleton(nn.Module):
    """Encoder and decoder of a stage 1 without weights, under the names of the whole model."""

    def __init__(self, bases: Bases, num_queries: int, resolution: int) -> None:
        """Build from the configs of the bases; what trains is what the published code trains."""
        super().__init__()
        self.decoder = build_decoder(bases.decoder, DecoderSettings(resolution=resolution), device="meta")
        self.prompt_ids = prompt_token_ids(load_tokenizer(bases.florence2, "florence2"), TASK_PROMPT)
        florence2, spaces = read_config(bases.florence2).to_dict(), self.decoder.conditioner.spaces
        config = new_config(florence2, spaces, EncoderSettings(num_queries), self.prompt_ids)
        with torch.device("meta"):
            self.encoder = VLVEncoder(config)
        self.encoder.set_trained("language_model")

    def trained_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each weight that trains, by name."""
        return {name: tuple(value.shape) for name, value in self.named_parameters() if value.requires_grad}


def _num_queries(source: ExternalStateDict, key: str) -> int:
    # From the weights: a published checkpoint has no config beside it.
    shape = next((source.shapes[name] for name in (key, f"module.{key}") if name in source.shapes), None)
    if shape is None:
        raise CheckpointError(f"{source.path} has no {key}")
    if len(shape) != 3:
        raise CheckpointError(f"{source.path}: {key} has shape {shape}, and (1, queries, width) is wanted")
    return shape[1]


def _check_sizes(bases: Bases, stage1: Stage1Skeleton, encoder_resolution: int) -> None:
    """Refuse what the model would refuse once it is loaded."""
    config = stage1.encoder.config
    settings = EncoderSettings(config.num_queries, encoder_resolution)
    spaces = stage1.decoder.conditioner.spaces
    read_encoder_layout(bases.florence2).check(settings, spaces, num_prompt_ids=len(stage1.prompt_ids))


def _language_model_config(folder: Path) -> PreTrainedConfig:
    """The config in a folder of llm=.

    Raises:
        CheckpointError: it is no causal language model.
    """
    kind = read_json(folder / CONFIG_NAME).get("model_type")
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise CheckpointError(
            f"llm: {folder} holds a model of type {kind}, no causal language model: give Qwen's, for example"
        )
    config = AutoConfig.from_pretrained(folder)
    forget_code(config)
    return config


def _vocab_rows(plan: ImportPlan, source: ExternalStateDict, skeleton: Skeleton) -> dict[str, int]:
    """The rows of the source's embedding, where the base has more: the export cuts there."""
    name = f"{FLORENCE2}language_model.shared.weight"
    rows = source.shapes[plan.mapped[name]][0] if name in plan.mapped else skeleton.shapes[name][0]
    return {} if rows == skeleton.shapes[name][0] else {"vocab_rows": rows}
