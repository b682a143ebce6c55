"""Measure everything that docs/performance.md has for a machine: each suite by a call of its own, into a JSON file.

On a GPU: all suites at full size, each lever off by itself, and tiny components. On a CPU: what 24 GB hold. A call
whose file is there is not made again, so that a measurement which was ended goes on; one that fails is named, and the
others go on.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from vlv.cli.entry import FAILED_RUN, Call, load_libraries, parse, stop
from vlv.config import BenchmarkAllConfig


def main(arguments: list[str]) -> None:
    """Read the call and make each of the suites' calls."""
    config = parse(BenchmarkAllConfig, Call("vlv benchmark all", __doc__ or ""), arguments)
    load_libraries()
    import torch

    from vlv.benchmarks.all_suites import calls_of_cpu, calls_of_gpu
    from vlv.training.precision import cpu_has_bf16

    on_gpu = torch.cuda.is_available()
    calls = calls_of_gpu(torch.cuda.device_count()) if on_gpu else calls_of_cpu(cpu_has_bf16())
    output = Path(config.output_dir).resolve()
    output.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    for number, (name, call) in enumerate(calls.items(), 1):
        written = output / f"{name}.json"
        own = ["vlv", "benchmark", *call, f"folder={config.folder}", f"json={written}"]
        print(f"\n{number}/{len(calls)}: {shlex.join(own)}", flush=True)
        if written.exists():
            print(f"{written} is there: not measured again")
        elif subprocess.run([sys.executable, "-m", *own], check=False).returncode:
            failed.append(name)
    if failed:
        stop(f"{len(failed)} of {len(calls)} calls failed, see above: {', '.join(failed)}", FAILED_RUN)
