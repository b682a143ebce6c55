"""Checks a call in its own process, then starts the processes and turns their failure into one line.

Exit codes: 0 done, 1 a failed run, 2 a call that cannot work, 130 interrupted.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from vlv.cli.checks import check_call, check_devices, read_accelerate_config
from vlv.cli.entry import BAD_CALL, ERROR_FILE_VARIABLE, FAILED_RUN, INTERRUPTED, parse, stop
from vlv.config import CaptionConfig, ReconstructConfig, Stage1Config, Stage2Config

# command -> config, module that does the work, how the user called it
COMMANDS: dict[str, tuple[type, str, str]] = {
    "stage1": (Stage1Config, "vlv.recipes.stage1", "num_gpus={} bash train_stage1.sh"),
    "stage2": (Stage2Config, "vlv.recipes.stage2", "num_gpus={} bash train_stage2.sh"),
    "caption": (CaptionConfig, "vlv.recipes.caption", "NUM_GPUS={} bash Caption_inference.sh"),
    "reconstruct": (ReconstructConfig, "vlv.recipes.reconstruct", "NUM_GPUS={} bash Image_inference.sh"),
}


def main(arguments: list[str] | None = None) -> None:
    """Check, start, and report."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] not in COMMANDS:
        if arguments and arguments[0] not in ("-h", "--help"):
            stop(f"unknown command {arguments[0]!r}: give one of {', '.join(COMMANDS)}", BAD_CALL)
        print(f"usage: python -m vlv.cli.launch {{{','.join(COMMANDS)}}} [--config FILE] [key=value ...]\n\n{__doc__}")
        raise SystemExit(0 if arguments else BAD_CALL)
    kind, module, launcher = COMMANDS[arguments[0]]
    call = arguments[1:]
    config: Any = parse(kind, f"python -m vlv.cli.launch {arguments[0]}", sys.modules[__name__].__doc__ or "", call)
    dry_run = getattr(config, "dry_run", False)
    try:
        check_call(config)
        on_cpu = dry_run or check_devices(config.num_gpus, config.accelerate_config, launcher, config.precision)
        _check_deepspeed(config.accelerate_config)
    except (ValueError, OSError) as error:
        stop(str(error), BAD_CALL)
        raise  # not reached: stop exits
    _say_what_has_no_effect(config, call)
    with tempfile.TemporaryDirectory() as folder:
        error_file = Path(folder) / "error.txt"
        os.environ[ERROR_FILE_VARIABLE] = str(error_file)
        code = _start(module, call, config, on_cpu, dry_run)
        _finish(code, error_file, _trace_path(config))


def _check_deepspeed(accelerate_config: str | None) -> None:
    wanted = read_accelerate_config(accelerate_config).get("distributed_type") == "DEEPSPEED"
    if wanted and importlib.util.find_spec("deepspeed") is None:
        raise ValueError(f"accelerate_config={accelerate_config} needs DeepSpeed: pip install deepspeed")


def _say_what_has_no_effect(config: Any, call: list[str]) -> None:
    drawing = [item for item in call if item.startswith(("guidance_scale=", "num_inference_steps="))]
    if isinstance(config, CaptionConfig) and not config.preview_dir and drawing:
        print(f"{' '.join(drawing)}: no effect, as no pictures are drawn without PREVIEW_DIR", file=sys.stderr)


def _start(module: str, call: list[str], config: Any, on_cpu: bool, dry_run: bool) -> int:
    """Run the processes to their end; returns an exit code, negative for a signal."""
    if dry_run or (config.num_gpus == 1 and not read_accelerate_config(config.accelerate_config)):
        return _run_one(module, call)
    if on_cpu:
        return _run_on_cpu(module, call, config.num_gpus)
    return _run_on_gpus(module, call, config.num_gpus, config.accelerate_config)


def _run_one(module: str, call: list[str]) -> int:
    process = subprocess.Popen([sys.executable, "-m", module, *call])
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal sent it to the child as well, which ends by itself
            continue


def _run_on_cpu(module: str, call: list[str], num_processes: int) -> int:
    """Several CPU processes by torchrun: Accelerate's own launcher was seen to start one that knows no other."""
    from torch.distributed import run as torchrun

    os.environ["ACCELERATE_USE_CPU"] = "true"
    # torchrun sets 1 thread a process where nothing is said.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // num_processes)))
    arguments = ["--standalone", f"--nproc-per-node={num_processes}", "-m", module, *call]
    return _run_elastic(lambda: torchrun.run(torchrun.parse_args(arguments)))


def _run_on_gpus(module: str, call: list[str], num_processes: int, accelerate_config: str | None) -> int:
    from accelerate.commands.launch import launch_command, launch_command_parser

    arguments = [f"--num_processes={num_processes}"]
    if accelerate_config:
        arguments += ["--config_file", accelerate_config]
    else:
        arguments += ["--multi_gpu", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    # Several machines: a batch script sets these for each of them.
    for option, variable in (
        ("machine_rank", "MACHINE_RANK"), ("main_process_ip", "MAIN_PROCESS_IP"),
        ("main_process_port", "MAIN_PROCESS_PORT"), ("num_machines", "NUM_MACHINES"),
    ):  # fmt: skip
        if variable in os.environ:
            arguments.append(f"--{option}={os.environ[variable]}")
    arguments += ["-m", module, *call]
    return _run_elastic(lambda: launch_command(launch_command_parser().parse_args(arguments)))


def _run_elastic(start: Any) -> int:
    """Run torch's elastic agent in this process, so that its failure comes back as an exception."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        start()
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except (KeyboardInterrupt, SignalException):
        return INTERRUPTED
    except subprocess.CalledProcessError as error:
        return error.returncode
    except (ConnectionError, OSError) as error:  # no rendezvous: a port in use, a machine that is not there
        stop(f"the processes could not be started: {error}", FAILED_RUN)
    return 0


def _trace_path(config: Any) -> Path:
    """Where the trace of a failure is kept: in the run's folder, or beside the caption file."""
    if isinstance(config, CaptionConfig):
        return Path(config.output_path).with_suffix(".error.log")
    return Path(config.output_dir) / "error.log"


def _finish(code: int, error_file: Path, trace_path: Path) -> None:
    """Print the one line of a failure, keep its trace in the run's folder, and exit."""
    if code == 0:
        return
    if error_file.exists():
        line, _, trace = error_file.read_text().partition("\n")
        kept = _keep_trace(trace, trace_path)
        stop(f"{line}{f' (trace: {trace_path})' if kept else ''}", FAILED_RUN)
    if code in (INTERRUPTED, -signal.SIGINT, -signal.SIGTERM):
        stop("interrupted; a training goes on with resume=latest, captioning with the same command", INTERRUPTED)
    if code == -signal.SIGKILL:
        stop("a process was killed, most likely for memory: set a smaller max_micro_batch or batch_size", FAILED_RUN)
    stop(f"a process ended with exit code {code}", FAILED_RUN)


def _keep_trace(trace: str, path: Path) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(trace.lstrip())
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
