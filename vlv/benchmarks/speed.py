"""Ours and the published recipe, run in turn on one machine, and each lever of ours switched off."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from vlv.benchmarks.arm import WARM, Kind, Published, Run, Spec, read_run, write_spec
from vlv.benchmarks.calls import BenchmarkError, require_done
from vlv.benchmarks.machine import Machine, describe_machine
from vlv.benchmarks.pictures import jpegs
from vlv.benchmarks.worlds import SIDES, World
from vlv.checkpoints.identity import JsonObject
from vlv.config import BenchmarkSpeedConfig
from vlv.training.precision import cpu_has_bf16

OURS, PUBLISHED = "ours", "published recipe"
LATENTS = "LATENTS"  # in an arm's settings: the folder of the same images' latents
_PUBLISHED_LENGTH = 300  # tokens that the published stage 2 pads captions to
_SPARE = 4  # batches more than are measured: loaders read ahead


@dataclass(frozen=True)
class Arm:
    """A way of doing the same work. settings: those that differ from the recipe's defaults."""

    name: str
    settings: JsonObject
    published: Published = Published()
    processes: int = 1


@dataclass
class Result:
    """Of an arm: its runs, in order; or why it cannot run here."""

    arm: Arm
    runs: list[Run] = field(default_factory=list)
    failure: str = ""

    @property
    def seconds(self) -> float:
        """Of a step, the median over all runs."""
        return median(value for run in self.runs for value in run.seconds)

    @property
    def spread(self) -> float:
        """How far the runs' own medians are apart, as a share of the median."""
        own = [median(run.seconds) for run in self.runs]
        return (max(own) - min(own)) / self.seconds

    def speed(self, step_samples: int) -> float:
        """Images, or samples, per second over all processes, each of which takes `step_samples` in a step."""
        return step_samples * self.arm.processes / self.seconds

    @property
    def precision(self) -> str:
        """Number format of its computation."""
        return str(self.arm.settings["precision"])


def arms(kind: Kind, config: BenchmarkSpeedConfig) -> list[Arm]:
    """Ours first, the published recipe second, then ours with one lever off (or one option on) each.

    The published recipe is our own code with its choices: fp32 (stage 2: bf16, its weights too), plain attention,
    activations computed again in backward, images prepared by the main process, a flush and a barrier after each step,
    captions padded to 300, as they come.

    Args:
        config: with the number format of ours settled.

    Raises:
        BenchmarkError: no lever of this suite has such a name.
    """
    training = kind in ("stage1", "stage2")
    precision = config.precision
    has_bf16 = torch.cuda.is_available() or cpu_has_bf16()
    ours: JsonObject = {"precision": precision, "num_workers": config.num_workers}
    theirs: JsonObject = {"precision": "fp32", "num_workers": 0}
    if kind == "stage2" and has_bf16:  # without it bf16 is many times slower, which nobody would choose
        theirs |= {"precision": "bf16", "param_dtype": "bf16"}
    if training:
        theirs |= {"gradient_checkpointing": "on", "encoder_view": "loader"}
    # The published collator pads to the longest caption that it allows; the loss leaves that out, the GPU does not.
    pad_to = _PUBLISHED_LENGTH if kind == "stage2" else 0
    count = config.processes
    found = [
        Arm(OURS, ours, Published(), count),
        Arm(PUBLISHED, theirs, Published(True, training, training, pad_to, kind == "stage2"), count),
    ]
    if count > 1:
        found.append(Arm("in one process", ours))
    if config.levers or config.lever is not None:
        found += _levers(kind, config, ours, has_bf16)
    return found


def _levers(kind: Kind, config: BenchmarkSpeedConfig, ours: JsonObject, has_bf16: bool) -> list[Arm]:
    """Ours with one lever off, or one option on, each; of these the one that is asked for."""
    training, precision = kind in ("stage1", "stage2"), config.precision
    other = "bf16" if precision == "fp32" and has_bf16 else "fp32"
    off: list[tuple[str, JsonObject, Published]] = [
        (f"in {other}", {"precision": other}, Published()),
        ("without loader workers", {"num_workers": 0}, Published()),
        ("without fused attention", {}, Published(plain_attention=True)),
    ]
    if training:
        off.append(("with activations computed again", {"gradient_checkpointing": "on"}, Published()))
        off.append(("with AdamW operation by operation", {}, Published(plain_optimizer=True)))
    if torch.cuda.is_available():  # neither means anything on a CPU
        off.append(("with a flush after each step", {}, Published(flush=True)))
        off.append(("with the encoder's view from the loader", {"encoder_view": "loader"}, Published()))
    if kind == "stage1":
        off.append(("with two noise draws", {"noise_draws": 2}, Published()))
        off.append(
            ("with the decoder's pixels for the encoder", {"encoder_resolution": SIDES[config.size][0]}, Published())
        )
        off.append(("with latents from a cache", {"train_dataset_path": LATENTS}, Published()))
    if kind == "stage2":
        if has_bf16:  # as the published weights are: a like comparison, but small updates are lost in them
            off.append(("with trained weights in bf16", {"precision": "bf16", "param_dtype": "bf16"}, Published()))
        off.append(("with captions padded to 300", {}, Published(pad_to=_PUBLISHED_LENGTH, as_read=True)))
        if config.accumulation > 1:
            off.append(("with captions of any length together", {}, Published(as_read=True)))
    found = [
        Arm(name, {**ours, **change}, published, config.processes)
        for name, change, published in off
        if {**ours, **change} != ours or published != Published()  # a lever that is off anyway
    ]
    asked = config.lever or ""
    if not (chosen := [arm for arm in found if asked in arm.name]):
        raise BenchmarkError(f"lever={asked} is none of {kind}'s: {', '.join(arm.name for arm in found)}")
    return chosen


