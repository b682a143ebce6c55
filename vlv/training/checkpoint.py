"""Checkpoints for resuming: written to a temporary place beside training, renamed when whole, metadata last."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors.torch import load_file
from torch import Tensor, nn

from vlv.atomic import finish_folder, is_disk_full, start_folder, temporary_folder, write_whole
from vlv.checkpoints.digests import sealed
from vlv.checkpoints.identity import TRAINER_STATE_NAME, JsonObject
from vlv.checkpoints.resume import require_same_run
from vlv.checkpoints.retention import Retention
from vlv.checkpoints.schema import AVERAGE_NAME, SHARES, VALIDATION_NAME, describe
from vlv.training import whole
from vlv.training.average import WeightAverage
from vlv.training.background import BackgroundWriter
from vlv.training.metrics import finite_or_none
from vlv.training.processes import is_sharded
from vlv.training.shares import read_shares, write_shares
from vlv.training.state import TrainState

Report = Callable[[str], object]


class DiskFull(RuntimeError):  # noqa: N818 - the message is the error; the name says what it is about
    """A checkpoint that does not fit on the disk."""


class Checkpointer:
    """Saves and restores weights, optimizer and `TrainState`; removes what need not stay on disk.

    Training waits until what is saved is copied; checks, digests and the disk come after that, in a thread.
    """

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
        self._writer = BackgroundWriter()
        self._unwritten: set[Path] = set()  # saves that the disk had no room for

    def trained_state(self, objective: nn.Module) -> dict[str, Tensor]:
        """The model's trained weights by name, each once, gathered to the CPU of process 0."""
        return whole.gather_weights(self.accelerator, objective)

    def save(
        self,
        objective: nn.Module,
        optimizer: AcceleratedOptimizer,
        state: TrainState,
        average: WeightAverage | None = None,
        report: Report | None = None,
    ) -> Path:
        """Write one checkpoint; every process calls it.

        Args:
            report: given, the call returns as soon as what is written is copied, where the copies fit into memory, and
                this is told, on the first process, of the finished checkpoint or of a full disk. None waits.

        Raises:
            DiskFull: on every process, where it does not fit and the call waits; what was written of it is removed.
        """
        self._writer.wait()  # one at a time: copies of two may not fit, and the order on the disk is that of the steps
        target = self.folder / f"step_{state.step:08d}"
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        values = {**state.to_dict(), "identity": self.identity, "scaler": scaler}  # as training stands now
        waits = report is None
        try:
            if is_sharded(self.accelerator):
                self._start_folder(target)
                module = self.accelerator.unwrap_model(objective)
                write = write_shares(module, optimizer.optimizer, temporary_folder(target) / SHARES, waits)
            else:
                files = whole.gather(self.accelerator, objective, optimizer.optimizer, average)
                if not waits and self.accelerator.is_main_process:
                    copies = whole.copied(files, self.accelerator.device)
                    files, waits = copies or files, copies is None
                write = self._start_whole(files, target)
        except DiskFull as error:
            if report is None:
                raise
            self._tell(report, target, str(error))
            return target

        def finish() -> None:
            write()
            if self.accelerator.is_main_process:
                self._finish(target, values)

        self._do(finish, target, report)
        if waits:
            self._writer.wait()
        return target

    def wait(self) -> None:
        """Wait until everything is written.

        Raises:
            BaseException: writing has failed, other than for a full disk.
        """
        self._writer.wait()

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
        content = json.dumps({"finite": finite, **finite_or_none(metrics)}, indent=2) + "\n"

        def keep() -> None:
            if path not in self._unwritten:  # a folder of that name may be of an earlier attempt
                write_whole(path / VALIDATION_NAME, content.encode())
                for old in self.retention.obsolete(self.folder):
                    shutil.rmtree(old)

        if self.accelerator.is_main_process:
            self._writer.start(keep)  # after the checkpoint itself
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
        if (path / SHARES).is_dir():
            read_shares(module, optimizer.optimizer, path / SHARES)
        else:
            whole.load_weights(path, module)
            if self.accelerator.distributed_type == DistributedType.DEEPSPEED:
                self.accelerator.load_state(str(path / "deepspeed"))
            else:
                whole.load_optimizer(path, module, optimizer.optimizer)
        if average is not None:
            average.load(load_file(path / AVERAGE_NAME))
        if saved.get("scaler") and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(saved["scaler"])
        return TrainState(step=saved["step"], samples=saved["samples"], skipped=saved.get("skipped", 0))

    def _start_whole(self, files: whole.Files, target: Path) -> Callable[[], None]:
        """Let DeepSpeed's processes write what they hold; returns what writes the files, on the first process."""
        by_deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        temporary = temporary_folder(target)
        if by_deepspeed:
            self._start_folder(target)
            self.accelerator.save_state(str(temporary / "deepspeed"))
            self.accelerator.wait_for_everyone()

        def write() -> None:
            if self.accelerator.is_main_process:
                if not by_deepspeed:
                    start_folder(target)
                whole.write(files, temporary)

        return write

    def _start_folder(self, target: Path) -> None:
        """Let the first process make the folder that all write into.

        Raises:
            DiskFull: on every process, where there is no room for it.
        """
        full = self._unless_full(lambda: start_folder(target), target) if self.accelerator.is_main_process else None
        if (reason := broadcast_object_list([full])[0]) is not None:  # the others wait for it
            raise DiskFull(reason)

    def _tell(self, report: Report, target: Path, full: str | None) -> None:
        """Report the end of a save that nobody waited for, and keep whether there is a checkpoint to judge."""
        (self._unwritten.add if full else self._unwritten.discard)(target)
        if self.accelerator.is_main_process:
            report(f"{full}; training goes on, and the next save tries again" if full else f"saved {target}")

    def _do(self, finish: Callable[[], None], target: Path, report: Report | None) -> None:
        """Finish a checkpoint: now, or in the background where its end is reported.

        Raises:
            DiskFull: it was finished now, and the disk is full.
        """

        def in_background() -> None:
            full = self._unless_full(finish, target)
            if report is not None:
                self._tell(report, target, full)

        if report is not None:
            return self._writer.start(in_background)
        if (reason := broadcast_object_list([self._unless_full(finish, target)])[0]) is not None:
            raise DiskFull(reason)
        return None

    def _unless_full(self, work: Callable[[], object], target: Path) -> str | None:
        """Do a part of a save; returns the message of a full disk, where the temporary folder is removed, or None."""
        try:
            work()
        except Exception as error:
            if not is_disk_full(error):
                raise
            if self.accelerator.is_main_process:
                shutil.rmtree(temporary_folder(target), ignore_errors=True)
            return f"{target.parent} has no room for {target.name} ({error})"
        return None

    def _finish(self, target: Path, values: Mapping[str, object]) -> None:
        temporary = temporary_folder(target)
        self.write_extras(temporary)
        content = sealed(temporary, json.loads(json.dumps(describe("training", values))))  # as it is read back
        # Last: a folder without it is no checkpoint, whatever else was written.
        (temporary / TRAINER_STATE_NAME).write_text(json.dumps(content, indent=2) + "\n")
        finish_folder(target)
