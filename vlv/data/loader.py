"""Batches from worker processes that may die or hang: those of a worker that is lost are loaded again by new ones."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import tee
from multiprocessing import active_children
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from vlv.data.transforms import silence_pillow
from vlv.orphans import end_with_parent

_log = logging.getLogger(__name__)
_ATTEMPTS = 3  # without a batch between
_LOOK_EVERY = 1.0  # seconds between two looks at the workers, while a batch is waited for
_LONGEST_TEMPORARY = 107 - len("/pymp-12345678/listener-12345678")  # bytes; a socket's path has at most 107 on Linux
BatchType = TypeVar("BatchType")
Positions = list[int]


class LoaderError(RuntimeError):
    """Workers cannot work here, or were lost again and again before a batch came."""


class WorkerLoader(Generic[BatchType]):
    """An iterable of batches, in the order of their positions; one pass.

    A worker that is killed (for memory, say) or hangs costs time alone: what it had not delivered is loaded again.
    """

    def __init__(
        self, make: Callable[[Iterator[Positions]], DataLoader[Any]], batches: Iterable[Positions], timeout: float
    ) -> None:
        """Take what makes torch's loader of given batches.

        Args:
            make: gets the batches that are left. Its loader raises after `_LOOK_EVERY` seconds without a batch, as
                `worker_options` says.
            timeout: seconds after which workers without a batch are taken to hang.
        """
        self._make, self._batches, self._timeout = make, batches, timeout

    def __iter__(self) -> Iterator[BatchType]:
        """Yield the batches.

        Raises:
            LoaderError: three times in a row the workers were lost before the same batch came.
        """
        left: Iterator[Positions] = iter(self._batches)
        attempts = 0
        while True:
            given, left = tee(left)  # `left` stays at the first batch that has not come
            loader = self._make(given)
            loaded, workers = _start(loader)
            try:
                for batch in self._wait(loaded, workers, forked=loader.num_workers > 0):
                    next(left)
                    attempts = 0
                    yield batch
            except _WorkersLostError as lost:
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise LoaderError(
                        f"{lost}, {attempts} times before {_describe(next(left))} came; {lost.advice}"
                    ) from None
                _log.warning("%s: its batches are loaded again", lost)
            else:
                return
            finally:
                for worker in workers:  # those that hang would not hear of their end
                    worker.kill()

    def _wait(self, loaded: Iterator[BatchType], workers: list[BaseProcess], forked: bool) -> Iterator[BatchType]:
        """The batches of one set of workers; raises _WorkersLostError once one of them is dead, or all are silent."""
        since = time.monotonic()
        while True:
            try:
                batch = next(loaded)
            except StopIteration:
                return
            except RuntimeError as error:
                # In this process no worker is waited for, and the words would be the data's own.
                if forked and str(error).startswith("DataLoader worker"):
                    # Torch has given its batches up by now: to ask it for the next one would lose them.
                    raise _WorkersLostError.killed(workers) from None
                if not forked or not str(error).startswith("DataLoader timed out"):
                    raise
                if time.monotonic() - since > self._timeout:
                    raise _WorkersLostError.silent(self._timeout) from None
                continue
            yield batch
            since = time.monotonic()


class _WorkersLostError(Exception):
    """Why a set of workers is given up."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(reason)
        self.advice = advice

    @classmethod
    def killed(cls, workers: list[BaseProcess]) -> _WorkersLostError:
        # None of them is known where one died before it could be listed.
        code = next((worker.exitcode for worker in workers if worker.exitcode is not None), None)
        how = "" if code is None else f" by signal {-code}" if code < 0 else f" with exit code {code}"
        advice = "signal 9 is most likely for memory: set fewer num_workers, or a smaller max_image_mib"
        return cls(f"a loader worker ended{how}", advice)

    @classmethod
    def silent(cls, timeout: float) -> _WorkersLostError:
        advice = "the storage may hang; where a batch takes so long, raise loader_timeout"
        return cls(f"no loader worker gave a batch for {timeout:g} seconds", advice)


def load_batches(
    dataset: Dataset[Any],
    batches: Iterable[Positions],
    collate: Callable[[list[Any]], BatchType],
    num_workers: int,
    timeout: float,
    pin_memory: bool = False,
) -> WorkerLoader[BatchType]:
    """Load the given batches of a dataset's positions, in their order, with `num_workers` processes (0: in this one).

    No more workers start than there are batches, where that is known. Needs num_workers x 2 batches of shared memory.
    """
    if isinstance(batches, Sequence):
        num_workers = min(num_workers, len(batches))
    # Without it the tokenizers' library warns at each fork; a caption at a time gains nothing from its threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

    def make(left: Iterator[Positions]) -> DataLoader[Any]:
        return DataLoader(
            dataset,
            # The batches are given from outside, so that the position in the data is a number that the trainer keeps:
            # torch's samplers, and Accelerate's wrapping of them, hold state of their own, which a resumed run would
            # need.
            batch_sampler=left,  # pyright: ignore[reportArgumentType]  (any iterable of lists serves)
            collate_fn=collate,
            pin_memory=pin_memory,
            **worker_options(num_workers),
        )

    return WorkerLoader(make, batches, timeout)


def worker_options(num_workers: int) -> dict[str, Any]:
    """What a `DataLoader` of `WorkerLoader` is given about its workers.

    Raises:
        LoaderError: the path of the temporary folder is too long for them.
    """
    if not num_workers:
        return {"num_workers": 0}
    folder = os.fsencode(tempfile.gettempdir())
    if len(folder) > _LONGEST_TEMPORARY:  # else the workers would fail to send a batch, and be waited for in vain
        raise LoaderError(
            f"TMPDIR={os.fsdecode(folder)} is longer than {_LONGEST_TEMPORARY} bytes, too long for loader workers' "
            "sockets: give a shorter one, or num_workers=0"
        )
    # A forked worker shares the index of a large source; spawned ones would each get a pickled copy.
    return {
        "num_workers": num_workers,
        "worker_init_fn": start_worker,
        "multiprocessing_context": "fork",
        "timeout": _LOOK_EVERY,
    }


def start_worker(_: int) -> None:
    """Set up a loader worker: one thread, no parallel tokenizer, no remarks of Pillow's on odd metadata.

    It ends with its parent, however that ends. Ctrl-C is for the main process to handle: it reaches every process of
    the terminal, and a worker that died of it first would be started again.
    """
    end_with_parent()
    silence_pillow()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)  # there are as many workers as cores to use; more threads would only wait for each other
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _start(loader: DataLoader[Any]) -> tuple[Iterator[Any], list[BaseProcess]]:
    """Start a loader; returns it and its workers.

    Torch has the main thread raise wherever it is once a worker dies, which may be in the midst of a step: its handler
    is taken away, and the workers are looked at when a batch is wanted.
    """
    before = set(active_children())
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL  # None where Python did not set it
    if getattr(handler, "__module__", None) == signal_handling.__name__:
        handler = signal.SIG_DFL  # torch's own, which stays where another loader was started before
    loaded = iter(loader)
    if in_main_thread:
        signal.signal(signal.SIGCHLD, handler)
    workers = [child for child in active_children() if child not in before]
    return loaded, cast("list[BaseProcess]", workers)


def _describe(positions: Positions) -> str:
    return f"the batch of positions {positions[0]} to {positions[-1]}" if positions else "an empty batch"