def lever_names(kind: Kind, config: BenchmarkSpeedConfig) -> set[str]:
    """The names of a suite's levers, whichever number format is ours."""
    every = [replace(config, precision=precision, levers=True, lever=None) for precision in ("fp32", "bf16")]
    return {arm.name for each in every for arm in arms(kind, each)[2:]}


@dataclass(frozen=True)
class Suite:
    """The work that all arms do: what is run, on which models and images.

    latents: of these images, where an arm reads them.
    """

    kind: Kind
    config: BenchmarkSpeedConfig
    world: World
    data: Path
    latents: Path | None = None

    @classmethod
    def prepare(cls, kind: Kind, config: BenchmarkSpeedConfig, world: World, folder: Path) -> Suite:
        """Write the images, as many as one run needs, and their latents where an arm reads them.

        Raises:
            BenchmarkError: the latents could not be made.
        """
        count = config.step_samples * config.processes * (config.steps + WARM + _SPARE)
        data = _write_data(folder, count, config.image_side)
        reads_latents = any(LATENTS in arm.settings.values() for arm in arms(kind, config))
        latents = _write_latents(data, SIDES[config.size][0], world) if reads_latents else None
        return cls(kind, config, world, data, latents)

    def spec(self, arm: Arm, place: Path, count: bool = False, profile: str | None = None) -> Spec:
        """One run of an arm, which writes into a folder; one step of it where it counts or profiles."""
        output = {"output_path": str(place / "captions.json")} if self.kind == "caption" else {"output_dir": str(place)}
        own = {key: str(self.latents) if value == LATENTS else value for key, value in arm.settings.items()}
        settings = {**self._settings(arm.processes), **own, **output}
        steps = 1 if count or profile else self.config.steps
        return Spec(self.kind, settings, steps, str(place / "result.json"), arm.published, count, profile)

    def _settings(self, processes: int) -> JsonObject:
        config, world, data = self.config, self.world, str(self.data)
        if self.kind == "caption":
            return {
                "image_path": data, "ckpt_dir": world.captioner, "num_beams": config.num_beams,
                "max_new_tokens": config.new_tokens, "batch_size": config.batch_size,
            }  # fmt: skip
        if self.kind == "reconstruct":
            return {
                "image_path": data, "ckpt_dir": world.stage1, "num_inference_steps": config.denoising_steps,
                "batch_size": config.batch_size,
            }  # fmt: skip
        steps = config.steps + WARM + 1  # it ends before the last, so nothing is saved
        training = {
            "val_dataset_path": data, "val_pictures": 0, "val_max_samples": 1, "log_every": 1, "save_step": 10**6,
            "max_micro_batch": config.batch_size,
        }  # fmt: skip
        if self.kind == "stage1":
            decoder_side, encoder_side = SIDES[config.size]
            return {
                **training, "train_dataset_path": data, "num_steps": steps,
                "global_batch_size": config.step_samples * processes,
                "decoder_resolution": decoder_side, "encoder_resolution": encoder_side,
                "stable_diffusion_model_path": world.stable_diffusion, "florence2_model_path": world.florence2,
            }  # fmt: skip
        return {
            **training, "dataset_path": data, "epochs": None, "total_steps": steps, "batch_size": config.batch_size,
            "accumulation": config.accumulation,
            "diffusion_model_path": world.stage1, "qwen_model": world.language_model,
        }  # fmt: skip


