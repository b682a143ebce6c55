"""Work on parts of a dataset in processes that share one opened source."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from vlv.data.transforms import silence_pillow
from vlv.orphans import end_with_parent

# Of a worker: handed over by the fork, as an opened source is too large to pickle.
_work: Callable[[int], int] | None = None


def in_processes(work: Callable[[int], int], items: Sequence[int], num_workers: int) -> Iterator[int]:
    """Yield what `work` returns of each item, in any order; 0 and 1 workers are this process.

    Raises:
        ValueError: the system ended a worker. What `work` raises passes through.
    """
    workers = min(num_workers, len(items))
    if workers <= 1:
        silence_pillow()
        yield from map(work, items)
        return
    context = multiprocessing.get_context("fork")
    # Not multiprocessing.Pool, which waits for ever for the work of a worker that was killed.
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(work,))
    before = set(multiprocessing.active_children())
    try:
        for future in as_completed([executor.submit(_call, item) for item in items]):
            yield future.result()
    except BrokenProcessPool:
        raise ValueError(
            "a worker was ended from outside, as it happens where memory is short: give fewer num_workers and call "
            "again; finished shards stay"
        ) from None
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()  # a shard takes minutes; the next call begins it anew
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _start(work: Callable[[int], int]) -> None:
    global _work
    _work = work
    end_with_parent()  # a worker that wrote on would meet the next call's
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the parent handles it
    silence_pillow()


def _call(item: int) -> int:
    assert _work is not None
    return _work(item)
