"""Checks a call in its own process, then starts the processes and turns their failure into one line.

Exit codes: 0 done, 1 a failed run, 2 a call that cannot work, 75 a training that was stopped by a signal and has
saved, 130 interrupted at once.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType

from vlv.atomic import beside
from vlv.cli.checks import check_call
from vlv.cli.devices import check_devices, require_deepspeed, runs_alone
from vlv.cli.entry import BAD_CALL, FAILED_RUN, INTERRUPTED, Call, parse, stop
from vlv.cli.lock import output_locks
from vlv.cli.machines import Machines, read_machines
from vlv.cli.resume_check import finished_model
from vlv.cli.worker import ERROR_FILE_VARIABLE, attempt, write_resolved
from vlv.config import (
    CaptionConfig,
    ConfigError,
    LatentsConfig,
    LaunchConfig,
    ReconstructConfig,
    RunConfig,
    Stage1Config,
    Stage2Config,
)
from vlv.recipes.accelerate_config import read_accelerate_config
from vlv.resources import recipes_folder
from vlv.training.stopping import SIGNALS, STOP_FILE_VARIABLE, STOPPED

WORKER = "vlv.cli.worker"


@dataclass(frozen=True)
class Ended:
    """How the processes of this machine ended.

    code: exit code, negative for a signal.
    rank: of the process that failed first, among all of the run; None where there is one, or none failed.
    """

    code: int
    rank: int | None = None


@dataclass(frozen=True)
class Launched:
    """A command that runs in processes of its own.

    Args:
        kind: its settings.
        module, function: the recipe that each process calls with the settings.
        recipe: file of the recipes' folder that is read where no `--config` is given; None where the command has none.
        positional: settings that can be given by their place.
    """

    kind: type[LaunchConfig]
    module: str
    function: str
    recipe: str | None
    positional: tuple[str, ...] = ()

    def run(self, config: LaunchConfig) -> None:
        """Do the work in this process."""
        getattr(import_module(self.module), self.function)(config)


LAUNCHED = {
    "stage1": Launched(Stage1Config, "vlv.recipes.stage1", "train", "stage1.yaml"),
    "stage2": Launched(Stage2Config, "vlv.recipes.stage2", "train", "stage2.yaml"),
    "caption": Launched(CaptionConfig, "vlv.recipes.caption", "run", "caption.yaml", ("image_path",)),
    "reconstruct": Launched(ReconstructConfig, "vlv.recipes.reconstruct", "run", "reconstruct.yaml", ("image_path",)),
    "data latents": Launched(LatentsConfig, "vlv.recipes.latents", "run", None, ("dataset_path", "output_dir")),
}


def main(arguments: list[str]) -> None:
    """Check the call of a command, whose name comes first, start its processes, and report."""
    name, *arguments = arguments
    command = LAUNCHED[name]
    recipe = None if command.recipe is None else recipes_folder() / command.recipe
    call = Call(f"vlv {name}", command.kind.__doc__ or "", command.positional, recipe)
    config: LaunchConfig = parse(command.kind, call, arguments)
    dry_run = isinstance(config, RunConfig) and config.dry_run
    if dry_run and isinstance(config, Stage1Config):
        config = _with_published_configs(config)
    try:
        check_call(config)
        # A dry run counts alone, so it may be asked on a machine without the GPUs of the run.
        on_cpu = dry_run or check_devices(config.num_gpus, config.accelerate_config, config.precision)
        require_deepspeed(config.accelerate_config)
        settings = read_accelerate_config(config.accelerate_config)
        machines = Machines() if dry_run else read_machines(settings, config.num_gpus)
    except (ValueError, OSError) as error:
        stop(str(error), BAD_CALL)
    if isinstance(config, (Stage1Config, Stage2Config)) and (final := finished_model(config)) and not dry_run:
        print(f"the run is finished, there is nothing to do: {final}", file=sys.stderr)
        return
    _warn_of_unused(config, arguments)
    with tempfile.TemporaryDirectory() as folder, _files_of_processes(Path(folder)) as error_file:
        if dry_run:  # here: a process of its own would read the settings and load Python once more
            ended = Ended(attempt(partial(command.run, config)))
        else:
            config_file = Path(folder) / "config.json"
            write_resolved(config, config_file)
            ended = _start_alone([name, str(config_file)], config, on_cpu, machines)
        _finish(ended, error_file, _trace_path(config))


@contextmanager
def _files_of_processes(folder: Path) -> Iterator[Path]:
    """Tell the processes, by the environment, where they find the wish to stop and write how they failed.

    In a folder of this call: the first process to fail is the one that finds no error file (`vlv.cli.worker`).

    Yields:
        The error file, which is there once a process has failed.
    """
    files = {ERROR_FILE_VARIABLE: folder / "error.txt", STOP_FILE_VARIABLE: folder / "stop"}
    os.environ.update({name: str(path) for name, path in files.items()})
    try:
        yield files[ERROR_FILE_VARIABLE]
    finally:
        for name in files:
            del os.environ[name]


def _with_published_configs(config: Stage1Config) -> Stage1Config:
    """A dry run's settings, where a component that is not here is sized by its published config, which is shipped."""
    from vlv.planning.decoders import shipped_component

    for key in ("stable_diffusion_model_path", "florence2_model_path"):
        source = getattr(config, key)
        shipped = None if Path(source).is_dir() else shipped_component(source)
        if shipped is not None:
            print(f"{key}={source} is not here: sized by its published config, {shipped}", file=sys.stderr)
            config = dataclasses.replace(config, **{key: str(shipped)})
    return config


