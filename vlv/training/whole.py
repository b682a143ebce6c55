"""Checkpoints of weights that the first process has as a whole, or gathers: plain safetensors, by parameter name."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
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

from vlv.checkpoints.identity import WEIGHTS_NAME
from vlv.checkpoints.schema import AVERAGE_NAME
from vlv.memory import available_memory
from vlv.training.average import WeightAverage

_OPTIMIZER = "optimizer.safetensors"
_PREFIX = "model."  # an objective holds its model under this name
_COPIES = 2  # free memory that copies may take, as a share of it: one in so many bytes
Files = dict[str, dict[str, Tensor]]  # the tensors of each file, by its name


def gather_weights(accelerator: Accelerator, objective: nn.Module) -> dict[str, Tensor]:
    """The model's trained weights by name, each once, on the CPU of process 0; every process calls it."""
    module = accelerator.unwrap_model(objective)
    names = {name for name, value in module.named_parameters() if value.requires_grad}
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        state = cast(dict[str, Tensor], accelerator.get_state_dict(objective))
    else:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        state = cast(dict[str, Tensor], get_model_state_dict(module, options=options))
    # safetensors writes contiguous tensors alone.
    return {name.removeprefix(_PREFIX): state[name].contiguous() for name in sorted(names) if name in state}


def gather(
    accelerator: Accelerator, objective: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> Files:
    """All that is kept, on process 0; every process calls it. Training on the CPU goes on to change these tensors."""
    files = {WEIGHTS_NAME: gather_weights(accelerator, objective)}
    if accelerator.distributed_type != DistributedType.DEEPSPEED:  # which writes its own
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        module = accelerator.unwrap_model(objective)
        # By parameter name, so that another number of processes can take it up; empty on all but the first.
        state = get_optimizer_state_dict(module, optimizer, options=options)
        by_name = cast(dict[str, dict[str, Tensor | float]], state.get("state", {}))
        files[_OPTIMIZER] = {
            f"{slot}.{name}": _own(torch.as_tensor(value)).contiguous()
            for name, slots in by_name.items()
            for slot, value in slots.items()
        }
    if average is not None:
        files[AVERAGE_NAME] = average.state()
    return files


def _own(value: Tensor) -> Tensor:
    # Optimizers keep their step counts on the CPU, whatever the device: gathering does not copy those.
    return value.clone() if value.dim() == 0 else value


def copied(files: Files, device: torch.device) -> Files | None:
    """Tensors that training does not change; None where copies would not fit into memory.

    Args:
        device: of training; what was gathered from a GPU is copied already.
    """
    if device.type != "cpu":
        return files
    if size_of(files) * _COPIES > available_memory():
        return None
    return {name: {key: value.clone() for key, value in tensors.items()} for name, tensors in files.items()}


def write(files: Files, folder: Path) -> None:
    """Write the files.

    Raises:
        OSError: they cannot fit on the disk; nothing of them is written.
    """
    needed, free = size_of(files), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")
    for name, tensors in files.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})


def load_weights(path: Path, module: nn.Module) -> None:
    """Restore the trained weights.

    Raises:
        ValueError: others train than those of the checkpoint.
    """
    weights = {f"{_PREFIX}{name}": value for name, value in load_file(path / WEIGHTS_NAME).items()}
    names = {name for name, value in module.named_parameters() if value.requires_grad}
    if names != weights.keys():
        raise ValueError(f"resume={path} does not fit: {len(names ^ weights.keys())} trained weights differ")
    # Not strict: the frozen weights are not in the file. What trains was compared by name above.
    set_model_state_dict(module, {**weights}, options=StateDictOptions(full_state_dict=True, strict=False))


def load_optimizer(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore the optimizer's state."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(path / _OPTIMIZER).items():
        slot, name = key.split(".", 1)
        state.setdefault(name, {})[slot] = value
    options = StateDictOptions(full_state_dict=True)
    # The groups are the run's own: their learning rate is set at each step, and their order is by construction.
    groups = get_optimizer_state_dict(module, optimizer, options=options)["param_groups"]
    whole = cast(OptimizerStateType, {"state": state, "param_groups": groups})
    set_optimizer_state_dict(module, optimizer, whole, options=options)


def size_of(files: Mapping[str, Mapping[str, Tensor]]) -> int:
    """Bytes of all tensors."""
    return sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
