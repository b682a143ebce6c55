"""What decides an inference run's results beside its own settings: the checkpoint and the number format."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 1 << 16
_BLOCKS = 64


def checkpoint_identity(folder: str | Path, precision: str) -> dict[str, str]:
    """Path and fingerprint of a checkpoint, and the resolved precision, as runs are compared by."""
    folder = Path(folder)
    return {
        "checkpoint": str(folder.resolve()),
        "checkpoint_fingerprint": fingerprint(folder),
        "precision": precision,
    }


def fingerprint(folder: Path) -> str:
    """SHA-256 over the configs and weights of a folder, of large files over 64 blocks spread evenly.

    Training changes all of a weights file, so 4 MiB tell two of them apart without reading 15 GB.
    """
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _BLOCK * _BLOCKS:
                digest.update(file.read())
                continue
            for block in range(_BLOCKS):
                file.seek(block * (size - _BLOCK) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()
