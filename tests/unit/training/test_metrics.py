import json
import os
import re
import socket
import subprocess
import sys
import time
import types

import pytest

from vlv.training.metrics import MetricLogger
from vlv.training.restarts import RestartClock
from vlv.training.tracker import WandbSettings, WandbTracker


def test_lines_are_written_and_appended(tmp_path, capsys):
    for step in (1, 2):
        logger = MetricLogger(tmp_path, enabled=True, num_steps=2, first_step=step - 1)
        logger.log(step, {"train/loss": 0.5, "train/lr": 1e-5})
        logger.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": step, "train/loss": 0.5, "train/lr": 1e-5} for step in (1, 2)]
    assert "loss 0.5  lr 1.000e-05" in capsys.readouterr().err


def test_lines_after_the_step_that_a_run_resumes_from_go(tmp_path):
    def run(first_step, steps):
        logger = MetricLogger(tmp_path, enabled=True, num_steps=9, first_step=first_step)
        for step in steps:
            logger.log(step, {"train/loss": float(first_step)})

    run(0, [1, 2, 3, 4, 5])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "tr')  # killed within the line
    run(3, [4, 5, 6])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 0), (2, 0), (3, 0), (4, 3), (5, 3), (6, 3)]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_other_processes_write_nothing(tmp_path):
    logger = MetricLogger(tmp_path / "none", enabled=False, num_steps=2, wandb=WandbSettings("online"))
    logger.log(1, {"train/loss": 1.0})
    logger.message("hello")
    logger.close()
    assert not (tmp_path / "none").exists()


def test_a_failing_wandb_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    def init(**_):
        raise RuntimeError("no key\nmore")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    logger = MetricLogger(tmp_path, enabled=True, num_steps=1, wandb=WandbSettings("online"))
    logger.log(1, {"train/loss": 1.0})
    logger.close()
    assert "W&B is off from here (RuntimeError: no key)" in capsys.readouterr().err
    assert (tmp_path / "metrics.jsonl").exists()


def test_wandb_gets_metrics_pictures_and_tables(tmp_path, monkeypatch):
    sent = []
    run = types.SimpleNamespace(log=lambda values, step: sent.append((step, values)), finish=lambda: None)
    fake = types.SimpleNamespace(
        init=lambda **_: run, Image=lambda path, caption: (path, caption), Table=lambda columns, data: (columns, data)
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    logger = MetricLogger(tmp_path, enabled=True, num_steps=1, wandb=WandbSettings("offline"))
    logger.log(1, {"train/loss": 1.0})
    logger.pictures(1, "validation", [tmp_path / "a.png"])
    logger.table(1, "captions", ["image"], [["a"]])
    logger.close()
    assert [values for _, values in sent] == [
        {"train/loss": 1.0},
        {"validation": [(str(tmp_path / "a.png"), "a")]},
        {"captions": (["image"], [["a"]])},
    ]


def test_a_resumed_run_is_the_same_one_in_wandb(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(log=lambda values, step: None, finish=lambda: None)
    fake = types.SimpleNamespace(init=lambda **given: calls.append((given["id"], given["resume"])) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for folder in ("a", "a", "b"):
        MetricLogger(tmp_path / folder, enabled=True, num_steps=1, wandb=WandbSettings("offline")).close()
    assert calls[0] == calls[1] != calls[2]
    assert calls[0][1] == "allow"
    assert len(calls[0][0]) == 16


SENDS = """
import sys, time
from pathlib import Path
from vlv.training.tracker import WandbSettings, WandbTracker

started = time.monotonic()
tracker = WandbTracker(WandbSettings("online"), Path(sys.argv[1]), lambda text: print(text), patience=8)
for step in range(1000):
    tracker.metrics(step, {"train/loss": 1.0})
sent = time.monotonic() - started
tracker.finish()
print(f"{sent:.3f} {time.monotonic() - started:.3f}")
"""


def test_a_server_that_hangs_delays_nothing(tmp_path):
    """The real client, and a server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(50)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        environment = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}
        call = [sys.executable, "-c", SENDS, str(tmp_path)]
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=120)
        server.settimeout(0)
        server.accept()  # it was asked
    assert done.returncode == 0, done.stderr
    message, times = done.stdout.strip().splitlines()
    assert message == f"W&B has not taken everything within 8 s; all metrics are in {tmp_path / 'metrics.jsonl'}"
    sending, finishing = map(float, times.split())
    assert sending < 1
    assert 8 <= finishing < 15


def test_what_fails_later_is_reported_once(tmp_path):
    said, run = [], types.SimpleNamespace(finish=lambda: None)

    def log(values, step):
        raise OSError("no network")

    run.log = log

    class Failing(WandbTracker):
        def _start(self, settings):
            return run

    tracker = Failing(WandbSettings("online"), tmp_path, said.append)
    for step in range(3):
        tracker.metrics(step, {})
    tracker.finish()
    assert said == [f"W&B is off from here (OSError: no network); all metrics are in {tmp_path / 'metrics.jsonl'}"]


def test_the_time_that_restarts_cost_is_written_down(tmp_path, capsys):
    checkpoint, now = tmp_path / "step_00000003", time.time()
    checkpoint.mkdir()
    for path, age in ((checkpoint / "trainer_state.json", 100_000), (tmp_path / "metrics.jsonl", 99_940)):
        path.touch()
        os.utime(path, (now - age, now - age))
    for life in range(2):
        if life == 1:
            with (tmp_path / "restarts.jsonl").open("a") as file:
                file.write('{"step": 3, "lo\n')  # a power loss
        clock = RestartClock(checkpoint, tmp_path / "metrics.jsonl", 3)
        logger = MetricLogger(tmp_path, enabled=True, num_steps=9, first_step=3, restart=clock)
        for step in (4, 5):
            logger.advance(step)
    lines = (tmp_path / "restarts.jsonl").read_text().splitlines()
    first, second = json.loads(lines[0]), json.loads(lines[2])
    assert first["step"] == 3
    assert first["again"] == pytest.approx(60, abs=0.2)
    assert first["lost"] == pytest.approx(first["again"] + first["away"] + first["starting"], abs=0.2)
    assert first["lost"] == pytest.approx(100_000, abs=60)
    said = capsys.readouterr().err
    assert "restart 1: 60 s of work is taken again, " in said
    # the file holds tenths and the line whole seconds of the same times, each rounded on its own
    away = re.search(r"restart 2: 60 s of work is taken again, (\d+) s away", said)
    assert away is not None, said
    assert int(away[1]) == pytest.approx(second["away"], abs=1)
    lost = re.search(r"restart 2: .* ([\d,]+) s lost to restarts in all", said)
    assert lost is not None, said
    assert int(lost[1].replace(",", "")) == pytest.approx(first["lost"] + second["lost"], abs=1)
