"""Train each decoder at full size for a few steps on this machine's GPU, with random weights: real memory and speed.

The models are those that `python -m vlv.planning.decoders` plans; what it plans stands beside what was measured.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from vlv.cli.entry import BAD_CALL, stop
from vlv.planning import decoders as plan_decoders

HEAD = ("decoder", "px", "conditioning", "checkpointed", "micro-batch", "planned, GiB", "measured, GiB", "images/s")


def main(arguments: list[str] | None = None) -> None:
    """Read the call and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m vlv.planning.measure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--resolution", type=int, default=384, help="of the decoder, in pixels (default 384)")
    parser.add_argument("--decoder", action="append", choices=plan_decoders.DECODERS, help="this one alone; repeatable")
    parser.add_argument("--conditioning", default="text_encoder", choices=["text_encoder", "clip", "direct"])
    parser.add_argument("--micro-batch", type=int, default=8, help="images at once (default 8)")
    parser.add_argument("--checkpointing", action="store_true", help="compute activations again in backward")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps; the first is not timed (default 3)")
    parser.add_argument("--device", default="cuda", help="default cuda; memory is measured on a GPU alone")
    options = parser.parse_args(arguments)
    import torch

    if options.device.startswith("cuda") and not torch.cuda.is_available():
        stop("no GPU is here: python -m vlv.planning.decoders plans without one", BAD_CALL)
    if options.steps < 2:
        stop(f"--steps {options.steps}: give at least 2, the first is not timed", BAD_CALL)
    print("| " + " | ".join(HEAD) + " |\n" + "| --- " * len(HEAD) + "|")
    for name in options.decoder or plan_decoders.DECODERS:
        try:
            print("| " + " | ".join(row(name, options)) + " |", flush=True)
        except (ValueError, torch.OutOfMemoryError) as error:  # the next decoder may fit
            print(f"{name}: {str(error).splitlines()[0]}", file=sys.stderr, flush=True)


def row(name: str, options: argparse.Namespace) -> list[str]:
    """One row of the table."""
    import torch

    from vlv.planning.meta_step import enable_checkpointing

    folder, batch = plan_decoders.COMPONENTS / name, options.micro_batch
    planned = plan_decoders.build(folder, options.conditioning, options.resolution)
    fixed = plan_decoders.fixed_gib(planned)
    model = plan_decoders.build(folder, options.conditioning, options.resolution, options.device)
    model.set_dtypes(torch.bfloat16, torch.float32)
    if options.checkpointing:
        enable_checkpointing(planned)
        model.enable_gradient_checkpointing()
    size = plan_decoders.gib_an_image(planned)
    memory, speed = measure(model, batch, options.steps, torch.device(options.device))
    how = [name, str(options.resolution), options.conditioning, "yes" if options.checkpointing else "no", str(batch)]
    return [*how, f"{fixed + batch * size:.1f}", "" if memory is None else f"{memory:.1f}", f"{speed:.2f}"]


def measure(model: Any, batch: int, steps: int, device: Any) -> tuple[float | None, float]:
    """Peak GiB of the device, None on the CPU, and images a second, of training steps in bf16 on black images."""
    import torch

    from vlv.sampling import sample_generators
    from vlv.training.optim import build_optimizer

    on_gpu = device.type == "cuda"
    optimizer = build_optimizer(model.named_parameters(), 5e-5, (0.9, 0.99), 0.01)
    processor = model.image_processor
    sides = (processor.encoder_resolution, processor.decoder_resolution)
    pixels = [torch.zeros(batch, 3, side, side, dtype=torch.uint8, device=device) for side in sides]
    started = 0.0
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    for step in range(steps):
        if step == 1:
            started = _now(device)
        sampled = model.decoder.sample_noise_and_timesteps(sample_generators(step, range(batch))).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(pixels[0], pixels[1], sampled).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    speed = batch * (steps - 1) / (_now(device) - started)
    return (torch.cuda.max_memory_allocated(device) / 2**30 if on_gpu else None), speed


def _now(device: Any) -> float:
    """Seconds, when all that was begun on the device is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main(sys.argv[1:])
