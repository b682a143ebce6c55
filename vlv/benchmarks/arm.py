"""One measured run: `python -m vlv.benchmarks.arm SPEC_FILE`, a recipe in a process of its own, timed step by step.

The recipe runs as a user's call runs it, with its data, its loader and its model from the disk. It ends after the
measured steps, so nothing is saved.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import psutil
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import profile, schedule
from torch.utils.flop_counter import FlopCounterMode

from vlv.batch import CaptionTensors
from vlv.checkpoints.identity import JsonObject
from vlv.config import CaptionConfig, ReconstructConfig, Stage1Config, Stage2Config
from vlv.data.captions import pad_captions
from vlv.losses import IGNORED
from vlv.recipes import caption, reconstruct, stage1, stage2

Kind = Literal["stage1", "stage2", "caption", "reconstruct"]
WARM = 1  # steps before the measured ones
_RECIPES: dict[Kind, tuple[Any, Callable[[Any], object]]] = {
    "stage1": (Stage1Config, stage1.train),
    "stage2": (Stage2Config, stage2.train),
    "caption": (CaptionConfig, caption.run),
    "reconstruct": (ReconstructConfig, reconstruct.run),
}
_TOP_OPERATORS = 25


@dataclass(frozen=True)
class Published:
    """Choices of the published recipe that are no settings here.

    plain_attention: attention by its definition, with the whole matrix in memory. plain_optimizer: AdamW operation by
    operation. flush: the GPU's cache is emptied after every step, and the processes wait for each other. pad_to: tokens
    that every caption is padded to; 0 pads to the longest of a batch. as_read: a step's captions are together as they
    come, not by length.
    """

    plain_attention: bool = False
    plain_optimizer: bool = False
    flush: bool = False
    pad_to: int = 0
    as_read: bool = False


@dataclass(frozen=True)
class Spec:
    """What is run.

    settings: of the recipe's config, those that are not its defaults. steps: measured ones. count: count FLOPs instead
    of timing. profile: folder for a trace. result: file for the `Run`.
    """

    kind: Kind
    settings: JsonObject
    steps: int
    result: str
    published: Published = field(default_factory=Published)
    count: bool = False
    profile: str | None = None


@dataclass(frozen=True)
class Run:
    """What was measured.

    seconds: of each step. first_step: seconds from the process's start to the end of its first step. flops: of each
    step, forward and backward; empty where they were not counted. memory_mib, device_mib: at the peak, of the main
    process and of its GPU. losses: of each step of a training, with those before the measured ones.
    """

    seconds: list[float]
    first_step: float
    flops: list[float]
    memory_mib: float
    device_mib: float
    losses: list[float]


class _Measured(BaseException):
    """All steps are measured: ends the recipe without its last save. No Exception, which recipes may handle."""


class _Steps:
    """Called at the end of every step: an optimizer step, or a batch of images."""

    def __init__(self, spec: Spec, counter: FlopCounterMode | None, on_step: Callable[[], None]) -> None:
        self._spec, self._counter, self._on_step = spec, counter, on_step
        self.ends: list[float] = []
        self.flops: list[float] = []

    def __call__(self, *_: object) -> None:
        if self._spec.published.flush and torch.cuda.is_available():
            torch.cuda.empty_cache()
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # kernels are queued: without it the clock would stop before they end
        self.ends.append(time.perf_counter())
        self.flops.append(self._counter.get_total_flops() if self._counter else 0.0)
        self._on_step()
        if len(self.ends) == self._spec.steps + WARM:
            raise _Measured


def write_spec(spec: Spec, path: Path) -> None:
    """Write a spec for a process of its own."""
    path.write_text(json.dumps(asdict(spec)))


def read_run(path: Path) -> Run:
    """The run that such a process wrote."""
    return Run(**json.loads(path.read_text()))


def main(arguments: list[str] | None = None) -> None:
    """Run one spec and write what was measured."""
    (path,) = sys.argv[1:] if arguments is None else arguments
    values = json.loads(Path(path).read_text())
    spec = Spec(**{**values, "published": Published(**values["published"])})
    logging.getLogger("vlv").setLevel(logging.ERROR)
    run = measure(spec)
    if os.environ.get("RANK", "0") == "0":
        Path(spec.result).write_text(json.dumps(asdict(run)))


def measure(spec: Spec) -> Run:
    """Run a recipe for the spec's steps in this process.

    Raises:
        RuntimeError: the recipe ended before.
    """
    config_class, recipe = _RECIPES[spec.kind]
    config = config_class(**spec.settings)
    with ExitStack() as stack:
        # The counter knows the products of plain attention alone; a fused kernel does the same ones.
        plain = spec.published.plain_attention or spec.count
        stack.enter_context(_as_published(replace(spec.published, plain_attention=plain)))
        counter = stack.enter_context(FlopCounterMode(display=False)) if spec.count else None
        on_step = stack.enter_context(_profiled(spec)) if spec.profile else _nothing
        steps = _Steps(spec, counter, on_step)
        stack.enter_context(_told_of_steps(spec.kind, steps))
        try:
            recipe(config)
        except _Measured:
            pass
        else:
            raise RuntimeError(f"{spec.kind} ended after {len(steps.ends)} steps of {spec.steps + WARM}")
    # Of the system's clock, by which the process's start is known; the steps' own is another.
    began = time.perf_counter() - (time.time() - psutil.Process().create_time())
    return Run(
        seconds=_differences(steps.ends),
        first_step=steps.ends[0] - began,
        flops=_differences(steps.flops) if spec.count else [],
        memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        device_mib=torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0,
        losses=_losses(spec),
    )


def _differences(values: list[float]) -> list[float]:
    return [after - before for before, after in zip(values[WARM - 1 :], values[WARM:], strict=False)]


def _losses(spec: Spec) -> list[float]:
    path = Path(str(spec.settings.get("output_dir"))) / "metrics.jsonl"
    if spec.kind not in ("stage1", "stage2") or not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record["train/loss"] for record in records if "train/loss" in record]


@contextmanager
def _told_of_steps(kind: Kind, steps: _Steps) -> Iterator[None]:
    if kind in ("stage1", "stage2"):
        handle = register_optimizer_step_post_hook(steps)
        try:
            yield
        finally:
            handle.remove()  # tests measure several times in one process
    else:
        # Inference reports each batch that it has finished.
        with patch("vlv.inference.progress.SharedProgress.advance", steps):
            yield


@contextmanager
def _as_published(published: Published) -> Iterator[None]:
    with ExitStack() as stack:
        if published.plain_attention:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if published.plain_optimizer:
            stack.enter_context(patch("torch.optim.AdamW", _PlainAdamW))
        if published.pad_to:
            stack.enter_context(patch("vlv.data.preparation.pad_captions", partial(_padded, published.pad_to)))
        if published.as_read:
            stack.enter_context(patch("vlv.recipes.training_data.group_by_length", lambda batches, *_: batches))
        yield


class _PlainAdamW(torch.optim.AdamW):
    """AdamW operation by operation. A class, as others are made from it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "fused": False})


def _padded(length: int, captions: list[list[int]], pad_token_id: int) -> CaptionTensors:
    """Captions padded to a length that they do not have, [B, length]."""
    padded = pad_captions(captions, pad_token_id)
    fills = {"input_ids": pad_token_id, "labels": IGNORED}
    more = max(0, length - padded["input_ids"].shape[1])
    return CaptionTensors(
        **{name: torch.nn.functional.pad(padded[name], (0, more), value=fill) for name, fill in fills.items()}
    )


@contextmanager
def _profiled(spec: Spec) -> Iterator[Callable[[], None]]:
    """Record one measured step; yields what is to be called at the end of each."""
    folder = Path(str(spec.profile))
    folder.mkdir(parents=True, exist_ok=True)

    def write(profiler: profile) -> None:
        profiler.export_chrome_trace(str(folder / f"{spec.kind}.json.gz"))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=_TOP_OPERATORS, max_name_column_width=60)
        (folder / f"{spec.kind}.txt").write_text(table)

    with profile(schedule=schedule(wait=0, warmup=WARM, active=1, repeat=1), on_trace_ready=write) as profiler:
        yield profiler.step


def _nothing() -> None:
    """No profiler."""


if __name__ == "__main__":
    main()
