"""vLLM's engine ends when the process that started it is killed."""

import subprocess
import sys
import time

import psutil
import pytest

PARENT = """
import multiprocessing, os, sys, time
from vlv.vllm import DRIVER, end_with_driver

def engine():
    end_with_driver()
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    if sys.argv[1] == "driver":
        os.environ[DRIVER] = str(os.getpid())
    child = multiprocessing.get_context("spawn").Process(target=engine)
    child.start()
    child.join()
"""


@pytest.mark.parametrize("starter", ["driver", "vllm serve"])
def test_an_engine_ends_with_the_captioning_that_started_it(tmp_path, starter):
    (tmp_path / "parent.py").write_text(PARENT)
    call = [sys.executable, str(tmp_path / "parent.py"), starter]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as parent:
        engine = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        try:
            if starter == "driver":
                engine.wait(timeout=30)
            else:  # another's engine is its own business
                time.sleep(1)
                assert engine.is_running()
        finally:
            if engine.is_running():
                engine.kill()
