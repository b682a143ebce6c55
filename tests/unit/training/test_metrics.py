import json
import sys
import types

from vlv.training.metrics import MetricLogger
from vlv.training.tracker import WandbSettings


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
