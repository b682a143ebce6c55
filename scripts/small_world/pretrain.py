"""Train one part of the embedded world's tiny family from nothing; `scripts/small_world/pretrain.sh` runs them all.

Each part is a run of its own in WORK/PART with metrics.jsonl and checkpoints; called again, it goes on from the
newest. The finished part is written into OUT, in the layout of the hub's folders, in fp16.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlv.cli.entry import BAD_CALL, stop


@dataclass(frozen=True)
class Recipe:
    """How one part is trained: optimizer steps, samples of a step, peak learning rate (cosine to 0)."""

    steps: int
    batch_size: int
    lr: float


RECIPES = {
    "vae": Recipe(3600, 32, 3e-3),
    "text_encoder": Recipe(1600, 64, 1e-3),
    "tower": Recipe(4000, 32, 1e-3),
    "florence2": Recipe(1500, 64, 1e-3),
    "own_tasks": Recipe(2500, 64, 1e-3),
    "qwen": Recipe(6000, 32, 3e-3),
    "qwen_refine": Recipe(4000, 32, 2e-3),  # from the first one's end: sizes are looked up last
    "unet": Recipe(3600, 64, 1e-3),
    "unet_refine": Recipe(3600, 64, 8e-4),  # from the first one's end: colours come last
    "unet_colors": Recipe(3000, 64, 8e-4),  # from the second's: the text must win over noisy latents
    "unet_finish": Recipe(3000, 64, 8e-4),  # from the third's, with more weight on the shapes
}
LATENT_SCENES = 60_000
WORK = Path("outputs/pretrain_tiny")
SEED = 42


def main(arguments: list[str] | None = None) -> None:
    """Read the call and train."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.small_world.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", choices=["tokenizers", *RECIPES])
    parser.add_argument("--out", type=Path, default=WORK / "family", help="where the family goes")
    parser.add_argument("--work", type=Path, default=WORK, help="runs, logs, checkpoints")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], help="default: what is fastest here")
    parser.add_argument("--steps", type=int, help="train for another number of steps")
    options = parser.parse_args(arguments)
    from vlv.cli.entry import quiet_libraries

    quiet_libraries()
    try:
        if options.part == "tokenizers":
            write_tokenizers(options.out)
        else:
            train(options)
    except (OSError, ValueError) as error:
        stop(str(error), BAD_CALL)


def write_tokenizers(out: Path) -> None:
    """Train the three tokenizers and write all that is not weights."""
    from scripts.small_world.pretraining.architecture import build_tokenizers, save_tokenizers, tokenizer_sentences

    save_tokenizers(out, build_tokenizers(tokenizer_sentences()))


def train(options: argparse.Namespace) -> None:
    """Train one part and write it."""
    import torch

    from scripts.small_world.pretraining import parts

    finished = options.work / options.part / "finished"
    if finished.exists():
        print(f"{options.part} is finished; remove {finished.parent} to train it again", file=sys.stderr)
        return
    torch.manual_seed(SEED)
    recipe = RECIPES[options.part]
    built = parts.build(options.part, options.out, options.work, SEED, LATENT_SCENES)
    fit(options, recipe, built)
    built.save()
    finished.touch()
    print(f"written: {options.out} ({options.part})", file=sys.stderr)


def fit(options: argparse.Namespace, recipe: Recipe, part: Any) -> None:
    """Train a part to the end of its recipe."""
    from functools import partial

    from scripts.small_world.pretraining.samples import scene_loader
    from vlv.checkpoints.resume import find_checkpoint
    from vlv.training.checkpoint import Checkpointer
    from vlv.training.metrics import MetricLogger
    from vlv.training.optim import build_optimizer, lr_at
    from vlv.training.processes import fastest_precision, resolve_precision, start_processes
    from vlv.training.state import TrainState
    from vlv.training.trainer import Trainer, TrainerSettings, TrainingParts

    folder, steps = options.work / options.part, options.steps or recipe.steps
    accelerator = start_processes(resolve_precision(options.precision or fastest_precision()))
    optimizer = build_optimizer(part.objective.named_parameters(), recipe.lr, (0.9, 0.99), 0.01)
    objective, optimizer = accelerator.prepare(part.objective, optimizer)
    identity = {"part": options.part, "steps": steps}
    checkpointer = Checkpointer(
        folder / "checkpoints", accelerator, keep=1, identity=identity, write_extras=lambda _: None
    )
    found = find_checkpoint("latest", folder / "checkpoints")
    state = checkpointer.load(found, objective, optimizer) if found else TrainState()
    logger = MetricLogger(folder, enabled=True, num_steps=steps, first_step=state.step)
    Trainer(
        TrainingParts(
            accelerator=accelerator,
            objective=objective,
            optimizer=optimizer,
            loader=scene_loader(part.sample, recipe.batch_size, state.samples),
            checkpointer=checkpointer,
            logger=logger,
        ),
        TrainerSettings(
            num_steps=steps,
            global_batch_size=recipe.batch_size,
            accumulation=1,
            micro_batch_size=recipe.batch_size,
            max_grad_norm=1.0,
            save_step=max(1, steps // 4),
            log_every=50,
            seed=SEED,
        ),
        state=state,
        lr_at=partial(lr_at, lr=recipe.lr, schedule="cosine", num_steps=steps, warmup_steps=min(100, steps // 10)),
        validate=lambda _: {f"val/{name}": value for name, value in part.evaluate().items()},
    ).fit()
    logger.close()


if __name__ == "__main__":
    main()
