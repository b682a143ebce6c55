"""Train each decoder at full size for a few steps on this machine's GPU, with random weights: real memory and speed.

What `plan_decoders` counts for the same model stands beside what was measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlv.decoders.settings import ConditioningKind
from vlv.planning import decoders as plan_decoders
from vlv.planning.decoders import SizeConfig
from vlv.settings import option, require

if TYPE_CHECKING:
    import torch

    from vlv.models.autoencoder import VLVAutoEncoder

HEAD = ("decoder", "px", "conditioning", "checkpointed", "micro-batch", "planned, GiB", "measured, GiB", "images/s")


@dataclass(frozen=True)
class MeasureConfig(SizeConfig):
    """Which models are measured, and how."""

    micro_batch: int = option(8, "images at once")
    checkpointing: bool = option(False, "recompute activations in backward")
    steps: int = option(3, "optimizer steps; the first is not timed")
    device: str = option("cuda", "device of the measurement; memory is measured on a GPU alone")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.micro_batch >= 1, "micro_batch", self.micro_batch, "give at least 1")
        require(self.steps >= 2, "steps", self.steps, "give at least 2, the first is not timed")


def row(folder: Path, conditioning: ConditioningKind, config: MeasureConfig) -> list[str]:
    """One row of the table, in the order of `HEAD`."""
    import torch

    from vlv.planning.meta_step import enable_checkpointing

    batch = config.micro_batch
    planned = plan_decoders.build(folder, conditioning, config)
    fixed = plan_decoders.fixed_gib(planned)
    model = plan_decoders.build(folder, conditioning, config, config.device)
    model.set_dtypes(torch.bfloat16, torch.float32)
    if config.checkpointing:
        enable_checkpointing(planned)
        model.enable_gradient_checkpointing()
    size = plan_decoders.gib_an_image(planned)
    memory, speed = measure(model, batch, config.steps, torch.device(config.device))
    how = [folder.name, str(config.resolution), conditioning, "yes" if config.checkpointing else "no", str(batch)]
    return [*how, f"{fixed + batch * size:.1f}", "" if memory is None else f"{memory:.1f}", f"{speed:.2f}"]


def measure(model: VLVAutoEncoder, batch: int, steps: int, device: torch.device) -> tuple[float | None, float]:
    """Peak GiB of the device, None on the CPU, and images a second, of training steps in bf16 on black images."""
    import torch

    from vlv.sampling import sample_generators
    from vlv.training.optim import build_optimizer

    on_gpu = device.type == "cuda"
    optimizer = build_optimizer(model, 5e-5)
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


def _now(device: torch.device) -> float:
    """Seconds, when all that was begun on the device is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)  # kernels are queued: without it the clock would stop before they end
    return time.perf_counter()
