"""Measure a command on this machine beside the published recipe: our own code with the published choices.

Those are fp32, plain attention, activations computed again in backward, AdamW operation by operation, images prepared
by the main process, a flush and a barrier after each step, and captions padded to 300 tokens, as they come. Both run
in turn, each in a process of its own, as a user's call runs, on models with random weights and images that are made for
it. FLOPs are counted in one more run; utilisation is what a run does of them beside a large matrix product of this
machine in the same number format.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from vlv.cli.entry import BAD_CALL, FAILED_RUN, Call, load_libraries, parse, stop
from vlv.config import BenchmarkSpeedConfig

if TYPE_CHECKING:
    from vlv.benchmarks.arm import Kind
    from vlv.benchmarks.machine import Machine
    from vlv.benchmarks.speed import Result
    from vlv.benchmarks.worlds import World

_UNITS = {"stage1": "image", "stage2": "sample", "caption": "image", "reconstruct": "image"}


def main(arguments: list[str]) -> None:
    """Read the call of a suite, whose name comes first, measure, and print the table."""
    name, *arguments = arguments
    kind = cast("Kind", name.removeprefix("benchmark "))
    config = parse(BenchmarkSpeedConfig, Call(f"vlv {name}", __doc__ or ""), arguments)
    if config.accumulation > 1 and not kind.startswith("stage"):
        stop(f"accumulation={config.accumulation} is of trainings: leave it out for {kind}", BAD_CALL)
    load_libraries()
    from vlv.benchmarks.calls import BenchmarkError
    from vlv.benchmarks.speed import arms, facts, lever_names, measure
    from vlv.benchmarks.worlds import make_world
    from vlv.inference.journal import write_json
    from vlv.progress import Progress

    if config.lever is not None:
        names = sorted(lever_names(kind, config))
        if not any(config.lever in name for name in names):
            stop(f"lever={config.lever} is none of {kind}'s: {', '.join(names)}", BAD_CALL)
    try:
        with_captioner = kind in ("stage2", "caption")
        folder = Path(config.folder).resolve() / config.size
        world = make_world(folder, config.size, config.language_model, with_captioner)
        config = replace(config, precision=_precision(kind, config, world))
        progress = Progress("measuring", config.rounds * len(arms(kind, config)), "run")
        results, flops, machine = measure(kind, config, world, progress.advance)
    except OSError as error:
        stop(str(error), BAD_CALL)
    except BenchmarkError as error:
        stop(str(error), FAILED_RUN)
    progress.close()
    print(table(kind, config, results, flops, machine))
    if config.json is not None:
        write_json(Path(config.json), facts(config, results, flops, machine))


def _precision(kind: Kind, config: BenchmarkSpeedConfig, world: World) -> str:
    """The number format that the measured command takes on these models."""
    from vlv.recipes.precision import settle_precision

    weights = {"stage1": world.florence2, "stage2": world.language_model, "caption": world.captioner}
    return settle_precision(config.precision, weights.get(kind, world.stage1), "folder").precision


def table(kind: Kind, config: BenchmarkSpeedConfig, results: list[Result], flops: float, machine: Machine) -> str:
    """What was measured, as Markdown."""
    ours, published = results[0].speed(config.step_samples), results[1].speed(config.step_samples)
    unit = _UNITS[kind]
    times = f" x {config.accumulation}" if config.accumulation > 1 else ""
    head = [f"{kind}, {config.size}, {config.batch_size}{times} at once", f"{unit}s/s"]
    head += ["tokens/s"] if kind == "caption" else []
    head += ["spread", "beside the recipe", "beside ours", "utilisation", "memory, MiB", "GPU, MiB", "first step, s"]
    lines = [
        f"{machine.title}; {flops / 1e12:.4g} TFLOP for each {unit}",
        "",
        f"| {' | '.join(head)} |",
        f"| {' | '.join(['---'] * len(head))} |",
    ]
    for result in results:
        if result.failure:
            lines.append(f"| {result.arm.name} |{' |' * (len(head) - 1)}")
            continue
        speed = result.speed(config.step_samples)
        # A GPU's product is one device's, a CPU's that of all its cores.
        devices = result.arm.processes if machine.device != "cpu" else 1
        used = speed * flops / 1e12 / machine.matmul[result.precision] / devices
        # An option changes what is computed, so its share of the machine is not known.
        same = not {"noise_draws", "encoder_resolution", "train_dataset_path"} & result.arm.settings.keys()
        memory = max(run.memory_mib for run in result.runs)
        device = max(run.device_mib for run in result.runs)
        first = min(run.first_step for run in result.runs)
        cells = [
            result.arm.name,
            f"{speed:.4g}",
            *([f"{speed * config.new_tokens:.4g}"] if kind == "caption" else []),
            f"{result.spread:.0%}" if len(result.runs) > 1 else "",
            f"{speed / published:.2f}x",
            f"{speed / ours:.2f}x",
            f"{used:.0%}" if same else "",
            f"{memory:,.0f}",
            f"{device:,.0f}" if device else "",
            f"{first:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    failures = [f"{result.arm.name}: {result.failure}" for result in results if result.failure]
    return "\n".join([*lines, *(["", *failures] if failures else [])])