def _warn_of_unused(config: LaunchConfig, call: list[str]) -> None:
    sampling = [item for item in call if item.startswith(("guidance_scale=", "num_inference_steps="))]
    if isinstance(config, CaptionConfig) and not config.preview_dir and sampling:
        print(f"{' '.join(sampling)}: no effect, as no previews are generated without preview_dir", file=sys.stderr)


def _start_alone(call: list[str], config: LaunchConfig, on_cpu: bool, machines: Machines) -> Ended:
    """As `_start`, while no other run writes into the same place."""
    try:
        with output_locks(config) if machines.rank == 0 else nullcontext():  # the first holds them for all
            _take_signals(finish=isinstance(config, RunConfig))
            return _start(call, config, on_cpu, machines)
    except ConfigError as error:
        stop(str(error), BAD_CALL)


def _take_signals(finish: bool) -> None:
    """From here on the first signal asks the processes of a training to save and end, a second one ends them at once.

    They are asked by a file that each looks for after its step: they sit in sessions of their own, so that no signal
    reaches them twice, once from a terminal or a scheduler and once from here.

    Args:
        finish: whether the work is a training; captions and pictures are kept as they come, and end at the first.
    """
    stop_file = Path(os.environ[STOP_FILE_VARIABLE])

    def handle(number: int, frame: FrameType | None) -> None:
        if finish and not stop_file.exists():
            stop_file.touch()
            name = signal.Signals(number).name
            print(f"{name}: the step is finished and saved; a second signal ends the run at once", file=sys.stderr)
            return
        for other in SIGNALS:
            signal.signal(other, signal.SIG_IGN)  # the end must not be interrupted
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, handle)
    # torch's agent would take SIGTERM and SIGINT for itself, and kill its processes after 30 seconds.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"


def _start(call: list[str], config: LaunchConfig, on_cpu: bool, machines: Machines) -> Ended:
    """Run this machine's processes to their end."""
    if runs_alone(config.num_gpus, config.accelerate_config):
        return Ended(_run_one(call))
    if on_cpu:
        return _run_on_cpu(call, config.num_gpus, machines)
    return _run_on_gpus(call, config.num_gpus, config.accelerate_config, machines)


def _run_one(call: list[str]) -> int:
    # One process needs no rendezvous, and Accelerate's launcher takes seconds to load.
    process = subprocess.Popen([sys.executable, "-m", WORKER, *call], start_new_session=True)
    try:
        return process.wait()
    except KeyboardInterrupt:
        with suppress(ProcessLookupError):  # it ended by itself in the instant of the signal
            os.killpg(process.pid, signal.SIGKILL)  # its loader workers too
        process.wait()
        return INTERRUPTED


