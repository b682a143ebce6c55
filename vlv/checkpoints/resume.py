"""Whether a run may resume from a checkpoint, from its JSON alone: the command asks early, and loading asks again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vlv.checkpoints.identity import TRAINER_STATE_NAME, CheckpointError, JsonObject
from vlv.checkpoints.schema import AVERAGE_NAME, SCHEMAS, read_description

_BEFORE = {"optimizer": "adamw"}  # what goes unsaid in identities that were written before there was a choice
# The option that decides a value of an identity, where it has another name.
_OPTIONS = {
    "trained": "train",
    "draws_with_own_weights": "diffusion_weight",
    "decoder": "stable_diffusion_model_path",
    "florence2": "florence2_model_path",
    "language_model": "qwen_model",
    "stage1": "diffusion_model_path",
}
_PLACES = ("source", "revision")  # of a component, which may have moved; its hashes identify it
_HASHES = {"config_sha256": "configs", "weights_fingerprint": "weights", "weights_sha256": "weights"}


def find_checkpoint(resume: str | None, folder: Path) -> Path | None:
    """The checkpoint that `resume` means: None, the newest in `folder` for `latest`, or the path itself.

    Raises:
        CheckpointError: a path that holds no checkpoint.
    """
    if resume is None:
        return None
    if resume == "latest":
        # Names have the step in eight digits, so that the last by name is the newest.
        return next(iter(reversed(list_checkpoints(folder))), None)
    path = Path(resume)
    if not (path / TRAINER_STATE_NAME).is_file():
        raise CheckpointError(f"resume={resume} is no checkpoint of a run; {SCHEMAS['training'].source}")
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first: their description is written last."""
    return sorted(path.parent for path in folder.glob(f"step_*/{TRAINER_STATE_NAME}"))


def require_same_run(path: Path, ours: Mapping[str, object], *, average: bool, partly: bool = False) -> JsonObject:
    """Check that a run continues the one that wrote a checkpoint; returns the checkpoint's description.

    Args:
        ours: identity of the run: what trains, on which frozen bases.
        average: whether the run keeps a moving average of its weights.
        partly: `ours` holds only what is known before the libraries load; the rest is not compared.

    Raises:
        CheckpointError: no checkpoint, or the first thing that differs, with both values and the option.
    """
    state = read_description(path, "training")
    saved, wanted = ({**_BEFORE, **flat_identity(each)} for each in (state["identity"], ours))
    for key in sorted(wanted if partly else saved.keys() | wanted.keys()):
        component, _, last = key.rpartition(".")
        # A component without weights that could be hashed has no fingerprint; nothing is known of it then.
        if saved.get(key) == wanted.get(key) or (partly and last in _HASHES and key not in saved):
            continue
        name = component.rpartition(".")[2]
        option = _OPTIONS.get(name or last, name or last)
        if last in _HASHES:
            raise CheckpointError(
                f"resume={path}: {name} is not the one that the checkpoint was trained with: their {_HASHES[last]} "
                f"differ; set {option} to that one, or start a run with another run_name"
            )
        raise CheckpointError(
            f"resume={path} was trained with {key}={saved.get(key)}, this run has {wanted.get(key)}: give the same "
            f"{option}, or another run_name"
        )
    if average and not (path / AVERAGE_NAME).is_file():
        raise CheckpointError(
            f"resume={path} was trained without an average: set ema_decay=0, or give another run_name"
        )
    return state


def flat_identity(identity: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """An identity's values by dotted name; without places, as what has moved is still the same."""
    values: dict[str, object] = {}
    for key, value in identity.items():
        if isinstance(value, Mapping):
            values |= flat_identity(value, f"{prefix}{key}.")
        elif key not in _PLACES:
            values[f"{prefix}{key}"] = value
    return values
