"""Adapter checkpoints: a captioner saved without the weights that its frozen bases hold anyway.

A whole captioner carries Florence-2's vision tower, the text encoder and, where it did not train, the language model
a second time. An adapter's config.json names the bases that hold them (`adapter_bases`), and its `origin` has their
places and hashes. Loading puts the two together; from then on the captioner is whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from vlv.checkpoints.external_state_dict import open_state_dict
from vlv.checkpoints.identity import CONFIG_NAME, CheckpointError, JsonObject, read_json
from vlv.checkpoints.origin import BASE_OPTIONS, adapter_bases
from vlv.checkpoints.pretrained import load_language_model, resolve_base, resolve_component
from vlv.decoders import DecoderSettings, load_conditioner
from vlv.encoders.florence2 import VLVEncoder, load_florence2
from vlv.models.lora import is_lora

# Stage 2 trains Florence-2's BART, the projector and the language model; these parts of a captioner it never does.
NEVER_TRAINED = (*(f"encoder.{part}" for part in VLVEncoder.base_parts), "conditioner.")


Origin = JsonObject  # config.json's: the identity of each base, conditioning, what trained


def leave_to_bases(
    state: Mapping[str, Tensor], origin: Origin, checkpoint: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """A captioner's weights that no base holds, and the names of the bases that hold the others.

    Args:
        state: all weights, by the captioner's names.
        checkpoint: the captioner's folder, to which the places of bases may be relative.

    Raises:
        CheckpointError: a base that is not there or another one, or none that holds anything.
    """
    left, bases = dict(state), []
    if any(is_lora(name) for name in left):
        # LoRA has files of its own, and froze the rest, which may stand here in 4 bits.
        left = {name: value for name, value in left.items() if not name.startswith("llm.")}
        bases.append("language_model")
    for base in BASE_OPTIONS:
        if not origin.get(base) or (base == "language_model" and "llm" in origin["trained"]):
            continue
        held = _base_weights(origin, base, None, checkpoint)
        same = {name for name, value in held.items() if name in left and _is_rounded(left[name], value)}
        # A language model is left out wholly or kept: its head may be tied to its embedding.
        if same and (base != "language_model" or same == held.keys()):
            bases.append(base)
            left = {name: value for name, value in left.items() if name not in same}
    if not bases:
        raise CheckpointError(f"{checkpoint} shares no weight with a base that it names: save it whole")
    return left, bases


def with_bases(
    checkpoint: Path, origin: Origin, bases: list[str], moved: Mapping[str, str | None]
) -> dict[str, Tensor]:
    """All weights of a captioner: an adapter's own, and those that it left to its bases.

    Args:
        bases: which of them it needs: florence2, decoder, language_model.
        moved: where a base lies now, by its name; None is where `origin` says.

    Raises:
        CheckpointError: a base that is not recorded, not there, or another one than the captioner was made on.
    """
    weights: dict[str, Tensor] = {}
    for base in bases:
        if not origin.get(base):
            raise CheckpointError(f"{checkpoint} leaves weights to its {base}, but does not say which one that is")
        weights |= _base_weights(origin, base, moved.get(base), checkpoint)
    own = open_state_dict(checkpoint)
    return weights | {name: own[name] for name in own}


def captioner_weights(
    checkpoint: Path, origin: Origin, bases: Collection[str], moved: Mapping[str, str | None]
) -> dict[str, Tensor]:
    """The weights in a captioner's folder, whole or an adapter, and those that it left to any of `bases`.

    Nothing of the folder is in memory before it is used: its pages are the file's.

    Raises:
        CheckpointError: as of `with_bases`.
    """
    needed = [base for base in adapter_bases(read_json(checkpoint / CONFIG_NAME)) if base in bases]
    return with_bases(checkpoint, origin, needed, moved)


def _base_weights(origin: Origin, base: str, moved: str | None, checkpoint: Path) -> dict[str, Tensor]:
    """What a base holds of a captioner, by the captioner's names."""
    option = BASE_OPTIONS[base]
    folder = resolve_component(resolve_base(origin[base], moved, option, checkpoint), option)
    if base == "decoder":
        return _named("conditioner.", load_conditioner(folder, DecoderSettings(origin["conditioning"])))
    if base == "language_model":
        return _named("llm.", load_language_model(folder, torch.float32))
    weights = _named("encoder.florence2.", load_florence2(folder, torch.float32))
    # Never BART: stage 1 trains it, and its tied embedding would stand against the file's under its other names.
    return {name: value for name, value in weights.items() if name.startswith(NEVER_TRAINED)}


def _named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in module.state_dict().items()}


def _is_rounded(value: Tensor, base: Tensor) -> bool:
    """Whether a weight is the base's, perhaps in another number format: frozen parts are held in the run's."""
    if value.shape != base.shape:
        return False
    value, base = value.detach().cpu(), base.detach()
    formats = (torch.float32, torch.bfloat16, torch.float16)
    return any(torch.equal(value.float(), base.to(dtype).to(value.dtype).float()) for dtype in formats)
