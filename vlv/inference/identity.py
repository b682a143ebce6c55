"""What decides an inference run's results beside its own settings: the checkpoint, and how it is read."""

from __future__ import annotations

from pathlib import Path

from vlv.checkpoints.identity import fingerprint
from vlv.checkpoints.schema import LORA_FOLDER

_FILES = ("*.json", "*.safetensors", "*.gguf", f"{LORA_FOLDER}/*.safetensors")


def checkpoint_identity(folder: str | Path, precision: str, **options: object) -> dict[str, object]:
    """Path and fingerprint of a checkpoint, and the resolved precision, as runs are compared by.

    Args:
        options: further settings of the model. Those that are None stay out, so that folders of runs that had no such
            setting still fit.
    """
    folder = Path(folder)
    return {
        "checkpoint": str(folder.resolve()),
        # Its weights too: a run that trains on leaves others at the same path.
        "checkpoint_fingerprint": fingerprint(folder, [file for pattern in _FILES for file in folder.glob(pattern)]),
        "precision": precision,
        **{name: value for name, value in options.items() if value is not None},
    }
