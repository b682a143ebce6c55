"""Names of the published checkpoints, and of ours: which weight is which, in both directions.

A published stage-1 state dict has `query_embed`, `language_proj.*`, `model.*` (Florence-2 in its original
naming), `text_encoder.*`, `unet.*`, `vae.*`; a stage-2 one has `qwen2_model.*`, `mlp.*` and, under
`VLV_model.`, stage 1's without UNet and VAE. Keys may carry `module.`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from vlv.encoders.florence2_layout import original_name, rename_original

Stage = Literal["stage1", "stage2"]
Layout = Literal["stage1", "stage2", "florence2"]

_SPACE = "clip"  # the published decoder has one embedding space
_TIED = "is tied to the embedding natively; the published file holds an untrained clone of it"
# Natively lm_head is the embedding itself, which the published clone, frozen in training, would overwrite.
_DROPPED = {
    "language_model.lm_head.weight": _TIED,
    "language_model.final_logits_bias": "belongs to the language head, which VLV does not use",
}
# Ours -> published: the same weight under further names, equal by construction (tied).
_ALIASES = {
    "florence2.language_model.encoder.embed_tokens.weight": "florence2.language_model.shared.weight",
    "florence2.language_model.decoder.embed_tokens.weight": "florence2.language_model.shared.weight",
}
_STAGE1_PARTS = {"unet": "decoder.unet", "vae": "decoder.vae"}
_TEXT_ENCODER = {
    "stage1": "decoder.conditioner.text.text_encoder",
    "stage2": "conditioner.text.text_encoder",
}


class Placement(NamedTuple):
    """Where a published weight goes.

    name: our name; None where it is dropped. reason: why it is dropped. transposed: a matrix to transpose.
    alias_of: our name of the weight that it must be equal to, where it is a tied copy.
    """

    name: str | None
    reason: str | None = None
    transposed: bool = False
    alias_of: str | None = None


def strip_wrapper(key: str) -> str:
    """Remove the `module.` that DDP and DeepSpeed put before a key."""
    return key.removeprefix("module.")


def recognise(keys: set[str]) -> Layout | None:
    """What a state dict is, by its keys; None for anything else."""
    bare = {strip_wrapper(key) for key in keys}
    if any(key.startswith("VLV_model.") for key in bare) and any(key.startswith("qwen2_model.") for key in bare):
        return "stage2"
    if "query_embed" in bare and any(key.startswith("model.vision_tower.") for key in bare):
        return "stage1"
    if "image_projection" in bare and any(key.startswith("vision_tower.") for key in bare):
        return "florence2"
    return None


def place(key: str, stage: Layout) -> Placement | None:
    """Where a published weight goes in our model of that stage; None for a key that is not known."""
    key = strip_wrapper(key)
    if stage == "florence2":
        return _place_florence2(key)
    if stage == "stage2":
        if key.startswith("qwen2_model."):
            return Placement("llm." + key.removeprefix("qwen2_model."))
        if key.startswith("mlp.layers."):
            return Placement(key)
        if not key.startswith("VLV_model."):
            return None
        key = key.removeprefix("VLV_model.")
    return _place_stage1(key, stage)


def _place_stage1(key: str, stage: Stage) -> Placement | None:
    head, _, rest = key.partition(".")
    if key == "query_embed":
        return Placement("encoder.query_embed")
    if head == "language_proj":
        return Placement(f"encoder.language_proj.{_SPACE}.{rest}")
    if head == "text_encoder":
        # A buffer that transformers once saved and no longer does.
        if rest.endswith("position_ids"):
            return Placement(None, reason="is a list of positions, made by the code")
        return Placement(f"{_TEXT_ENCODER[stage]}.{rest.removeprefix('text_model.')}")
    if head in _STAGE1_PARTS and stage == "stage1":
        return Placement(f"{_STAGE1_PARTS[head]}.{rest}")
    if head == "model":
        return _place_florence2(rest)
    return None


def _place_florence2(rest: str) -> Placement | None:
    if rest in _DROPPED:
        return Placement(None, reason=_DROPPED[rest])
    renamed = rename_original(rest)
    if renamed is None:
        return None
    name = f"florence2.{renamed}"
    alias = _ALIASES.get(name)
    return Placement(
        None if alias else f"encoder.{name}",
        transposed=rest == "image_projection",
        alias_of=f"encoder.{alias}" if alias else None,
    )


def final_logits_bias(stage: Stage) -> str:
    """The published name of the language head's bias, which no model of ours has."""
    return f"{_prefix(stage)}model.language_model.final_logits_bias"


def _prefix(stage: Stage) -> str:
    return "VLV_model." if stage == "stage2" else ""


def published_names(name: str, stage: Stage) -> list[str]:
    """Every name that a weight of ours has in the published layout: its own, and those of its tied copies."""
    prefix = _prefix(stage)
    if name.startswith("llm."):
        return ["qwen2_model." + name.removeprefix("llm.")]
    if name.startswith("mlp."):
        return [name]
    if name == "encoder.query_embed":
        return [prefix + "query_embed"]
    projection = f"encoder.language_proj.{_SPACE}."
    if name.startswith(projection):
        return [prefix + "language_proj." + name.removeprefix(projection)]
    text_encoder = _TEXT_ENCODER[stage] + "."
    if name.startswith(text_encoder):
        # The transformers of the published code has one more level there.
        return [prefix + "text_encoder.text_model." + name.removeprefix(text_encoder)]
    for published, ours in _STAGE1_PARTS.items():
        if name.startswith(ours + "."):
            return [published + name.removeprefix(ours)]
    assert name.startswith("encoder.florence2."), f"{name} has no place in the published layout"
    bare = name.removeprefix("encoder.")
    copies = [bare, *(alias for alias, original in _ALIASES.items() if original == bare)]
    names = [f"{prefix}model.{original_name(copy.removeprefix('florence2.'))}" for copy in copies]
    if bare == "florence2.language_model.shared.weight":
        names.append(f"{prefix}model.language_model.lm_head.weight")
    return names
