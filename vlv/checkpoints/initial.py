"""Starting a training from an earlier model's weights: a stage-1 checkpoint, or a captioner."""

from __future__ import annotations

from torch import nn

from vlv.checkpoints.external_state_dict import open_state_dict
from vlv.checkpoints.identity import CONFIG_NAME, CheckpointError, read_json
from vlv.checkpoints.schema import require_initial

_GROWING = "encoder.florence2.language_model.shared.weight"  # the hub's native model has padded rows
_OF_BART = ("encoder.florence2.language_model.", "encoder.query_embed", "encoder.regions.gate")
_PARTS = ("encoder.", "mlp.", "llm.")


def load_initial(model: nn.Module, source: str) -> int:
    """Copy every weight of encoder, MLP and language model that the source has; returns how many.

    Into stage 1, a captioner gives its encoder; into stage 2, all of it. What trains must be there, but for BART,
    which a stage 1 of regions alone has not trained and which may start after it.

    Raises:
        CheckpointError: no model of ours, a trained weight that it lacks, or another shape.
    """
    folder = require_initial(source)
    weights = open_state_dict(folder)
    alone = read_json(folder / CONFIG_NAME).get("trained") == "regions"
    untouched = _OF_BART if alone else ()  # by that stage 1: they start now
    copied = 0
    for name, value in model.named_parameters():
        if not name.startswith(_PARTS):
            continue
        if name not in weights.shapes:
            if value.requires_grad and not name.startswith(untouched):
                raise CheckpointError(f"initial_checkpoint={source} has no {name}, which trains here")
            continue
        shape = weights.shapes[name]
        if not fits(name, shape, tuple(value.shape)):
            raise CheckpointError(
                f"initial_checkpoint={source}: {name} has shape {shape}, {tuple(value.shape)} is wanted"
            )
        value.data[: shape[0] if shape else ...].copy_(weights[name])  # rows beyond the source's keep their values
        copied += 1
    return copied


def fits(name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    """Whether a weight can be taken; Florence-2's embedding also where ours has more rows, which keep their values."""
    if name == _GROWING and len(theirs) == len(ours):
        return theirs[1:] == ours[1:] and theirs[0] <= ours[0]
    return theirs == ours
