"""All that a run is, beside its weights and its optimizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass
class TrainState:
    """Where a run stands. Dropout's random stream is a function of (seed, step, process), so it is not stored.

    step: optimizer steps done.
    samples: number of the next sample in the data order; the loader starts there.
    skipped: those of the steps whose loss or gradient was not finite, so that they changed nothing.
    """

    step: int = 0
    samples: int = 0
    skipped: int = 0

    def to_dict(self) -> dict[str, int]:
        """Return the JSON form."""
        return asdict(self)
