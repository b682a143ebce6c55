"""Loader workers that are killed, that hang, and that are orphaned: no batch is lost, doubled or out of its order."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import count
from multiprocessing import process
from pathlib import Path

import pytest
import torch
from torch.utils.data import IterableDataset

from tests.processes import runs
from vlv.data import loader as loader_module
from vlv.data.loader import LoaderError, WorkerLoader, load_batches, worker_options

BATCHES = [[n, n + 1] for n in range(0, 24, 2)]


class Numbers:
    """Gives its positions; what befalls a position happens once for each file that `times` lists."""

    def __init__(self, folder, position, fault, times):
        self.folder, self.position, self.fault, self.times = Path(folder), position, fault, times

    def __getitem__(self, position):
        if position == self.position:
            for number in range(self.times):
                try:
                    (self.folder / f"{os.getppid()}_{number}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                self.fault()
        return position


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("position", [0, 9, 23])
def test_the_batches_of_a_killed_worker_come_once_and_in_order(workers, position, tmp_path, caplog):
    dataset = Numbers(tmp_path, position, die, times=2)
    with caplog.at_level(logging.WARNING):
        assert list(load_batches(dataset, BATCHES, list, workers, timeout=60)) == BATCHES
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    # How a worker ended is not known where it died before it was listed, as it may on a busy machine.
    assert set(said) <= {f"a loader worker ended{how}: its batches are loaded again" for how in (" by signal 9", "")}


def test_a_batch_that_kills_its_workers_ends_the_run_with_its_positions(tmp_path):
    dataset, seen = Numbers(tmp_path, 9, die, times=99), []
    # The batches before it may be lost with it, on their way out of the worker.
    with pytest.raises(
        LoaderError, match=r"ended.*, 3 times before the batch of positions [468] to [579] came; .* memory:"
    ):
        seen.extend(load_batches(dataset, BATCHES, list, 1, timeout=60))


def test_a_worker_that_dies_before_it_is_listed_loses_no_batch(tmp_path, monkeypatch):
    """Torch passes over the batches of a worker that it has found dead, when it is asked for the next one."""
    listed = loader_module.active_children
    monkeypatch.setattr(loader_module, "active_children", lambda: time.sleep(0.5) or listed())
    for workers in (1, 2):
        (tmp_path / str(workers)).mkdir()
        dataset = Numbers(tmp_path / str(workers), 0, die, times=2)
        assert list(load_batches(dataset, BATCHES, list, workers, timeout=60)) == BATCHES


def test_a_worker_that_dies_after_torchs_own_loader_was_used_loses_no_batch(tmp_path, monkeypatch):
    """Torch's handler stays in the process once any of its loaders had workers."""
    assert list(torch.utils.data.DataLoader([1, 2], num_workers=1)) == [1, 2]
    monkeypatch.setattr("torch.utils.data._utils.signal_handling._SIGCHLD_handler_set", False)
    assert list(torch.utils.data.DataLoader([1, 2], num_workers=1)) == [1, 2]
    assert signal.getsignal(signal.SIGCHLD).__module__.startswith("torch.")
    dataset = Numbers(tmp_path, 9, die, times=2)
    slowly = (time.sleep(0.2) or batch for batch in load_batches(dataset, BATCHES, list, 2, timeout=60))
    assert [batch for batch in slowly if time.sleep(0.1) is None] == BATCHES


@pytest.mark.parametrize("fault", [stop, lambda: time.sleep(1000)])
def test_workers_that_hang_are_replaced(fault, tmp_path, caplog):
    dataset = Numbers(tmp_path, 9, fault, times=1)
    with caplog.at_level(logging.WARNING):
        assert list(load_batches(dataset, BATCHES, list, 2, timeout=2)) == BATCHES
    assert "no loader worker gave a batch for 2 seconds" in caplog.text


def test_storage_that_hangs_for_good_ends_the_run(tmp_path):
    dataset = Numbers(tmp_path, 0, stop, times=99)
    with pytest.raises(LoaderError, match=r"for 1 seconds, 3 times before the batch of positions 0 to 1 came; the"):
        list(load_batches(dataset, BATCHES, list, 1, timeout=1))


def test_a_batch_that_takes_longer_than_a_look_is_waited_for(tmp_path, caplog):
    dataset = Numbers(tmp_path, 9, lambda: time.sleep(2.5), times=1)
    assert list(load_batches(dataset, BATCHES, list, 2, timeout=60)) == BATCHES
    assert not caplog.records


def test_an_error_of_the_data_passes(tmp_path):
    def fail():
        raise RuntimeError("DataLoader worker or not, this is the data's")

    with pytest.raises(RuntimeError, match="this is the data's"):
        list(load_batches(Numbers(tmp_path, 9, fail, times=1), BATCHES, list, 2, timeout=60))


def test_a_death_is_no_matter_until_a_batch_is_wanted(tmp_path):
    """Torch would raise in the midst of whatever the main thread does, as a step of the optimizer."""
    batches = iter(load_batches(Numbers(tmp_path, 3, die, times=1), BATCHES, list, 1, timeout=60))
    assert next(batches) == [0, 1]
    deadline = time.monotonic() + 10
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    assert list(batches) == BATCHES[1:]


def test_a_temporary_folder_that_is_too_long_is_named(tmp_path, monkeypatch):
    class Tensors:
        def __getitem__(self, position):
            return torch.tensor(position)

    longest = tmp_path / ("x" * (75 - len(str(tmp_path)) - 1))
    longest.mkdir()
    monkeypatch.setenv("TMPDIR", str(longest))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setitem(process.current_process()._config, "tempdir", None)  # multiprocessing's own
    assert len(list(load_batches(Tensors(), BATCHES, torch.stack, 1, timeout=20))) == len(BATCHES)
    too_long = longest.with_name(longest.name + "x")
    too_long.mkdir()
    monkeypatch.setenv("TMPDIR", str(too_long))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(LoaderError, match=r"xx is longer than 75 bytes, .* give a shorter one, or num_workers=0"):
        list(load_batches(Tensors(), BATCHES, torch.stack, 1, timeout=20))


def test_a_stream_goes_on_where_it_was(tmp_path):
    class Stream(IterableDataset):
        def __iter__(self):
            numbers = Numbers(tmp_path, 9, die, times=1)
            for positions in self.batches:
                yield [numbers[position] for position in positions]

    def make(left):
        from torch.utils.data import DataLoader

        dataset.batches = left
        return DataLoader(dataset, batch_size=None, **worker_options(1))

    dataset = Stream()
    endless = ([n, n + 1] for n in count(0, 2))
    loaded = iter(WorkerLoader(make, endless, timeout=60))
    assert [next(loaded) for _ in range(10)] == BATCHES[:10]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells workers of their parent's end on Linux alone")
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from vlv.data.loader import load_batches
from multiprocessing import active_children

class Slow:
    def __getitem__(self, position):
        time.sleep(0.05)
        return position

batches = iter(load_batches(Slow(), ([n] for n in range(10 ** 6)), list, 2, timeout=60))
next(batches)
print(*(child.pid for child in active_children()), flush=True)
time.sleep(1000)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in process.stdout.readline().split()]
    assert len(workers) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 2
    while any(runs(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)