def measure(
    kind: Kind, config: BenchmarkSpeedConfig, world: World, advance: Callable[[int], None]
) -> tuple[list[Result], float, Machine]:
    """Measure every arm in turn, `config.rounds` times.

    Returns:
        A result for each arm; FLOPs of an image (forward, and backward in training) by ours; the machine.

    Raises:
        BenchmarkError: a run of ours or of the published recipe failed; another arm that does only lacks figures.
    """
    results = [Result(arm) for arm in arms(kind, config)]
    with TemporaryDirectory(prefix="vlv-benchmark-") as folder:
        suite = Suite.prepare(kind, config, world, Path(folder) / "images")
        machine = describe_machine(sorted({result.precision for result in results}))
        for _ in range(config.rounds):
            # In turn, so that what else the machine does falls on all of them.
            for number, result in enumerate(results):
                try:
                    if not result.failure:
                        result.runs.append(_run(suite, result.arm))
                except BenchmarkError as error:
                    if number < 2:
                        raise
                    result.failure, result.runs = str(error), []
                advance(1)
        alone = replace(results[0].arm, processes=1)
        counted = _run(suite, alone, count=True)
        if config.profile is not None:
            _run(suite, alone, profile=config.profile)
    return results, median(counted.flops) / config.step_samples, machine


def _run(suite: Suite, arm: Arm, count: bool = False, profile: str | None = None) -> Run:
    """Run an arm in a process of its own."""
    with TemporaryDirectory(prefix="vlv-benchmark-") as folder:
        place = Path(folder)
        spec = suite.spec(arm, place, count, profile)
        write_spec(spec, place / "spec.json")
        log = place / "log"
        with log.open("wb") as output:
            call = [*_started(arm.processes), "-m", "vlv.benchmarks.arm", str(place / "spec.json")]
            environment = _environment(suite.config.processes)
            code = subprocess.run(
                call, check=False, env=environment, stdout=output, stderr=subprocess.STDOUT
            ).returncode
        require_done(f"{suite.kind}, {arm.name},", code, log)
        return read_run(Path(spec.result))


def _started(processes: int) -> list[str]:
    """The beginning of the call of one process, or of several."""
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(several if processes > 1 else [])]


def _environment(processes: int) -> dict[str, str]:
    """Of every arm's processes: on the CPU each has its share of the cores, also where it is alone for comparison."""
    if torch.cuda.is_available() or processes == 1:
        return {**os.environ}
    share = max(1, torch.get_num_threads() // processes)
    return {**os.environ, "OMP_NUM_THREADS": str(share), "ACCELERATE_USE_CPU": "true"}


def _write_data(folder: Path, count: int, side: int) -> Path:
    """JPEGs with captions of the paper's length, most of 170 to 280 words or marks, as random words."""
    folder.mkdir()
    draw = random.Random(0)
    captions = {}
    kept = jpegs(min(count, 64), side)  # making one takes as long as training on some
    for number in range(count):
        name = f"{number:06}.jpg"
        (folder / name).write_bytes(kept[number % len(kept)])
        captions[name] = " ".join(draw.choice(_WORDS) for _ in range(draw.randint(170, 280)))
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


def _write_latents(data: Path, side: int, world: World) -> Path:
    """Latents of a folder's images, by the command that makes them."""
    folder, log = data.with_name("latents"), data.with_name("latents.log")
    call = [sys.executable, "-m", "vlv", "data", "latents", f"dataset_path={data}", f"output_dir={folder}"]
    call += [f"decoder_resolution={side}", f"stable_diffusion_model_path={world.stable_diffusion}", "batch_size=1"]
    with log.open("wb") as output:
        code = subprocess.run(call, check=False, stdout=output, stderr=subprocess.STDOUT).returncode
    require_done("vlv data latents", code, log)
    return folder


_WORDS = (
    "red", "house", "with", "white", "door", "stands", "in", "green", "under", "clear", "blue", "sky", "Two", "small",
)  # fmt: skip


def facts(config: BenchmarkSpeedConfig, results: Sequence[Result], flops: float, machine: Machine) -> JsonObject:
    """Everything that was measured, as JSON has it."""
    found = [
        {"name": result.arm.name, "settings": dict(result.arm.settings), "published": asdict(result.arm.published),
         "processes": result.arm.processes, "runs": [asdict(run) for run in result.runs], "failure": result.failure}
        for result in results
    ]  # fmt: skip
    settings = asdict(replace(config, folder="", json=None, profile=None))
    return {"settings": settings, "machine": asdict(machine), "flops_an_image": flops, "arms": found}


def read_facts(found: JsonObject) -> tuple[BenchmarkSpeedConfig, list[Result], float, Machine]:
    """What `facts` wrote."""
    results = [
        Result(
            Arm(arm["name"], arm["settings"], Published(**arm["published"]), arm.get("processes", 1)),
            [Run(**run) for run in arm["runs"]],
            arm.get("failure", ""),
        )
        for arm in found["arms"]
    ]
    return BenchmarkSpeedConfig(**found["settings"]), results, found["flops_an_image"], Machine(**found["machine"])
