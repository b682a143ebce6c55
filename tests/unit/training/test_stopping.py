"""A request to stop, by real signals to processes that listen."""

import os
import signal
import subprocess
import sys
import time

import pytest

from vlv.training.stopping import SIGNALS, StopRequest

LISTEN = """
import time
from vlv.training.stopping import StopRequest
stop = StopRequest()
stop.listen()
print("listening", flush=True)
while not stop.asked:
    time.sleep(0.01)
print("asked", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_ends(number):
    process = subprocess.Popen([sys.executable, "-c", LISTEN], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "listening\n"
    process.send_signal(number)
    assert process.stdout.readline() == "asked\n"
    assert process.poll() is None
    process.send_signal(number)
    assert process.wait(10) == 128 + number


def test_the_launchers_file_asks_too(tmp_path, monkeypatch):
    monkeypatch.setenv("VLV_STOP_FILE", str(tmp_path / "stop"))
    stop = StopRequest()
    assert not stop.asked
    (tmp_path / "stop").touch()
    assert stop.asked


def test_a_child_that_was_forked_later_lets_the_signal_pass():
    stop = StopRequest()
    restore = stop.listen()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        time.sleep(0.2)
        os.kill(child, signal.SIGUSR1)
        time.sleep(0.2)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        assert not stop.asked
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        restore()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
