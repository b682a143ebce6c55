"""Which checkpoint a run resumes from, and whether it may: the command asks early, and loading asks again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from vlv.checkpoints.digests import damage
from vlv.checkpoints.identity import TRAINER_STATE_NAME, CheckpointError, JsonObject, read_json
from vlv.checkpoints.schema import AVERAGE_NAME, SCHEMAS, VALIDATION_NAME, read_description

_BEFORE = {"optimizer": "adamw"}  # what goes unsaid in identities that were written before there was a choice
# The option that decides a value of an identity, where it has another name.
_OPTIONS = {
    "trained": "train",
    "draws_with_own_weights": "diffusion_weight",
    "decoder": "stable_diffusion_model_path",
    "florence2": "florence2_model_path",
    "language_model": "qwen_model",
    "stage1": "diffusion_model_path",
    "lora": "lora_* settings",
}
_PLACES = ("source", "revision")  # of a component, which may have moved; its hashes identify it
_HASHES = {"config_sha256": "configs", "weights_fingerprint": "weights", "weights_sha256": "weights"}


def find_checkpoint(
    resume: str | None, folder: Path, *, whole: bool = False, report: Callable[[str], object] = lambda text: None
) -> Path | None:
    """The checkpoint that `resume` means: None, the newest good one in `folder` for `latest`, or the path itself.

    Args:
        whole: compare the digests of its files, which reads all of them; else their sizes alone.
        report: told of each newer one that is damaged or ruined, and so passed over.

    Raises:
        CheckpointError: a path that holds no checkpoint, or a damaged one; or no one in `folder` is whole.
    """
    if resume is None:
        return None
    if resume == "latest":
        return _newest_good(folder, whole, report)
    path = Path(resume)
    if not (path / TRAINER_STATE_NAME).is_file():
        raise CheckpointError(f"resume={resume} is no checkpoint of a run; {SCHEMAS['training'].source}")
    if found := damage(path, whole=whole):
        raise CheckpointError(f"{found}: give resume=latest, or another checkpoint")
    return path


def _newest_good(folder: Path, whole: bool, report: Callable[[str], object]) -> Path | None:
    last = None
    for path in reversed(list_checkpoints(folder)):
        found = damage(path, whole=whole)
        if found is None and not is_ruined(path):
            return path
        last = found or f"{path} is ruined: its validation is not finite"
        report(f"{last}; the checkpoint before it is taken")
    if last is None:
        return None
    raise CheckpointError(f"{last}, and no good checkpoint is before it: overwrite=true with resume=null starts anew")


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest first: their description is written last."""
    # Names have the step in eight digits, so that the last by name is the newest.
    return sorted(path.parent for path in folder.glob(f"step_*/{TRAINER_STATE_NAME}"))


def sound_checkpoints(folder: Path) -> list[Path]:
    """Those that validation did not find ruined, oldest first: what `resume=latest` chooses from."""
    return [path for path in list_checkpoints(folder) if not is_ruined(path)]


def is_ruined(path: Path) -> bool:
    """Whether the validation of a checkpoint gave numbers that are not finite: its weights are of no use."""
    return not validation_of(path).get("finite", True)


def is_validated(path: Path) -> bool:
    """Whether a checkpoint's validation came to its end; a run may have been killed before."""
    return bool(validation_of(path))


def validation_of(path: Path) -> JsonObject:
    """What validation said of a checkpoint; {} where it said nothing that can be read."""
    try:
        return read_json(path / VALIDATION_NAME)
    except CheckpointError:
        return {}


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
