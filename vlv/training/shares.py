"""Checkpoints of weights that are shared out: each process writes and reads its own share, and none gathers them.

Torch's distributed checkpointing, with safetensors as its files. The values have names and places in whole tensors, so
another number of processes reads them too, a single one that shares nothing out included.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint import (
    CheckpointException,
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
    async_save,
    load,
    save,
)
from torch.distributed.checkpoint.state_dict import (
    OptimizerStateType,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict import StateDictOptions as Options

from vlv.atomic import is_disk_full
from vlv.checkpoints.schema import SHARED_WEIGHTS

_WEIGHTS, _OPTIMIZER = SHARED_WEIGHTS, "optimizer."
_FILE_BYTES = 2**31  # of a process's share, about
_Slots = dict[str, dict[str, Tensor | float]]


def write_shares(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path, wait: bool) -> Callable[[], None]:
    """Write this process's share of the trained weights and of the optimizer's state; every process calls it.

    Args:
        folder: made by the writer, on a file system that all processes see.
        wait: until all is written; else only until it is copied to the CPU's memory.

    Returns:
        What waits for the shares of all processes, or writes them, and raises what went wrong on any: an OSError of a
        full disk before anything else.
    """
    state = _by_name(module, optimizer)
    writer = HuggingFaceStorageWriter(str(folder), fqn_to_index_mapping=_files(state), save_distributed=True)
    # Of tensors on the CPU nothing is copied ahead; torch's thread would open a context on the first GPU for it.
    writer.per_thread_copy_ahead = 0
    if wait:
        return lambda: _plainly(lambda: save(state, storage_writer=writer, process_group=_group()))
    written = cast("Future[object]", async_save(state, storage_writer=writer, process_group=_group()))
    return lambda: _plainly(written.result)


def read_shares(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    """Read what any number of processes has written, each process what it needs of it.

    Raises:
        ValueError: what trains is not what was written.
    """
    state = _by_name(module, optimizer)
    reader = HuggingFaceStorageReader(str(folder))
    differ = state.keys() ^ reader.read_metadata().state_dict_metadata.keys()
    if differ:
        raise ValueError(f"resume={folder.parent} does not fit: {len(differ)} trained weights or states differ")
    # In place: the tensors of `state` are those of the model and of the optimizer, or shares of them.
    _plainly(lambda: load(state, storage_reader=reader, process_group=_group()))
    weights = {name.removeprefix(_WEIGHTS): value for name, value in state.items() if name.startswith(_WEIGHTS)}
    set_model_state_dict(module, {**weights}, options=Options(strict=False))
    whole = _optimizer_state(module, optimizer)
    for name, slots in whole["state"].items():
        for slot, before in slots.items():
            value = state[f"{_OPTIMIZER}{slot}.{name}"]
            slots[slot] = value.reshape(before.shape) if isinstance(before, Tensor) else value.item()
    set_optimizer_state_dict(module, optimizer, cast("OptimizerStateType", whole), options=Options())


def _plainly(work: Callable[[], object]) -> None:
    """Do work of torch's distributed checkpointing, whose own exception is no `Exception`."""
    try:
        work()
    except CheckpointException as error:
        reasons = [failure[0] for failure in error.failures.values()]
        full = next((reason for reason in reasons if is_disk_full(reason)), None)
        raise full or RuntimeError(f"a share could not be written or read: {reasons[0]}") from error


def _files(state: dict[str, Tensor]) -> dict[str, int]:
    """The number of the file of each name: a file is put together in memory before it is written."""
    size, most = 0, _FILE_BYTES * (dist.get_world_size() if dist.is_initialized() else 1)
    places = {}
    for name, value in state.items():
        places[name] = 1 + size // most
        size += value.numel() * value.element_size()
    return places


def _by_name(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """This process's share of everything that is kept, by name; not copied."""
    names = {name for name, value in module.named_parameters() if value.requires_grad}
    weights = cast("dict[str, Tensor]", get_model_state_dict(module))
    slots: _Slots = _optimizer_state(module, optimizer)["state"]
    return {
        **{f"{_WEIGHTS}{name}": value for name, value in weights.items() if name in names},
        **{
            # Files of safetensors cannot be read in parts where a tensor has no dimension: step counts get one.
            f"{_OPTIMIZER}{slot}.{name}": torch.atleast_1d(torch.as_tensor(value))
            for name, each in slots.items()
            for slot, value in each.items()
        },
    }


def _optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return cast("dict[str, Any]", get_optimizer_state_dict(module, optimizer, options=Options()))


@cache
def _cpu_group() -> dist.ProcessGroup:
    # torch's type has the number that only a process outside of the group is given.
    return cast("dist.ProcessGroup", dist.new_group(backend="gloo"))


def _group() -> dist.ProcessGroup | None:
    """The processes, connected through the CPU and apart from training's own messages; None where there is one."""
    return _cpu_group() if dist.is_initialized() else None
