"""How long a training stands still for a checkpoint, beside copying and writing the same tensors."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import nn

from vlv.checkpoints.retention import Retention
from vlv.training.checkpoint import Checkpointer
from vlv.training.state import TrainState

_WIDTH = 1024  # of the square matrices that stand for a model


@dataclass(frozen=True)
class SaveRun:
    """One save, in seconds.

    copy: of all tensors in memory. stall: until training would go on. written: until the checkpoint has its name,
    checked and hashed. waiting: until it has its name, by a save that waits.
    """

    copy: float
    stall: float
    written: float
    waiting: float


def measure(folder: Path, parameters: int, rounds: int) -> tuple[int, list[SaveRun]]:
    """Save weights and AdamW's state of so many parameters in fp32.

    Returns:
        Bytes of a checkpoint, and a run for each round.
    """
    accelerator = Accelerator()
    objective = nn.Module()
    objective.model = nn.ParameterList(
        nn.Parameter(torch.zeros(_WIDTH, _WIDTH)) for _ in range(max(1, parameters // _WIDTH**2))
    )
    objective.to(accelerator.device)
    for parameter in objective.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = cast("AcceleratedOptimizer", accelerator.prepare_optimizer(torch.optim.AdamW(objective.parameters())))
    optimizer.step()
    optimizer.zero_grad()
    checkpointer = Checkpointer(
        folder, accelerator, retention=Retention(0), identity={"kind": "benchmark"}, write_extras=_extras
    )
    moments = [value for slots in optimizer.state.values() for value in slots.values() if value.dim()]
    tensors = [*(value.detach() for value in objective.parameters()), *moments]
    runs = []
    for number in range(rounds):
        started = time.perf_counter()
        copies = [value.to("cpu", copy=True) for value in tensors]
        copy = time.perf_counter() - started
        del copies  # or there would be three copies at once
        started = time.perf_counter()
        path = checkpointer.save(objective, optimizer, TrainState(2 * number), report=lambda text: None)
        stall = time.perf_counter() - started
        checkpointer.wait()
        written = time.perf_counter() - started
        shutil.rmtree(path)
        started = time.perf_counter()
        path = checkpointer.save(objective, optimizer, TrainState(2 * number + 1))
        runs.append(SaveRun(copy, stall, written, time.perf_counter() - started))
        shutil.rmtree(path)
    return sum(value.nbytes for value in tensors), runs


def _extras(folder: Path) -> None:
    (folder / "config.yaml").write_text(json.dumps({"benchmark": "save"}))
