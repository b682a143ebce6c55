"""Checkpoints for resuming: written to a temporary place, renamed when whole, metadata last."""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    OptimizerStateType,
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from vlv.atomic import finish_folder, is_disk_full, start_folder, temporary_folder, write_whole
from vlv.checkpoints.digests import sealed
from vlv.checkpoints.identity import TRAINER_STATE_NAME, WEIGHTS_NAME, JsonObject
from vlv.checkpoints.resume import require_same_run
from vlv.checkpoints.retention import Retention
from vlv.checkpoints.schema import AVERAGE_NAME, VALIDATION_NAME, describe
from vlv.training.average import WeightAverage
from vlv.training.metrics import finite_or_none
from vlv.training.state import TrainState

_OPTIMIZER = "optimizer.safetensors"
_PREFIX = "model."  # an objective holds its model under this name


class DiskFull(RuntimeError):  # noqa: N818 - the message is the error; the name says what it is about
    """A checkpoint that does not fit on the disk."""


class Checkpointer:
    """Saves and restores weights, optimizer and `TrainState`; removes what need not stay on disk."""

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        *,
        retention: Retention,
        identity: JsonObject,
        write_extras: Callable[[Path], None],
    ) -> None:
        """Hold the settings.

        Args:
            folder: where the `step_*` folders go.
            retention: which stay on disk.
            identity: what a checkpoint must agree on to be resumed (the frozen bases, what trains).
            write_extras: writes the config and whatever else belongs into a checkpoint, on process 0.
        """
        self.folder = folder
        self.accelerator = accelerator
        self.retention = retention
        self.identity = identity
        self.write_extras = write_extras

    def trained_state(self, objective: nn.Module) -> dict[str, Tensor]:
        """The model's trained weights by name, each once, gathered to the CPU of process 0."""
        module = self.accelerator.unwrap_model(objective)
        names = {name for name, value in module.named_parameters() if value.requires_grad}
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            state = cast(dict[str, Tensor], self.accelerator.get_state_dict(objective))
        else:
            options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
            state = cast(dict[str, Tensor], get_model_state_dict(module, options=options))
        # safetensors writes contiguous tensors alone.
        return {name.removeprefix(_PREFIX): state[name].contiguous() for name in sorted(names) if name in state}

    def save(
        self,
        objective: nn.Module,
        optimizer: AcceleratedOptimizer,
        state: TrainState,
        average: WeightAverage | None = None,
    ) -> Path:
        """Write one checkpoint; every process calls it.

        Raises:
            DiskFull: on every process, where it does not fit; what was written of it is removed.
        """
        target = self.folder / f"step_{state.step:08d}"
        temporary = temporary_folder(target)
        # On every process: gathering sharded weights is a collective. The first alone gets and writes them.
        weights = self.trained_state(objective)
        slots = self._optimizer_state(objective, optimizer)

        def write() -> None:
            start_folder(target)
            averages = average.state() if average is not None else {}
            _require_space(temporary, [*weights.values(), *averages.values(), *slots.values()])
            save_file(weights, temporary / WEIGHTS_NAME, metadata={"format": "pt"})
            if averages:
                save_file(averages, temporary / AVERAGE_NAME)
            if slots:
                save_file(slots, temporary / _OPTIMIZER)
            self.write_extras(temporary)

        self._on_first(write, temporary)
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            # Each process writes its share, into the folder that the first has made by now.
            self.accelerator.save_state(str(temporary / "deepspeed"))
            self.accelerator.wait_for_everyone()
        self._on_first(lambda: self._finish(temporary, target, state), temporary)
        return target

    def _on_first(self, write: Callable[[], None], temporary: Path) -> None:
        """Let the first process write, and the others wait for it.

        Raises:
            DiskFull: on every process, where the disk is full; the temporary folder is removed.
        """
        full: list[str | None] = [None]
        if self.accelerator.is_main_process:
            try:
                write()
            except (OSError, SafetensorError) as error:
                if not is_disk_full(error):
                    raise
                shutil.rmtree(temporary, ignore_errors=True)
                full = [f"{temporary.parent} has no room for {temporary.name.removeprefix('.writing-')} ({error})"]
        if (reason := broadcast_object_list(full)[0]) is not None:
            raise DiskFull(reason)

    def judge(self, path: Path, metrics: Mapping[str, float]) -> bool:
        """Keep what validation said of a checkpoint beside it, and drop what need not stay.

        Returns:
            Whether every number is finite. If not, `resume=latest` passes over the checkpoint.

        Raises:
            ValueError: the validation has no such metric as is to tell the best.
        """
        if (best := self.retention.best) is not None and metrics and best not in metrics:
            raise ValueError(f"keep_best={best} is no metric of the validation: give {' or '.join(sorted(metrics))}")
        finite = all(math.isfinite(value) for value in metrics.values())
        if self.accelerator.is_main_process:
            content = {"finite": finite, **finite_or_none(metrics)}
            write_whole(path / VALIDATION_NAME, (json.dumps(content, indent=2) + "\n").encode())
            for old in self.retention.obsolete(self.folder):
                shutil.rmtree(old)
        return finite

    def load(
        self, path: Path, objective: nn.Module, optimizer: AcceleratedOptimizer, average: WeightAverage | None = None
    ) -> TrainState:
        """Restore weights, optimizer and average from a checkpoint; returns where it stood.

        Raises:
            ValueError: a checkpoint that is incomplete, or of another model or other frozen bases.
        """
        saved = require_same_run(path, self.identity, average=average is not None)
        module = self.accelerator.unwrap_model(objective)
        weights = {f"{_PREFIX}{name}": value for name, value in load_file(path / WEIGHTS_NAME).items()}
        names = {name for name, value in module.named_parameters() if value.requires_grad}
        if names != weights.keys():
            raise ValueError(f"resume={path} does not fit: {len(names ^ weights.keys())} trained weights differ")
        # Not strict: the frozen weights are not in the file. What trains was compared by name above.
        set_model_state_dict(module, {**weights}, options=StateDictOptions(full_state_dict=True, strict=False))
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.accelerator.load_state(str(path / "deepspeed"))
        else:
            self._load_optimizer(path, module, optimizer)
        if average is not None:
            average.load(load_file(path / AVERAGE_NAME))
        if saved.get("scaler") and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        return TrainState(step=saved["step"], samples=saved["samples"], skipped=saved.get("skipped", 0))

    def _optimizer_state(self, objective: nn.Module, optimizer: AcceleratedOptimizer) -> dict[str, Tensor]:
        if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            return {}
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        module = self.accelerator.unwrap_model(objective)
        # By parameter name, so that another number of processes can take it up; empty on all but the first.
        state = get_optimizer_state_dict(module, optimizer.optimizer, options=options)
        by_name = cast(dict[str, dict[str, Tensor | float]], state.get("state", {}))
        return {
            f"{slot}.{name}": torch.as_tensor(value).contiguous()
            for name, slots in by_name.items()
            for slot, value in slots.items()
        }

    def _load_optimizer(self, path: Path, module: nn.Module, optimizer: AcceleratedOptimizer) -> None:
        state: dict[str, dict[str, Tensor]] = {}
        for key, value in load_file(path / _OPTIMIZER).items():
            slot, name = key.split(".", 1)
            state.setdefault(name, {})[slot] = value
        options = StateDictOptions(full_state_dict=True)
        # The groups are the run's own: their learning rate is set at each step, and their order is by construction.
        groups = get_optimizer_state_dict(module, optimizer.optimizer, options=options)["param_groups"]
        whole = cast(OptimizerStateType, {"state": state, "param_groups": groups})
        set_optimizer_state_dict(module, optimizer.optimizer, whole, options=options)

    def _finish(self, temporary: Path, target: Path, state: TrainState) -> None:
        scaler = self.accelerator.scaler
        values = {**state.to_dict(), "identity": self.identity, "scaler": scaler.state_dict() if scaler else None}
        content = sealed(temporary, json.loads(json.dumps(describe("training", values))))  # as it is read back
        # Last: a folder without it is no checkpoint, whatever else was written.
        (temporary / TRAINER_STATE_NAME).write_text(json.dumps(content, indent=2) + "\n")
        finish_folder(target)


def _require_space(folder: Path, tensors: Iterable[Tensor]) -> None:
    """Refuse a save that cannot fit before anything is written of it.

    Raises:
        OSError: as a write would.
    """
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")
