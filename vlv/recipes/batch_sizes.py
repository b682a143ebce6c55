"""What a training call's numbers mean before anything is loaded: no torch, so that the check of a call asks it too."""

from __future__ import annotations

from dataclasses import dataclass

from vlv.config import ConfigError, TrainingConfig


@dataclass(frozen=True)
class BatchSizes:
    """global = micro x accumulation x processes, always."""

    global_batch_size: int
    micro_batch_size: int
    num_processes: int

    @property
    def accumulation(self) -> int:
        """Micro-batches of one process in one optimizer step."""
        return self.global_batch_size // (self.micro_batch_size * self.num_processes)

    @classmethod
    def of(cls, config: TrainingConfig, num_processes: int) -> BatchSizes:
        """The sizes that a config means on a number of processes.

        Raises:
            ValueError: the processes do not divide the global batch.
        """
        from vlv.data.order import largest_micro_batch  # with numpy: `--help` needs neither

        total = config.total_batch_size(num_processes)
        return cls(total, largest_micro_batch(total, num_processes, config.micro_batch_limit), num_processes)

    def __str__(self) -> str:
        return (
            f"{self.global_batch_size} = micro-batch {self.micro_batch_size} x accumulation {self.accumulation} x "
            f"{self.num_processes} processes"
        )


def require_countable_epochs(config: TrainingConfig) -> None:
    """Check that the epochs can be counted.

    Raises:
        ConfigError: epochs of a stream, whose length is not known.
    """
    from vlv.data.files import is_stream

    if config.epoch_limit is not None and is_stream(config.data_path):
        raise ConfigError(f"epochs={config.epoch_limit} of a stream cannot be counted: set epochs=null and total_steps")