def _run_on_cpu(call: list[str], num_processes: int, machines: Machines) -> Ended:
    """Several CPU processes by torchrun: Accelerate's own launcher was seen to start one process without the others."""
    from torch.distributed import run as torchrun

    # Inherited by the workers: on a machine with GPUs Accelerate would take those.
    os.environ["ACCELERATE_USE_CPU"] = "true"
    here = num_processes // machines.count
    # torchrun sets 1 thread a process where nothing is said.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // here)))
    arguments = [f"--nproc-per-node={here}", f"--nnodes={machines.count}", f"--node-rank={machines.rank}"]
    if machines.count == 1:
        arguments.append("--standalone")
    else:
        arguments += [f"--master-addr={machines.address}", f"--master-port={machines.port}"]
    arguments += ["-m", WORKER, *call]
    return _run_elastic(lambda: torchrun.run(torchrun.parse_args(arguments)))


def _run_on_gpus(call: list[str], num_processes: int, accelerate_config: str | None, machines: Machines) -> Ended:
    from accelerate.commands.launch import launch_command, launch_command_parser

    arguments = [f"--num_processes={num_processes}"]
    if accelerate_config:
        arguments += ["--config_file", accelerate_config]
    else:
        # All that Accelerate would else choose and warn of; the recipe's `precision` is the number format.
        arguments += ["--multi_gpu", "--mixed_precision=no", "--dynamo_backend=no"]
        arguments += ["--num_machines=1"] if machines.count == 1 else []
    if machines.count > 1:
        arguments += [f"--num_machines={machines.count}", f"--machine_rank={machines.rank}"]
        arguments += [f"--main_process_ip={machines.address}", f"--main_process_port={machines.port}"]
    arguments += ["-m", WORKER, *call]
    return _run_elastic(lambda: launch_command(launch_command_parser().parse_args(arguments)))


def _run_elastic(start: Callable[[], object]) -> Ended:
    """Run torch's elastic agent in this process, so that its failure comes back as an exception."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in list(logging.root.manager.loggerDict):
        # They would print every process's trace beside the one line.
        if name.startswith("torch.distributed"):  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        start()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return Ended(failure.exitcode, rank)
    except (KeyboardInterrupt, SignalException):
        return Ended(INTERRUPTED)
    except subprocess.CalledProcessError as error:
        return Ended(error.returncode)
    except (ConnectionError, OSError) as error:  # no rendezvous: a port in use, a machine that is not there
        stop(f"the processes could not be started: {error}", FAILED_RUN)
    return Ended(0)


def _trace_path(config: LaunchConfig) -> Path:
    """Where the trace of a failure is kept: in the run's folder, or beside the caption file."""
    if isinstance(config, CaptionConfig):
        return beside(config.output, f"{config.output.stem}.error.log")
    return Path(config.output_dir) / "error.log"


def _finish(ended: Ended, error_file: Path, trace_path: Path) -> None:
    """Print the one line of a failure, keep its trace in the run's folder, and exit."""
    code = ended.code
    if code == 0:
        return
    if code == STOPPED:
        line = error_file.read_text().strip() if error_file.exists() else "stopped and saved"
        print(f"{line}; resume=latest continues", file=sys.stderr)
        raise SystemExit(STOPPED)
    # By a second signal, from here or to a process itself; whatever a process said meanwhile is of no interest.
    if code in (INTERRUPTED, *(-number for number in SIGNALS), *(128 + number for number in SIGNALS)):
        stop("interrupted; training resumes with resume=latest, captioning with the same command", INTERRUPTED)
    # The process's own words first: an exit code alone says little.
    if error_file.exists():
        line, _, trace = error_file.read_text().partition("\n")
        kept = _keep_trace(trace, trace_path)
        stop(f"{line}{f' (trace: {trace_path})' if kept else ''}", FAILED_RUN)
    process = "the process" if ended.rank is None else f"process {ended.rank}"
    if code == -signal.SIGKILL:
        stop(f"{process} was killed, most likely for memory: set a smaller max_micro_batch or batch_size", FAILED_RUN)
    stop(f"{process} ended with exit code {code}", FAILED_RUN)


def _keep_trace(trace: str, path: Path) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(trace.lstrip())
    except OSError:
        return False
    return True
