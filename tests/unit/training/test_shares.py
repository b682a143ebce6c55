"""Shares of one process: what goes wrong with them is said as with whole checkpoints."""

import errno
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from vlv.checkpoints.retention import Retention
from vlv.training import checkpoint, shares
from vlv.training.checkpoint import Checkpointer, DiskFull
from vlv.training.state import TrainState


@pytest.fixture
def parts(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "is_sharded", lambda accelerator: True)
    monkeypatch.setattr(checkpoint, "require_same_run", lambda path, ours, average: {"step": 1, "samples": 8})
    objective = torch.nn.Module()
    objective.model = torch.nn.Linear(4, 3)
    accelerator = Accelerator(cpu=True)
    assert accelerator.distributed_type == DistributedType.NO
    optimizer = accelerator.prepare_optimizer(torch.optim.AdamW(objective.parameters()))
    objective.model(torch.ones(4)).sum().backward()
    optimizer.step()

    def extras(place):
        (place / "config.yaml").write_text("")

    checkpointer = Checkpointer(tmp_path, accelerator, retention=Retention(0), identity={}, write_extras=extras)
    return SimpleNamespace(checkpointer=checkpointer, objective=objective, optimizer=optimizer)


@pytest.mark.parametrize("report", [None, print], ids=["waiting", "in the background"])
def test_what_is_written_is_read(parts, report, monkeypatch):
    monkeypatch.setattr(shares, "_FILE_BYTES", 20)  # several files
    weights = {name: value.clone() for name, value in parts.objective.named_parameters()}
    path = parts.checkpointer.save(parts.objective, parts.optimizer, TrainState(1, 8), report=report)
    parts.optimizer.step()
    parts.checkpointer.wait()
    assert len(list((path / "shares").iterdir())) > 1
    moments = [slots["step"].clone() for slots in parts.optimizer.state.values()]
    parts.checkpointer.load(path, parts.objective, parts.optimizer)
    assert all(torch.equal(value, weights[name]) for name, value in parts.objective.named_parameters())
    assert [float(value) for value in moments] == [2, 2]
    assert [float(slots["step"]) for slots in parts.optimizer.state.values()] == [1, 1]


@pytest.mark.parametrize("where", ["write", "mkdir"])
def test_a_full_disk_is_one(parts, tmp_path, monkeypatch, where):
    def full(*arguments, **settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    if where == "mkdir":
        monkeypatch.setattr(checkpoint, "start_folder", full)
    else:
        monkeypatch.setattr("torch.distributed.checkpoint.filesystem._write_item", full)
        monkeypatch.setattr("torch.distributed.checkpoint.filesystem._write_files_from_queue", full)
    with pytest.raises(DiskFull, match="no room for step_00000001"):
        parts.checkpointer.save(parts.objective, parts.optimizer, TrainState(1, 8))
    said = []
    path = parts.checkpointer.save(parts.objective, parts.optimizer, TrainState(1, 8), report=said.append)
    parts.checkpointer.judge(path, {})
    parts.checkpointer.wait()
    assert said == [
        f"{tmp_path} has no room for step_00000001 ([Errno 28] No space left on device); training goes on, and the "
        "next save tries again"
    ]
    assert list(tmp_path.iterdir()) == []
