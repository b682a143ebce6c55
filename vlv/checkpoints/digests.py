"""Whether a checkpoint's files are those that were written: sizes and sha256 in its trainer_state.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vlv.checkpoints.identity import TRAINER_STATE_NAME, CheckpointError, JsonObject, file_hash, read_json
from vlv.checkpoints.schema import VALIDATION_NAME

KEY = "files"
_NOT_KEPT = (TRAINER_STATE_NAME, VALIDATION_NAME)  # the first holds the digests and its own, the other comes later


def sealed(folder: Path, state: Mapping[str, object]) -> JsonObject:
    """A checkpoint's description with size and digest of every file that lies in its folder, and with its own."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in _NOT_KEPT]
    with ThreadPoolExecutor(4) as pool:  # hashing leaves Python's lock, and the files are gigabytes
        digests = list(pool.map(file_hash, paths))
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }
    content = {**state, KEY: files}
    return {**content, KEY: {**files, TRAINER_STATE_NAME: {"sha256": _own_digest(content)}}}


def damage(folder: Path, *, whole: bool = True) -> str | None:
    """What of a checkpoint is not as it was written, in words; None where all is, or where no digests were kept.

    Args:
        whole: read every file, and not only the sizes: that finds a bit that flipped, and takes as long as reading.
    """
    try:
        state = read_json(folder / TRAINER_STATE_NAME)
    except CheckpointError as error:
        return str(error)
    files = state.get(KEY)
    if not isinstance(files, dict):  # of an earlier version
        return None
    own = files.pop(TRAINER_STATE_NAME, {})
    if own.get("sha256") != _own_digest(state):
        return f"{folder / TRAINER_STATE_NAME} is damaged: its sha256 is another"
    for name, known in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != known["bytes"]:
            return f"{path} is damaged: {path.stat().st_size:,} bytes instead of {known['bytes']:,}"
        if whole and file_hash(path) != known["sha256"]:
            return f"{path} is damaged: its sha256 is another"
    return None


def count_verified(folder: Path) -> int:
    """How many files a checkpoint has digests of; 0 in one that keeps none."""
    path = folder / TRAINER_STATE_NAME
    return len(read_json(path).get(KEY, {})) if path.is_file() else 0


def _own_digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
