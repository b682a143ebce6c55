"""What decides an inference run's results beside its own settings: the checkpoint and the number format."""

from __future__ import annotations

from pathlib import Path

from vlv.checkpoints.identity import fingerprint


def checkpoint_identity(folder: str | Path, precision: str) -> dict[str, str]:
    """Path and fingerprint of a checkpoint, and the resolved precision, as runs are compared by."""
    folder = Path(folder)
    return {
        "checkpoint": str(folder.resolve()),
        # Its weights too: a run that trains on leaves others at the same path.
        "checkpoint_fingerprint": fingerprint(folder, [*folder.glob("*.json"), *folder.glob("*.safetensors")]),
        "precision": precision,
    }
