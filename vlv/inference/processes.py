"""The processes that share one set of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from vlv.memory import is_out_of_memory

Item = TypeVar("Item")


@dataclass(frozen=True)
class Processes:
    """This process among the others.

    index, count: rank of this process and the number of processes, over all machines.
    wait: returns when every process has called it.
    """

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that prints and writes what there is one of."""
        return self.index == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Return every count-th item from this process's index on: together the processes take each item once.

        Interleaved and not in blocks, so that no process gets all of a folder of large images.
        """
        return list(items[self.index :: self.count])


ALONE = Processes()  # one process without others


@contextmanager
def explain_out_of_memory(fix: str) -> Iterator[None]:
    """Turn an out-of-memory error into one line with the fix.

    Raises:
        ValueError: where the block ran out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split(". ")[0].split()) or "in Python"
        raise ValueError(f"out of memory ({reason}): {fix}") from None
