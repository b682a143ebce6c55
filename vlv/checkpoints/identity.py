"""What a folder is, and whether two components are the same. Reads JSON only: quick, no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

JsonObject = dict[str, Any]  # what a JSON file holds; its readers check what they take from it

CONFIG_NAME = "config.json"
AUTO_NAME = "vlv_captioner.py"  # of a captioner: what its config.json names for transformers' Auto classes
INDEX_NAME = "model_index.json"
WEIGHTS_NAME = "model.safetensors"
TRAINER_STATE_NAME = "trainer_state.json"
OWN_BASES = "bases/"  # a base that a checkpoint brings with it lies in here, relative to its folder
STAGE1_TYPE = "vlv_autoencoder"
STAGE2_TYPE = "vlv_captioner"
ENCODER_TYPE = "vlv_encoder"

_BLOCK, _BLOCKS = 1 << 16, 64
# Keys of a config.json that say who wrote it or where it lay, not what the component computes.
_VOLATILE = {"_name_or_path", "_diffusers_version", "transformers_version", "torch_dtype", "dtype"}
# Parts of a diffusers index that no loader here reads.
_OF_PIPELINES = {"safety_checker", "feature_extractor", "image_encoder"}


class CheckpointError(ValueError):
    """A folder that is not what was asked for; the message names it and what to give."""


def read_json(path: Path) -> JsonObject:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing or broken, or holds something else.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} is not there")
    try:
        content = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not an object {{...}}: copy it again")
    return content


def recorded_place(source: str, checkpoint: Path) -> str:
    """Where something lies that a checkpoint's config.json names: `bases/...` and `../...` are relative to it.

    Training records absolute paths and hub ids; relative ones are those of checkpoints that travel with their bases.
    """
    return str((checkpoint / source).resolve()) if source.startswith((OWN_BASES, "../")) else source


def is_hub_id(source: str) -> bool:
    """Whether a name has the form owner/name and is not a path."""
    # Where its first part is a folder here, it is a path, perhaps mistyped, and the hub is not asked for it.
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not Path(source.split("/")[0]).is_dir()


def local_component(source: str, option: str) -> Path | None:
    """The folder of a component; None where a hub must give it first.

    Args:
        option: the setting that names it, for the message.

    Raises:
        CheckpointError: neither a folder nor a hub id.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if is_hub_id(source):
        return None
    raise CheckpointError(f"{option}={source} does not exist: give a folder or a hub id")


def component_identity(folder: Path, source: str) -> dict[str, str]:
    """Where a frozen component came from (with the revision of a hub snapshot), and what identifies it."""
    where = str(folder.resolve()) if Path(source).is_dir() else source
    # The hub's cache keeps a snapshot in a folder that is named by its commit.
    revision = {"revision": folder.name} if folder.parent.name == "snapshots" else {}
    return {"source": where, **revision, **component_hashes(folder)}


def indexed_parts(folder: Path) -> list[str] | None:
    """The folders of a diffusers model that are loaded: those that model_index.json names; None without one.

    A hub's repository often holds more (SDXL's `vae_1_0`, SD 3.5's single-file `text_encoders`): the same model by its
    id, by `vlv download` and in a clone must be the same base, so these are neither fetched nor hashed. Nor are the
    parts that only a pipeline uses.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        return None
    named = {name: value for name, value in read_json(path).items() if isinstance(value, list) and all(value)}
    return sorted(named.keys() - _OF_PIPELINES)


def component_hashes(folder: Path) -> dict[str, str]:
    """A hash over the configs of a component's folder, and a fingerprint of its weights."""
    weights = weight_files(folder)
    hashes = {"config_sha256": config_hash(folder)}
    return {**hashes, "weights_fingerprint": fingerprint(folder, weights)} if weights else hashes


def weight_files(folder: Path) -> list[Path]:
    """The files that a component's weights are read from, as far as one kind of them is there."""
    parts = indexed_parts(folder)
    files = list(folder.rglob("*")) if parts is None else [path for part in parts for path in (folder / part).glob("*")]
    # As the libraries choose: safetensors before pickles, full precision before a variant.
    tensors = [path for path in files if path.suffix == ".safetensors" and "non_ema" not in path.name]
    plain = [path for path in tensors if ".fp16" not in path.name]
    return plain or tensors or [path for path in files if path.suffix == ".bin"]


def _former_hashes(folder: Path) -> dict[str, str]:
    """`component_hashes` as it was while it took all that lay in a folder: checkpoints of that time have these."""
    weights = [path for path in folder.rglob("*.safetensors") if ".fp16." not in path.name]
    weights = weights or list(folder.rglob("*.bin"))
    hashes = {"config_sha256": config_hash(folder, all_parts=True)}
    return {**hashes, "weights_fingerprint": fingerprint(folder, weights)} if weights else hashes


def config_hash(folder: Path, all_parts: bool = False) -> str:
    """SHA-256 over the model configs of a component folder, without what changes from save to save.

    Args:
        all_parts: those too that model_index.json does not name.
    """
    parts = None if all_parts else indexed_parts(folder)
    paths = [folder / CONFIG_NAME, folder / INDEX_NAME, folder / "scheduler" / "scheduler_config.json"]
    found = sorted(folder.glob(f"*/{CONFIG_NAME}"))
    paths += [path for path in found if parts is None or path.parent.name in parts]
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(f"{path.relative_to(folder)}\n".encode())
            digest.update(json.dumps(_stable(read_json(path)), sort_keys=True).encode())
    return digest.hexdigest()


def fingerprint(folder: Path, paths: list[Path]) -> str:
    """SHA-256 over files of a folder, of large ones over 64 blocks spread evenly.

    Training changes all of a weights file, so 4 MiB distinguish two of them without reading 15 GB.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _BLOCK * _BLOCKS:
                digest.update(file.read())
                continue
            for block in range(_BLOCKS):
                file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))  # the first block begins the file, the last ends it
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def require_same_component(name: str, folder: Path, identity: dict[str, str], option: str) -> None:
    """Check that a frozen component is the one that a checkpoint was trained with.

    Raises:
        CheckpointError: its configs or weights differ; names the component, both places and the option.
    """
    hashes = component_hashes(folder)
    # What a checkpoint did not record is not compared: earlier ones have no fingerprint of the weights.
    if any(identity.get(key, value) != value for key, value in hashes.items()):
        former = _former_hashes(folder)
        if all(identity.get(key, value) == value for key, value in former.items()):
            return
    for key, what in (("config_sha256", "configs"), ("weights_fingerprint", "weights")):
        if key in identity and identity[key] != hashes.get(key):
            raise CheckpointError(
                f"{name} in {folder} is not the one that the checkpoint was trained with ({identity['source']}): "
                f"their {what} differ; set {option} to that one"
            )


def _stable(value: object) -> object:
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in _VOLATILE}
    return value
