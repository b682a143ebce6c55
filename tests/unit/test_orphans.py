"""A worker whose parent is killed before the worker can ask the kernel to end it too."""

import os
import signal
import sys
import time
from multiprocessing import get_context

import pytest

from tests.processes import runs
from vlv.orphans import end_with_parent


def late(ready, done):
    ready.set()
    while os.getppid() == ready_parent():
        time.sleep(0.01)
    end_with_parent()
    done.set()


def ready_parent():
    from multiprocessing import parent_process

    return parent_process().pid


def parent(ready, done, pid):
    child = get_context("fork").Process(target=late, args=(ready, done))
    child.start()
    pid.value = child.pid
    ready.wait()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone")
def test_a_parent_that_was_killed_first_takes_its_child_along():
    context = get_context("fork")
    ready, done, pid = context.Event(), context.Event(), context.Value("i", 0)
    process = context.Process(target=parent, args=(ready, done, pid))
    process.start()
    process.join()
    deadline = time.monotonic() + 10
    while runs(pid.value):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not done.is_set()
